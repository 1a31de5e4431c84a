"""Engine responses that are not one complete answer: an error, one chunk of a stream, or all chunks of a stream.

An error or a single chunk is rejected, because it would read as an empty or a short answer; all chunks of a stream are
assembled into the answer. Formats whose records carry OpenAI-style responses share this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from agent.errors import Unreadable
from agent.records import RejectionReason

CHUNK = "one chunk of a stream"
ERROR = "the engine's error answer, not traffic"
STATUS = ("status_code", "http_status", "status", "code")
Chunk = Mapping[str, Any]
_TEXTS = ("role", "content", "reasoning", "reasoning_content", "refusal")
_LISTS = ("tool_calls", "audio")


def require_complete(answer: Chunk, streamed: bool | None = None) -> None:
    """Raises Unreadable for an error or a chunk. streamed: did the request ask for a stream? None where unknown."""
    if is_error(answer):
        raise Unreadable(RejectionReason.ERROR_ANSWER, ERROR)
    if is_chunk(answer, streamed):
        raise Unreadable(RejectionReason.STREAM_CHUNK, CHUNK)


def is_error(answer: Chunk) -> bool:
    """No choice, and one of: OpenAI's and TGI's ``error``, vLLM's ``object``, FastAPI's ``detail``, an HTTP status."""
    if answer.get("choices"):
        return False
    status = next((answer[name] for name in STATUS if type(answer.get(name)) is int), 0)
    return bool(answer.get("error") or answer.get("detail")) or answer.get("object") == "error" or status >= 400


def is_chunk(answer: Chunk, streamed: bool | None = None) -> bool:
    """Is this one chunk of a streamed answer? A chat's chunk has a ``delta``.

    A completion's chunk is recognised only by what it lacks: the finish reason, or the token counts, which an assembled
    answer has.
    """
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return False
    first = choices[0] if choices and isinstance(choices[0], dict) else {}
    if first.get("message"):
        return False
    if "text" in first:
        unended = first.get("finish_reason") is None
        return streamed is not False and (unended or (streamed is True and not answer.get("usage")))
    return "delta" in first or str(answer.get("object")).endswith(".chunk")


def is_events(text: str) -> bool:
    """Is this text a stream of server-sent events, as engines send them?"""
    return text.lstrip().startswith("data:")


def events(text: str) -> list[Any]:
    """The events' payloads, without the final ``[DONE]``. Raises Unreadable."""
    payloads = (line[5:].strip() for line in re.split(r"\r?\n", text.lstrip()) if line.startswith("data:"))
    try:
        return [orjson.loads(payload) for payload in payloads if payload and payload != "[DONE]"]
    except orjson.JSONDecodeError:
        raise Unreadable(RejectionReason.STREAM_CHUNK, f"{CHUNK}, or several, truncated") from None


def assembled(chunks: list[Any]) -> Chunk:
    """The answer that was streamed as these chunks, in the form of one that was not streamed.

    A list of one complete answer is that answer. Raises Unreadable where the end is missing, or where the chunks are of
    several streams.
    """
    if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
        raise Unreadable(RejectionReason.WRONG_TYPE, "response")
    complete = next((chunk for chunk in chunks if is_error(chunk)), chunks[0] if len(chunks) == 1 else None)
    if complete is not None and not is_chunk(complete):
        return complete
    if len({str(chunk["id"]) for chunk in chunks if chunk.get("id")}) > 1:
        raise Unreadable(RejectionReason.STREAM_CHUNK, "chunks of several streams in one answer")
    pieces: dict[str, list[Chunk]] = {}
    for choice in (choice for chunk in chunks for choice in _choices(chunk)):
        pieces.setdefault(str(choice.get("index", 0)), []).append(choice)
    choices = [_choice(pieces[index]) for index in sorted(pieces)]
    if not choices or any(choice["finish_reason"] is None for choice in choices):
        raise Unreadable(RejectionReason.STREAM_CHUNK, f"{CHUNK}, or several without the last")
    first = {name: value for chunk in reversed(chunks) for name, value in chunk.items() if value is not None}
    return {**first, "object": None, "usage": _last(chunks, "usage"), "choices": choices}


def _choices(chunk: Chunk) -> list[Chunk]:
    choices = chunk.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unreadable(RejectionReason.WRONG_TYPE, "choices")
    return choices


def _choice(pieces: list[Chunk]) -> dict[str, Any]:
    """One choice, assembled from its pieces in their order."""
    choice: dict[str, Any] = {name: _last(pieces, name) for name in ("finish_reason", "stop_reason")}
    choice["token_ids"] = _all_of(pieces, "token_ids")
    logprobs = [piece["logprobs"] for piece in pieces if isinstance(piece.get("logprobs"), dict)]
    by_name = {name: _all_of(logprobs, name) for name in ("content", "token_logprobs")}
    choice["logprobs"] = by_name if logprobs else None
    if any("text" in piece for piece in pieces):
        return choice | {"text": _text(pieces, "text") or ""}
    deltas = [piece["delta"] for piece in pieces if isinstance(piece.get("delta"), dict)]
    message = {name: _text(deltas, name) for name in _TEXTS} | {name: _all_of(deltas, name) for name in _LISTS}
    return choice | {"message": message | {"function_call": _last(deltas, "function_call")}}


def _last(pieces: Iterable[Chunk], name: str) -> Any:
    return next((piece[name] for piece in reversed(list(pieces)) if piece.get(name) is not None), None)


def _text(pieces: Iterable[Chunk], name: str) -> str | None:
    """The pieces' texts of this field, concatenated; None where no piece has it."""
    texts = [piece[name] for piece in pieces if piece.get(name) is not None]
    if not all(isinstance(text, str) for text in texts):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return "".join(texts) if texts else None


def _all_of(pieces: Iterable[Chunk], name: str) -> list[Any] | None:
    """The pieces' lists of this field, concatenated, a single value as a list of one; None where no piece has it."""
    values = [piece[name] for piece in pieces if piece.get(name) is not None]
    return [item for value in values for item in (value if isinstance(value, list) else [value])] if values else None
