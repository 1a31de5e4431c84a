"""One replica of many, and one mislabelled record in a thousand: the bounded mixture on sampled responses.

Responses are drawn with replacement from those that were sampled, one a round; the numbers are ``replica_factors`` and
the same recursion as the detector's, for many runs at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_least, at_most, context, exactly
from benchmarks.traffic.delays import LOG_A
from benchmarks.traffic.observed import Observed
from benchmarks.traffic.served import SEED
from detectors.bets import LARGEST
from detectors.kinds.traffic_likelihood import Config
from detectors.mixture import averaged, replica_factors, weights_of

Doubles = NDArray[np.float64]
RUNS, MOST = 400, 4000


def figures(adapter: str, healthy: Observed, base: Observed, wrong: Observed) -> Iterator[Figure]:
    good, bad, strange = (per_response(seen) for seen in (healthy, base, wrong))
    yield context(f"{adapter}: smallest ln L of a response of the base", float(bad.min()), "nats")
    yield context(f"{adapter}: largest ln L of a healthy response", float(good.max()), "nats")
    for share, name, most in ((1.0, "all", 4.0), (0.1, "10 %", 70.0), (1 / 32, "1 in 32", 300.0)):
        needed, what = alarms(good, bad, share, LOG_A), f"base on {name} of responses, {adapter}"
        yield at_most(f"{what}: mean responses to the alarm", float(needed.mean()), "responses", most)
        if share == 0.1:
            late = float(np.quantile(needed, 0.99))
            yield at_most(f"{what}: 99 % of alarms within", late, "responses", 170)
    runs = f"{RUNS} runs of {MOST} responses"
    pages = int((alarms(good, strange, 1e-3, LOG_A) < MOST).sum())
    yield exactly(f"one mislabelled record in a thousand, {adapter}: pages in {runs}", pages, "pages", 0)
    quiet = int((alarms(good, good, 0.0, math.log(1e3)) < MOST).sum())
    yield exactly(f"healthy, {adapter}: alarms at A = 1,000 in {runs}", quiet, "alarms", 0)


def run_length(quick: bool) -> Iterator[Figure]:
    """At the edge of the null: L is a tenth or 1.9; the slack is off, so that alarms do come."""
    runs, most = (1000, 10_000) if quick else (4000, 30_000)
    edge = np.log(np.array([0.1, 1.9]))
    needed = alarms(edge[:1], edge[1:], 0.5, math.log(1e3), runs, most, slip=0.0)
    bound = float(needed.mean() - 2.33 * needed.std() / math.sqrt(runs))
    yield at_least(
        "bounded mixture at A = 1,000, at the edge of its null: run length, lower 99 % bound", bound, "responses", 1000
    )


def per_response(seen: Observed) -> Doubles:
    """(R,) ln of each response's e-value: the weighted mean over its alternatives, as the detector takes it."""
    own = dict(Config().weights)
    weights = weights_of(own, [name for name in seen.tokens.log_l if name not in own])
    names = [name for name in seen.tokens.log_l if name in weights]
    sums = np.array([[tokens.sum() for tokens in seen.responses(name)] for name in names])
    shares = np.array([weights[name] for name in names])
    return np.array([averaged(column, shares) for column in sums.T])


def alarms(
    good: Doubles,
    bad: Doubles,
    share: float,
    log_a: float,
    runs: int = RUNS,
    most: int = MOST,
    slip: float | None = None,
) -> NDArray[np.int64]:
    """(runs,) responses until the alarm, ``most`` where there was none. share: of them that are drawn from ``bad``"""
    config, rng = Config(), np.random.default_rng(SEED)
    shares = np.array(config.shares)
    mislabelled = config.mislabelled if slip is None else slip
    # A response's factors depend on nothing but itself: a look-up.
    tables = [np.exp(_factors(values, shares, mislabelled)) for values in (good, bad)]
    m, needed = np.zeros((runs, len(shares))), np.full(runs, most)
    for n in range(1, most + 1):
        faulty = rng.random(runs) < share
        picked = [table[rng.integers(len(table), size=runs)] for table in tables]
        m = np.minimum((m + 1.0) * np.where(faulty[:, None], picked[1], picked[0]), LARGEST)
        needed = np.where((needed == most) & (np.log(m.mean(axis=1)) >= log_a), n, needed)
        if (needed < most).all():
            break
    return needed


def _factors(values: Doubles, shares: Doubles, mislabelled: float) -> Doubles:
    each: Sequence[Doubles] = [replica_factors(np.array([x]), LOG_A / 3.0, shares, mislabelled) for x in values]
    return np.stack(each)
