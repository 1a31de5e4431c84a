"""From a record's bytes to its JSON: strictly first, and then by what real producers write besides.

Read: a byte order mark, the five bytes that a schema registry puts in front, half of a surrogate pair (as U+FFFD), a
stream of server-sent events. Refused, with the words for it: NaN and Infinity, a text that is no UTF-8, what is nested
too deeply. Of a key written twice the last counts, as in every engine. Nothing here costs a record that is good JSON.
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
    """Raises Unreadable; the reason holds nothing of the text."""
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
        raise Unreadable(RejectionReason.NOT_JSON, f"no UTF-8 at byte {at}") from None
    if answers.is_events(text):
        return answers.joined(answers.events(text))
    try:
        return _whole(json.loads(text, parse_constant=_no_constant, parse_float=_finite))
    except RecursionError:
        raise Unreadable(RejectionReason.NOT_JSON, "nested too deeply") from None
    except ValueError:  # the error holds the text
        raise Unreadable(RejectionReason.NOT_JSON, f"at character {pos}") from None


def _no_constant(name: str) -> NoReturn:
    raise Unreadable(RejectionReason.NOT_JSON, f"holds {name}, which JSON has no word for: write null")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        _no_constant("a number beyond all floats")
    return number


def _whole(value: Any) -> Any:
    """With U+FFFD in place of each half of a surrogate pair: no table, no tokenizer and no hash takes such a half."""
    if isinstance(value, str):
        return _HALF_A_PAIR.sub(REPLACED, value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(name): _whole(item) for name, item in value.items()}
    return value
