"""A change above the noise and inside the tolerance: when it is said, in which words, and that noise is not said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import Measurement, NoiseFloor, Reason, Round, Status, Verdict
from detectors.verdicts.incident import Rules
from detectors.verdicts.tolerated_change import ToleratedChange, is_above_noise
from tests.detectors.synthetic import ADAPTERS, make_base_round, measurement

Doubles = NDArray[np.float64]
RULES = Rules(Tolerances(), log_threshold=20.0)
ALL = dict.fromkeys(ADAPTERS, "healthy")
WEAKER = ALL | {"router": "scale:0.99"}
RUNS, HELD_OUT, CONFIGURATIONS = 300, 24, 7


def play(monitor: Monitor, *rounds: Mapping[str, str], first: int = 0) -> list[dict[str, Verdict]]:
    judged = (monitor.observe(make_base_round(faults, first + number)) for number, faults in enumerate(rounds))
    return [{verdict.subject: verdict for verdict in each.verdicts} for each in judged]


def is_said(verdicts: Sequence[Mapping[str, Verdict]], adapter: str = "router") -> list[bool]:
    return [bool(each[adapter].tolerated_change) for each in verdicts]


def test_one_percent_of_strength_is_said_after_three_rounds_and_is_over_after_three() -> None:
    played = play(Monitor(RULES), ALL, *[WEAKER] * 4, *[ALL] * 4)
    assert is_said(played) == [False, False, False, True, True, True, True, False, False]
    assert {each["router"].status for each in played} == {Status.HEALTHY}
    assert {each["router"].reason for each in played} == {Reason.WITHIN_TOLERANCE}
    assert not any(is_said(played, "rewriter")) and not any(is_said(played, "smol"))


def test_what_is_said_names_strength_interval_noise_tolerance_and_cause() -> None:
    said = play(Monitor(RULES), *[WEAKER] * 3)[-1]["router"]
    figures = "its strength is 0.990 of the accepted one (95 % 0.990..0.991)"
    assert said.tolerated_change.startswith(f"router has changed, and is inside your tolerance of 5 %; {figures}")
    assert "benign change moves that by 0.0010" in said.tolerated_change
    assert "router is applied at x0.99 of its accepted strength" in said.tolerated_change
    assert said.tolerated_change in said.explanation
    assert said.action.startswith("nothing is urgent; compare lora_alpha")


def test_what_no_fault_explains_is_said_by_its_figures() -> None:
    """Answers that move a little in a direction of their own."""
    seen = make_base_round(ALL)
    monitor, said = Monitor(RULES), ""
    for number in range(3):
        members = tuple(_blurred(m) if m.adapter == "router" else m for m in seen.members)
        verdicts = monitor.observe(replace(seen, number=number, members=members)).verdicts
        said = next(v.tolerated_change for v in verdicts if v.subject == "router")
        assert {v.status for v in verdicts} == {Status.HEALTHY}
    assert "no known fault explains it" in said and "the change in other directions is 0.0" in said


def test_beyond_tolerance_it_is_a_fault_and_not_a_tolerated_change() -> None:
    played = play(Monitor(RULES), *[WEAKER] * 3, *[ALL | {"router": "scale:0.5"}] * 3)
    assert is_said(played) == [False, False, True, False, False, False]
    assert played[-1]["router"].status is Status.DEGRADED


def test_where_the_base_has_moved_it_is_said_of_the_base_alone() -> None:
    played = play(Monitor(RULES), *[dict.fromkeys(ADAPTERS, "tuned")] * 5)
    assert not any(v.tolerated_change for each in played for v in each.values())
    assert {v.reason for each in played[1:] for v in each.values()} == {Reason.BASE_MOVED}


def test_what_was_said_before_the_base_moved_is_not_said_of_the_bases_figures_and_again_when_it_is_back() -> None:
    tuned = dict.fromkeys(ADAPTERS, "tuned")
    assert is_said(play(Monitor(RULES), *[WEAKER] * 3, tuned, tuned, WEAKER)) == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_rounds_without_measurements_are_not_counted_and_two_are_not_enough() -> None:
    blocked = ALL | {"router": "blocked"}
    assert is_said(play(Monitor(RULES), WEAKER, WEAKER, blocked, blocked, WEAKER))[-1]
    assert not any(is_said(play(Monitor(RULES), WEAKER, WEAKER, ALL, WEAKER, WEAKER, ALL)))


def test_a_restart_goes_on_and_files_of_earlier_versions_begin_anew_with_nothing_said() -> None:
    before = Monitor(RULES)
    play(before, WEAKER, WEAKER)
    stored = json.loads(json.dumps(before.state_json()))
    after = Monitor(RULES)
    after.restore(stored)
    assert is_said(play(after, WEAKER, first=2)) == [True]
    del stored["tolerated_changes"]
    earlier = Monitor(RULES)
    earlier.restore(stored)
    assert is_said(play(earlier, WEAKER, first=2)) == [False]


def test_another_golden_record_begins_with_nothing_said() -> None:
    monitor = Monitor(RULES)
    assert is_said(play(monitor, *[WEAKER] * 3))[-1]
    monitor.accept_new_golden("router")
    assert is_said(play(monitor, WEAKER, first=3)) == [False]


@pytest.mark.parametrize("spread, most", [(0.0, 0.0), (0.5, 0.0), (1.0, 0.02)])
def test_benign_rounds_are_not_said(spread: float, most: float) -> None:
    """Every round in a benign configuration of its own, with heavy tails and floors of seven such ones, as recorded.

    spread: how unlike configurations are (standard deviation of the ln of their noise): at 1 one in forty is seven
    times noisier than the median one. most: of such rounds that count, which of 120,000 were 0, 0 and .006. Floors are
    new in each run of three rounds, and none says a change.
    """
    generator = np.random.default_rng([31, round(10 * spread)])
    own = 0.003 * np.exp(0.5 * generator.standard_normal((RUNS, 1, HELD_OUT, 1)))
    loud = np.exp(spread * generator.standard_normal((RUNS, CONFIGURATIONS + 3, 1, 1)))
    noise = np.abs(own * loud * generator.standard_t(3, size=(RUNS, CONFIGURATIONS + 3, HELD_OUT, 2)))
    floors, now = noise[:, :CONFIGURATIONS].max(axis=1), noise[:, CONFIGURATIONS:]
    sample = measurement("router", 1, "healthy")
    above = [
        [is_above_noise(_canaries(sample, row, floor)) for row in rows] for rows, floor in zip(now, floors, strict=True)
    ]
    assert np.mean(above) <= most
    assert not any(any(_after(rows)) for rows in above)


@pytest.mark.parametrize("changed, above", [(12, False), (13, True), (24, True)])
def test_more_than_half_of_the_canaries_have_to_have_changed(changed: int, above: bool) -> None:
    rows = [measurement("router", 1, "scale:0.98" if i < changed else "healthy") for i in range(24)]
    assert is_above_noise(rows) is above


@pytest.mark.parametrize("noise, above", [(0.001, True), (0.0019, True), (0.0021, False)])
def test_a_change_is_more_than_five_times_the_canarys_own_noise(noise: float, above: bool) -> None:
    one = measurement("router", 1, "scale:0.99")
    floor = NoiseFloor(scale=noise, distortion=0.01, base_shift=1e-5)
    reference = replace(one.comparison.reference, noise=floor)
    assert is_above_noise([replace(one, scale=0.99, comparison=replace(one.comparison, reference=reference))]) is above


def _after(rounds: Sequence[bool]) -> list[bool]:
    change, said = ToleratedChange(), []
    for is_above in rounds:
        change = change.after(is_above)
        said.append(change.is_there)
    return said


def _canaries(sample: Measurement, now: Doubles, floors: Doubles) -> list[Measurement]:
    """now, floors: (canaries, 2) of |s - 1| and sqrt(rho)."""
    rows = []
    for (scale, distortion), (of_scale, of_distortion) in zip(now.tolist(), floors.tolist(), strict=True):
        reference = replace(sample.comparison.reference, noise=NoiseFloor(of_scale, of_distortion, 1e-5))
        comparison = replace(sample.comparison, reference=reference)
        rows.append(replace(sample, scale=1.0 + scale, distortion=distortion**2, comparison=comparison))
    return rows


def _blurred(round: Round) -> Round:
    """The same round with answers that are off by a fifth of the tolerance in a direction of their own."""
    rows = []
    for m in round.measurements:
        served = m.comparison.served
        shift = 0.03 * np.sin(7.0 * np.arange(served.log_probs.size)).reshape(served.log_probs.shape)
        moved = replace(served, log_probs=(served.log_probs + shift).astype(np.float32))
        rows.append(measure(replace(m.comparison, served=moved)))
    return replace(round, measurements=tuple(rows))
