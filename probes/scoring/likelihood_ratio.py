"""Who wrote this response? Likelihood ratios between golden laws, as e-values that input drift cannot raise.

Plain numpy formulas on (T, V) logits; probes/scoring/likelihood_ratio_torch.py does the same on a device a few
positions at a time, and a test holds them equal.

Null of every ratio here: the token was drawn, by the request's sampler, from the golden adapter, or from it at an edge
of its tolerance (``Edges``); then E[L] <= 1 given everything before the token, whatever the prompt. Guarantee: it is an
exact sum over the vocabulary, not an estimate. What breaks it: numerics of the serving engine that are correlated with
the adapter's direction (``numeric`` is their allowance), laws between the edges of alternatives that lie off the path,
and a sampler that is not the one that the record names (token_calibration.py finds that).

Source: docs/mathematics.md#traffic-likelihood-ratio, docs/mathematics.md#truncated-sampling. There is slack for both
edges of the tolerance, because over-strength within it is benign too; alternatives are cut by their own nucleus, which
is what they would really write; the largest share outside the golden nucleus is what an edge puts there where that is
more than ``OUTSIDE``; a token outside that the alternative cuts off too speaks for neither.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.alternative import BASE, Alternative, interpolation
from probes.scoring.likelihood_axes import (
    OUTSIDE,
    at,
    on_path,
    path_log_likelihood,
    ranks,
    sampler_log_likelihood,
    temperature_log_likelihood,
)
from probes.scoring.token_distribution import Doubles, SamplingParameters, law, normalised, penalised

# Part of the ratio that is held back where a token can be impossible: no alternative is wiped out by one token.
HELD_BACK = 0.05
# Nats per token that cover the rounding of float32 sums over a vocabulary: up to 1.1e-5 was seen.
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Settings:
    """What each token is asked.

    tolerance: share of the adapter's effect whose loss or surplus is benign; numeric: nats per token for numerics
    path: shares of the adapter that are alternatives of their own; grid: shares at which the likelihood is recorded
    temperatures, top_ps: at which it is recorded too, for the estimates of the sampler that is in force
    """

    tolerance: float = 0.05
    numeric: float = 0.0
    path: tuple[float, ...] = (0.25, 0.5, 0.75)
    grid: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(16))
    temperatures: tuple[float, ...] = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.35, 1.6, 2.0)
    top_ps: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)

    @property
    def edges(self) -> tuple[float, float]:
        """Shares of the adapter at which what is served still counts as healthy."""
        return 1.0 - self.tolerance, 1.0 + self.tolerance

    def widened(self, asked: SamplingParameters) -> list[SamplingParameters]:
        """The request's sampler with each of ``top_ps``."""
        return [replace(asked, top_p=p) for p in self.top_ps]


def samplers(asked: SamplingParameters) -> dict[str, SamplingParameters]:
    """Name -> a sampler that might be in force instead of the request's: one of its numbers replaced by another.

    1 and 0 are what an engine takes that forgets the temperature, or takes it for a switch.
    """
    t = asked.temperature
    heat = (
        {"temperature 1": 1.0, "temperature 0.3": 0.3}
        if asked.greedy
        else {"temperature 1": 1.0, "temperature 0": 0.0, "temperature x0.8": 0.8 * t, "temperature x1.2": 1.2 * t}
    )
    found = {name: replace(asked, temperature=other) for name, other in heat.items() if other != t}
    if not asked.greedy:  # a nucleus is nothing to a greedy sampler
        found |= {f"top_p {p:g}": replace(asked, top_p=p) for p in (0.9, 1.0) if p != asked.top_p}
    if asked.penalised:
        found["no penalties"] = replace(asked, presence=0.0, frequency=0.0, repetition=1.0)
    return found


# Every name that ``samplers`` can give.
SAMPLERS = tuple(samplers(SamplingParameters(0.0))) + tuple(
    name for name in samplers(SamplingParameters(0.7, top_p=0.8, presence=1.0)) if name != "temperature 1"
)


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """tokens: (T,) the output; prompt: what stands before it; seed: of the ranks (``seed_of``)"""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    sampling: SamplingParameters
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """N positions in numbers, nats.

    log_l: alternative -> (N,) ln of the e-value; log_sampler: sampler -> (N,) likewise
    path_log_lik: (G, N) ln likelihood along ``Settings.grid``; temperature_log_lik, top_p_log_lik: along theirs
    ranks: (N,) randomised rank of the token in the golden law
    Greedy responses have nan in path, nuclei and ranks: nothing was drawn.
    """

    log_l: Mapping[Alternative, Doubles]
    log_sampler: Mapping[str, Doubles]
    path_log_lik: Doubles
    temperature_log_lik: Doubles
    top_p_log_lik: Doubles
    ranks: Doubles

    def part(self, where: slice) -> TokenScores:
        """Some of the positions."""
        log_l = {alternative: values[where] for alternative, values in self.log_l.items()}
        log_sampler = {name: values[where] for name, values in self.log_sampler.items()}
        path, hot, wide = (rows[:, where] for rows in (self.path_log_lik, self.temperature_log_lik, self.top_p_log_lik))
        return TokenScores(log_l, log_sampler, path, hot, wide, self.ranks[where])


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The null at T positions. golden: (T, V) log-law of the golden adapter; benign: the same at each edge."""

    golden: Doubles
    benign: tuple[Doubles, ...]
    truncated: bool
    greedy: bool = False

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(T, V) the golden nucleus."""
        return np.isfinite(self.golden)


def score(
    adapter: Doubles, base: Doubles, others: Mapping[Alternative, Doubles], response: Response, settings: Settings
) -> TokenScores:
    """All that is asked of one response.

    adapter, base: (T, V) golden logits at the output's positions; others: (T, V) likewise of alternatives with a
    forward pass of their own
    """
    sampling, tokens = response.sampling, np.asarray(response.tokens, dtype=np.int64)
    plain = normalised(adapter)
    adapter, base, *rest = (_ready(logits, response) for logits in (adapter, base, *others.values()))
    null = edges(adapter, base, sampling, settings)
    laws = {BASE: base} | {interpolation(share): on_path(adapter, base, share) for share in settings.path}
    laws |= dict(zip(others, rest, strict=True))
    log_l = {who: log_e(law(logits, sampling), null, tokens, settings.numeric) for who, logits in laws.items()}
    log_sampler = {
        name: log_e(law(adapter if other.penalised else plain, other), null, tokens, settings.numeric)
        for name, other in samplers(sampling).items()
    }
    hot = temperature_log_likelihood(adapter, tokens, sampling, settings.temperatures)
    if sampling.greedy:
        unknown = [np.full((len(axis), len(tokens)), np.nan) for axis in (settings.grid, settings.top_ps)]
        return TokenScores(log_l, log_sampler, unknown[0], hot, unknown[1], np.full(len(tokens), np.nan))
    path = path_log_likelihood(adapter, base, tokens, sampling, settings.grid)
    wide = sampler_log_likelihood(adapter, tokens, settings.widened(sampling))
    return TokenScores(log_l, log_sampler, path, hot, wide, ranks(null.golden, tokens, uniforms(response)))


def edges(adapter: Doubles, base: Doubles, sampling: SamplingParameters, settings: Settings) -> Edges:
    """The null's laws at these positions."""
    benign = tuple(law(on_path(adapter, base, share), sampling) for share in settings.edges)
    return Edges(law(adapter, sampling), benign, sampling.truncated, sampling.greedy)


def log_e(alternative: Doubles, null: Edges, tokens: NDArray[np.int64], numeric: float = 0.0) -> Doubles:
    """(T,) ln of the e-value of each token for this alternative against the null.

    alternative: (T, V) log-law, -inf where it never writes; tokens: (T,) what was written; numeric: nats taken off

    Where nothing is cut off it is the likelihood ratio less its slack. Where the sampler truncates, the golden nucleus
    S is one side of a Bernoulli channel: a token outside S gives pi / m, one inside (1 - pi) / (1 - m) times the ratio
    within S, of which ``HELD_BACK`` is kept as a constant. Of a greedy sampler the channel is all: which of several
    tokens within a tie comes out is the kernel's choice, every time the same one, and no draw to bet on.
    """
    inside, rows = null.inside, np.arange(len(tokens))
    m, pi, slack, share = channel(alternative, null)
    at_alternative, at_golden = at(alternative, tokens), at(null.golden, tokens)
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = at_alternative - share - at_golden - slack - numeric - ROUNDING
        if null.truncated or not np.isfinite(alternative).all():
            ratio = np.logaddexp(math.log1p(-HELD_BACK) + ratio, math.log(HELD_BACK))
        within = np.log1p(-pi) - np.log1p(-m) + (0.0 if null.greedy else ratio)
    without = np.where(np.isfinite(at_alternative), np.log(pi) - np.log(m) - ROUNDING, math.log(HELD_BACK))
    result: Doubles = np.where(inside[rows, tokens], within, without)
    return result


def channel(alternative: Doubles, null: Edges) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """(m, pi, slack, share), (T,) each.

    m: the largest probability of a token outside the golden nucleus S that the null allows; pi: the alternative's,
    within [m, .99]; slack: ln of the largest mean ratio within S over the edges, >= 0; share: ln of the alternative's
    mass within S, 0 where it has none (every ratio is 0 there anyway)
    """
    inside = null.inside
    within = [np.where(inside, log_law, -np.inf) for log_law in (alternative, *null.benign)]
    shares = [log_sum(part) for part in within]
    outside = [-np.expm1(np.minimum(share, 0.0)) for share in shares]
    m = np.clip(np.max(outside[1:], axis=0), OUTSIDE, 1.0 - OUTSIDE)
    pi = np.clip(outside[0], m, 1.0 - OUTSIDE)
    share = np.where(np.isfinite(shares[0]), shares[0], 0.0)
    golden = np.where(inside, null.golden, 0.0)
    means = [
        log_sum(within[0] - share[:, None] + part - np.where(np.isfinite(mine), mine, 0.0)[:, None] - golden)
        for part, mine in zip(within[1:], shares[1:], strict=True)
    ]
    return m, pi, np.maximum(np.max(means, axis=0), 0.0), share


def log_e_of_all(alternative: Doubles, null: Edges, numeric: float = 0.0) -> Doubles:
    """(T, V) ``log_e`` of every token that might have been written: what its exact mean is computed from."""
    columns = range(alternative.shape[1])
    each = [log_e(alternative, null, np.full(len(alternative), token), numeric) for token in columns]
    return np.stack(each, axis=1)


def uniforms(response: Response) -> Doubles:
    """(T,) numbers that follow from the request alone, so that a replay gives the same ranks."""
    return np.random.default_rng(response.seed).random(len(response.tokens))


def seed_of(request_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest())


def _ready(logits: Doubles, response: Response) -> Doubles:
    wide = logits.astype(np.float64)
    if not response.sampling.penalised:
        return normalised(wide)
    return normalised(penalised(wide, response.prompt, response.tokens, response.sampling))


def log_sum(values: Doubles) -> Doubles:
    """(T,) logsumexp over the vocabulary, -inf for a row of nothing but -inf."""
    highest = values.max(axis=1, keepdims=True)
    shift = np.where(np.isfinite(highest), highest, 0.0)
    with np.errstate(divide="ignore"):
        result: Doubles = np.log(np.exp(values - shift).sum(axis=1)) + shift[:, 0]
    return result
