"""One replica of many, and one mislabelled record in a thousand: the clipped mixture on sampled responses.

Responses are drawn with replacement from those that were sampled, one a round. Where many runs go on at once, the
numbers are ``clipped_mixture`` and the recursion of that half of the detector's M which bets on the mean of all
alternatives: the detector is at most ln 2 nats later, and sooner where one alternative alone explains a fault.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_least, at_most, context, exactly
from benchmarks.traffic.delays import FREE, LOG_A, drawn_by_default, weights
from benchmarks.traffic.observed import Observed
from benchmarks.traffic.served import SEED
from detectors.evidence.alternative import AlternativeKind
from detectors.evidence.e_detector import LARGEST
from detectors.evidence.likelihood_process import averaged, clipped_mixture, weights_of
from detectors.kinds.traffic_likelihood import Config, Detector
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore

Doubles = NDArray[np.float64]
RUNS, MOST, PAGES = 400, 4000, 20
# ln L of a response for an adapter that is nothing like its writer.
NOT_LIKE_IT = -100.0


def figures(adapter: str, healthy: Observed, base: Observed, wrong: Observed) -> Iterator[Figure]:
    good, bad, strange = (per_response(observed) for observed in (healthy, base, wrong))
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


def weak(cells: Sequence[Observed]) -> Iterator[Figure]:
    """Every fault on all responses, by the detector itself in the default configuration: which alternatives a response
    is scored against is drawn, ``OTHERS`` adapters are registered, and no other adapter is like the writer but the one
    that it is."""
    for observed in cells:
        if observed.cell.faulty:
            needed = np.array([_needed(observed, run) for run in range(PAGES)])
            what = f"{observed.cell.writer} on all responses of {observed.cell.adapter}, by default"
            yield context(f"{what}: mean responses to the page", float(needed.mean()), "responses")
            yield context(f"{what}: no page within {MOST}", 100 * float((needed == MOST).mean()), "%")


def _needed(observed: Observed, run: int) -> int:
    """Responses until the stream that pages passes ln A."""
    rng, detector, name = np.random.default_rng([SEED, run]), Detector(Config()), observed.cell.adapter
    adapters = (
        name,
        *(who.name for who in weights() if who.kind is AlternativeKind.OTHER_ADAPTER and who.name != name),
    )
    sums = {who: np.array([t.sum() for t in observed.responses(who)]) for who in observed.tokens.log_l}
    always = [who for who in sums if who.kind in FREE]
    for n in range(1, MOST):
        picked = int(rng.integers(len(observed.lengths)))
        own = (*always, *drawn_by_default(f"request {run} {n}"))
        log_l = np.array([sums[who][picked] if who in sums else NOT_LIKE_IT for who in own], np.float32)
        score = TrafficScore(name, "r", "", 0.0, ScoringMode.SAMPLED, int(observed.lengths[picked]), own, log_l)
        levels = detector.update(TrafficRound("smol", n, float(n), adapters, (score,)))
        if levels[0].log_e >= LOG_A:
            return n
    return MOST


def run_length(quick: bool) -> Iterator[Figure]:
    """At the edge of the null, where alarms do come: L is a tenth or 1.9, without the allowance for mislabelled
    records; and with it, one mislabelled record in a thousand among neutral ones."""
    runs, most = (1000, 10_000) if quick else (4000, 30_000)
    edge = np.log(np.array([0.1, 1.9]))
    needed = alarms(edge[:1], edge[1:], 0.5, math.log(1e3), runs, most, slip=0.0)
    bound = float(needed.mean() - 2.33 * needed.std() / math.sqrt(runs))
    yield at_least(
        "clipped mixture at A = 1,000, at the edge of its null: run length, lower 99 % bound", bound, "responses", 1000
    )
    runs, most = 200, 100_000 if quick else 1_000_000
    pages, highest = neutral_alarms(runs, most)
    what = f"one mislabelled record in a thousand among neutral ones, {runs} runs of {most} responses"
    yield exactly(f"{what}: pages", pages, "pages", 0)
    yield context(f"{what}: highest level", highest, "nats")


def per_response(observed: Observed) -> Doubles:
    """(R,) ln of each response's e-value: the weighted mean over its alternatives, as the detector takes it."""
    own = dict(Config().weights)
    weights = weights_of(own, [name for name in observed.tokens.log_l if name not in own])
    names = [name for name in observed.tokens.log_l if name in weights]
    sums = np.array([[tokens.sum() for tokens in observed.responses(name)] for name in names])
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
    rng = np.random.default_rng(SEED)
    # A response's factors depend on nothing but itself: a look-up.
    tables = [factors(values, log_a, slip) for values in (good, bad)]
    m, needed = np.zeros((runs, tables[0].shape[1])), np.full(runs, most)
    for n in range(1, most + 1):
        faulty = rng.random(runs) < share
        picked = [table[rng.integers(len(table), size=runs)] for table in tables]
        m = np.minimum((m + 1.0) * np.where(faulty[:, None], picked[1], picked[0]), LARGEST)
        needed = np.where((needed == most) & (np.log(m.mean(axis=1)) >= log_a), n, needed)
        if (needed < most).all():
            break
    return needed


def neutral_alarms(runs: int, most: int) -> tuple[int, float]:
    """How many of ``runs`` page within ``most`` responses, of which one in a thousand is mislabelled, at 60 nats, and
    all others are neutral, L = 1; and the highest level, nats, of any run.

    From one mislabelled record to the next in one step: M of neutral responses is a geometric sum.
    """
    rng, (plain,), (odd,) = np.random.default_rng(SEED), factors(np.zeros(1)), factors(np.full(1, 60.0))
    m, responses, highest = np.zeros((runs, len(plain))), np.zeros(runs), np.zeros(runs)
    while (responses < most).any():
        gap = rng.geometric(1e-3, size=runs)[:, None] - 1
        m = plain**gap * m + plain * (1 - plain**gap) / (1 - plain)
        responses += gap[:, 0] + 1
        m = np.minimum((m + 1.0) * odd, LARGEST)
        highest = np.where(responses <= most, np.maximum(highest, m.mean(axis=1)), highest)
    return int((highest >= math.exp(LOG_A)).sum()), math.log(highest.max())


def factors(values: Doubles, log_a: float = LOG_A, slip: float | None = None) -> Doubles:
    """(R, G) by what each response multiplies M, as the detector has it. slip: in place of ``mislabelled``"""
    config = Config()
    shares, most = np.array(config.replicas).T
    bound, mislabelled = np.minimum(most, math.exp(log_a / 3.0)), config.mislabelled if slip is None else slip
    each: Sequence[Doubles] = [clipped_mixture(np.array([x]), shares, bound, mislabelled) for x in values]
    return np.exp(np.stack(each))
