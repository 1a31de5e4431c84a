"""How many tokens until the alarm? ln A over the growth of the best bet, against the floor ln A / KL.

A bet's growth is the mean of ln L under who wrote the responses: at each recorded position an exact sum over the
vocabulary, so that only which positions were written is left to chance. (Drawing whole responses again and again has a
standard error of 22 to 115 % of the growth, from 96 of them.) No bet against the golden adapter grows faster than KL.

In the default configuration: an alternative with a pass of its own is scored on the share of responses that draw it
among the copies that are scored by default and ``OTHERS`` registered adapters, and grows as much more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, at_most, context
from benchmarks.traffic.observed import Bet, Observed
from detectors.evidence.alternative import Alternative, AlternativeKind, other_adapter
from detectors.evidence.likelihood_process import weights_of
from detectors.kinds import token_calibration, traffic_likelihood
from probes.scoring.scoring_job import ScoringOptions, drawn

LOG_A = math.log(2.1e9)
OTHERS = 40
REQUESTS = 20_000
# Alternatives without a pass of their own: every response is scored against them.
FREE = (AlternativeKind.BASE, AlternativeKind.INTERPOLATION)
# Writer -> how many times the floor its delay may be.
FAULTS = {"base": 1.25, "half": 1.5, "4 bits": 2.0, "wrong": 1.5}


class Growth(NamedTuple):
    """Of the bet that alarms first. nats: a token; error: its standard error, of which responses were written;
    tokens: ln A over it; with_weight: tokens with ln(1 / weight) of the bet's own weight on top of ln A"""

    bet: Bet
    nats: float
    error: float
    tokens: float
    with_weight: float


def figures(cells: Sequence[Observed], plain: bool) -> Iterator[Figure]:
    """plain: sampled at temperature 1 without truncation, where KL gives a floor; else tokens alone are reported."""
    for observed in cells:
        if observed.cell.writer not in FAULTS:
            continue
        cell, s, times = observed.cell, observed.cell.sampling, FAULTS[observed.cell.writer]
        what = f"{cell.writer} served as {cell.adapter}, temperature {s.temperature:g}, top-p {s.top_p:g}"
        yield from _figures(what, observed, dict(weights().items()), dict(chances().items()), times if plain else None)


def sampler_figures(cells: Mapping[tuple[str, str], Observed]) -> Iterator[Figure]:
    """Another sampler in force than the request's. cells: (adapter, sampler in force) -> what was observed

    How many tokens that takes is in the adapter: one that is nearly sure of each word writes the same at any
    temperature. The floor is ln A over the KL of its distribution under that sampler.
    """
    names = token_calibration.Config().samplers
    equal: dict[Bet, float] = dict.fromkeys(names, 1.0 / len(names))
    always: dict[Bet, float] = dict.fromkeys(names, 1.0)
    for (adapter, name), observed in cells.items():
        yield from _figures(f"{name} in force for temperature 1, {adapter}", observed, equal, always, 2.0, name)


def fastest(observed: Observed, weights: Mapping[Bet, float], chances: Mapping[Bet, float]) -> Growth:
    """The bet that passes A first, on average. weights: of each bet in the mean; chances: that a response is scored
    against it, 1 where it is not named"""
    grown = [_growth(observed, bet, chances.get(bet, 1.0), weights[bet]) for bet in observed.growth if bet in weights]
    return min(grown, key=lambda growth: growth.with_weight)


@cache
def chances() -> dict[Alternative, float]:
    """Alternative -> the share of requests that draw it by default; 1 for those without a pass of their own."""
    shares = {who: 1.0 if who.kind in FREE else 0.0 for who in weights()}
    for i in range(REQUESTS):
        for who in drawn_by_default(f"request {i}"):
            shares[who] += 1.0 / REQUESTS
    return shares


def drawn_by_default(request_id: str) -> set[Alternative]:
    """The alternatives with a pass of their own that a response is scored against."""
    options = ScoringOptions()
    own = {who: weight for who, weight in weights().items() if who in {*options.copies, *_others()}}
    return set(own) if options.passes is None else drawn(request_id, own, options.passes)


@cache
def weights() -> dict[Alternative, float]:
    """As the detector has them, with ``OTHERS`` other adapters."""
    return weights_of(dict(traffic_likelihood.Config().weights), _others())


@cache
def _others() -> list[Alternative]:
    """All that a benchmark's adapter may be mistaken for among them."""
    return [*map(other_adapter, ADAPTERS), *(other_adapter(f"number {i}") for i in range(OTHERS - len(ADAPTERS)))]


def _growth(observed: Observed, bet: Bet, chance: float, weight: float) -> Growth:
    parts = observed.by_response(observed.growth[bet])
    sums, lengths = np.array([part.sum() for part in parts]), observed.lengths
    mean = float(sums.sum() / lengths.sum())
    spread = float(np.sqrt(((sums - mean * lengths) ** 2).sum())) / float(lengths.sum())
    grown = max(chance * mean, 1e-12)
    return Growth(bet, grown, chance * spread, LOG_A / grown, (LOG_A - math.log(weight)) / grown)


def _figures(
    what: str,
    observed: Observed,
    weights: Mapping[Bet, float],
    chances: Mapping[Bet, float],
    times: float | None,
    writer: Bet | None = None,
) -> Iterator[Figure]:
    best = fastest(observed, weights, chances)
    if times is not None:
        kl = observed.kl[writer or observed.cell.written_by or ""]
        yield at_most(f"{what}: ln A / growth over ln A / KL", kl / best.nats, "x", times)
        yield context(f"{what}: ln A / KL", LOG_A / kl, "tokens")
    yield context(f"{what}: ln A / growth", best.tokens, "tokens")
    yield context(f"{what}: standard error of the growth", 100 * best.error / best.nats, "%")
    yield context(f"{what}: ln (A / weight) / growth", best.with_weight, "tokens")
