"""Is one canary beyond what the user tolerates?

The score S of a draw is 0 or 1. H0 of everything built on it (docs/mathematics.md#tolerance): in whatever
configuration, given everything before, at most ``share`` of the canary pool is beyond tolerance. Canaries are drawn at
random with replacement, and S is a function of that canary's own measurements alone, so the mean of each S given the
past and the earlier draws of its round is at most ``share``, with no distribution of noise assumed. What breaks it:
draws that depend on the answers, or a score that depends on the others drawn with it. A change here changes what counts
as evidence, and with it the guarantee of every e-detector.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from detectors.errors import Refused
from detectors.records import BaseRound, Bools, CanarySplit, Measurement, Reason, Round

# Where the base has moved single canaries scatter, even if the adapter survives. So much more is allowed for each unit
# of sqrt(B): of |s - 1|, and of sqrt(rho). Source: docs/mathematics.md#tolerance.
STRENGTH_PER_SHIFT, DISTORTION_PER_SHIFT = 1.5, 3.0
# Probability that may go to tokens which were among the most probable ones of neither golden side. Bases in six bits
# reached .009, with 10 % of a later tune .016, and with 30 % of it .056 (python -m benchmarks.zoo.moved_bases).
MASS_OUTSIDE = 0.05
# Base shift that rounding alone makes in float32. A floor of this says that no noise was measured.
ROUNDING_SHIFT = 1e-6
# So many times its floor is a base shift beyond noise that was measured: twice as far in nats.
BEYOND_NOISE = 4.0


@dataclass(frozen=True, slots=True)
class Tolerances:
    """The promise to the user: a canary may be this far off, and this share of canaries may be further.

    scale: |s - 1| and sqrt(rho) allowed beyond the canary's own noise, > 0, on a base that has not moved
    after_release: the most of |s - 1| that is ever allowed, however far the base has moved (unless ``scale`` is more)
    share: of the pool that may be beyond, in (0, 1)
    per_adapter: adapter -> its own ``scale``
    """

    scale: float = 0.05
    after_release: float = 0.25
    share: float = 0.05
    per_adapter: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = {"scale": self.scale, "after_release": self.after_release}
        allowed |= {f"scale of {adapter}": value for adapter, value in self.per_adapter.items()}
        for name, value in allowed.items():
            if not (0 < value < math.inf):
                raise Refused(f"tolerance {name}", value, "a number above 0: at 0 rounding pages; try 0.05")
        if not 0 < self.share < 1:
            raise Refused("tolerance share", self.share, "a share of the canaries between 0 and 1, both left out")

    def allowed_deviation(self, adapter: str, base_shift: float = 0.0) -> float:
        """|s - 1| allowed on one canary, before its noise is added. base_shift: B of that canary; 0: the tolerance"""
        own = self.per_adapter.get(adapter, self.scale)
        return min(own + STRENGTH_PER_SHIFT * math.sqrt(base_shift), max(own, self.after_release))

    def allowed_distortion(self, adapter: str, base_shift: float = 0.0) -> float:
        """sqrt(rho) allowed on one canary, likewise. No cap: quite another base has as much of it as itself moved."""
        return self.per_adapter.get(adapter, self.scale) + DISTORTION_PER_SHIFT * math.sqrt(base_shift)


def blocked_by(round: Round) -> Reason | None:
    """Why this round is no evidence of anything, or None where it can be scored.

    NaN anywhere blocks the round: it is never scored as healthy, and no guess stands in for the number.
    """
    if round.blocked is not None:
        return round.blocked
    if not all(m.finite for m in round.measurements):
        return Reason.BAD_NUMBERS
    drawn = any(m.comparison.draws > 0 for m in round.measurements)
    return None if drawn else Reason.NOT_REPLAYED_YET


def base_moved(round: Round, tolerances: Tolerances) -> bool:
    """Do the log-probabilities of the live base differ from the golden ones by more than benign change does?

    For what is told, a reason or a cause; no score depends on it. Read on the held-out canaries, on the drawn ones
    where there are no others. More than ``share`` of them and never one alone: of 16 a single outlier is already 6 %.
    Where noise was measured, as on a serving engine, more than half of them, each four times above its floor.

    Null hypothesis: the base is the accepted one, and this round is exchangeable with the c configurations of the noise
    battery. Guarantee, where noise was measured: "moved" with chance 2/(c + 1) at most, whatever the noise, and rarely
    in simulation. Without noise the same base answers the same but for rounding. What breaks it: a benign change that
    the battery has not met. Source: docs/mathematics.md#change-within-tolerance.
    """
    held_out = [m for m in round.measurements if m.comparison.reference.split is CanarySplit.HELD_OUT]
    canaries = held_out or list(round.measurements)
    above = sum(_base_above_noise(m) for m in canaries)
    if any(_floor_of_base(m) > ROUNDING_SHIFT for m in canaries):
        return 2 * above > len(canaries)
    return above > max(tolerances.share * len(canaries), 1 if len(canaries) > 1 else 0)


def beyond_tolerance(measurement: Measurement, tolerances: Tolerances) -> bool:
    """Is this canary further off than its own base shift allows, plus its own noise?

    Three criteria: the effective scale, the energy in directions other than the adapter's, and the probability that has
    gone to tokens outside the kept ones, which the first two cannot see. The first two allow the adapter's tolerance
    where the base has not moved, and more the further it has on this very canary: a base with a benign tune merged in
    has some of either. NaN is beyond.

    Source: docs/mathematics.md#tolerance.
    """
    if not measurement.finite:
        return True
    noise, adapter = measurement.comparison.reference.noise, measurement.comparison.adapter
    strength = tolerances.allowed_deviation(adapter, measurement.base_shift) + noise.scale
    distortion = tolerances.allowed_distortion(adapter, measurement.base_shift) + noise.distortion
    # Each is written as "not within": a comparison with NaN is false.
    return not (
        abs(measurement.scale - 1.0) <= strength
        and math.sqrt(measurement.distortion) <= distortion
        and measurement.mass_outside <= MASS_OUTSIDE + noise.mass_outside
    )


def with_accepted_shift(round: Round) -> Round:
    """The round with each canary's base shift as it is from the accepted token ids, all other figures as served now.

    Where the present template renders other ids, the same base answers differently there: a shift from those would
    widen the tolerance by the very change that is to be measured. A canary without a replay of the accepted ids is
    rendered to these as it is, and keeps its own.
    """
    if not round.raw:
        return round
    shifts = {m.comparison.reference.canary: m.base_shift for m in round.raw}
    return replace(
        round,
        measurements=tuple(
            replace(m, base_shift=shifts.get(m.comparison.reference.canary, m.base_shift)) for m in round.measurements
        ),
    )


def draw_scores(round: Round, tolerances: Tolerances) -> Bools:
    """(n,) S of each draw of the round, in the order of its measurements; a canary drawn twice counts twice.

    What is allowed of a canary grows with the base shift from its accepted token ids, never from others that the
    present template renders.
    """
    return by_draw(with_accepted_shift(round), lambda m: beyond_tolerance(m, tolerances))


def by_draw(round: Round, is_far: Callable[[Measurement], bool]) -> Bools:
    """(n,) ``is_far`` for each draw of the round; a canary drawn twice counts twice, a held-out one does not."""
    drawn = [m for m in round.measurements if m.comparison.draws > 0]
    return np.repeat(np.array([is_far(m) for m in drawn], dtype=np.bool_), [m.comparison.draws for m in drawn])


def of_members(record: BaseRound, score: Callable[[Round], Bools]) -> dict[str, Bools]:
    """Adapter -> scores of its draws, for those members of a base that were measured."""
    return {member.adapter: score(member) for member in record.members if blocked_by(member) is None}


def base_scores(round: BaseRound, tolerances: Tolerances) -> Bools:
    """(n,) S of a base, draw by draw: 1 where ``members_needed`` of its measured members score 1 in that draw.

    H0: at most half of the members measured in this round are broken, each of the others keeps the null above, and
    draws of different members are independent given the past. Guarantee: the mean of each score given the past and the
    earlier draws is at most ``tolerances.share``. What breaks it: members whose draws depend on each other, and members
    of whom it depends on their answers whether they are measured.

    n is the shortest member's number of draws, 0 where fewer than two members have measurements. Each member's draws
    are first put in an order of their own, fixed by its name and the round: the j-th draws are counted together, and in
    a common order of canaries outlier would meet outlier.
    """
    rows = [
        in_own_order(member, draw_scores(member, tolerances)) for member in round.members if blocked_by(member) is None
    ]
    if len(rows) < 2:
        return np.zeros(0, dtype=np.bool_)
    n = min(map(len, rows))
    beyond: Bools = np.sum([row[:n] for row in rows], axis=0) >= members_needed(tolerances.share, len(rows))
    return beyond


def in_own_order(member: Round, scores: Bools) -> Bools:
    """Scores of a member's draws in an order of its own, fixed by its name and the round. They come by canary, one that
    was drawn twice twice in a row: cut off as they come, the first of them would not be independent draws."""
    generator = np.random.default_rng([member.number, zlib.crc32(member.adapter.encode())])
    return generator.permutation(scores)


@lru_cache(maxsize=256)
def members_needed(share: float, members: int) -> int:
    """The smallest c with P(b + Bin(members - b, share) >= c) <= share, where b = members // 2 are broken outright.

    In whole numbers, because for two members the chance is ``share`` exactly, and rounding must not decide.
    Source: docs/mathematics.md#base-detector.
    """
    broken = members // 2
    others = members - broken
    beyond, of = share.as_integer_ratio()
    whole = of**others
    exactly, at_least, outliers = (of - beyond) ** others, whole, 0
    while at_least * of > whole * beyond:
        at_least -= exactly
        # The binomial term of one outlier more: the division leaves no remainder.
        exactly = exactly * (others - outliers) * beyond // ((outliers + 1) * (of - beyond))
        outliers += 1
    return broken + outliers


def _base_above_noise(measurement: Measurement) -> bool:
    floor = _floor_of_base(measurement)
    return measurement.base_shift > floor * (BEYOND_NOISE if floor > ROUNDING_SHIFT else 1.0)


def _floor_of_base(measurement: Measurement) -> float:
    return measurement.comparison.reference.noise.base_shift
