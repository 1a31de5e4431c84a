"""Along which axes does a response's likelihood move? Shares of the adapter, temperatures, nuclei, and its ranks.

Inputs of estimates, not bets: sums here may be over the likely tokens and one bucket for all others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from probes.scoring.token_distribution import Doubles, SamplingParameters, law, normalised

# Tokens of base and of adapter that are told apart on the path; all others are one bucket.
NEAR = 256
# Least mass of that bucket: the difference that it is computed by has no digits below.
LEAST = 1e-6
# How often a token outside a nucleus is put up with.
OUTSIDE = 0.01
# What greedy decoding counts as where a token is not the most probable one.
COLDEST = 0.1


def on_path(adapter: Doubles, base: Doubles, share: float) -> Doubles:
    """(T, V) logits ``share`` of the way from base (0) to adapter (1)."""
    return share * adapter + (1.0 - share) * base


def path_log_likelihood(
    adapter: Doubles, base: Doubles, tokens: NDArray[np.int64], sampling: SamplingParameters, grid: Sequence[float]
) -> Doubles:
    """(G, T) ln likelihood of each token at shares of the way from base to adapter; an estimate's input and no bet.

    Among the tokens that either ranks highest and the one written, everything else in one bucket; where the sampler
    truncates, a token outside the nucleus counts one in a hundred. Concave in the share without truncation.
    """
    cold = [normalised(side / sampling.temperature) for side in (adapter, base)]
    at_once = replace(sampling, temperature=1.0)
    rows = np.zeros((len(grid), len(tokens)))
    for t, token in enumerate(tokens):
        near = np.union1d(np.union1d(_top(adapter[t]), _top(base[t])), [token])
        place = np.searchsorted(near, [token])
        few_a, few_b = (_with_rest(side[t], near) for side in cold)
        laws = [normalised(on_path(few_a, few_b, share)) for share in grid]
        rows[:, t] = [_forgiving(law(one, at_once)[0, place], one[0, place])[0] for one in laws]
    return rows


def temperature_log_likelihood(
    adapter: Doubles, tokens: NDArray[np.int64], sampling: SamplingParameters, temperatures: Sequence[float]
) -> Doubles:
    """(G, T) ln likelihood of each token at other temperatures, given that it is of the golden nucleus of the request's
    sampler; 0 where it is not. Within one set it is smooth, and concave in 1 / temperature; the nuclei of the other
    temperatures would make it jump. Greedy decoding has no nucleus to stay in: there it is the whole vocabulary."""
    within = adapter if sampling.greedy else np.where(np.isfinite(law(adapter, sampling)), adapter, -np.inf)
    mine = at(within, tokens)
    rows = [at(normalised(within / t), tokens) for t in temperatures]
    return np.where(np.isfinite(mine), np.stack(rows), 0.0)


def sampler_log_likelihood(
    adapter: Doubles, tokens: NDArray[np.int64], samplings: Sequence[SamplingParameters]
) -> Doubles:
    """(G, T) ln likelihood of each token under the golden adapter by other samplers; a token that one of them cuts off
    counts one in a hundred."""
    return np.stack([_forgiving(at(law(adapter, s), tokens), at(_warm(adapter, s), tokens)) for s in samplings])


def ranks(golden: Doubles, tokens: NDArray[np.int64], uniform: Doubles) -> Doubles:
    """(T,) randomised rank of each token in its law: 0 for the most probable, uniform on [0, 1] where the law is right.

    uniform: (T,) in [0, 1), independent of the tokens. A token that the law rules out has rank 1.
    Source: Zhu et al., "Auditing black-box LLM APIs with a rank-based uniformity test", arXiv 2506.06975.
    """
    mine = at(golden, tokens)[:, None]
    ids = np.arange(golden.shape[1])[None, :]
    ahead = (golden > mine) | ((golden == mine) & (ids < np.asarray(tokens)[:, None]))
    above = np.where(ahead, np.exp(golden), 0.0).sum(axis=1)
    found: Doubles = np.where(np.isfinite(mine[:, 0]), np.minimum(above + uniform * np.exp(mine[:, 0]), 1.0), 1.0)
    return found


def at(log_law: Doubles, tokens: NDArray[np.int64]) -> Doubles:
    return log_law[np.arange(len(tokens)), tokens]


def _forgiving(cut: Doubles, whole: Doubles) -> Doubles:
    """ln likelihood under a truncated law that is broken once in a hundred tokens."""
    result: Doubles = np.logaddexp(math.log1p(-OUTSIDE) + cut, math.log(OUTSIDE) + whole)
    return result


def _warm(logits: Doubles, sampling: SamplingParameters) -> Doubles:
    return normalised(logits / max(sampling.temperature, COLDEST))


def _with_rest(log_probs: Doubles, near: NDArray[np.int64]) -> Doubles:
    """(1, K + 1): the chosen tokens, then what is left of the probability."""
    rest = max(1.0 - float(np.exp(log_probs[near]).sum()), LEAST)
    return np.append(log_probs[near], math.log(rest))[None, :]


def _top(values: Doubles) -> NDArray[np.int64]:
    k = min(NEAR, len(values))
    return np.argpartition(-values, k - 1)[:k]
