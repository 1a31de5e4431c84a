"""How many stream updates can one core do in a second? The e-detector alone: M, the CUSUM statistic and onset times.

``python -m benchmarks.canaries.evidence_speed [--quick] [--json FILE]``. A stream update is one stream and one round: 8
bets, their CUSUM statistics, and when each last restarted. numpy runs it on one thread. Times are the best of several,
because other processes share the machine; the ratio to the plain formula is of one run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, arguments, at_least, at_most, context, report
from detectors.evidence.e_detector import advance, fresh
from detectors.evidence.e_process_bank import EProcessBank, ProcessArrays, move_counts

SEED, SHARE, BETS = 29, 0.05, 8
BEYOND = 0.02  # share of healthy draws that are beyond tolerance; no figure depends on it
MANY, ADAPTERS, DRAWS = 200_000, 1_000, 32


def measure(quick: bool) -> list[Figure]:
    """Updates per second with one score and with 32, by name as the agent does it, and the bytes of state."""
    streams, repeats = (20_000, 5) if quick else (MANY, 15)
    one_score, many_scores = _rate(streams, 1, repeats), _rate(streams, DRAWS, repeats)
    plain = _plain_rate(streams, repeats)
    rows = ProcessArrays.fresh(streams, BETS)
    return [
        at_least("stream updates, one score each, one core", one_score, "a second", 1e7),
        at_least(f"stream updates, {DRAWS} scores each, counted here, one core", many_scores, "a second", 2e6),
        context("the same without the CUSUM statistic by the plain formula in nats, one score", plain, "a second"),
        context("fast over plain, one score", one_score / plain, "times"),
        context(
            f"stream updates by name, {ADAPTERS} adapters a round, {DRAWS} scores each", _named(repeats), "a second"
        ),
        at_most("state of a stream in memory", rows.nbytes / streams, "bytes", 256),
    ]


def _rate(streams: int, draws: int, repeats: int) -> float:
    """From bool scores (streams, draws) to updated rows; a single score is its own count."""
    rows, scores = ProcessArrays.fresh(streams, BETS), _scores(streams, draws)

    def update() -> None:
        ones = scores[:, 0].astype(np.int64) if draws == 1 else np.count_nonzero(scores, axis=1)
        move_counts(rows, ones, draws, SHARE, time.perf_counter())

    return streams / _best(update, repeats)


def _plain_rate(streams: int, repeats: int) -> float:
    log_m, scores = fresh(streams, BETS), _scores(streams, 1)

    def update() -> None:
        nonlocal log_m
        log_m = advance(log_m, scores, SHARE)

    return streams / _best(update, repeats)


def _named(repeats: int) -> float:
    streams, scores = EProcessBank[str](), _scores(ADAPTERS, DRAWS)
    scores_by_name = {f"adapter-{number}": row for number, row in enumerate(scores)}
    return ADAPTERS / _best(lambda: streams.advance(scores_by_name, SHARE, BETS, time.perf_counter()), repeats)


def _scores(streams: int, draws: int) -> NDArray[np.bool_]:
    return np.random.default_rng(SEED).random((streams, draws)) < BEYOND


def _best(update: Callable[[], None], repeats: int) -> float:
    """Seconds of the quickest call; the first one, which fills tables and caches, is left out."""
    update()
    durations = []
    for _ in range(repeats):
        began = time.perf_counter()
        update()
        durations.append(time.perf_counter() - began)
    return min(durations)


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    report(measure(options.quick), SEED, options.json)
