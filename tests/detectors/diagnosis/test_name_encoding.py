from __future__ import annotations

import pytest

from detectors.diagnosis.name_encoding import earlier_version, is_earlier_version, mixture, part_of
from detectors.records import Fault, FaultKind

NAMES = ("b", "org/a+b@v2#1:x", "b*0.5", "b*2", "*", "b*", "it's 3*1.5")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kind", "whole"), [(FaultKind.STACKED, 1.0), (FaultKind.AVERAGED, 0.5), (FaultKind.TAKEN_AWAY, 1.0)]
)
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
