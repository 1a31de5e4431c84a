"""Who wrote this response? The reference formulas of its likelihood ratios, as e-values that input drift cannot raise.

In numpy, on (T, V) logits, as docs/mathematics.md has them; the in-memory runner scores by them. A runner with a model
scores by likelihood_ratio_torch.py, on a device and a few positions at a time, which tests hold equal to this: change
both.

Null of every ratio here: the token was drawn, by the request's sampler, from the golden adapter, or from it at an edge
of its tolerance (``Null``). Guarantee: then E[L] <= 1 given everything before the token, whatever the prompt, as an
exact sum over the vocabulary and not as an estimate. What breaks it: numerics of the serving engine that are correlated
with the adapter's direction (``numeric`` is their allowance); distributions between the edges that lie off the
interpolation path; and a sampler that is not the one that the record names (token_calibration.py detects that).

Source: docs/mathematics.md#traffic-likelihood-ratio, docs/mathematics.md#truncated-sampling. Both edges of the
tolerance have slack, because over-strength within it is benign too. Alternatives are cut by their own nucleus, which is
what they would write. The largest probability that an edge puts outside the golden nucleus counts where it is more than
``OUTSIDE``. A token outside that nucleus which the alternative cuts off too is worth ``HELD_BACK``, whoever wrote it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind, interpolation
from probes.scoring.likelihood_axes import (
    OUTSIDE,
    at_tokens,
    interpolate,
    path_log_likelihood,
    rank_bins,
    ranks,
    sampler_log_likelihood,
    temperature_log_likelihood,
)
from probes.scoring.token_distribution import (
    FLOAT32,
    TIE,
    Doubles,
    SamplingParameters,
    normalised,
    penalised,
    tie_margin,
    token_distribution,
)
from probes.scoring.token_scores import (
    HALFWAY,
    HELD_BACK,
    ROUNDING,
    Response,
    Settings,
    TokenScores,
    samplers,
    uniforms,
)


@dataclass(frozen=True, slots=True, eq=False)
class Null:
    """The null at T positions, (T, V) log-probabilities under the request's sampler.

    golden: of the golden adapter; benign: of it at each edge of the tolerance
    truncated: does the sampler cut tokens off? greedy: is there nothing drawn within the nucleus?
    """

    golden: Doubles
    benign: tuple[Doubles, ...]
    truncated: bool
    greedy: bool = False

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(T, V) the golden nucleus."""
        return np.isfinite(self.golden)


def score(
    adapter: Doubles,
    base: Doubles,
    others: Mapping[Alternative, Doubles],
    response: Response,
    settings: Settings,
    spacing: float = FLOAT32,
) -> TokenScores:
    """All that is computed of one response.

    adapter, base: (T, V) golden logits at the output's positions; others: (T, V) likewise of alternatives with a
    forward pass of their own; spacing: relative, of the dtype that they were computed in (``tie_margin``)
    """
    sampling, tokens = response.sampling, np.asarray(response.tokens, dtype=np.int64)
    plain, tie = normalised(adapter), tie_margin(adapter, spacing)
    adapter, base, *rest = (_ready(logits, response) for logits in (adapter, base, *others.values()))
    null = null_of(adapter, base, sampling, settings, tie)
    alternatives = {BASE: base} | {interpolation(share): interpolate(adapter, base, share) for share in settings.path}
    alternatives |= dict(zip(others, rest, strict=True))
    log_l = {
        who: log_e(token_distribution(logits, sampling, tie), null, tokens, settings.numeric)
        for who, logits in alternatives.items()
    }
    drawn_by = {
        name: token_distribution(adapter if other.penalised else plain, other, tie)
        for name, other in samplers(sampling).items()
    }
    log_sampler = {name: log_e(own, null, tokens, settings.numeric) for name, own in drawn_by.items()}
    hot = temperature_log_likelihood(adapter, tokens, sampling, settings.temperatures)
    if sampling.greedy:
        sizes = (len(settings.grid), len(settings.top_ps), settings.rank_bins, settings.rank_bins)
        path, wide, *edges = (np.full((size, len(tokens)), np.nan) for size in sizes)
        return TokenScores(log_l, log_sampler, path, hot, wide, np.full(len(tokens), np.nan), *edges)
    path = path_log_likelihood(adapter, base, tokens, sampling, settings.grid)
    wide = sampler_log_likelihood(adapter, tokens, settings.widened(sampling))
    edges = [rank_bins(null.golden, edge, settings.rank_bins).T for edge in null.benign]
    return TokenScores(log_l, log_sampler, path, hot, wide, ranks(null.golden, tokens, uniforms(response)), *edges)


def score_base(
    base: Doubles,
    others: Mapping[Alternative, Doubles],
    response: Response,
    settings: Settings,
    spacing: float = FLOAT32,
    path_from: Alternative | None = None,
) -> TokenScores:
    """All that is computed of a response to a request that names the base itself.

    base: (T, V) golden logits at the output's positions; others: (T, V) likewise of alternatives, adapters among them,
    each of which gives two: itself, and half of the way to it; path_from: one of the adapters, from which (0) the
    likelihood along the path to the base (1) is wanted, None for none; of one that is not among them there is none

    Null: the token was drawn, by the request's sampler, from the golden base, or from it with the tolerated share of
    one of these adapters on top, or off it. Guarantee and what breaks it: as of ``score``.
    Source: docs/mathematics.md#base-traffic.
    """
    sampling, tokens = response.sampling, np.asarray(response.tokens, dtype=np.int64)
    tie = tie_margin(base, spacing)
    base, *rest = (_ready(logits, response) for logits in (base, *others.values()))
    ready = dict(zip(others, rest, strict=True))
    null = null_of_base(base, ready, sampling, settings, tie)
    log_l = {
        who: log_e(token_distribution(logits, sampling, tie), null, tokens, settings.numeric)
        for who, logits in with_halfway(base, ready).items()
    }
    if path_from not in ready or sampling.greedy:
        return TokenScores.of_alternatives(log_l)
    path = path_log_likelihood(base, ready[path_from], tokens, sampling, settings.grid)
    return TokenScores.of_alternatives(log_l, path)


def with_halfway(base: Doubles, others: Mapping[Alternative, Doubles]) -> dict[Alternative, Doubles]:
    """The alternatives of a response of the base: these, each adapter followed by the point half of the way to it."""
    points: dict[Alternative, Doubles] = {}
    for who, logits in others.items():
        points[who] = logits
        if who.kind is AlternativeKind.OTHER_ADAPTER:
            points[interpolation(HALFWAY, who.name)] = interpolate(logits, base, HALFWAY)
    return points


def null_of_base(
    base: Doubles,
    others: Mapping[Alternative, Doubles],
    sampling: SamplingParameters,
    settings: Settings,
    tie: Doubles | float = TIE,
) -> Null:
    """The null of ``score_base`` at these positions. (T, V) golden logits; tie: as of ``token_distribution``"""
    adapters = [logits for who, logits in others.items() if who.kind is AlternativeKind.OTHER_ADAPTER]
    benign = tuple(
        token_distribution(interpolate(adapter, base, share), sampling, tie)
        for adapter in adapters
        for share in settings.leaks
    )
    golden = token_distribution(base, sampling, tie)
    return Null(golden, benign or (golden,), sampling.truncated, sampling.greedy)


def null_of(
    adapter: Doubles, base: Doubles, sampling: SamplingParameters, settings: Settings, tie: Doubles | float = TIE
) -> Null:
    """The null at these positions. adapter, base: (T, V) golden logits; tie: as of ``token_distribution``"""
    benign = tuple(token_distribution(interpolate(adapter, base, share), sampling, tie) for share in settings.edges)
    return Null(token_distribution(adapter, sampling, tie), benign, sampling.truncated, sampling.greedy)


def log_e(alternative: Doubles, null: Null, tokens: NDArray[np.int64], numeric: float = 0.0) -> Doubles:
    """(T,) ln of the e-value of each token for this alternative against the null.

    alternative: (T, V) log-probabilities, -inf for tokens that it never writes; tokens: (T,) what was written
    numeric: nats a token taken off, for differences between kernels

    Where nothing is cut off it is the likelihood ratio less its slack. Where the sampler truncates, the bet has two
    parts: whether the token is in the golden nucleus N (a Bernoulli variable), and which token of N it is. A token
    outside N gives pi / m; one inside gives (1 - pi) / (1 - m) times the ratio within N, of which the share
    ``HELD_BACK`` is replaced by a constant. Of a greedy sampler the first part is all: which of several tied tokens is
    written is the kernel's choice, the same one every time, and no random draw to bet on.
    """
    inside, rows = null.inside, np.arange(len(tokens))
    m, pi, slack, share = nucleus_bet(alternative, null)
    at_alternative, at_golden = at_tokens(alternative, tokens), at_tokens(null.golden, tokens)
    with np.errstate(invalid="ignore", over="ignore"):
        ratio = at_alternative - share - at_golden - slack - numeric - ROUNDING
        if null.truncated or not np.isfinite(alternative).all():
            ratio = np.logaddexp(math.log1p(-HELD_BACK) + ratio, math.log(HELD_BACK))
        within = np.log1p(-pi) - np.log1p(-m) + (0.0 if null.greedy else ratio)
    without = np.where(np.isfinite(at_alternative), np.log(pi) - np.log(m) - ROUNDING, math.log(HELD_BACK))
    result: Doubles = np.where(inside[rows, tokens], within, without)
    return result


def nucleus_bet(alternative: Doubles, null: Null) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """(m, pi, slack, share), (T,) each.

    m: the largest probability of a token outside the golden nucleus N that the null allows; pi: the alternative's,
    within [m, .99]; slack: ln of the largest mean ratio within N over the edges, >= 0; share: ln of the alternative's
    mass within N, 0 where it has none (every ratio is 0 there anyway)
    """
    inside = null.inside
    within = [np.where(inside, log_probs, -np.inf) for log_probs in (alternative, *null.benign)]
    shares = [log_sum(part) for part in within]
    outside = [-np.expm1(np.minimum(share, 0.0)) for share in shares]
    m = np.clip(np.max(outside[1:], axis=0), OUTSIDE, 1.0 - OUTSIDE)
    pi = np.clip(outside[0], m, 1.0 - OUTSIDE)
    share = np.where(np.isfinite(shares[0]), shares[0], 0.0)
    golden = np.where(inside, null.golden, 0.0)
    means = [
        log_sum(within[0] - share[:, None] + part - np.where(np.isfinite(mass), mass, 0.0)[:, None] - golden)
        for part, mass in zip(within[1:], shares[1:], strict=True)
    ]
    return m, pi, np.maximum(np.max(means, axis=0), 0.0), share


def log_e_of_all(alternative: Doubles, null: Null, numeric: float = 0.0) -> Doubles:
    """(T, V) ``log_e`` of every token of the vocabulary, from which the exact mean of L is computed."""
    columns = range(alternative.shape[1])
    each = [log_e(alternative, null, np.full(len(alternative), token), numeric) for token in columns]
    return np.stack(each, axis=1)


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
