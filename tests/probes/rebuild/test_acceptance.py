"""Does the test pass what keeps the accepted behaviour and nothing else, whatever the candidate was made from?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detectors.records import Interval
from probes.errors import Refused, Unreplayable
from probes.golden.record import Golden, GoldenCanary
from probes.rebuild.acceptance import Acceptance, AcceptanceRules, FlippedText, assess, failures
from tests.probes.rebuild.conftest import Enrolled
from tests.probes.rebuild.worlds import ADAPTER
from tests.probes.tiny import opened, tiny_adapter
from tests.probes.worlds import never

RULES = AcceptanceRules()


def assessed(base: Path, candidate: Path, golden: Golden, cache: Path) -> Acceptance:
    runner = opened(base, cache, {ADAPTER: candidate})
    try:
        return assess(runner, ADAPTER, golden, never)
    finally:
        runner.close()


def with_checks(golden: Golden) -> Golden:
    """Each canary's own check wants the golden answer."""

    def checked(canary: GoldenCanary) -> GoldenCanary:
        text = canary.golden_text.removesuffix("<e>")
        return replace(canary, expect={"check": {"equals": text}})

    return replace(golden, canaries=tuple(map(checked, golden.canaries)))


def test_the_accepted_adapter_itself_passes(enrolled: Enrolled, tmp_path: Path) -> None:
    done = assessed(enrolled.base, enrolled.adapter, with_checks(enrolled.golden), tmp_path)
    assert done.retention is not None and done.retention.low > 0.99 and abs(done.strength - 1) < 0.01
    assert done.canaries == len(enrolled.golden.held_out) == done.same and not done.flips
    assert done.checked == done.right > 0 and failures(done, RULES) == ()


def test_another_adapter_does_not_pass_and_its_flips_are_told(enrolled: Enrolled, tmp_path: Path) -> None:
    other = tiny_adapter(tmp_path / "other", enrolled.base, seed=9)
    done = assessed(enrolled.base, other, with_checks(enrolled.golden), tmp_path)
    why = failures(done, RULES)
    assert any("retention" in words for words in why) and any("wrong now" in words for words in why)
    assert done.flips and done.flips[0].golden_text != done.flips[0].present_text
    assert done.right + len(done.flips) == done.checked


def test_only_held_out_canaries_are_asked(enrolled: Enrolled, tmp_path: Path) -> None:
    """A candidate that has learnt the selected ones by heart gains nothing by it."""
    held_out = replace(enrolled.golden, canaries=enrolled.golden.held_out)
    every = assessed(enrolled.base, enrolled.adapter, enrolled.golden, tmp_path)
    assert every == assessed(enrolled.base, enrolled.adapter, held_out, tmp_path)


def test_with_another_tokenizer_flips_alone_decide(enrolled: Enrolled, tmp_path: Path) -> None:
    golden = replace(with_checks(enrolled.golden), tokenizer_hash="sha256:another")
    done = assessed(enrolled.base, enrolled.adapter, golden, tmp_path)
    assert done.retention is None and done.checked == done.right > 0 and failures(done, RULES) == ()
    without = replace(golden, canaries=tuple(replace(own, expect={}) for own in golden.canaries))
    with pytest.raises(Refused, match="tokenizer"):
        failures(assessed(enrolled.base, enrolled.adapter, without, tmp_path), RULES)


def test_a_candidate_that_cannot_be_replayed_is_no_verdict(enrolled: Enrolled, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unreplayable, match="empty"):
        assessed(enrolled.base, tmp_path / "empty", enrolled.golden, tmp_path)


def acceptance(low: float = 0.95, flips: int = 0, checked: int = 24, strength: float = 1.0) -> Acceptance:
    flipped = tuple(FlippedText(f"c{i}", "a", "b") for i in range(flips))
    kept = Interval(low + 0.03, low, low + 0.06, 24)
    return Acceptance("x", None, kept, strength, 24, checked, checked - flips, 20, flipped)


def test_the_better_of_the_two_retentions_counts() -> None:
    worse, better = Interval(0.7, 0.6, 0.8, 24), Interval(0.95, 0.92, 0.98, 24)
    none = Interval(float("nan"), float("nan"), float("nan"), 0)
    for pair in ((worse, better), (better, worse), (none, better), (better, None)):
        own = replace(acceptance(), of_effect=pair[0], of_answers=pair[1])
        assert own.retention == better and failures(own, RULES) == ()


@pytest.mark.parametrize(
    ("done", "passes"),
    [
        (acceptance(0.9), True),
        (acceptance(0.899), False),
        (acceptance(float("nan")), False),
        (acceptance(flips=1), True),  # one of 24 alone is 4 %
        (acceptance(flips=2), False),
        (acceptance(flips=3, checked=100), True),
        (acceptance(flips=4, checked=100), False),
        (acceptance(checked=0), True),
    ],
)
def test_the_rules_at_their_edges(done: Acceptance, passes: bool) -> None:
    assert (failures(done, RULES) == ()) is passes


def test_what_did_not_take_effect_is_a_failure() -> None:
    assert failures(replace(acceptance(), facts=("4 of 6 modules match nothing",)), RULES)


def test_flips_rank_before_retention() -> None:
    best = sorted([acceptance(0.99, flips=2), acceptance(0.92), acceptance(0.95)], key=lambda own: own.rank)
    assert [own.retention.low for own in best if own.retention] == [0.95, 0.92, 0.99]


@pytest.mark.parametrize("wrong", [{"retention": 0.0}, {"retention": 1.0}, {"check_loss": -0.1}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Refused):
        AcceptanceRules(**wrong)
