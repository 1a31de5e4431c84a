from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from detectors.diagnosis import remediation
from detectors.diagnosis.name_encoding import earlier_version, is_earlier_version, mixture, part_of
from detectors.diagnosis.remediation import wrong_adapter
from detectors.records import Fault, FaultKind, Identity

NAMES = ("b", "org/a+b@v2#1:x", "b*0.5", "b*2", "*", "b*", "it's 3*1.5")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "whole"), [(FaultKind.STACKED, 1.0), (FaultKind.AVERAGED, 0.5)])
def test_which_adapter_and_how_much_is_read_as_it_was_written(name: str, kind: FaultKind, whole: float) -> None:
    assert part_of(mixture(kind, name)) == (name, whole)
    assert part_of(mixture(kind, name, "*0.25")) == (name, 0.25)


def test_a_plain_name_is_recorded_as_it_always_was() -> None:
    assert mixture(FaultKind.STACKED, "b") == Fault(FaultKind.STACKED, "b")
    assert mixture(FaultKind.STACKED, "b", "*0.5") == Fault(FaultKind.STACKED, "b*0.5")


def test_a_release_of_an_adapter_is_no_other_adapter_with_a_sign_in_its_name() -> None:
    assert is_earlier_version(earlier_version("org/a@v2", "0123456789ab"), "org/a@v2")
    for name in ("a@v2", "a@0123456789AB", "a@0123456789abc", "a", "b@0123456789ab"):
        assert not is_earlier_version(name, "a")


def test_words_for_a_neighbour_whose_name_begins_alike_are_those_for_a_neighbour() -> None:
    assert "an earlier version of itself" in wrong_adapter("a", ["a@0123456789ab"], 0.1)[0]
    seen, do = wrong_adapter("a", ["a@v2"], 0.1)
    assert "a answers as a@v2 does" in seen and "answered by another's adapter" in do


def test_a_command_that_is_told_can_be_pasted() -> None:
    assert "gapwatch probe 'it'\"'\"'s #1'" in wrong_adapter("it's #1", ["it's #1@0123456789ab"], 0.1)[1]


@pytest.mark.parametrize(
    "say",
    [
        lambda name: remediation.not_applied(name, []),
        lambda name: remediation.swapped(name, [], Identity()),
        lambda name: remediation.quantised(name, ["4"], [], Identity(), 0.1),
        lambda name: remediation.partly_applied(name, ["q_proj"], [], 0.1),
        lambda name: remediation.sampling(name, "logits", 0.5, 0.1),
        lambda name: remediation.template(name, 1, 2, Identity()),
        lambda name: remediation.shared_cache(name, None, 0.5, ""),
        lambda name: remediation.replaced(name, []),
    ],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_every_command_that_is_told_can_be_pasted(say: Callable[[str], tuple[str, str]]) -> None:
    commands = re.findall(r"gapwatch (?:probe|enrol) .*", say("a b")[1])
    assert commands and not [one for one in commands if not one.split(" ", 2)[2].startswith("'a b'")]
    assert say("a b")[1].count("gapwatch ") == say("a b")[1].count("'a b'")
