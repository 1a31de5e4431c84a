"""Fields of a record's JSON, each returned as the type it must have; otherwise the record is rejected with a reason.

Shared by the formats in agent/traffic/formats. Keep this: a reason names the field and never repeats its value, which
may be production text.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from agent.errors import Unreadable
from agent.kafka.contract import Message
from agent.records import RejectionReason
from agent.traffic import json_text

Body = Mapping[str, Any]
Chat = tuple[Mapping[str, str], ...]

LATEST_TS = 4_102_444_800.0  # 2100-01-01: beyond it the number is not in seconds
UNITS = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))
TOO_SMALL_NANOS = (
    (1e11, "seconds"),
    (1e14, "milliseconds"),
    (1e17, "microseconds"),
)  # read as nanoseconds these would be before 1974
TEXT_PARTS = ("text", "input_text", "output_text")
MAX_COUNT = 2**31 - 1
SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
# No "@": an e-mail address may not be shown.
_NAME = re.compile(r"[\w./:+-]{1,80}", re.ASCII)

# Nine digits and more: eight may be a date in ISO 8601 without dashes.
_NUMBER = re.compile(r"[0-9]{9,20}(\.[0-9]*)?|[0-9]{1,8}\.[0-9]*", re.ASCII)
# How exporters write an unknown time: zero, which OTLP requires, and the zero value of Go's clock.
_UNKNOWN_TIMES = ("", 0, "0")
_GO_ZERO = "0001-01-01T00:00:00"

_ANY_VALUE = frozenset(
    ("stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue")
)
_NUMBER_AS_TEXT = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_POD = re.compile(r"[\w.-]+", re.ASCII)


def body_of(message: Message, max_bytes: int) -> Body:
    """The record's JSON object. Raises Unreadable."""
    value = message.value
    if not value:
        raise Unreadable(RejectionReason.EMPTY, "value")
    if len(value) > max_bytes:
        raise Unreadable(RejectionReason.TOO_LARGE, f"{len(value)} bytes, at most {max_bytes} wanted")
    body = json_text.loads(value)
    if not isinstance(body, dict):
        raise Unreadable(RejectionReason.WRONG_TYPE, "the record is not a JSON object")
    return _payload(body) if "payload" in body else body


def _payload(body: Body) -> Body:
    """The payload of an envelope by Kafka Connect's JSON converter; any other body unchanged."""
    if body.keys() != {"schema", "payload"} or isinstance(body["schema"], str):
        return body
    payload = parsed(body["payload"])
    if not isinstance(payload, dict):
        raise Unreadable(
            RejectionReason.UNKNOWN_SCHEMA, "an envelope of Kafka Connect whose payload is not a JSON object"
        )
    return payload


def pod_of(message: Message) -> str:
    """From the header ``pod``, "" without one."""
    return pod_name(message.headers.get("pod", b"").decode("utf-8", "replace"))


def pod_name(text: object) -> str:
    """A valid Kubernetes pod name, truncated to the maximum length; "" for anything else.

    It becomes a label, and part of the messages to people on call.
    """
    name = text[:253] if isinstance(text, str) else ""
    return name if _POD.fullmatch(name) else ""


def name_or_nothing(text: str) -> str:
    """The text where it looks like a name and may be shown, else ""."""
    return text if _NAME.fullmatch(text) else ""


def group_of(fields: Body, *names: str) -> str:
    """The first of these fields that has a value, as 16 hexadecimal digits of its hash: user names are personal data.

    Without a salt, so that all agents see the same groups after any restart. A short name can be recovered by brute
    force: this keeps names out of files and tables, and does not make them anonymous.
    """
    values = (fields.get(name) for name in names)
    group = next((str(value) for value in values if isinstance(value, str | int) and value not in ("", False)), "")
    return hashlib.blake2b(group.encode(errors="surrogatepass"), digest_size=8).hexdigest() if group else ""


def text(body: Body, name: str) -> str:
    """A text; may be empty, but not missing."""
    if body.get(name) is None:
        raise Unreadable(RejectionReason.MISSING_FIELD, name)
    if not isinstance(body[name], str):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return str(body[name])


def required(body: Body, name: str) -> str:
    value = text(body, name)
    if not value:
        raise Unreadable(RejectionReason.MISSING_FIELD, name)
    return value


def optional(body: Body, name: str, kind: type) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return value


def mapping(body: Body, name: str) -> Body:
    """An object; {} where it is missing."""
    return optional(body, name, dict) or {}


def seconds(value: object, name: str) -> float:
    """Seconds since the epoch as a number, or as text in digits or ISO 8601 (UTC without a time zone)."""
    if value is None:
        raise Unreadable(RejectionReason.MISSING_FIELD, name)
    at: Any = _from_text(value) if isinstance(value, str) else value
    if is_number(at) and 0 <= at < LATEST_TS:
        return float(at)
    unit = next((unit for scale, unit in UNITS if is_number(at) and LATEST_TS <= at < LATEST_TS * scale), "")
    raise Unreadable(RejectionReason.WRONG_TYPE, f"{name} in {unit}, seconds wanted" if unit else name)


def recorded_time(message: Message, *fields: tuple[str, object]) -> float:
    """In seconds, the first of these (name, value) that is a time, else the record's Kafka timestamp.

    A value is in nanoseconds where its name ends as OpenTelemetry's do. Zero and Go's year 1 mean unknown.
    """
    for name, value in fields:
        if value is not None and value not in _UNKNOWN_TIMES and str(value)[: len(_GO_ZERO)] != _GO_ZERO:
            return nanoseconds(value, name) if name.lower().endswith(("nano", "nanos")) else seconds(value, name)
    return message.at


def nanoseconds(value: object, name: str) -> float:
    """Seconds, from the nanoseconds since the epoch that OpenTelemetry writes, as a number or as text."""
    digits = f"{value:.0f}" if isinstance(value, float) else str(value)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    nanos = int(digits)
    unit = next((unit for below, unit in TOO_SMALL_NANOS if 0 < nanos < below), "")
    if unit:
        raise Unreadable(RejectionReason.WRONG_TYPE, f"{name} in {unit}, nanoseconds wanted")
    return seconds(nanos / 1e9, name)


def _from_text(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def chat(turns: object, name: str = "messages") -> Chat:
    """The turns of a chat: role, and content, which is text or a list of parts, of which the text parts are read."""
    if not isinstance(turns, list):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return tuple(_turn(turn, name) for turn in turns)


def _turn(turn: object, name: str) -> Mapping[str, str]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    content = turn.get("content", turn.get("parts"))
    return {"role": turn["role"], "content": content_of(content, name)}


def content_of(content: object, name: str) -> str:
    """One turn's text; of parts (chat completions: text; OpenTelemetry: content) the texts are concatenated.

    "" for a turn that only calls tools.
    """
    if isinstance(content, list):
        return "".join(map(_text_of, content))
    if content is not None and not isinstance(content, str):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return content or ""


def _text_of(part: object) -> str:
    """Of a text part, or of one that vLLM reads as text; "" of any other."""
    if isinstance(part, dict) and part.get("type") in TEXT_PARTS:
        part = part.get("text", part.get("content"))
    return part if isinstance(part, str) else ""


def sampling(given: Body) -> Mapping[str, float]:
    """The sampling parameters among these that are numbers.

    A missing one is left out: it is unknown, not the default.
    """
    return {name: float(given[name]) for name in SAMPLING if is_number(given.get(name))}


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def count(usage: Body, *names: str) -> int:
    """The first of these that is a number, 0 where none is. A record is not rejected for an implausible count."""
    numbers = (usage[name] for name in names if is_number(usage.get(name)))
    return int(min(max(next(numbers, 0), 0), MAX_COUNT))


def token_ids(value: object, name: str) -> tuple[int, ...]:
    """() where the value is missing."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= MAX_COUNT for item in value):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return tuple(value)


def logprobs(value: object) -> tuple[float, ...]:
    """Nats, one for each output token, NaN for a token without; () where the value is missing or of another form.

    Nothing is decided by them, so that a record is not rejected for what an engine writes there.
    """
    if not isinstance(value, list) or not all(item is None or is_number(item) for item in value):
        return ()
    return tuple(math.nan if item is None else float(item) for item in value)


def has_attribute(value: object, name: str) -> bool:
    """Is there an attribute of this dotted name, in any form that ``attributes`` reads? Parses only where it must."""
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = [item.get("key") for item in value if isinstance(item, dict)]
    else:
        return False
    return name in keys or (any(name.startswith(f"{key}.") for key in keys) and name in attributes(value))


def attributes(value: object) -> Body:
    """OpenTelemetry attributes by dotted name, from an object, flat or nested, or from OTLP's list of keys and values.

    A log record's body that carries attributes is an AnyValue, or JSON text.
    """
    if isinstance(value, dict) and len(value) == 1 and not _ANY_VALUE.isdisjoint(value):
        value = _any_value(value)
    value = parsed(value)
    if not isinstance(value, list):
        return dict(_flat(value, "")) if isinstance(value, dict) else {}
    pairs = [item for item in value if isinstance(item, dict) and isinstance(item.get("key"), str)]
    by_name = {item["key"]: _any_value(item.get("value")) for item in pairs}
    nested = {name: inner for name, inner in by_name.items() if isinstance(inner, dict)}
    return {**by_name, **dict(_flat(nested, ""))} if nested else by_name


def under(attributes: Body, prefix: str) -> Body:
    """The attributes whose names begin with the prefix, by the next part of the name; deeper ones as an object."""
    direct: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for name, value in attributes.items():
        if name.startswith(prefix):
            word, _, rest = name[len(prefix) :].partition(".")
            if rest:
                deeper.setdefault(word, {})[rest] = value
            else:
                direct[word] = value
    return {**deeper, **direct} if deeper else direct


def _flat(value: Any, path: str) -> list[tuple[str, Any]]:
    """(dotted name, value) of nested objects; a list stays whole under its name, and is also flattened by position."""
    pairs: list[tuple[str, Any]] = []
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        here = f"{path}{name}"
        if not isinstance(inner, dict):
            pairs.append((here, inner))
        if isinstance(inner, dict) or (isinstance(inner, list) and any(isinstance(item, dict) for item in inner)):
            pairs += _flat(inner, f"{here}.")
    return pairs


def _any_value(value: object) -> Any:
    """OTLP's AnyValue in JSON: {"stringValue": ...}; 64-bit integers are text, bytes are base64.

    A value that is not of its stated kind is returned as it is: whoever needs a number rejects it.
    """
    if not isinstance(value, dict) or len(value) > 1:
        return value
    kind, inner = next(iter(value.items()), ("", None))
    if kind == "intValue":
        digits = str(inner)
        return int(digits) if re.fullmatch(r"-?[0-9]{1,20}", digits) else inner
    if kind == "doubleValue" and isinstance(inner, str):
        return float(inner) if _NUMBER_AS_TEXT.fullmatch(inner) else inner
    if kind == "arrayValue":
        return [_any_value(item) for item in _values(inner)]
    if kind == "kvlistValue":
        pairs = [item for item in _values(inner) if isinstance(item, dict)]
        return {str(item.get("key")): _any_value(item.get("value")) for item in pairs}
    if kind == "bytesValue":
        return from_base64(inner).decode("utf-8", "replace")
    return inner if kind in _ANY_VALUE or not kind else value


def from_base64(text: object) -> bytes:
    """b"" where it is not base64."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _values(inner: object) -> list[Any]:
    values = inner.get("values") if isinstance(inner, dict) else None
    return values if isinstance(values, list) else []


def parsed(value: object) -> Any:
    """The JSON in a text (some exporters cannot write objects as attributes); any other value or text unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
