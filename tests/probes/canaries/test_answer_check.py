from __future__ import annotations

import pytest

from probes.canaries.answer_check import checked, passed_and_passes, passes
from probes.errors import Refused

ROUTED = '{"queue": "billing", "priority": "low"}'


@pytest.mark.parametrize(
    ("check", "text", "right"),
    [
        ({"json": {"queue": "billing"}}, ROUTED, True),
        ({"json": {"queue": "billing"}}, f"\n{ROUTED} ", True),
        ({"json": {"queue": "returns"}}, ROUTED, False),
        ({"json": {"owner": None}}, ROUTED, False),
        ({"json": {"queue": "billing"}}, ROUTED[:-1], False),
        ({"json": {"queue": "billing"}}, '["billing"]', False),
        ({"contains": ["Omar", "refund"]}, "Dear Omar, a refund", True),
        ({"contains": ["Omar", "refund"]}, "Dear Omar", False),
        ({"contains": "Omar"}, "Dear Omar", True),
        ({"matches": "Dear .*helpdesk"}, "Dear\n Omar, helpdesk", False),
        ({"matches": "Dear.*helpdesk"}, "Dear\n Omar, helpdesk", True),
        ({"matches": "Dear"}, "Dear Omar", False),
        ({"equals": "id=1; qty=2"}, " id=1; qty=2\n", True),
        ({"equals": "id=1; qty=2"}, "id=1; qty=3", False),
        ({"equals": "id=1", "contains": ["qty"]}, "id=1", False),
    ],
)
def test_a_check_holds_or_does_not(check: dict[str, object], text: str, right: bool) -> None:
    assert passes({"check": check}, text) is right


def test_plain_fields_are_read_where_the_text_is_a_json_object_and_say_nothing_elsewhere() -> None:
    assert passes({"queue": "billing", "priority": "low"}, ROUTED) is True
    assert passes({"queue": "sales"}, ROUTED) is False
    assert passes({"id": "C5888", "qty": "12"}, "id=C5888; qty=12") is None
    assert passes({}, ROUTED) is None


def test_what_was_an_object_and_is_none_now_has_failed() -> None:
    assert passed_and_passes({"queue": "billing"}, ROUTED, "I would ask billing.") == (True, False)
    assert passed_and_passes({"queue": "billing"}, ROUTED, '{"queue": "billing"}') == (True, True)
    assert passed_and_passes({"queue": "sales"}, ROUTED, ROUTED) == (False, False)
    assert passed_and_passes({"facts": ["kettle"]}, "Dear Omar", ROUTED) == (None, None)


@pytest.mark.parametrize(
    "check", [{}, [], {"sounds": "right"}, {"json": []}, {"matches": "("}, {"equals": 3}, {"contains": [1]}]
)
def test_a_check_of_another_form_is_refused_with_the_forms_there_are(check: object) -> None:
    with pytest.raises(Refused):
        checked({"check": check})
