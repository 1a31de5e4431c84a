from __future__ import annotations

import itertools

import numpy as np
import pytest

from probes.enrolment.d_optimal import Doubles, information, select_canaries
from probes.errors import Refused


def canaries(count: int, seed: int = 0, directions: int = 3) -> tuple[Doubles, list[int]]:
    """Half of them loud and half a tenth as loud, of uneven length."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(12, 40, count).tolist()
    loud = np.where(np.arange(count) % 2 == 0, 1.0, 0.1)
    made = [
        information(w * generator.standard_normal((n, directions)), 0.5) for n, w in zip(lengths, loud, strict=True)
    ]
    return np.stack(made), lengths


def log_det(features: Doubles, chosen: tuple[int, ...] | list[int]) -> float:
    return float(np.linalg.slogdet(features[list(chosen)].sum(axis=0))[1])


def test_information_is_the_signal_to_noise_ratio_squared() -> None:
    columns = np.array([[3.0, 0.0], [4.0, 1.0]])
    assert information(columns, 0.5)[0, 0] == pytest.approx((5 / 0.5) ** 2)
    assert information(columns, 0.5) == pytest.approx(4 * columns.T @ columns)


@pytest.mark.parametrize(("budget", "at_least"), [(200, 4), (150, 6), (400, 2)])
def test_the_budget_and_the_least_number_hold(budget: int, at_least: int) -> None:
    features, lengths = canaries(40)
    chosen = select_canaries(features, lengths, budget, at_least)
    assert len(set(chosen)) == len(chosen) >= at_least
    assert sum(lengths[index] for index in chosen) <= budget


def test_greedy_is_close_to_the_best_choice_there_is() -> None:
    # 1 - 1/e of the optimum is promised for a count of canaries; on these it is nearly all of it.
    features, _ = canaries(12, seed=3)
    lengths = [10] * 12
    chosen = select_canaries(features, lengths, 50, 5)
    every = [log_det(features, five) for five in itertools.combinations(range(12), 5)]
    assert log_det(features, chosen) >= max(every) - 0.1
    assert log_det(features, chosen) > np.quantile(every, 0.99)


def test_a_direction_that_only_one_canary_shows_is_not_passed_over() -> None:
    features = np.stack([np.diag([4.0, 0.0])] * 9 + [np.diag([1.0, 0.5])])
    assert 9 in select_canaries(features, [10] * 10, 30, 2)


def test_the_unit_of_a_direction_does_not_matter() -> None:
    features, lengths = canaries(30)
    unit = np.diag([1.0, 1e-3, 50.0])
    assert select_canaries(features, lengths, 300, 4) == select_canaries(unit @ features @ unit, lengths, 300, 4)


def test_a_budget_too_small_for_the_least_number_is_refused_with_what_they_take() -> None:
    features, lengths = canaries(10)
    least = sum(sorted(lengths)[:5])
    assert len(select_canaries(features, lengths, least, 5)) == 5
    with pytest.raises(Refused, match=str(least)):
        select_canaries(features, lengths, least - 1, 5)
    with pytest.raises(Refused, match="10 candidates"):
        select_canaries(features, lengths, 10_000, 11)


def test_chosen_canaries_carry_more_information_per_token_than_random_ones() -> None:
    features, lengths = canaries(80, seed=1)
    tokens = np.array(lengths)
    chosen = select_canaries(features, lengths, 600, 8)
    for direction in (0, 2):
        information_in = features[:, direction, direction]
        ours = information_in[chosen].sum() / tokens[chosen].sum()
        assert ours > 1.3 * information_in.sum() / tokens.sum()
