from __future__ import annotations

import pytest

from detectors.kinds.base_shift import Config, Detector
from detectors.records import SubjectKind
from tests.detectors.synthetic import ADAPTERS, make_base_round


def levels(faults: dict[str, str], rounds: int, draws: int = 16) -> list[float]:
    detector = Detector(Config())
    return [detector.update(make_base_round(faults, number, draws))[0].log_e for number in range(rounds)]


@pytest.mark.parametrize("fault", ["not_applied", "reparameterised", "scale:0.7", "swapped_and_lost"])
def test_all_adapters_together_page_the_base_in_the_first_round(fault: str) -> None:
    assert levels(dict.fromkeys(ADAPTERS, fault), 1)[0] >= 21.5


def test_one_of_three_never_adds_up_to_a_page_though_each_other_has_an_outlier() -> None:
    """1,000 rounds at the very edge of the null; a page at 21.5 nats then has a chance of one in a million."""
    faults = {"router": "not_applied", "rewriter": "edge", "extractor": "edge"}
    assert max(levels(faults, 1000)) < 21.5


def test_two_of_three_page() -> None:
    assert levels({"router": "not_applied", "rewriter": "scale:0.5", "extractor": "healthy"}, 1)[0] >= 21.5


def test_fewer_than_two_measured_members_are_no_evidence() -> None:
    detector = Detector(Config())
    (found,) = detector.update(make_base_round({"router": "not_applied", "rewriter": "blocked"}))
    assert (found.log_e, found.n, found.subject_kind) == (0.0, 0, SubjectKind.BASE)
    (before,) = detector.update(make_base_round(dict.fromkeys(ADAPTERS, "healthy"), 1))
    (after,) = detector.update(make_base_round({"router": "not_applied"}, 2))
    assert (after.log_e, after.n) == (before.log_e, before.n)
