"""Evidence that a fault of responses is over: is the ratio fair in its null, is the guarantee kept, how fast is it?"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.records import Interval
from detectors.traffic.path_recovery import ENOUGH, PathLikelihood, PathRecovery
from probes.scoring.likelihood_axes import interpolate, path_log_likelihood
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import Settings
from tests.detectors.responses import FOR, on_path, score

GRID = Settings().grid
Doubles = NDArray[np.float64]


def since(left: float) -> PathRecovery:
    return PathRecovery.since(Interval(left, math.nan, math.nan, 9))


def response(share: float, information: float, chance: np.random.Generator) -> PathLikelihood:
    """One normal observation of the share at which it was written: an exponential family, as the path is."""
    observed = share + chance.standard_normal() / math.sqrt(information)
    return PathLikelihood(GRID, tuple(-information / 2 * (np.array(GRID) - observed) ** 2), 1)


def responses_until_shown(recovery: PathRecovery, information: float, chance: np.random.Generator) -> int:
    recovery = recovery.after_good(1, PathLikelihood())
    for n in range(1, 2000):
        recovery = recovery.after_good(1, response(1.0, information, chance))
        if recovery.shown:
            return n
    return 2000


@pytest.mark.parametrize(
    ("left", "edge"), [(0.0, 0.5), (0.5, 0.75), (0.85, 0.9), (1.0, 0.9), (1.1, 1.1), (1.5, 1.25), (-0.2, 0.4)]
)
def test_the_null_is_half_of_the_loss_at_the_alarm_and_at_least_a_tenth(left: float, edge: float) -> None:
    assert since(left).edge == pytest.approx(edge)


def test_where_the_loss_is_not_known_the_null_contains_all_others() -> None:
    unknown = (PathRecovery.since(None), PathRecovery.since(Interval(math.nan, math.nan, math.nan, 0)), PathRecovery())
    assert [recovery.edge for recovery in unknown] == pytest.approx([0.9] * 3)


def every_token(effect: float, sampling: SamplingParameters) -> tuple[Doubles, Doubles, Doubles]:
    """Base and adapter at one position, and (G, V) ln likelihood of every token of the vocabulary there."""
    chance = np.random.default_rng(4)
    base = normalised(2.0 * chance.standard_normal((1, 40)))
    adapter = normalised(base + effect * chance.standard_normal((1, 40)))
    tokens = np.arange(40)
    rows = [np.repeat(side, 40, axis=0) for side in (adapter, base)]
    return adapter, base, path_log_likelihood(rows[0], rows[1], tokens, sampling, GRID)


@pytest.mark.parametrize("effect", [0.4, 1.5, 3.0])
@pytest.mark.parametrize("edge", [0.5, 0.9, 1.1])
def test_the_ratio_has_a_mean_of_at_most_one_at_every_share_of_the_null(effect: float, edge: float) -> None:
    """Exact sums over the vocabulary, between the points of the grid too and beyond the base."""
    adapter, base, along = every_token(effect, SamplingParameters(0.8))
    ratio = np.exp(along[GRID.index(1.0)] - along[GRID.index(edge)])
    shares = np.linspace(-0.5, edge, 41) if edge < 1 else np.linspace(edge, 2.0, 41)
    drawn = [token_distribution(interpolate(adapter, base, u), SamplingParameters(0.8))[0] for u in shares]
    means = np.exp(drawn) @ ratio
    assert means.max() == pytest.approx(1.0, abs=1e-4)  # at the edge itself
    assert means[0 if edge < 1 else -1] < 1.0


@pytest.mark.parametrize("effect", [0.4, 1.5, 3.0])
@pytest.mark.parametrize("top_p", [0.7, 0.9, 0.99])
def test_under_truncated_sampling_it_is_fair_at_the_points_of_the_grid(effect: float, top_p: float) -> None:
    sampling = SamplingParameters(1.0, top_p=top_p)
    adapter, base, along = every_token(effect, sampling)
    for place, share in enumerate(GRID[:10]):
        drawn = np.exp(token_distribution(interpolate(adapter, base, share), sampling)[0])
        # The denominator is a mixture that has .99 + .01 Z of what the token was drawn from, and Z is at least top_p.
        assert drawn @ np.exp(along[GRID.index(1.0)] - along[place]) <= 1.0 / (0.99 + 0.01 * top_p) + 1e-5


def test_the_chances_of_all_runs_together_are_one_in_a_thousand() -> None:
    chances = [math.exp(-PathRecovery(runs=k).wanted) for k in range(1, 20_000)]
    assert sum(chances) == pytest.approx(1 / ENOUGH, rel=1e-4) and sum(chances) < 1 / ENOUGH


@pytest.mark.parametrize("left", [0.0, 1.5])
def test_a_fault_that_is_still_there_is_rarely_taken_for_over(left: float) -> None:
    """P(shown) <= 1 / 1,000 an incident at the edge, where it is largest: 800 incidents of 100 responses, of four nats
    each, so that a run lasts two or three of them. At a ratio of 1,000 in every run it would be one in a hundred."""
    chance, incidents, taken = np.random.default_rng(5), 800, 0
    information = 8.0 / (1.0 - since(left).edge) ** 2
    for _ in range(incidents):
        state, shown = since(left), False
        for _ in range(100):
            state = state.after_good(1, response(state.edge, information, chance))
            shown |= state.shown
        assert state.runs > 20
        taken += shown
    bound = 1 / ENOUGH
    assert taken / incidents <= bound + 4 * math.sqrt(bound / incidents)


@pytest.mark.parametrize(("left", "most"), [(0.0, 4), (0.5, 16), (0.85, 90)])
def test_after_a_repair_it_is_over_within_some_responses(left: float, most: int) -> None:
    """Of 24 nats each between adapter and base. On average ln 2,000 nats over half the square of the distance."""
    chance = np.random.default_rng(6)
    taken = [responses_until_shown(since(left), 48.0, chance) for _ in range(200)]
    assert np.quantile(taken, 0.95) <= most


def test_a_bad_round_ends_the_run_and_the_first_good_one_is_not_counted() -> None:
    chance = np.random.default_rng(7)
    clear = PathLikelihood(GRID, response(1.0, 1e4, chance).log_lik, 1)
    first = since(0.0).after_good(1, clear)
    second = first.after_good(1, clear)
    assert (first.scored, first.log_e, first.shown) == (0, 0.0, False) and second.shown
    again = second.after_bad().after_good(1, clear)
    assert (again.runs, again.scored, again.shown) == (2, 0, False)
    assert again.wanted - first.wanted == pytest.approx(math.log(3))
    assert again.after_good(1, clear).shown


def test_a_ratio_of_one_twentieth_starts_another_run() -> None:
    def likelier_at_the_edge(nats: float) -> PathLikelihood:
        return PathLikelihood((0.0, 0.5, 1.0), (0.0, 0.0, -nats), 1)

    kept = since(0.0).after_good(1, PathLikelihood()).after_good(1, likelier_at_the_edge(2.99))
    assert kept.runs == 1 and kept.log_e == pytest.approx(-2.99)
    begun = kept.after_good(1, likelier_at_the_edge(0.01))
    assert (begun.runs, begun.running, begun.scored, begun.log_e, begun.shown) == (2, True, 0, 0.0, False)


def test_another_grid_starts_another_run() -> None:
    chance = np.random.default_rng(8)
    before = since(0.0).after_good(1, PathLikelihood()).after_good(1, response(1.0, 1e4, chance))
    other = before.after_good(1, PathLikelihood((0.0, 0.5, 1.0), (-9.0, -5.0, 0.0), 1))
    assert (other.runs, other.scored, other.path) == (2, 0, PathLikelihood())


def test_between_two_points_of_the_grid_the_null_reaches_to_the_next_one() -> None:
    """.75 lies between .7 and .8, and what persists there is in the null; of a coarse grid it is all on that side."""
    log_lik = tuple(10.0 * share for share in GRID)
    state = since(0.5).after_good(1, PathLikelihood()).after_good(1, PathLikelihood(GRID, log_lik, 1))
    assert state.log_e == pytest.approx(2.0)
    coarse = PathLikelihood((0.0, 0.5, 1.0), (0.0, 3.0, 10.0), 1)
    assert since(0.9).after_good(1, PathLikelihood()).after_good(1, coarse).log_e == pytest.approx(7.0)


def test_where_most_responses_have_no_path_none_is_asked_for() -> None:
    weak = PathLikelihood(GRID, (0.0,) * 16, 1)
    begun = since(0.0).after_good(3, PathLikelihood())
    assert not begun.shown and begun.after_good(3, PathLikelihood()).shown
    assert begun.after_good(3, weak).shown and not begun.after_good(2, weak).shown


def test_the_likelihood_of_a_round_is_the_sum_over_responses_that_have_one() -> None:
    bad = on_path(score(FOR), 1.0)
    bad.path_log_lik[3] = np.nan
    summed = PathLikelihood.of([on_path(score(FOR), 1.0), score(FOR), bad, on_path(score(FOR), 0.4)])
    assert (summed.n, len(summed.grid)) == (2, 16)
    assert summed.log_lik[10] == pytest.approx(-50 * 0.6**2, rel=1e-5)
    assert PathLikelihood.of([score(FOR)]) == PathLikelihood()


def test_it_survives_json() -> None:
    state = since(0.3).after_good(2, PathLikelihood()).after_good(2, response(1.0, 30.0, np.random.default_rng(9)))
    assert PathRecovery.from_json(json.loads(json.dumps(state.to_json()))) == state
