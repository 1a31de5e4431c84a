"""ln likelihood of a response along axes: the share of the adapter, the temperature, top-p; and ranks of its tokens.

The reference, in numpy; likelihood_ratio_torch.py computes the same on a device, and tests hold the two equal. These
are inputs of estimates and no bets: sums may be over the likely tokens and one bucket for all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probes.scoring.token_distribution import Doubles, SamplingParameters, normalised, token_distribution

# Most probable tokens of base and of adapter that are kept apart on the interpolation path; all others are one bucket.
NEAR = 256
# Least mass of that bucket, which is computed as a difference and has no correct digits below.
LEAST = 1e-6
# Probability that the estimates give a token outside a nucleus.
OUTSIDE = 0.01
# Temperature that greedy decoding counts as where a token is not the most probable one.
COLDEST = 0.1


def interpolate(adapter: Doubles, base: Doubles, share: float) -> Doubles:
    """(T, V) logits on the interpolation path, ``share`` of the way from base (0) to adapter (1)."""
    return share * adapter + (1.0 - share) * base


def path_log_likelihood(
    adapter: Doubles, base: Doubles, tokens: NDArray[np.int64], sampling: SamplingParameters, grid: Sequence[float]
) -> Doubles:
    """(G, T) ln likelihood of each token on the interpolation path from base to adapter. grid: (G,) shares

    The vocabulary is the tokens that either side ranks highest, the one written, and one bucket for all others. Where
    the sampler truncates, a token outside the nucleus has probability ``OUTSIDE``. Concave in the share without
    truncation.
    """
    cold = [normalised(side / sampling.temperature) for side in (adapter, base)]
    at_once = replace(sampling, temperature=1.0)
    rows = np.zeros((len(grid), len(tokens)))
    for t, token in enumerate(tokens):
        near = np.union1d(np.union1d(_top(adapter[t]), _top(base[t])), [token])
        place = np.searchsorted(near, [token])
        few_a, few_b = (_with_rest(side[t], near) for side in cold)
        points = [normalised(interpolate(few_a, few_b, share)) for share in grid]
        rows[:, t] = [_tolerant(token_distribution(row, at_once)[0, place], row[0, place])[0] for row in points]
    return rows


def temperature_log_likelihood(
    adapter: Doubles, tokens: NDArray[np.int64], sampling: SamplingParameters, temperatures: Sequence[float]
) -> Doubles:
    """(G, T) ln likelihood of each token at other temperatures, given that it is of the golden nucleus of the request's
    sampler; 0 where it is not. Within one nucleus it is smooth, and concave in 1 / temperature; the other temperatures'
    own nuclei would make it jump. Greedy decoding has no nucleus: there it is the whole vocabulary."""
    inside = sampling.greedy | np.isfinite(token_distribution(adapter, sampling))
    within = np.where(inside, adapter, -np.inf)
    written = at_tokens(within, tokens)
    rows = [at_tokens(normalised(within / t), tokens) for t in temperatures]
    return np.where(np.isfinite(written), np.stack(rows), 0.0)


def sampler_log_likelihood(
    adapter: Doubles, tokens: NDArray[np.int64], samplings: Sequence[SamplingParameters]
) -> Doubles:
    """(G, T) ln likelihood of each token under the golden adapter by other samplers; a token that one of them cuts off
    has probability ``OUTSIDE``."""
    return np.stack(
        [
            _tolerant(at_tokens(token_distribution(adapter, s), tokens), at_tokens(_warm(adapter, s), tokens))
            for s in samplings
        ]
    )


def ranks(golden: Doubles, tokens: NDArray[np.int64], uniform: Doubles) -> Doubles:
    """(T,) randomised rank of each token in its distribution, 0 for the most probable one.

    golden: (T, V) log-probabilities; uniform: (T,) in [0, 1), independent of the tokens. Uniform on [0, 1] where the
    tokens were drawn from ``golden``. A token of probability 0 has rank 1.
    Source: Zhu et al., "Auditing black-box LLM APIs with a rank-based uniformity test", arXiv 2506.06975.
    """
    written = at_tokens(golden, tokens)[:, None]
    ids = np.arange(golden.shape[1])[None, :]
    ahead = (golden > written) | ((golden == written) & (ids < np.asarray(tokens)[:, None]))
    above = np.where(ahead, np.exp(golden), 0.0).sum(axis=1)
    rank = np.minimum(above + uniform * np.exp(written[:, 0]), 1.0)
    result: Doubles = np.where(np.isfinite(written[:, 0]), rank, 1.0)
    return result


def rank_bins(golden: Doubles, drawn_by: Doubles, bins: int) -> Doubles:
    """(T, bins) chance that the rank of a token (``ranks``) is in each of so many equal parts of [0, 1], where it is
    drawn by ``drawn_by`` and ranked in ``golden``; both (T, V) log-probabilities. Exact sums over the vocabulary."""
    order = np.argsort(-golden, axis=1, kind="stable")
    ahead, mass = (np.exp(np.take_along_axis(side, order, axis=1)).cumsum(axis=1) for side in (golden, drawn_by))
    points = np.arange(1, bins) / bins
    result = np.zeros((len(golden), bins))
    for t, (up_to, drawn) in enumerate(zip(ahead, mass, strict=True)):
        some = int(np.isfinite(golden[t]).sum())
        below = np.interp(points, np.append(0.0, up_to[:some]), np.append(0.0, drawn[:some]))
        result[t] = np.diff(below, prepend=0.0, append=1.0)
    return result


def at_tokens(log_probs: Doubles, tokens: NDArray[np.int64]) -> Doubles:
    """(T,) of a (T, V) table the entries of these tokens."""
    return log_probs[np.arange(len(tokens)), tokens]


def _tolerant(cut: Doubles, whole: Doubles) -> Doubles:
    """ln likelihood under a truncated distribution mixed with ``OUTSIDE`` of the whole one."""
    result: Doubles = np.logaddexp(math.log1p(-OUTSIDE) + cut, math.log(OUTSIDE) + whole)
    return result


def _warm(logits: Doubles, sampling: SamplingParameters) -> Doubles:
    return normalised(logits / max(sampling.temperature, COLDEST))


def _with_rest(log_probs: Doubles, near: NDArray[np.int64]) -> Doubles:
    """(1, K + 1): the chosen tokens, then the remaining probability."""
    rest = max(1.0 - float(np.exp(log_probs[near]).sum()), LEAST)
    return np.append(log_probs[near], math.log(rest))[None, :]


def _top(values: Doubles) -> NDArray[np.int64]:
    k = min(NEAR, len(values))
    return np.argpartition(-values, k - 1)[:k]
