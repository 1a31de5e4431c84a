"""Responses needed for 99 % power at one false alarm in a hundred, on the same responses: ours and its peers.

Eight prompts that come again and again, because Model Equality Testing compares completions of one prompt. Every peer's
threshold is the 99 % quantile of its own statistic on healthy halves of the pool, which is kinder than its default;
ours is the guaranteed one, an e-value of 100. Samples are drawn without replacement, so half of the pool is the
largest sample; a peer that has not got there is reported as needing more.

The rank test is written from its paper (Zhu et al., arXiv 2506.06975: ranks of tokens in the reference distribution,
Cramer-von Mises against uniform). Peers that are not installed are left out, by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from scipy.stats import cramervonmises

from benchmarks.figures import Figure, console, context
from benchmarks.traffic.observed import Observed
from benchmarks.traffic.served import FEW, LONGEST, SEED
from detectors.kinds.traffic_likelihood import Config
from probes.scoring.scoring_job import ScoringJob

FALSE, POWER, DRAWS, MANY = 0.01, 0.99, 400, 2000
MORE = " (not reached; tried up to)"
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Responses of one writer, in numbers.

    log_e: (A, R) ln L of each response for each alternative, log_weights: (A,) of those
    completions: (R, 1 + LONGEST) prompt, then tokens; ranks: by response; outputs: (R, d) embeddings
    """

    log_e: NDArray[np.float64]
    log_weights: NDArray[np.float64]
    completions: Indices
    ranks: Sequence[NDArray[np.float64]]
    outputs: NDArray[np.float64]

    @property
    def size(self) -> int:
        return len(self.outputs)


# Of a test sample and of a reference sample, each a pool and which of its responses; larger is stranger.
Statistic = Callable[[Pool, Indices, Pool, Indices], float]


def pool(observed: Observed, jobs: Sequence[ScoringJob]) -> Pool:
    ends = observed.lengths.cumsum()
    padded = [[*job.output, *[-1] * (LONGEST - len(job.output))] for job in jobs]
    rows = np.array([[i % FEW, *row] for i, row in enumerate(padded)], dtype=np.int64)
    ranks = [observed.tokens.ranks[end - n : end] for n, end in zip(observed.lengths, ends, strict=True)]
    own = {name: weight for name, weight in Config().weights if name in observed.tokens.log_l}
    sums = np.array([[tokens.sum() for tokens in observed.responses(name)] for name in own])
    return Pool(sums, np.log(np.array(list(own.values()))), rows, ranks, observed.outputs)


def figures(healthy: Pool, faults: Mapping[str, Pool]) -> Iterator[Figure]:
    tests = _tests()
    sizes = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if 2 * n <= healthy.size]
    thresholds = {(name, n): _threshold(statistic, healthy, n) for name, statistic in tests.items() for n in sizes}
    for fault, broken in faults.items():
        what = f"{fault}, responses for 99 % power at 1 %"
        ours = _ours(broken)
        yield context(f"{what}: likelihood ratio{'' if ours < MANY else MORE}", ours, "responses")
        for name, statistic in tests.items():
            enough = (n for n in sizes if _power(statistic, healthy, broken, n, thresholds[name, n]) >= POWER)
            size = next(enough, None)
            yield context(f"{what}: {name}{'' if size else MORE}", size or sizes[-1], "responses")


def _tests() -> dict[str, Statistic]:
    tests: dict[str, Statistic] = {"ranks, Cramer-von Mises": _ranks}
    if _installed("model_equality_testing"):
        tests["Model Equality Testing, Hamming MMD"] = _equality
    if _installed("evidently"):
        tests |= {"Evidently, classifier": _evidently("model"), "Evidently, distance": _evidently("distance")}
    return tests


def _installed(module: str) -> bool:
    installed = find_spec(module) is not None
    if not installed:
        console.print(f"{module} is not installed: that peer is left out")
    return installed


def _ours(broken: Pool) -> float:
    """Of random orders of the broken responses, after how many has the weighted mean of M passed 100 in 99 %?"""
    rng, needed = np.random.default_rng(SEED), []
    for _ in range(DRAWS):
        order = rng.integers(broken.size, size=MANY)
        levels = np.logaddexp.reduce(np.cumsum(broken.log_e[:, order], axis=1) + broken.log_weights[:, None], axis=0)
        passed = np.flatnonzero(levels >= math.log(1 / FALSE))
        needed.append(passed[0] + 1 if len(passed) else MANY)
    return float(np.quantile(needed, POWER, method="higher"))


def _threshold(statistic: Statistic, healthy: Pool, n: int) -> float:
    rng, statistics = np.random.default_rng([SEED, n]), []
    for _ in range(DRAWS):
        order = rng.permutation(healthy.size)
        statistics.append(statistic(healthy, order[:n], healthy, order[n : 2 * n]))
    return float(np.quantile(statistics, 1 - FALSE, method="higher"))


def _power(statistic: Statistic, healthy: Pool, broken: Pool, n: int, threshold: float) -> float:
    rng, above = np.random.default_rng([SEED, n, 1]), 0
    for _ in range(DRAWS // 2):
        tested, reference_rows = rng.permutation(broken.size)[:n], rng.permutation(healthy.size)[:n]
        above += statistic(broken, tested, healthy, reference_rows) > threshold
    return above / (DRAWS // 2)


def _ranks(test: Pool, tested: Indices, reference: Pool, reference_rows: Indices) -> float:  # noqa: ARG001
    return float(cramervonmises(np.concatenate([test.ranks[i] for i in tested]), "uniform").statistic)


def _equality(test: Pool, tested: Indices, reference: Pool, reference_rows: Indices) -> float:
    """A sample without two completions of one prompt has no such statistic: it counts as not strange."""
    sample = import_module("model_equality_testing.distribution").CompletionSample
    hamming = import_module("model_equality_testing.tests").mmd_hamming
    samples = [
        sample(rows[:, 0], rows[:, 1:], FEW)
        for rows in (test.completions[tested], reference.completions[reference_rows])
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = float(hamming(*samples))
    return distance if math.isfinite(distance) else -math.inf


def _evidently(method: str) -> Statistic:
    def statistic(test: Pool, tested: Indices, reference: Pool, reference_rows: Indices) -> float:
        frame = import_module("pandas").DataFrame
        drift = getattr(import_module("evidently.legacy.metrics.data_drift.embedding_drift_methods"), method)()
        frames = (frame(rows) for rows in (test.outputs[tested], reference.outputs[reference_rows]))
        try:
            return float(drift(*frames)[0])
        except ValueError:  # a half without both classes: too few for its classifier
            return -math.inf

    return statistic
