"""Answers in other modes beside the scored ones: the distance, its noise, and which mode makes the difference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.mode_gap import (
    base_mode_scores,
    beginning,
    faulty_mode,
    floors_known,
    in_modes,
    is_apart,
    measured_in_modes,
    mode_scores,
    mode_shift,
    noise_known,
)
from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import count_factors
from detectors.records import BaseRound, Comparison, Measurement, Mode, Round, Summary
from tests.detectors.synthetic import answers, make_round, measurement, prepared, reference, summarise

T = Tolerances()
WRITTEN, STREAMED, CHAT, WARM, LONG = Mode
ALL = (WRITTEN, STREAMED, CHAT, WARM)


def served(fault: str, canary: int = 0, positions: int = 6) -> Summary:
    whole = summarise(answers("router", canary, fault)[0], reference("router", canary).kept)
    return Summary(whole.log_probs[:positions], whole.rest[:positions], whole.top1[:positions])


def cell(
    shift: float, modes: tuple[Mode, ...], canary: int = 0, draws: int = 1, floor: float | None = 0.0
) -> Measurement:
    plain = measurement("router", canary, "healthy")
    floors = {} if floor is None else dict.fromkeys(modes, floor)
    known = replace(plain.comparison.reference, mode_floors=floors)
    comparison = replace(plain.comparison, modes=modes, draws=draws, reference=known)
    return replace(plain, comparison=comparison, mode_shift=shift)


def with_cells(*cells: Measurement) -> Round:
    return replace(make_round("router"), cells=cells)


@pytest.mark.parametrize("positions", [6, 3])
def test_an_adapter_that_is_not_applied_in_a_mode_is_apart_by_its_whole_effect(positions: int) -> None:
    known = prepared("router", 0)
    far = mode_shift(known, served("not_applied", positions=positions), served("healthy"))
    per_position = [float(np.sum(part**2)) for part in np.split(known.delta, np.cumsum(known.mask.sum(axis=1))[:-1])]
    expected = math.sqrt(np.mean(per_position[:positions]) / np.mean(per_position))
    assert far == pytest.approx(expected, rel=1e-6)
    assert positions < 6 or far == pytest.approx(1.0, rel=1e-6)


def test_an_equal_answer_is_not_apart_however_far_both_are_from_the_accepted_one() -> None:
    assert mode_shift(prepared("router", 0), served("scale:0.5", positions=2), served("scale:0.5")) == 0.0


def test_a_constant_on_all_logits_is_no_distance() -> None:
    moved = replace(served("healthy"), log_probs=served("healthy").log_probs + np.float32(0.25))
    assert mode_shift(prepared("router", 0), moved, served("healthy")) == pytest.approx(0.0, abs=1e-6)


def test_the_reference_of_the_first_positions_measures_what_was_written_up_to_there() -> None:
    part = beginning(prepared("router", 0), 2)
    base = summarise(answers("router", 0, "healthy")[1], reference("router", 0).kept)
    z = Summary(base.log_probs[:2], base.rest[:2], base.top1[:2])
    found = measure(Comparison("router", part, 1, served("healthy", positions=2), z, 0.0, modes=(WRITTEN,)))
    assert found.retention == pytest.approx(1.0, abs=1e-6) and found.distortion < 1e-10
    whole = measurement("router", 0, "healthy")
    assert in_modes(found, whole).mode_shift == pytest.approx(0.0, abs=1e-6)
    assert math.isnan(in_modes(replace(found, finite=False), whole).mode_shift)


def test_more_than_a_fifth_of_the_tolerance_and_twice_the_modes_own_noise_is_apart() -> None:
    assert not is_apart(cell(0.0099, (WRITTEN,)), T) and is_apart(cell(0.0101, (WRITTEN,)), T)
    assert not is_apart(cell(0.0499, (WRITTEN,), floor=0.02), T) and is_apart(cell(0.0501, (WRITTEN,), floor=0.02), T)
    assert not is_apart(cell(0.0119, (WRITTEN,), floor=None), T) and is_apart(cell(0.0121, (WRITTEN,), floor=None), T)
    assert is_apart(cell(math.nan, (WRITTEN,)), T)


def test_a_canary_scores_once_a_draw_however_many_of_its_answers_are_apart() -> None:
    first = cell(1.0, (WRITTEN,), 0, draws=2), cell(1.0, ALL, 0, draws=2)
    second = cell(0.0, (STREAMED, WRITTEN), 2), cell(1.0, (CHAT, WARM, WRITTEN), 2)
    third = cell(0.0, (WRITTEN,), 4), cell(0.0, ALL, 4)
    scores = {mode: own.tolist() for mode, own in mode_scores(with_cells(*first, *second, *third), T).items()}
    assert scores == {
        WRITTEN: [True, True, True, False],
        STREAMED: [True, True, False, False],
        CHAT: [True, True, True, False],
        WARM: [True, True, True, False],
    }


def test_what_one_canary_scores_does_not_depend_on_the_others() -> None:
    own = cell(1.0, (WRITTEN,), 0), cell(0.0, ALL, 0)
    for others in ((), (cell(1.0, ALL, 2),), (cell(0.0, ALL, 2), cell(1.0, (WRITTEN,), 4))):
        scores = mode_scores(with_cells(*own, *others), T)
        assert scores[WRITTEN][0] and not scores[WARM][0]


def test_a_mode_whose_noise_was_not_measured_on_every_canary_may_not_page() -> None:
    assert floors_known(with_cells(cell(0.0, (WRITTEN,))), WRITTEN)
    assert not floors_known(with_cells(cell(0.0, (WRITTEN,)), cell(0.0, (WRITTEN,), floor=None)), WRITTEN)
    assert not floors_known(with_cells(cell(0.0, (WRITTEN,))), WARM)


PAIRS = (((WRITTEN,), ALL), ((STREAMED, WRITTEN), (CHAT, WARM, WRITTEN)), ((CHAT, WRITTEN), (STREAMED, WARM, WRITTEN)))


@pytest.mark.parametrize("mode", [STREAMED, CHAT, WARM])
def test_the_mode_that_makes_the_difference_is_named(mode: Mode) -> None:
    cells = [cell(float(mode in modes), modes, 2 * i) for i, pair in enumerate(PAIRS) for modes in pair]
    assert faulty_mode(cells, T) is mode


def test_what_is_apart_in_every_mode_is_the_writing_and_nothing_apart_is_no_mode() -> None:
    cells = [cell(1.0, modes, 2 * i) for i, pair in enumerate(PAIRS) for modes in pair]
    assert faulty_mode(cells, T) is WRITTEN
    assert faulty_mode([cell(0.0, modes) for pair in PAIRS for modes in pair], T) is None
    assert faulty_mode([], T) is None


def test_long_prompts_are_named_where_only_those_are_apart() -> None:
    short = [cell(0.0, modes, 0) for pair in PAIRS for modes in pair]
    long = [cell(1.0, (*modes, LONG), 2) for pair in PAIRS for modes in pair]
    assert faulty_mode([*short, *long], T) is LONG


def test_noise_of_a_mode_that_was_never_measured_is_in_no_score_of_those_that_were() -> None:
    """As of an engine whose chat endpoint answered nothing at the enrolment, and answers now."""

    def without_chat(shift: float, modes: tuple[Mode, ...], canary: int) -> Measurement:
        had = cell(shift, modes, canary)
        floors = {mode: floor for mode, floor in had.comparison.reference.mode_floors.items() if mode is not CHAT}
        known = replace(had.comparison.reference, mode_floors=floors)
        return replace(had, comparison=replace(had.comparison, reference=known))

    cells = [without_chat(float(CHAT in modes), modes, 2 * i) for i, pair in enumerate(PAIRS) for modes in pair]
    scores = mode_scores(with_cells(*cells), T)
    assert not any(scores[mode].any() for mode in (WRITTEN, STREAMED, WARM)) and scores[CHAT].all()
    assert {mode: len(own) for mode, own in scores.items()} == {WRITTEN: 3, STREAMED: 2, CHAT: 3, WARM: 1}
    assert [m.comparison.modes for m in noise_known(cells)] == [m for pair in PAIRS for m in pair if CHAT not in m]


def test_what_was_written_up_to_where_the_adapter_does_nothing_yet_has_a_distance_all_the_same() -> None:
    plain, whole = reference("router", 0), measurement("router", 0, "healthy")
    a, b = plain.golden_adapter, plain.golden_base
    log_probs, rest = a.log_probs.copy(), a.rest.copy()
    log_probs[0], rest[0] = b.log_probs[0], b.rest[0]
    part = beginning(replace(plain, golden_adapter=replace(a, log_probs=log_probs, rest=rest)), 1)
    base = Summary(b.log_probs[:1], b.rest[:1], b.top1[:1])
    for fault, shift in (("healthy", 0.0), ("not_applied", None)):
        answer = measured_in_modes(Comparison("router", part, 1, served(fault, positions=1), base, 0.0), whole)
        assert not answer.finite and math.isnan(answer.retention), "no diagnosis rests on it"
        assert answer.mode_shift == pytest.approx(0.0, abs=1e-6) if shift == 0.0 else answer.mode_shift > 0


def test_repeated_draws_of_one_canary_do_not_meet_in_the_few_draws_of_another_member() -> None:
    """At the edge of the null of a base: one of two members is apart outright and has few draws, of the other one
    canary in twenty is, and it has more. No bet gains on average, over which canaries are drawn."""
    rng, pool = np.random.default_rng(0), 20
    of_pool = [cell(float(i == 0), (WRITTEN,), i) for i in range(pool)]
    broken = replace(make_round("router"), cells=tuple(cell(1.0, (WRITTEN,), i) for i in range(4)))
    round, ones = make_round("extractor"), []
    for number in range(3000):
        times = np.bincount(rng.integers(pool, size=12), minlength=pool)
        drawn = [
            replace(of_pool[i], comparison=replace(of_pool[i].comparison, draws=int(times[i])))
            for i in rng.permutation(np.flatnonzero(times))
        ]
        member = replace(round, number=number, cells=tuple(drawn))
        ones.append(int(base_mode_scores(BaseRound("smol", number, 0.0, (broken, member)), T)[WRITTEN].sum()))
    factors = count_factors(np.array(ones), 4, T.share)[:, 2:]
    assert (factors.mean(axis=0) <= 1.0 + 4.0 * factors.std(axis=0) / math.sqrt(len(ones))).all()
