"""The topic format gapwatch.v1: one JSON object a record, from bytes to an Interaction or to the reason why not.

Required: schema, request_id, ts (seconds since the epoch, or ISO 8601), adapter, messages or prompt, output.
Optional: base, pod, finish_reason, sampling{temperature, top_p, top_k, seed}, usage{prompt_tokens, completion_tokens or
output_tokens}. Other fields are passed over. An error never repeats what a field holds: it may be production text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from agent.errors import Unreadable
from agent.records import AsideReason, Interaction
from agent.topic import Message, Place

SCHEMA = "gapwatch.v1"
LATEST_TS = 4_102_444_800.0  # 2100-01-01: beyond it the number is not in seconds
MAX_COUNT = 2**31 - 1
_SAMPLING = ("temperature", "top_p", "top_k", "seed")
_NAME = re.compile(r"[\w./:@+-]{1,80}", re.ASCII)


def read(message: Message, place: Place, max_bytes: int) -> Interaction:
    """One record as an Interaction; its adapter is any name. Raises Unreadable with a reason of AsideReason."""
    body = _body(message.value, max_bytes)
    _check_schema(body)
    topic, partition = place
    prompt_tokens, output_tokens = _usage(_optional(body, "usage", dict) or {})
    return Interaction(
        request_id=_required(body, "request_id"),
        at=_seconds(body.get("ts")),
        adapter=_required(body, "adapter"),
        base=_optional(body, "base", str) or "",
        pod=pod_of(message) or (_optional(body, "pod", str) or "")[:253],
        messages=_messages(body),
        output=_text(body, "output"),
        finish_reason=_optional(body, "finish_reason", str) or "",
        sampling=_numbers(_optional(body, "sampling", dict) or {}),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        topic=topic,
        partition=partition,
        offset=message.offset,
    )


def pod_of(message: Message) -> str:
    """The header ``pod``, "" without one. Cut to the longest name that Kubernetes allows."""
    return message.headers.get("pod", b"").decode("utf-8", "replace")[:253]


def name_or_nothing(text: str) -> str:
    """The text where it looks like a name and may be shown in a report, else ""."""
    return text if _NAME.fullmatch(text) else ""


def _body(value: bytes | None, max_bytes: int) -> Mapping[str, Any]:
    if not value:
        raise Unreadable(AsideReason.EMPTY, "value")
    if len(value) > max_bytes:
        raise Unreadable(AsideReason.TOO_LARGE, f"{len(value)} bytes, at most {max_bytes} wanted")
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Unreadable(AsideReason.NOT_JSON, f"at character {error.pos}") from None  # the error holds the text
    if not isinstance(body, dict):
        raise Unreadable(AsideReason.WRONG_TYPE, "the record is no JSON object")
    return body


def _check_schema(body: Mapping[str, Any]) -> None:
    schema = _required(body, "schema")
    if schema != SCHEMA:
        raise Unreadable(AsideReason.UNKNOWN_SCHEMA, f"schema {name_or_nothing(schema)}")


def _text(body: Mapping[str, Any], name: str) -> str:
    if body.get(name) is None:
        raise Unreadable(AsideReason.MISSING_FIELD, name)
    if not isinstance(body[name], str):
        raise Unreadable(AsideReason.WRONG_TYPE, name)
    return str(body[name])


def _required(body: Mapping[str, Any], name: str) -> str:
    text = _text(body, name)
    if not text:
        raise Unreadable(AsideReason.MISSING_FIELD, name)
    return text


def _optional(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise Unreadable(AsideReason.WRONG_TYPE, name)
    return value


def _seconds(ts: object) -> float:
    if ts is None:
        raise Unreadable(AsideReason.MISSING_FIELD, "ts")
    seconds = _from_iso(ts) if isinstance(ts, str) else ts
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < LATEST_TS:
        raise Unreadable(AsideReason.WRONG_TYPE, "ts")
    return float(seconds)


def _from_iso(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _messages(body: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    """The chat as it came; a bare prompt is one message of the user."""
    chat = _optional(body, "messages", list)
    if chat:
        return tuple(_turn(turn) for turn in chat)
    if body.get("prompt") is None:
        raise Unreadable(AsideReason.MISSING_FIELD, "messages")
    return ({"role": "user", "content": _text(body, "prompt")},)


def _turn(turn: object) -> Mapping[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise Unreadable(AsideReason.WRONG_TYPE, "messages")
    content = turn.get("content")
    if isinstance(content, list):  # parts, as chat completions allow; only text can be embedded
        content = "".join(part["text"] for part in content if isinstance(part, dict) and _is_text(part))
    if content is not None and not isinstance(content, str):  # None: a turn that only calls tools
        raise Unreadable(AsideReason.WRONG_TYPE, "messages")
    return {"role": turn["role"], "content": content or ""}


def _is_text(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and isinstance(part.get("text"), str)


def _numbers(sampling: Mapping[str, Any]) -> Mapping[str, float]:
    return {name: float(sampling[name]) for name in _SAMPLING if _is_number(sampling.get(name))}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _usage(usage: Mapping[str, Any]) -> tuple[int, int]:
    """(prompt tokens, output tokens); 0 where not told. A nonsensical count is not worth losing the record."""

    def count(*names: str) -> int:
        found = (usage[name] for name in names if _is_number(usage.get(name)))
        return int(min(max(next(found, 0), 0), MAX_COUNT))

    return count("prompt_tokens"), count("completion_tokens", "output_tokens")
