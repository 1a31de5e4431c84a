"""One adapter's faults, one at a time: broken off and gone on with, and the cause that its round then has."""

from __future__ import annotations

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnose
from detectors.records import Cause, FaultKind
from probes.causes.adapter_replay import AdapterReplay
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


def test_one_fault_a_step_and_one_that_was_broken_off_is_the_next_again() -> None:
    replay = AdapterReplay.of(opened(), golden(), round_under("without:part.0"))
    left = list(replay.pending)
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
