from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.retention import energy, measure, prepare
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Comparison
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.scored_prefix import energies, scored_positions, shortened, wanted_worth, whole_and_short
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import GoldenCanary
from probes.golden.statistical_power import draws_to_alarm
from probes.runner import Replay, Target
from tests.probes.goldens import golden
from tests.probes.worlds import SETTINGS, enrolled, never, opened

FLOOR = 0.01
LENGTHS = (12, 14, 16, 18, 20, 22, 24, 26)


@pytest.mark.parametrize(
    ("by_position", "expected"),
    [
        ([4.0] * 20, 3),  # equal positions count one each
        ([9.0, 1.0, 1.0, 9.0, 9.0, 9.0], 5),  # 29^2 / 245 = 3.43; before, 20^2 / 164 = 2.44
        ([100.0, *[1.0] * 19], 20),  # one position holds nearly all: 119^2 / 10019 = 1.41, so that all are scored
        ([0.1, 0.1, 0.1, 4.0, 4.0, 4.0, 4.0], 6),  # the first three are too weak: their mean is below half of 2.33
        ([0.0, 0.0, 4.0, 4.0, 4.0, 0.0], 5),  # positions without effect are worth nothing
        ([1.0, 1.0], 2),  # too short for three
        ([0.0, 0.0], 2),
    ],
)
def test_the_prefix_is_the_shortest_with_three_positions_worth_of_the_effect(
    by_position: list[float], expected: int
) -> None:
    assert scored_positions(np.array(by_position), 3, FLOOR) == expected


def test_the_mean_energy_of_a_prefix_is_at_least_the_floor() -> None:
    by_position = np.array([0.0078125, 0.0078125, 0.0078125, 0.017, 0.02])
    assert scored_positions(by_position, 3, 0.0) == 3
    assert scored_positions(by_position, 3, 0.01) == 4
    assert scored_positions(by_position, 3, 0.02) == 5  # nowhere: enrolment leaves such a canary out


def test_a_finer_tolerance_scores_more_positions_and_a_wider_one_no_fewer() -> None:
    assert [wanted_worth(tolerance) for tolerance in (0.25, 0.05, 0.025)] == [3, 3, 6]
    canaries = golden(lengths=(20,) * 8).canaries
    mean = [
        np.mean([len(c.forced) for c in whole_and_short(canaries, settings, 2).short])
        for settings in (replace(SETTINGS, tolerances=Tolerances(scale=scale)) for scale in (0.05, 0.025, 0.005))
    ]
    assert mean[0] < mean[1] < mean[2] == 20


def test_energies_of_positions_add_up_to_the_energy_of_the_canary() -> None:
    reference = golden().canaries[0].reference
    by_position = energies(reference)
    assert by_position.shape == (len(reference.kept),)
    assert by_position.sum() == pytest.approx(energy(reference), rel=1e-12)
    one = replace(golden().canaries[0], reference=reference)
    assert by_position[:3].sum() == pytest.approx(energy(shortened(one, 3).reference), rel=1e-12)


def test_a_shortened_canary_keeps_its_whole_continuation_and_drops_only_scored_positions() -> None:
    canary = golden(lengths=LENGTHS).canaries[2]
    short = shortened(canary, 5)
    assert short.forced == canary.forced[:5] and short.unscored == canary.forced[5:]
    assert short.continuation == canary.continuation and short.golden_text == canary.golden_text
    prepare(short.reference)  # every array has the new shape
    assert short.reference.kept.shape[0] == 5 and short.reference.others["another"].shape[0] == 5
    np.testing.assert_array_equal(short.reference.curve, canary.reference.curve[:, :5])
    assert shortened(short, 3).continuation == canary.continuation
    assert shortened(canary, len(canary.forced)) is canary


def test_the_recorded_answers_of_a_prefix_are_those_of_its_own_replay() -> None:
    runner = opened(noise=0.0)
    canary = max(enrolled("alpha").canaries, key=lambda canary: len(canary.forced))
    assert not canary.unscored
    short = replace(shortened(canary, 4), split=canary.split)
    replays = [
        Replay(short.id, short.prompt, short.forced, target, short.reference.kept)
        for target in (Target("alpha"), Target(None))
    ]
    answers = ask_all(runner, replays, never)
    served, live = (summary(answers[replay]) for replay in replays)
    measured = measure(Comparison("alpha", short.reference, 1, served, live, 0.0))
    assert measured.scale == pytest.approx(1, abs=1e-5) and measured.retention == pytest.approx(1, abs=1e-5)
    assert measured.distortion < 1e-9 and measured.base_shift < 1e-9


@pytest.mark.parametrize(("share", "whole"), [(0.0, 0), (0.25, 6), (0.3, 8), (1.0, 24)])
def test_a_share_of_the_canaries_stays_whole(share: float, whole: int) -> None:
    canaries = golden(lengths=(20,) * 24).canaries
    both = whole_and_short(canaries, replace(SETTINGS, whole_share=share), 2)
    assert (len(both.whole), len(both.short)) == (whole, 24 - whole)
    assert {canary.id for canary in both.all} == {canary.id for canary in canaries}
    assert all(len(canary.forced) == 20 for canary in both.whole)
    assert all(3 <= len(canary.forced) < 20 for canary in both.short)


def test_a_fault_that_begins_late_is_beyond_on_the_whole_canaries_and_they_are_enough_to_alarm() -> None:
    begins = 8
    both = whole_and_short(golden(lengths=(20,) * 24).canaries, SETTINGS, 2)
    assert max(len(canary.forced) for canary in both.short) <= begins

    def is_beyond(canary: GoldenCanary) -> bool:
        """The adapter is lost from a position on."""
        reference = canary.reference
        late = np.arange(len(canary.forced)) >= begins
        log_probs = np.where(late[:, None], reference.golden_base.log_probs, reference.golden_adapter.log_probs)
        served = replace(reference.golden_adapter, log_probs=log_probs)
        measured = measure(Comparison("router", reference, 1, served, reference.golden_base, 0.0))
        return beyond_tolerance(measured, Tolerances())

    assert all(is_beyond(canary) for canary in both.whole)
    assert not any(is_beyond(canary) for canary in both.short)
    draws = draws_to_alarm(len(both.whole) / 24, Tolerances().share, SETTINGS.log_threshold)
    assert draws is not None and draws <= 4 * 32  # four rounds


def test_which_canaries_stay_whole_does_not_depend_on_their_answers() -> None:
    settings = EnrolSettings(base="toy", at=0.0)
    whole = [
        {canary.id for canary in whole_and_short(golden(lengths=lengths, seed=seed).canaries, settings, 2).whole}
        for lengths, seed in (((20,) * 24, 0), ((20,) * 24, 7), ((12, 40) * 12, 3))
    ]
    assert whole[0] == whole[1] == whole[2]
    other = whole_and_short(golden(lengths=(20,) * 24).canaries, replace(settings, seed=1), 2).whole
    assert {canary.id for canary in other} != whole[0]
