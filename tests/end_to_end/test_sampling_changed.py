"""A temperature of adapter and base alike, replayed as canaries: in place it is a strength, and the base decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.incidents.toy_faults import FaultyRunner, Served
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import diagnose
from detectors.records import Cause
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.archive import load, newest
from tests.end_to_end.world import ADAPTERS, new_runner


def diagnosed(goldens: Path, served: Served, base: str = "none", alpha: str = "none") -> Diagnosis:
    runner = FaultyRunner(new_runner().config)
    runner.open()
    runner.served = served
    runner.inject(None, base)
    runner.inject("alpha", alpha)
    records = {name: load(goldens, str(newest(goldens, name))) for name in ADAPTERS}
    done = replay_base_round(runner, records, Scheduled("tiny", 0, 0.0, 512, 5), lambda: False)
    assert done is not None
    return next(diagnose(member, Tolerances()) for member in done.members if member.adapter == "alpha")


@pytest.mark.parametrize("temperature", [0.6, 0.85, 1.2, 1.6, 2.5])
def test_a_temperature_of_both_is_named_and_is_no_strength(goldens: Path, temperature: float) -> None:
    diagnosis = diagnosed(goldens, Served(temperature=temperature, base_too=True))
    assert diagnosis.cause is Cause.SAMPLING_CHANGED and diagnosis.match is not None
    assert diagnosis.match.value == pytest.approx(temperature, rel=0.02)


@pytest.mark.parametrize("base", ["none", "base_swapped:0.05"])
def test_a_strength_stays_one_whether_the_base_has_moved_or_not(goldens: Path, base: str) -> None:
    assert diagnosed(goldens, Served(), base, "scale:0.625").cause is Cause.WRONG_STRENGTH
