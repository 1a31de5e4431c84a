"""Tokens until the alarm, by the weighted mean of one M an alternative, 40 other adapters registered.

Whole responses are drawn again and again, with replacement, from those that were sampled; tokens count one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.figures import Figure, at_most, context
from benchmarks.traffic.observed import Bet, Observed
from benchmarks.traffic.served import SEED
from detectors.evidence.alternative import (
    BASE,
    FOUR_BITS,
    HALF_STRENGTH,
    Alternative,
    AlternativeKind,
    other_adapter,
)
from detectors.evidence.likelihood_process import weights_of
from detectors.kinds import token_calibration, traffic_likelihood

LOG_A = math.log(2.1e9)
REPEATS = 200
OTHERS = 40
# Writer -> which alternative it is, None for another adapter, and how many times the floor its delay may be.
FAULTS: dict[str, tuple[Alternative | None, float]] = {
    "base": (BASE, 1.25), "half": (HALF_STRENGTH, 1.75), "4 bits": (FOUR_BITS, 2.0), "wrong": (None, 1.5),
}  # fmt: skip


def figures(cells: Sequence[Observed], plain: bool) -> Iterator[Figure]:
    """plain: sampled at temperature 1 without truncation, where KL gives a floor; else tokens alone are reported."""
    for observed in cells:
        if observed.cell.writer not in FAULTS:
            continue
        cell, s = observed.cell, observed.cell.sampling
        what = f"{cell.writer} served as {cell.adapter}, temperature {s.temperature:g}, top-p {s.top_p:g}"
        tokens = delays(observed, _weights(observed))
        if plain:
            alternative, times = FAULTS[observed.cell.writer]
            floor = LOG_A / _kl(observed.kl, alternative)
            yield at_most(f"{what}: mean tokens to the alarm over ln A / KL", float(tokens.mean()) / floor, "", times)
            yield context(f"{what}: ln A / KL", floor, "tokens")
        yield context(f"{what}: mean tokens to the alarm", float(tokens.mean()), "tokens")
        yield context(f"{what}: 99 % of alarms within", float(np.quantile(tokens, 0.99)), "tokens")


def sampler_figures(cells: Mapping[tuple[str, str], Observed]) -> Iterator[Figure]:
    """Another sampler in force than the request's. cells: (adapter, sampler in force) -> what was observed

    How many tokens that takes is in the adapter: one that is nearly sure of each word writes the same at any
    temperature. The floor is ln A over the KL of its distribution under that sampler.
    """
    names = token_calibration.Config().samplers
    weights: dict[Bet, float] = {name: 1.0 / len(names) for name in names}
    for (adapter, name), observed in cells.items():
        tokens, floor = delays(observed, weights), LOG_A / observed.kl[name]
        what = f"{name} in force for temperature 1, {adapter}"
        yield context(f"{what}: mean tokens to the alarm", float(tokens.mean()), "tokens")
        yield context(f"{what}: times ln A / KL", float(tokens.mean()) / floor, "x")


def delays(observed: Observed, weights: Mapping[Bet, float]) -> np.ndarray:
    """(REPEATS,) tokens until the weighted mean of M passes A; M starts at 1 with the "+1" of its round."""
    rows = [(observed.responses(bet), math.log(weights[bet])) for bet in observed.log_l if bet in weights]
    rng = np.random.default_rng(SEED)
    return np.array([_delay(rows, rng, len(observed.lengths)) for _ in range(REPEATS)], dtype=np.float64)


def _delay(rows: Sequence[tuple[list[np.ndarray], float]], rng: np.random.Generator, responses: int) -> int:
    level = np.array([log_weight for _, log_weight in rows])
    tokens = 0
    while tokens < 200_000:
        drawn = int(rng.integers(responses))
        steps = np.cumsum([responses[drawn] for responses, _ in rows], axis=1) + level[:, None]
        passed = np.flatnonzero(np.logaddexp.reduce(steps, axis=0) >= LOG_A)
        if len(passed):
            return tokens + int(passed[0]) + 1
        level, tokens = steps[:, -1], tokens + steps.shape[1]
    return tokens


def _weights(observed: Observed) -> dict[Bet, float]:
    """As the detector has them; of the others all but those that were sampled stay at nothing."""
    config = traffic_likelihood.Config()
    known = [alternative for alternative in observed.tokens.log_l if alternative.kind is AlternativeKind.OTHER_ADAPTER]
    unknown = [other_adapter(f"number {i}") for i in range(OTHERS - len(known))]
    return dict([*weights_of(dict(config.weights), [*known, *unknown]).items()])


def _kl(kl: Mapping[Bet, float], writer: Alternative | None) -> float:
    """Of what served, from what was accepted. The wrong adapter is the one nearest to what it wrote."""
    if writer is not None:
        return kl[writer]
    others = {bet: value for bet, value in kl.items() if isinstance(bet, Alternative)}
    return min(value for bet, value in others.items() if bet.kind is AlternativeKind.OTHER_ADAPTER)
