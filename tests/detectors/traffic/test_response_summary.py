"""What a round of responses says about one adapter."""

from __future__ import annotations

import math

import pytest

from detectors.evidence.alternative import BASE, HALF_STRENGTH, Alternative, other_adapter
from detectors.traffic.response_summary import evidence_of, summarise
from tests.detectors.responses import AGAINST, FOR, score, unscored


def test_the_base_weighs_as_much_as_all_others_together() -> None:
    assert evidence_of(score((4.0, 0.0, 0.0))) == pytest.approx(math.log(0.5 * math.exp(4.0) + 0.5))
    assert evidence_of(score((4.0,))) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("scores", "good", "bad"),
    [
        ([score(FOR), score(FOR)], True, False),
        ([score(FOR), score(AGAINST)], False, True),
        ([score((0.5, 0.5, 0.5))], True, False),
        ([score((0.5, 0.5, 0.5))] * 7, False, True),
        ([score((0.0, 0.0, 0.0))] * 50, True, False),
        ([score((math.log(20.0) + 0.01,)), *[score(FOR)] * 30], False, True),
        ([unscored()], False, False),
        ([], False, False),
    ],
    ids=[
        "all for it",
        "one against",
        "a little for others",
        "that adds up",
        "no evidence at all",
        "one beyond one in twenty",
        "not scored",
        "silence",
    ],
)
def test_a_round_is_good_bad_or_neither(scores: list, good: bool, bad: bool) -> None:  # type: ignore[type-arg]
    heard = summarise(scores)
    assert (heard.good, heard.bad) == (good, bad)


def test_what_cannot_be_scored_is_counted_with_its_reason_and_is_no_evidence() -> None:
    heard = summarise([score(FOR), unscored("its output is empty"), unscored("its output is empty"), unscored("other")])
    assert (heard.scored, heard.unscored, heard.why) == (1, 3, "its output is empty")
    broken = summarise([score((math.nan, 0.0, 0.0))])
    assert (broken.scored, broken.unscored, broken.good) == (0, 1, False) and "not finite" in broken.why


@pytest.mark.parametrize(
    ("log_l", "leading"),
    [
        ((60.0, 20.0, -5.0), BASE),
        ((60.0, 62.0, -5.0), BASE),
        ((20.0, 60.0, -5.0), HALF_STRENGTH),
        ((20.0, 10.0, 60.0), other_adapter("rewriter")),
    ],
    ids=["the base", "the base where another is ahead by less than one in twenty", "half strength", "another adapter"],
)
def test_who_wrote_those_against_it(log_l: tuple[float, ...], leading: Alternative) -> None:
    assert summarise([score(log_l), *[score(FOR)] * 5]).leading == leading
    assert summarise([score(log_l), score(log_l[:1])]).leading == leading, "not asked is not worse"


def test_pods_are_told_apart() -> None:
    heard = summarise([score(FOR, pod="a"), score(AGAINST, pod="b"), score(FOR)])
    assert heard.pods == {"a", "b"} and heard.bad_pods == {"b"}
