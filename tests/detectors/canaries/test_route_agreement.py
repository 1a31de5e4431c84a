from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from detectors.canaries.route_agreement import (
    LEVEL,
    Sight,
    TokenAnswers,
    WrittenAndAccepted,
    fewest_beyond,
    noise,
    route_agreement,
    writes_otherwise,
)
from detectors.errors import ShapeMismatch
from detectors.records import Floats

TOKENS = 16
SERVED = -0.009  # nats a token as the engine of vllm-project/vllm#51594 wrote them, and as it scored them
SCORED = -6.63


def answers(scored: float, *, spread: float = 1e-3, effect: float = 6.6, seed: int = 0) -> TokenAnswers:
    """One canary whose tokens have SERVED nats as written, with normal noise on every repeat of either kind."""
    rng = np.random.default_rng(seed)

    def repeats(level: float) -> Floats:
        return (level + spread * rng.standard_normal((2, TOKENS))).astype(np.float32)

    return TokenAnswers(repeats(SERVED), repeats(scored), effect)


def test_an_adapter_on_the_output_layer_that_is_scored_without_it_makes_the_route_blind() -> None:
    judged = route_agreement([answers(SCORED, seed=seed) for seed in range(8)], crossing=1e-3, tolerance=0.05)
    assert judged.sight is Sight.BLIND and (judged.beyond, judged.canaries, judged.needed) == (8, 8, 3)
    assert judged.disagreement == pytest.approx(SERVED - SCORED, abs=0.01)


@pytest.mark.parametrize("published", [0.031, 0.0022])
def test_the_published_difference_between_kernels_makes_no_route_blind(published: float) -> None:
    """bf16 and fp32, root mean square in nats between a trainer and vLLM: known from the base's own answers here."""
    canaries = [answers(SERVED - published, spread=0.0, effect=1.0, seed=seed) for seed in range(8)]
    assert route_agreement(canaries, crossing=published, tolerance=0.005).sight is Sight.CLEAR


def test_an_adapter_that_is_not_applied_is_written_and_scored_alike_so_the_route_is_not_blind() -> None:
    lost = [answers(SERVED, effect=6.6, seed=seed) for seed in range(8)]
    assert route_agreement(lost, crossing=1e-3, tolerance=0.05).sight is Sight.CLEAR


def test_noise_that_hides_half_of_the_effect_makes_the_route_blind() -> None:
    noisy = [answers(SERVED, spread=1.0, effect=0.5, seed=seed) for seed in range(8)]
    assert route_agreement(noisy, crossing=0.0, tolerance=0.05).sight is Sight.BLIND


@pytest.mark.parametrize("crossing", [0.6, 5.0, math.inf])
def test_canaries_that_agree_make_no_route_blind_however_far_apart_one_answer_of_the_base_is(crossing: float) -> None:
    agreeing = [answers(SERVED, effect=1.0, seed=seed) for seed in range(8)]
    assert route_agreement(agreeing, crossing=crossing, tolerance=0.05).sight is Sight.CLEAR


@pytest.mark.parametrize("crossing", [0.6, 5.0, math.inf])
def test_what_the_base_differs_by_hides_half_of_the_effect_at_most(crossing: float) -> None:
    lost = [answers(SERVED - 0.7, effect=1.0, seed=seed) for seed in range(8)]
    assert route_agreement(lost, crossing=crossing, tolerance=0.05).sight is Sight.BLIND


def test_an_engine_that_writes_otherwise_than_it_scores_and_than_the_reference_is_not_called_wrong_in_scoring() -> None:
    offline = np.full(TOKENS, SCORED, np.float32)
    canaries = [
        TokenAnswers(one.generated, one.scored, one.effect, offline)
        for one in (answers(SCORED, seed=s) for s in (1, 2))
    ]
    judged = route_agreement(canaries, crossing=1e-3, tolerance=0.05)
    assert judged.sight is Sight.SERVED_DIFFERS
    assert judged.scored_offline < 0.01 < 6 < judged.generated_offline


def test_an_engine_that_scores_otherwise_than_it_writes_and_than_the_reference_is_blind() -> None:
    offline = np.full(TOKENS, SERVED, np.float32)
    canaries = [
        TokenAnswers(one.generated, one.scored, one.effect, offline)
        for one in (answers(SCORED, seed=s) for s in (1, 2))
    ]
    assert route_agreement(canaries, crossing=1e-3, tolerance=0.05).sight is Sight.BLIND


def test_numbers_that_are_not_finite_disagree() -> None:
    one = answers(SERVED)
    broken = [TokenAnswers(one.generated, one.scored * np.float32(np.nan), one.effect)] * 2
    assert route_agreement(broken, crossing=0.0, tolerance=0.05).sight is Sight.BLIND


def test_one_canary_alone_decides_nothing() -> None:
    judged = route_agreement([answers(SCORED)], crossing=0.0, tolerance=0.05)
    assert judged.sight is Sight.NOT_CHECKED and judged.needed is None
    assert route_agreement([], crossing=0.0, tolerance=0.05).sight is Sight.NOT_CHECKED
    assert math.isnan(route_agreement([], crossing=0.0, tolerance=0.05).effect)


def test_the_number_that_is_needed_keeps_its_level_exactly() -> None:
    for canaries in range(2, 49):
        needed = fewest_beyond(canaries, 0.05)
        assert needed is not None
        assert binom.sf(needed - 1, canaries, 0.05) <= LEVEL < binom.sf(needed - 2, canaries, 0.05)


def test_at_the_edge_of_the_null_hypothesis_a_route_is_called_blind_no_more_often_than_promised() -> None:
    """A pool of 40 of which two disagree (m0 = .05), noise of Student's t with three degrees of freedom."""
    rng, times, drawn, blind = np.random.default_rng(15), 1500, 8, 0
    for _ in range(times):
        canaries = []
        for index in rng.integers(40, size=drawn):
            heavy = 0.01 * rng.standard_t(3, (4, TOKENS))
            wrong = -3.0 if index < 2 else 0.0
            generated, scored = (heavy[:2] + SERVED).astype(np.float32), (heavy[2:] + SERVED + wrong).astype(np.float32)
            canaries.append(TokenAnswers(generated, scored, 3.0))
        blind += route_agreement(canaries, crossing=0.0, tolerance=0.05).sight is Sight.BLIND
    exact = float(binom.sf(2, drawn, 0.05))
    assert exact < LEVEL
    assert blind / times <= exact + 4 * math.sqrt(exact * (1 - exact) / times)


def test_noise_is_the_largest_distance_between_repeats_of_one_kind() -> None:
    generated = np.array([[0.0, 0.0], [0.3, 0.4]], np.float32)
    one = TokenAnswers(generated, np.array([[5.0, 5.0]], np.float32), 1.0)
    assert noise(one) == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert noise(one, crossing=2.0) == 2.0


def test_answers_that_do_not_fit_are_refused() -> None:
    two, three = np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32)
    for generated, scored in ((two, three), (two[:1], two[:1]), (two[:, :0], two[:, :0])):
        with pytest.raises(ShapeMismatch):
            route_agreement([TokenAnswers(generated, scored, 1.0)], crossing=0.0, tolerance=0.05)


def beside_the_record(off: float, *, first: bool = True, seed: int = 0) -> WrittenAndAccepted:
    """Tokens of an effect of 1 nat, written this far from the record; first: the record's own first token?"""
    accepted = np.random.default_rng(seed).normal(-1.0, 0.5, 16).astype(np.float32)
    written = np.stack([accepted + off, accepted + off + 0.001]).astype(np.float32)
    return WrittenAndAccepted(written[:, : 16 * first], accepted[: 16 * first], 1.0)


def test_what_is_written_is_otherwise_by_more_than_tolerance_and_noise_or_by_its_first_token() -> None:
    assert not writes_otherwise([beside_the_record(0.045)] * 8, 0.05)
    assert writes_otherwise([beside_the_record(0.055)] * 8, 0.05)
    assert not writes_otherwise([replace(beside_the_record(0.055), floor=0.01)] * 8, 0.05)
    for others in (2, 3):
        canaries = [beside_the_record(0.0, first=i >= others, seed=i) for i in range(8)]
        assert writes_otherwise(canaries, 0.05) is (others >= 3), "by 3 of 8, as a route is blind"
    assert not writes_otherwise([beside_the_record(9.0)], 0.05), "one canary alone decides nothing"
    assert not writes_otherwise([], 0.05)


def test_at_the_edge_of_its_null_hypothesis_what_is_written_is_called_otherwise_no_more_often_than_promised() -> None:
    generator, level = np.random.default_rng(0), 0
    for _ in range(800):
        level += writes_otherwise([beside_the_record(float(generator.random() < 0.05)) for _ in range(8)], 0.05)
    assert level / 800 <= 0.01 + 4 * (0.01 * 0.99 / 800) ** 0.5
