"""From logits to the distribution that a token was drawn from: temperature, truncation and penalties of its request.

The reference, in numpy, with the order of steps that vLLM has; likelihood_ratio_torch.py has the same on a device, and
a test holds the two equal. Another order or rule makes every likelihood ratio one of another sampler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Longs = NDArray[np.int64]

# Temperature below which engines decode greedily; vLLM's own limit.
GREEDY_BELOW = 1e-5
# Nats within which two logits are always a tie: kernels of another batch shape would order them otherwise.
TIE = 0.05
# Relative spacing of the numbers of a dtype: 2**-23 for float32, 2**-10 for float16, 2**-7 for bfloat16.
FLOAT32 = 2.0**-23
# Nats that a difference of log-probabilities in float32 may lie beyond that of the logits.
LAST_DIGITS = 1e-3


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """The sampling parameters of a request.

    temperature: >= 0, 0 is greedy; top_p: in (0, 1]; top_k: 0 for all; min_p: in [0, 1), share of the highest
    probability; presence, frequency: taken off the logits of tokens already written; repetition: > 0, 1 is none
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def truncated(self) -> bool:
        """Does this sampler give some tokens probability 0, whatever the model?"""
        return self.greedy or self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0

    @property
    def penalised(self) -> bool:
        return bool(self.presence or self.frequency or self.repetition != 1.0)

    @property
    def sane(self) -> bool:
        numbers = (self.temperature, self.top_p, self.min_p, self.presence, self.frequency, self.repetition)
        return (
            all(map(math.isfinite, numbers))
            and self.temperature >= 0
            and 0 < self.top_p <= 1
            and 0 <= self.min_p < 1
            and self.repetition > 0
        )


def sampling_of(named: Mapping[str, float], default: SamplingParameters | None = None) -> SamplingParameters | None:
    """The sampler of a record's parameters by their usual names; None where the temperature is unknown.

    default: of the deployment, for parameters that the record leaves out; its temperature is nan where the deployment
    has none. top_k below 1 means all tokens, as in engines.
    Values that no sampler takes (a negative temperature, NaN, half a token as top_k) give None too: the distribution of
    its tokens is unknown.
    """
    top_k = named.get("top_k", 0.0)
    if ("temperature" not in named and default is None) or not math.isfinite(top_k) or top_k != int(top_k):
        return None
    usual = default or SamplingParameters(1.0)
    sampling = SamplingParameters(
        temperature=float(named.get("temperature", usual.temperature)),
        top_p=float(named.get("top_p", usual.top_p)),
        top_k=max(int(named.get("top_k", usual.top_k)), 0),
        min_p=float(named.get("min_p", usual.min_p)),
        presence=float(named.get("presence_penalty", usual.presence)),
        frequency=float(named.get("frequency_penalty", usual.frequency)),
        repetition=float(named.get("repetition_penalty", usual.repetition)),
    )
    return sampling if sampling.sane else None


def tie_margin(logits: Doubles, spacing: float = FLOAT32) -> Doubles:
    """(T,) nats within which two of the largest logits are a tie: one unit in the last place of the largest, ``TIE`` at
    least.

    logits: (T, V) as the model gives them, without penalties; of log-probabilities, whose size says nothing of the
    logits', it is ``TIE`` in float32. spacing: relative, of the dtype in which the engine computes: the
    files', or that of the golden copy where that is coarser
    The unit of x is ``spacing * 2**floor(log2 |x|)``: in bfloat16 .125 from 16 on. What breaks it: an engine in a
    coarser dtype than both, and kernels that differ by more than one unit.
    Source: docs/mathematics.md#truncated-sampling.
    """
    _, exponent = np.frexp(np.abs(logits.max(axis=-1)))
    margin: Doubles = np.maximum(np.ldexp(spacing, exponent - 1) + LAST_DIGITS, TIE)
    return margin


def token_distribution(logits: Doubles, sampling: SamplingParameters, tie: Doubles | float = TIE) -> Doubles:
    """(T, V) log-probabilities that tokens are drawn from, -inf where the sampler cuts them off.

    logits: (T, V) with penalties applied, or log-probabilities; tie: nats, (T,) of ``tie_margin`` or one for all
    Order as in vLLM: temperature, top-k, top-p of the rest, min-p. Greedy is uniform over the tokens within ``tie`` of
    the most probable one: which of them is written is the kernel's choice.
    """
    if sampling.greedy:
        lowest = logits.max(axis=-1, keepdims=True) - np.asarray(tie)[..., None]
        return normalised(np.where(logits >= lowest, 0.0, -np.inf))
    cold = normalised(logits / sampling.temperature)
    return normalised(np.where(nucleus(cold, sampling), cold, -np.inf)) if sampling.truncated else cold


def nucleus(log_probs: Doubles, sampling: SamplingParameters) -> NDArray[np.bool_]:
    """(T, V) is the token left by top-k, top-p and min-p? The most probable one always is."""
    order = np.argsort(-log_probs, axis=-1, kind="stable")
    high = np.take_along_axis(log_probs, order, axis=-1)
    if 0 < sampling.top_k < log_probs.shape[-1]:
        high[:, sampling.top_k :] = -np.inf
    high = normalised(high)
    mass = np.exp(high)
    before = np.cumsum(mass, axis=-1) - mass
    # Sums are rounded: at top_p 1 every token stays, also where the remaining mass is below the last digit.
    kept = np.isfinite(high) & ((before < sampling.top_p) | (sampling.top_p >= 1.0))
    if sampling.min_p > 0:
        kept &= high >= high[:, :1] + math.log(sampling.min_p)
    kept[:, 0] = True
    inside = np.zeros(log_probs.shape, dtype=np.bool_)
    np.put_along_axis(inside, order, kept, axis=-1)
    return inside


def normalised(logits: Doubles) -> Doubles:
    """Log-probabilities; -inf stays -inf."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def penalised(logits: Doubles, prompt: Sequence[int], output: Sequence[int], sampling: SamplingParameters) -> Doubles:
    """(T, V) logits with the request's penalties, as in vLLM: presence and frequency for tokens of the output so far,
    repetition for those of the prompt too (positive logits are divided by it, negative ones multiplied)."""
    if not sampling.penalised:
        return logits
    out = logits.copy()
    if sampling.repetition != 1.0:
        rows, ids = repeated(prompt, output)
        old = out[rows, ids]
        out[rows, ids] = np.where(old > 0, old / sampling.repetition, old * sampling.repetition)
    rows, ids, counts = written(output)
    out[rows, ids] -= sampling.presence + sampling.frequency * counts
    return out


def written(output: Sequence[int]) -> tuple[Longs, Longs, Longs]:
    """(rows, token ids, counts): how often each token stands before each position of the output."""
    counts: dict[int, int] = {}
    rows: list[tuple[int, int, int]] = []
    for row, token in enumerate(output):
        rows += [(row, earlier, count) for earlier, count in counts.items()]
        counts[token] = counts.get(token, 0) + 1
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def repeated(prompt: Sequence[int], output: Sequence[int]) -> tuple[Longs, Longs]:
    """(rows, token ids): the tokens of prompt or output that stand before each position of the output."""
    of_prompt = sorted(set(prompt))
    rows, ids, _ = written(output)
    new = ~np.isin(ids, of_prompt)
    all_rows = np.repeat(np.arange(len(output)), len(of_prompt))
    return np.concatenate([all_rows, rows[new]]), np.concatenate([np.tile(of_prompt, len(output)), ids[new]])
