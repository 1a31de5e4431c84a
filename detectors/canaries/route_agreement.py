"""Does a way of asking for log-probabilities show what an engine serves? Asked before anything is concluded from it.

An engine that scores a given text may compute it otherwise than the text that it writes: an adapter on the output layer
was served with -.009 nats a token and scored, as a part of the prompt, with -6.63 (vllm-project/vllm#51594). Such a
route is *blind* for that adapter. That says nothing of the adapter, and another route is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from detectors.errors import ShapeMismatch
from detectors.records import Floats

# Chance at most of calling a route blind, or a base another model, where the null hypothesis holds.
LEVEL = 0.01
# The least that a probe has to show: the loss of half the adapter's effect, as for statistical power.
LEAST_LOSS = 0.5


class Sight(StrEnum):
    """What a route shows of an adapter."""

    CLEAR = "clear"
    BLIND = "blind"  # it scores otherwise than the engine writes, or with noise that hides half of the effect
    SERVED_DIFFERS = "served_differs"  # it scores as the offline reference does, and the engine writes otherwise
    NOT_CHECKED = "not_checked"  # too few canaries whose tokens could be compared


@dataclass(frozen=True, slots=True, eq=False)
class TokenAnswers:
    """Natural-log probabilities of the T >= 1 tokens that the engine wrote after one canary's prompt.

    generated: (G, T) as it wrote them, G repeats in benign conditions; scored: (S, T) as the route scores the same
    tokens, S repeats; at least one of the two kinds is repeated
    effect: what the adapter does to such tokens as accepted, root mean square over positions in nats
    offline: (T',) of the first T' <= T of them by a reference that no engine computed, None where there is none
    """

    generated: Floats
    scored: Floats
    effect: float
    offline: Floats | None = None


@dataclass(frozen=True, slots=True)
class RouteAgreement:
    """What was found of one route for one adapter; all but the counts in nats, root mean square over positions.

    canaries: that were compared; beyond: those whose scored and written tokens disagree; needed: at least so many make
    the route blind, None where no number would
    disagreement, noise, effect: medians over the canaries
    scored_offline, generated_offline: median distance of either kind from the offline reference, nan without one
    """

    sight: Sight
    canaries: int
    beyond: int
    needed: int | None
    disagreement: float
    noise: float
    effect: float
    scored_offline: float = math.nan
    generated_offline: float = math.nan


def route_agreement(
    answers: Sequence[TokenAnswers], crossing: float, tolerance: float, share: float = 0.05
) -> RouteAgreement:
    """Does the route score the tokens of these canaries as the engine wrote them?

    crossing: how far the two ways differ where no adapter is applied, largest root mean square over the tokens of any
    base answer, nats: kernels for whole prompts round otherwise than those for single tokens
    tolerance: allowed share of the adapter's effect; share: m0, of the pool that may be beyond it

    A canary disagrees where the distance between the means of both kinds exceeds ``tolerance`` of the effect plus what
    is allowed for noise: the larger one of ``crossing`` and the largest distance between two repeats of one kind, and
    half of the effect at most; and where its own repeats alone are further apart than that half.

    Null hypothesis: at most ``share`` of the pool disagrees at a ``crossing`` of 0. Guarantee: the route is called
    blind with chance ``LEVEL`` at most, whatever the distribution of the noise and whatever ``crossing`` is, which can
    only allow more: each of n canaries drawn at random disagrees with chance m0 at most, and the number that is needed
    is exceeded by Bin(n, m0) with at most that chance. What breaks it: canaries that were chosen and not drawn, and a
    state of the engine that comes after the check: it is made again after every restart. A route that disagrees on all
    canaries is called blind always, where n >= 2.
    Source: docs/mathematics.md#probe-validity. Raises ShapeMismatch.
    """
    for answer in answers:
        _check(answer)
    distances = np.array([_distance(answer) for answer in answers])
    noises, repeats = (np.array([noise(answer, least) for answer in answers]) for least in (crossing, 0.0))
    effects = np.array([answer.effect for answer in answers])
    allowed = np.minimum(noises, LEAST_LOSS * effects) + tolerance * effects
    beyond = int(np.sum((distances > allowed) | (repeats > LEAST_LOSS * effects)))
    needed = fewest_beyond(len(answers), share)
    scored, generated = (_from_offline(answers, kind) for kind in ("scored", "generated"))
    if needed is None:
        sight = Sight.NOT_CHECKED
    elif beyond < needed:
        sight = Sight.CLEAR
    else:
        sight = Sight.SERVED_DIFFERS if scored < LEAST_LOSS * generated else Sight.BLIND
    return RouteAgreement(
        sight=sight,
        canaries=len(answers),
        beyond=beyond,
        needed=needed,
        disagreement=_median(distances),
        noise=_median(noises),
        effect=_median(effects),
        scored_offline=scored,
        generated_offline=generated,
    )


@dataclass(frozen=True, slots=True, eq=False)
class WrittenAndAccepted:
    """One canary's greedy tokens, as far as they are those of its record.

    written: (G, T) natural-log probabilities as the engine wrote them, G >= 1 repeats; T is 0 where the first token is
    another one; accepted: (T,) those of the record; effect: as of TokenAnswers
    floor: distance from the record that is noise, as measured when it was made
    """

    written: Floats
    accepted: Floats
    effect: float
    floor: float = 0.0


def writes_otherwise(answers: Sequence[WrittenAndAccepted], tolerance: float, share: float = 0.05) -> bool:
    """Is what an engine writes not what was accepted? Asked where no route shows it: then the record is the reference.

    tolerance: allowed share of the adapter's effect, as for scores; share: of the pool that may differ

    A canary differs where its mean over the repeats is further from the record than the tolerance, the record's own
    noise, and half of the effect or the largest distance of two repeats where that is less; and where its first token
    is another one.

    Null hypothesis: at most ``share`` of the pool differs. Guarantee: True has chance ``LEVEL`` at most, as of
    ``route_agreement``. It pages nobody: it lets the scored answers be measured against the record, and these have to
    be beyond tolerance by themselves. What breaks it: canaries that were chosen and not drawn; near-ties at the first
    token of more than that share.
    Source: docs/mathematics.md#probe-validity.
    """
    needed = fewest_beyond(len(answers), share)
    return needed is not None and sum(_differs(answer, tolerance) for answer in answers) >= needed


def _differs(answer: WrittenAndAccepted, tolerance: float) -> bool:
    if not answer.written.shape[1]:
        return True
    repeats = [root_mean_square(first, second) for first, second in combinations(answer.written, 2)]
    noise = min(max(repeats, default=0.0), LEAST_LOSS * answer.effect) + answer.floor
    allowed = noise + tolerance * answer.effect
    return root_mean_square(_mean(answer.written), answer.accepted) > allowed


def fewest_beyond(canaries: int, share: float) -> int | None:
    """The smallest k with P(Bin(canaries, share) >= k) <= ``LEVEL``; None where there is none."""
    return next((k for k in range(1, canaries + 1) if bdtrc(k - 1, canaries, share) <= LEVEL), None)


def noise(answer: TokenAnswers, crossing: float = 0.0) -> float:
    """The largest distance between two repeats of one kind, nats; ``crossing`` where that is more."""
    pairs = [pair for kind in (answer.generated, answer.scored) for pair in combinations(kind, 2)]
    return max([crossing, *(root_mean_square(first, second) for first, second in pairs)])


def root_mean_square(first: Floats, second: Floats) -> float:
    """Of the difference, over positions, in nats; inf where one of them is not finite."""
    difference: NDArray[np.float64] = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return float(np.sqrt(np.mean(difference**2))) if np.isfinite(difference).all() else math.inf


def _distance(answer: TokenAnswers) -> float:
    return root_mean_square(_mean(answer.scored), _mean(answer.generated))


def _mean(repeats: Floats) -> Floats:
    mean: Floats = np.asarray(np.mean(repeats, axis=0, dtype=np.float64), np.float32)
    return mean


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _from_offline(answers: Sequence[TokenAnswers], kind: str) -> float:
    """Median distance of one kind of answer from the offline reference; nan where no canary has one."""
    distances = [
        root_mean_square(_mean(getattr(answer, kind))[: len(answer.offline)], answer.offline)
        for answer in answers
        if answer.offline is not None and len(answer.offline)
    ]
    return float(np.median(distances)) if distances else math.nan


def _check(answer: TokenAnswers) -> None:
    generated, scored = answer.generated.shape, answer.scored.shape
    if len(generated) != 2 or generated[1:] != scored[1:] or not generated[1]:
        raise ShapeMismatch("tokens as scored", scored, f"(repeats, T), T >= 1 as they were generated: {generated}")
    if not (generated[0] and scored[0] and generated[0] + scored[0] > 2):
        raise ShapeMismatch("repeats", (generated[0], scored[0]), "one of each kind, and one of them twice")
