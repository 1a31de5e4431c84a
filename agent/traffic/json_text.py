"""From a record's bytes to its JSON: first strictly, and where that fails with what real producers write besides JSON.

Accepted: a byte order mark, the five bytes that a schema registry puts in front, half of a surrogate pair (read as
U+FFFD), a stream of server-sent events. Rejected with a reason: NaN and Infinity, text that is not UTF-8, nesting that
is too deep. Of a key written twice the last value counts, as in every engine. A record that is valid JSON takes the
first, fast path only: keep it so.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import orjson

from agent.errors import Unreadable
from agent.records import RejectionReason
from agent.traffic import answers

REPLACED = "\ufffd"
_BOM = b"\xef\xbb\xbf"
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def loads(value: bytes) -> Any:
    """Raises Unreadable; its reason contains nothing of the text."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return _leniently(value, error.pos)


def _leniently(value: bytes, pos: int) -> Any:
    bare = value.removeprefix(_BOM)
    bare = bare[5:] if bare[:1] == b"\0" else bare
    try:
        text = bare.decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + len(value) - len(bare)
        raise Unreadable(RejectionReason.NOT_JSON, f"not UTF-8 at byte {at}") from None
    if answers.is_events(text):
        return answers.assembled(answers.events(text))
    try:
        return _without_half_pairs(json.loads(text, parse_constant=_reject_constant, parse_float=_finite))
    except RecursionError:
        raise Unreadable(RejectionReason.NOT_JSON, "nested too deeply") from None
    except ValueError:  # the error holds the text
        raise Unreadable(RejectionReason.NOT_JSON, f"at character {pos}") from None


def _reject_constant(name: str) -> NoReturn:
    raise Unreadable(RejectionReason.NOT_JSON, f"contains {name}, which is not JSON: write null")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        _reject_constant("a number too large for a float")
    return number


def _without_half_pairs(value: Any) -> Any:
    """With U+FFFD in place of each half of a surrogate pair: tables, tokenizers and hashes reject such a half."""
    if isinstance(value, str):
        return _HALF_A_PAIR.sub(REPLACED, value)
    if isinstance(value, list):
        return [_without_half_pairs(item) for item in value]
    if isinstance(value, dict):
        return {_without_half_pairs(name): _without_half_pairs(item) for name, item in value.items()}
    return value
