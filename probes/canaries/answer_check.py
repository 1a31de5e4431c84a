"""Does an answer pass the canary's own check? Distinguishes a changed answer that is as good from one that is wrong.

A canary's ``expect`` may hold ``{"check": {...}}`` with one or more of these, all of which have to hold:

- ``"json": {"queue": "billing"}``  the text is one JSON object with these values; its other fields are ignored
- ``"contains": ["Omar", "refund"]``  the text contains each of these
- ``"matches": "Dear .*"``  the whole text matches this regular expression, in which ``.`` matches line breaks too
- ``"equals": "id=C5888; qty=12"``  the text is equal to this

White space around the text is ignored. An ``expect`` without "check" is read as the fields of a JSON object where the
golden answer is such an object, and says nothing otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from probes.errors import Refused

CHECK = "check"
Expect = Mapping[str, object]


def passes(expect: Expect, text: str) -> bool | None:
    """Is this text right? None where ``expect`` has no check, or has plain fields and the text is no JSON object.

    text: without its end-of-text token. Raises Refused for a check of another form.
    """
    if CHECK in expect:
        return all(holds(text.strip()) for holds in _conditions(expect[CHECK]))
    fields = _json_object(text)
    return _has(expect, fields) if expect and fields is not None else None


def passed_and_passes(expect: Expect, golden: str, present: str) -> tuple[bool | None, bool | None]:
    """``passes`` of the golden text and of the present one; a present text that is no JSON any more has failed.

    A negative flip is (True, False).
    """
    golden_passes, present_passes = passes(expect, golden), passes(expect, present)
    return (golden_passes, None) if golden_passes is None else (golden_passes, bool(present_passes))


def checked(expect: Expect) -> Expect:
    """``expect`` unchanged, after validation of its check. Raises Refused."""
    passes(expect, "")
    return expect


def _conditions(check: object) -> list[Callable[[str], bool]]:
    if not isinstance(check, Mapping) or not check:
        raise Refused("check of a canary", repr(check), f"an object with one or more of {', '.join(KINDS)}")
    return [_condition(str(kind), wanted) for kind, wanted in check.items()]


def _condition(kind: str, wanted: object) -> Callable[[str], bool]:
    if kind not in KINDS:
        raise Refused("check of a canary", repr(kind), f"one or more of {', '.join(KINDS)}")
    return KINDS[kind](wanted)


def _json(wanted: object) -> Callable[[str], bool]:
    if not isinstance(wanted, Mapping):
        raise Refused("check json", repr(wanted), "an object of fields and values")
    return lambda text: (fields := _json_object(text)) is not None and _has(wanted, fields)


def _contains(wanted: object) -> Callable[[str], bool]:
    parts = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise Refused("check contains", repr(wanted), "a list of strings")
    return lambda text: all(part in text for part in parts)


def _matches(wanted: object) -> Callable[[str], bool]:
    try:
        pattern = re.compile(str(wanted), re.DOTALL)
    except re.error as error:
        raise Refused("check matches", repr(wanted), f"a regular expression ({error})") from error
    return lambda text: pattern.fullmatch(text) is not None


def _equals(wanted: object) -> Callable[[str], bool]:
    if not isinstance(wanted, str):
        raise Refused("check equals", repr(wanted), "a string")
    return lambda text: text == wanted.strip()


KINDS: dict[str, Callable[[object], Callable[[str], bool]]] = {
    "json": _json,
    "contains": _contains,
    "matches": _matches,
    "equals": _equals,
}


def _has(wanted: Mapping[str, object], fields: Mapping[str, object]) -> bool:
    return all(name in fields and fields[name] == value for name, value in wanted.items())


def _json_object(text: str) -> dict[str, object] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
