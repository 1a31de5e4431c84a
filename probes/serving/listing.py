"""What an engine lists at each position, checked and put into one form: is it the token distribution of the raw model?

An engine can be started so that it lists something else under the same name: log-probabilities after temperature and
truncation, or raw logits (vLLM's --logprobs-mode). These are refused as far as they can be recognised: probabilities
above 1, or more than 1 together, and values that stand for "removed by the sampler". What cannot be recognised is a
temperature that leaves a normalised distribution; scored and generated answers of one engine then differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from probes.errors import BadNumbers, Unreplayable
from probes.serving.engine import Between, Listed

# Listed probabilities may sum to more than 1 by rounding alone. Below: what engines write for minus infinity.
BEYOND_ONE = 1e-3
REMOVED = -9000.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Position:
    """token: given or generated, of_token: its log-probability; listed: of the most probable tokens, by id"""

    token: int
    of_token: float
    listed: Mapping[int, float]


def listed_of(positions: Sequence[Position], wanted: int, where: str) -> Listed:
    """The positions as one record, of each the ``wanted`` most probable tokens.

    where: address, for messages. Raises Unreplayable where

    - fewer tokens are listed than were wanted: one that is missing is read as less probable than the last listed one,
      so a shorter list would look like a changed model
    - a value is no log-probability of the raw model, or listed probabilities are more than 1 + BEYOND_ONE together
    - a token's own log-probability is not the listed one, or is above the last listed one where it is not listed: the
      two are of different positions
    """
    rows = [sorted(position.listed.items(), key=_by_probability)[:wanted] for position in positions]
    for row, position in zip(rows, positions, strict=True):
        _check(row, position, wanted, where)
    ids = np.array([[token for token, _ in row] for row in rows], np.int32).reshape(len(rows), wanted)
    log_probs = np.array([[value for _, value in row] for row in rows], np.float32).reshape(len(rows), wanted)
    tokens = np.array([position.token for position in positions], np.int32)
    return Listed(ids, log_probs, tokens, np.array([position.of_token for position in positions], np.float32))


def joined(parts: Sequence[Listed]) -> Listed:
    """Positions of several answers in a row, all with as many tokens listed."""
    return Listed(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.log_probs for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.of_tokens for part in parts]),
    )


def walked(step: Callable[[int], T], tokens: int, between: Between) -> list[T]:
    """``step`` of each of so many positions, which is a request; between: called before every one but the first"""
    steps = []
    for i in range(tokens):
        if i:
            between()
        steps.append(step(i))
    return steps


def _by_probability(pair: tuple[int, float]) -> tuple[float, int]:
    """Most probable first; equal ones by id, so that an order that the engine draws changes nothing."""
    return -pair[1], pair[0]


def _check(row: Sequence[tuple[int, float]], position: Position, wanted: int, where: str) -> None:
    values = [value for _, value in row]
    if len(row) < wanted:
        raise Unreplayable(where, f"lists {len(row)} tokens at a position, wanted {wanted}")
    if not all(math.isfinite(value) for value in (*values, position.of_token)):
        raise BadNumbers(where, "a log-probability that is not finite, wanted those of the raw model")
    if max(*values, position.of_token, -math.inf) > BEYOND_ONE:
        raise Unreplayable(where, f"a log-probability above 0 ({_RAW}); are these logits (--logprobs-mode)?")
    if min(*values, math.inf) <= REMOVED:
        raise Unreplayable(where, f"tokens that a sampler removed ({_RAW}): is --logprobs-mode a processed one?")
    own = position.listed.get(position.token, min(position.of_token, values[-1] if values else 0.0))
    if abs(own - position.of_token) > BEYOND_ONE:
        raise Unreplayable(where, "a token's own log-probability that is not the listed one: of another position?")
    mass = math.fsum(map(math.exp, values))
    if mass > 1 + BEYOND_ONE:
        raise Unreplayable(where, f"probabilities of {mass:.4g} together at a position, wanted at most 1 ({_RAW})")


_RAW = "wanted log-probabilities of the raw model"
