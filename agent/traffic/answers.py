"""What came back from an engine, where it is no whole answer: an error, one chunk of a stream, or all of its chunks.

An error or a chunk is set aside, because as an answer it would be an empty one; all chunks are put together.
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
_JOINED = ("role", "content", "reasoning", "reasoning_content", "refusal")
_LISTED = ("tool_calls", "audio")


def refuse_what_is_none(answer: Chunk, streamed: bool | None = None) -> None:
    """Raises Unreadable where this is no whole answer. streamed: was a stream asked for? None where nothing tells."""
    if is_error(answer):
        raise Unreadable(RejectionReason.ERROR_ANSWER, ERROR)
    if is_chunk(answer, streamed):
        raise Unreadable(RejectionReason.STREAM_CHUNK, CHUNK)


def is_error(answer: Chunk) -> bool:
    """OpenAI's and TGI's ``error``, vLLM's ``object``, FastAPI's ``detail``, a status of HTTP: and no choice."""
    if answer.get("choices"):
        return False
    status = next((answer[name] for name in STATUS if type(answer.get(name)) is int), 0)
    return bool(answer.get("error") or answer.get("detail")) or answer.get("object") == "error" or status >= 400


def is_chunk(answer: Chunk, streamed: bool | None = None) -> bool:
    """Is this a piece of an answer? A chat's has a ``delta``.

    A completion's is told by nothing but what it lacks: the reason of its end, or the count of its tokens, which an
    answer that was put together has.
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
    """Server-sent events, as an engine streams them?"""
    return text.lstrip().startswith("data:")


def events(text: str) -> list[Any]:
    """What the events hold, the last word ``[DONE]`` left out. Raises Unreadable."""
    told = (line[5:].strip() for line in re.split(r"\r?\n", text.lstrip()) if line.startswith("data:"))
    try:
        return [orjson.loads(one) for one in told if one and one != "[DONE]"]
    except orjson.JSONDecodeError:
        raise Unreadable(RejectionReason.STREAM_CHUNK, f"{CHUNK}, or several that were cut") from None


def joined(chunks: list[Any]) -> Chunk:
    """The answer that these are the chunks of, as if it had not been streamed; a list of one whole answer is that one.

    Raises Unreadable where it has no end, or is of several streams.
    """
    if not chunks or not all(isinstance(one, dict) for one in chunks):
        raise Unreadable(RejectionReason.WRONG_TYPE, "response")
    whole = next((one for one in chunks if is_error(one)), chunks[0] if len(chunks) == 1 else None)
    if whole is not None and not is_chunk(whole):
        return whole
    if len({str(one["id"]) for one in chunks if one.get("id")}) > 1:
        raise Unreadable(RejectionReason.STREAM_CHUNK, "chunks of several streams in one answer")
    pieces: dict[str, list[Chunk]] = {}
    for choice in (choice for one in chunks for choice in _choices(one)):
        pieces.setdefault(str(choice.get("index", 0)), []).append(choice)
    choices = [_choice(pieces[index]) for index in sorted(pieces)]
    if not choices or any(choice["finish_reason"] is None for choice in choices):
        raise Unreadable(RejectionReason.STREAM_CHUNK, f"{CHUNK}, or several without its end")
    first = {name: value for one in reversed(chunks) for name, value in one.items() if value is not None}
    return {**first, "object": None, "usage": _last(chunks, "usage"), "choices": choices}


def _choices(chunk: Chunk) -> list[Chunk]:
    found = chunk.get("choices") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Unreadable(RejectionReason.WRONG_TYPE, "choices")
    return found


def _choice(pieces: list[Chunk]) -> dict[str, Any]:
    """One choice of its pieces, in their order."""
    whole: dict[str, Any] = {name: _last(pieces, name) for name in ("finish_reason", "stop_reason")}
    whole["token_ids"] = _all_of(pieces, "token_ids")
    told = [piece["logprobs"] for piece in pieces if isinstance(piece.get("logprobs"), dict)]
    whole["logprobs"] = {name: _all_of(told, name) for name in ("content", "token_logprobs")} if told else None
    if any("text" in piece for piece in pieces):
        return whole | {"text": _text(pieces, "text") or ""}
    deltas = [piece["delta"] for piece in pieces if isinstance(piece.get("delta"), dict)]
    message = {name: _text(deltas, name) for name in _JOINED} | {name: _all_of(deltas, name) for name in _LISTED}
    return whole | {"message": message | {"function_call": _last(deltas, "function_call")}}


def _last(pieces: Iterable[Chunk], name: str) -> Any:
    return next((piece[name] for piece in reversed(list(pieces)) if piece.get(name) is not None), None)


def _text(pieces: Iterable[Chunk], name: str) -> str | None:
    """Joined; None where no piece has it."""
    told = [piece[name] for piece in pieces if piece.get(name) is not None]
    if not all(isinstance(one, str) for one in told):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return "".join(told) if told else None


def _all_of(pieces: Iterable[Chunk], name: str) -> list[Any] | None:
    """Lists put behind each other, a thing that is no list as one; None where no piece has it."""
    told = [piece[name] for piece in pieces if piece.get(name) is not None]
    return [item for one in told for item in (one if isinstance(one, list) else [one])] if told else None
