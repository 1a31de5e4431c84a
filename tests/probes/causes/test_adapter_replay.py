"""One adapter's faults, one at a time: broken off and gone on with, and the cause that its round then has."""

from __future__ import annotations

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnose
from detectors.records import Cause, FaultKind
from probes.causes.adapter_replay import STRENGTHS, AdapterReplay
from tests.probes.causes.test_likely_faults import golden, round_under
from tests.probes.worlds import never, opened


def finished(fault: str) -> AdapterReplay:
    replay = AdapterReplay.of(opened(), golden(), round_under(fault))
    while replay.step(never):
        pass
    return replay


@pytest.mark.parametrize(
    ("fault", "cause", "name"),
    [
        ("without:part.0", Cause.PARTLY_APPLIED, "part.0"),
        ("without:part.1", Cause.PARTLY_APPLIED, "part.1"),
        ("with:beta", Cause.COMPOSITION_INTERFERENCE, "beta"),
        ("with:gamma", Cause.COMPOSITION_INTERFERENCE, "gamma"),
    ],
)
def test_a_cause_that_a_record_without_signatures_cannot_name_is_named_by_replay(
    fault: str, cause: Cause, name: str
) -> None:
    replay = finished(fault)
    assert golden().faults == ()
    assert diagnose(replay.round, Tolerances()).cause is Cause.UNKNOWN
    diagnosis = diagnose(replay.measured(), Tolerances())
    assert diagnosis.cause is cause and diagnosis.match is not None and diagnosis.match.names[0] == name


@pytest.mark.parametrize("strength", [0.07, 0.3, 0.65, 1.4, 1.75, 2.83, 6.0])
def test_a_strength_between_the_recorded_ones_is_replayed_until_it_is_exact(strength: float) -> None:
    replay = finished(f"scale:{strength}")
    assert len(replay.strengths) <= STRENGTHS and bool(replay.strengths) == (strength > 1)
    diagnosis = diagnose(replay.measured(), Tolerances())
    assert diagnosis.cause is Cause.WRONG_STRENGTH and diagnosis.match is not None
    assert diagnosis.match.value == pytest.approx(strength, rel=0.01)
    assert diagnosis.match.unexplained < 0.0015


def test_no_strength_is_replayed_where_one_on_the_curve_explains_the_answers_or_none_does() -> None:
    assert finished("scale:0.5").strengths == {}
    assert finished("with:beta").strengths == {}
    assert finished("not_applied").replayed == 0


def test_one_fault_a_step_and_one_that_was_broken_off_is_the_next_again() -> None:
    replay = AdapterReplay.of(opened(), golden(), round_under("without:part.0"))
    replay.strengths_left, left = 0, list(replay.pending)
    assert replay.step(lambda: True) and list(replay.pending) == left and not replay.signatures
    assert replay.step(never) and list(replay.pending) == left[1:] and list(replay.signatures) == left[:1]
    while replay.step(never):
        pass
    assert replay.replayed + len(replay.useless) == len(left) and not replay.step(never)


def test_what_was_replayed_so_far_names_what_it_can() -> None:
    """Time may be up before the last fault: blocks come after the other adapters."""
    replay = AdapterReplay.of(opened(), golden(), round_under("with:beta"))
    while replay.pending[0].kind is not FaultKind.WITHOUT:
        replay.step(never)
    assert diagnose(replay.measured(), Tolerances()).cause is Cause.COMPOSITION_INTERFERENCE
