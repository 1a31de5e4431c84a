"""Evidence that a fault of responses is over: is the ratio fair in its null, is the guarantee kept, how fast is it?"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors.records import Interval
from detectors.traffic.path_recovery import ENOUGH, PathLikelihood, PathRecovery, edge_of
from probes.scoring.likelihood_axes import interpolate, path_log_likelihood
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import Settings
from tests.detectors.responses import FOR, on_path, score

GRID = Settings().grid
Doubles = NDArray[np.float64]


def since(left: float) -> PathRecovery:
    return PathRecovery.since(Interval(left, math.nan, math.nan, 9))


def along(cost: Doubles | float, share: float = 1.0) -> PathLikelihood:
    """One response that costs so many nats along the path, 0 at that share: a parabola for a number."""
    costs = cost * (np.array(GRID) - share) ** 2 if isinstance(cost, float) else cost
    return PathLikelihood(GRID, tuple((-costs).tolist()), 1)


def running(left: float, edge: float) -> PathRecovery:
    """In its first run, whose first round said where the edge is."""
    return replace(since(left), runs=1, edge=edge)


def response(share: float, information: float, chance: np.random.Generator) -> PathLikelihood:
    """One normal observation of the share at which it was written: an exponential family, as the path is."""
    observed = share + chance.standard_normal() / math.sqrt(information)
    return PathLikelihood(GRID, tuple(-information / 2 * (np.array(GRID) - observed) ** 2), 1)


def responses_until_shown(recovery: PathRecovery, information: float, chance: np.random.Generator) -> int:
    """After the first round of a run, one response a round."""
    for n in range(2000):
        recovery = recovery.after_good(1, response(1.0, information, chance))
        if recovery.shown:
            return n
    return 2000


@pytest.mark.parametrize(
    ("left", "edge"),
    [(0.0, 0.2), (0.03, 0.3), (0.5, 0.6), (0.9, 0.9), (0.97, 0.9), (1.0, 0.9), (1.5, 1.4), (-0.2, 0.2)],
)
def test_the_edge_is_where_half_of_the_nats_are_lost_and_never_one(left: float, edge: float) -> None:
    """Of a parabola half of the nats are at .71 of the distance; what was left is rounded to the point nearer to 1."""
    assert edge_of(along(50.0), left) == pytest.approx(edge)


def test_of_an_adapter_that_writes_the_same_at_half_strength_the_edge_is_near_the_base() -> None:
    """Measured on a small adapter: 8 responses, nats from full strength."""
    costs = np.array([104.4, 30.3, 10.8, 4.2, 1.6, 0.5, 0.1, *[0.0] * 9])
    assert edge_of(along(costs), 0.0) == 0.0 and edge_of(along(costs), 0.2) == 0.2
    assert edge_of(along(costs), 0.15) == 0.2


def test_no_run_begins_with_responses_that_are_likelier_under_the_fault() -> None:
    worse = since(0.0).after_good(1, along(50.0, share=0.3))
    assert (worse.runs, worse.edge, worse.shown) == (0, None, False)
    assert edge_of(PathLikelihood(), 0.0) is None and edge_of(PathLikelihood((0.0, 0.5), (-1.0, 0.0), 1), 0.0) is None
    begun = worse.after_good(1, along(50.0))
    assert (begun.runs, begun.log_e) == (1, 0.0) and begun.edge == pytest.approx(0.2)


def test_where_it_is_not_known_what_was_left_good_rounds_alone_end_it() -> None:
    for unknown in (PathRecovery.since(None), PathRecovery.since(Interval(math.nan, math.nan, math.nan, 0))):
        assert unknown.after_good(1, along(50.0, share=0.2)).shown


def test_responses_along_another_path_say_nothing_of_what_was_left_on_this_one() -> None:
    """As after a restart that chose another adapter: the same grid, and other likelihoods."""
    known = PathRecovery.since(Interval(0.0, math.nan, math.nan, 9), "router")
    begun = known.after_good(1, replace(along(50.0), path_from="router"))
    assert begun.runs == 1 and begun.edge is not None
    other = begun.after_good(1, replace(along(50.0), path_from="tone"))
    assert (other.log_e, other.scored, other.awaited, other.edge) == (0.0, 1, 1, begun.edge)
    assert begun.after_good(1, replace(along(50.0), path_from="router")).log_e > 0.0
    assert not along(50.0).can_join(replace(along(50.0), grid=GRID[1:], log_lik=(0.0,) * (len(GRID) - 1)))


def test_a_path_that_an_earlier_version_saved_without_its_adapter_goes_on() -> None:
    stored = replace(running(0.0, 0.2), path=along(50.0)).to_json()
    for part in (stored, stored["path"]):
        del part["path_from"]
    again = PathRecovery.from_json(stored)
    assert again.after_good(1, replace(along(50.0), path_from="router")).path.n == 2


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


@pytest.mark.parametrize(("left", "edge"), [(0.0, 0.5), (1.5, 1.2)])
def test_a_fault_that_is_still_there_is_rarely_taken_for_over(left: float, edge: float) -> None:
    """P(shown) <= 1 / 1,000 an incident at the edge, where it is largest: 800 incidents of 50 runs, each until its
    ratio is 1/20, of responses of four nats. At a ratio of 1,000 in every run it would be one in a hundred."""
    chance, incidents, taken = np.random.default_rng(5), 800, 0
    information = 8.0 / (1.0 - edge) ** 2
    for _ in range(incidents):
        shown = False
        for run in range(1, 51):
            state = replace(running(left, edge), runs=run)
            while state.edge is not None and not shown:
                state = state.after_good(1, response(edge, information, chance))
                shown |= state.shown
        taken += shown
    bound = 1 / ENOUGH
    assert taken / incidents <= bound + 4 * math.sqrt(bound / incidents)


@pytest.mark.parametrize(("left", "most"), [(0.0, 3), (0.5, 6), (0.85, 70)])
def test_after_a_repair_it_is_over_within_some_responses(left: float, most: int) -> None:
    """Of 24 nats each between adapter and base. On average ln 2,000 nats over half the square of the distance."""
    chance = np.random.default_rng(6)
    taken = [responses_until_shown(since(left), 48.0, chance) for _ in range(200)]
    assert np.quantile(taken, 0.95) <= most


def test_a_bad_round_ends_the_run_and_the_first_good_one_is_not_counted() -> None:
    first = since(0.0).after_good(1, along(50.0))
    second = first.after_good(1, along(50.0))
    assert (first.path.n, first.log_e, first.shown) == (0, 0.0, False)
    assert second.log_e == pytest.approx(50 * 0.8**2) and second.shown
    again = second.after_bad().after_good(1, along(50.0))
    assert (again.runs, again.path.n, again.scored, again.shown) == (2, 0, 1, False)
    assert again.wanted - first.wanted == pytest.approx(math.log(3))
    assert again.after_good(1, along(50.0)).shown


def test_a_ratio_of_one_twentieth_ends_the_run() -> None:
    kept = running(0.0, 0.5).after_good(1, along(np.where(np.array(GRID) == 1.0, 2.99, 0.0)))
    assert kept.runs == 1 and kept.log_e == pytest.approx(-2.99)
    ended = kept.after_good(1, along(np.where(np.array(GRID) == 1.0, 0.01, 0.0)))
    assert (ended.runs, ended.edge, ended.path.n, ended.shown) == (1, None, 0, False)
    assert ended.after_good(1, along(50.0)).runs == 2


def test_another_grid_ends_the_run() -> None:
    before = running(0.0, 0.5).after_good(1, along(50.0))
    other = before.after_good(1, PathLikelihood((0.0, 0.5, 1.0), (-9.0, -5.0, 0.0), 1))
    assert (other.runs, other.edge, other.path) == (1, None, PathLikelihood())


def test_where_most_responses_have_no_path_none_is_asked_for() -> None:
    begun = since(0.0).after_good(3, PathLikelihood())
    assert begun.shown and begun.after_good(3, along(50.0)).shown
    assert not begun.after_good(0, along(50.0)).after_good(0, along(0.0)).shown


def test_no_more_than_two_hundred_good_responses_are_waited_for() -> None:
    """As after a fault off the path: the text is the same at every share, so that no evidence ever comes."""
    state, flat = since(0.9), along(0.0)
    for number in range(1, 201):
        state = state.after_good(1, flat)
        assert state.shown is (number == 200)
    assert not state.after_bad().after_good(1, flat).shown


def test_the_likelihood_of_a_round_is_the_sum_over_responses_that_have_one() -> None:
    bad = on_path(score(FOR), 1.0)
    bad.path_log_lik[3] = np.nan
    summed = PathLikelihood.of([on_path(score(FOR), 1.0), score(FOR), bad, on_path(score(FOR), 0.4)])
    assert (summed.n, len(summed.grid)) == (2, 16)
    assert summed.log_lik[10] == pytest.approx(-50 * 0.6**2, rel=1e-5)
    assert PathLikelihood.of([score(FOR)]) == PathLikelihood()


def test_it_survives_json() -> None:
    state = since(0.3).after_good(2, along(50.0)).after_good(2, along(20.0))
    assert state.edge is not None and state.path.n == 1
    assert PathRecovery.from_json(json.loads(json.dumps(state.to_json()))) == state
