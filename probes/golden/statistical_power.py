"""Statistical power: can this adapter be monitored on these canaries, and how many draws detect a loss of strength?

Pure. Computed once, at enrolment, from what was recorded there; an adapter without power is never reported healthy. The
golden record stores the result under the fields' names (codec.py): a renamed field makes stored records unreadable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.canaries.retention import energy, measure
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.evidence.e_detector import grid
from detectors.records import Comparison, Reference, Summary

# Effect sizes: the share of its strength that the adapter has left.
STRENGTHS = (0.5, 0.9, 0.95)


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """When a page opens, and what a round takes.

    log_threshold: ln A, nats; draws_per_round: canary draws that the token budget holds
    scored, processed: mean scored positions of a round, and tokens that go through the model for them; 0: not known
    """

    log_threshold: float
    draws_per_round: int
    scored: float = 0.0
    processed: float = 0.0


@dataclass(frozen=True, slots=True)
class StrengthLoss:
    """One effect size and what detects it.

    strength: what is left, in (0, 1); share: of the pool beyond tolerance at that strength, in [0, 1]
    draws: canary draws until the alarm, None where it never comes
    """

    strength: float
    share: float
    draws: int | None


@dataclass(frozen=True, slots=True)
class StatisticalPower:
    """monitorable: may a round be judged at all? noise: median benign |s - 1| over the pool; words: as a sentence."""

    monitorable: bool
    noise: float
    losses: tuple[StrengthLoss, ...]
    words: str


def strong_enough(reference: Reference, floor: float) -> bool:
    """Has this canary an effect to measure against?

    floor: least |delta|^2 per scored position, in nats squared. Below it the denominator of retention is mostly noise.
    """
    return energy(reference) >= floor * reference.kept.shape[0]


def statistical_power(
    adapter: str, pool: Sequence[Reference], tolerances: Tolerances, alarm: AlarmSettings
) -> StatisticalPower:
    """How many draws the e-detector needs for a loss of 50 %, 10 % and 5 % of the adapter's strength.

    pool: the selected half, with its noise floors
    The served side of each loss is the recorded curve at that strength, which has the same canaries and tokens. Of
    records with the two ends alone that is the straight line between them, and the words say so.
    """
    losses = tuple(loss_of(adapter, pool, strength, tolerances, alarm) for strength in STRENGTHS)
    noise = float(np.median([reference.noise.scale for reference in pool]))
    allowed = tolerances.allowed_deviation(adapter)
    # Noise as wide as the tolerance hides exactly the losses that the tolerance promises to detect.
    monitorable = noise < allowed and losses[0].draws is not None
    sentences = (
        [
            _promise(allowed, tolerances.share),
            *(_needed(loss, alarm) for loss in losses),
            *_unit(pool),
            *_cost(alarm),
        ]
        if monitorable
        else [_unmonitorable(allowed)]
    )
    return StatisticalPower(monitorable, noise, losses, "; ".join([f"noise floor {noise:.2g}", *sentences]))


def draws_to_alarm(share_beyond: float, m0: float, log_threshold: float) -> int | None:
    """Draws until the mean over the bets passes the threshold, when that share of draws is beyond tolerance.

    Each bet is taken to grow by its mean growth (Wald's approximation; exact when all draws are beyond). None: never.
    """
    bets = grid(m0)
    growth = share_beyond * np.log1p(bets * (1 - m0)) + (1 - share_beyond) * np.log1p(-bets * m0)
    if share_beyond <= m0 or growth.max() <= 0:
        return None
    draws = math.floor(log_threshold / growth.max())
    while np.logaddexp.reduce(draws * growth) - math.log(len(bets)) < log_threshold:
        draws += 1
    return draws


def loss_of(
    adapter: str, pool: Sequence[Reference], strength: float, tolerances: Tolerances, alarm: AlarmSettings
) -> StrengthLoss:
    """What detects that this share of the strength is left. strength: in (0, 1); otherwise as ``statistical_power``."""
    weaker = [measure(_weakened(adapter, reference, strength)) for reference in pool]
    share = float(np.mean([beyond_tolerance(measurement, tolerances) for measurement in weaker]))
    return StrengthLoss(strength, share, draws_to_alarm(share, tolerances.share, alarm.log_threshold))


def _weakened(adapter: str, reference: Reference, strength: float) -> Comparison:
    """The recorded curve at that strength, linearly interpolated in log-probabilities, as for the effective scale."""
    above = int(np.searchsorted(reference.scales, strength))
    low, high = reference.scales[above - 1 : above + 1]
    share = np.float32((strength - low) / (high - low))
    kept = reference.kept >= 0
    served = np.full(kept.shape, -np.inf, np.float32)
    served[kept] = (1 - share) * reference.curve[above - 1][kept] + share * reference.curve[above][kept]
    golden = reference.golden_adapter
    return Comparison(adapter, reference, 1, Summary(served, golden.rest, golden.top1), reference.golden_base, 0.0)


def _promise(allowed: float, share: float) -> str:
    return f"pages when more than {share:.1%} of canaries are more than {allowed:.1%} weaker or stronger"


def _unmonitorable(allowed: float) -> str:
    return (
        f"unmonitorable on these canaries: a tolerance of {allowed:.1%} does not exceed the noise. "
        "Use canaries on which the adapter answers differently from its base, or a wider tolerance."
    )


def _unit(pool: Sequence[Reference]) -> list[str]:
    """Of what these losses are, where no strength between none and all of the adapter was recorded."""
    if any(len(reference.scales) > 2 for reference in pool):
        return []
    return [
        "each loss is of the straight way from base to adapter, whose ends alone were recorded: at half of its LoRA "
        "scale an adapter may have lost 30% of that way"
    ]


def _cost(alarm: AlarmSettings) -> list[str]:
    """What a round takes, in words; nothing where it is not known."""
    if not alarm.processed:
        return []
    return [f"a round scores about {alarm.scored:.0f} positions and processes {alarm.processed:.0f} tokens for them"]


def _needed(loss: StrengthLoss, alarm: AlarmSettings) -> str:
    lost = f"a {1 - loss.strength:.0%} loss"
    if loss.draws is None:
        return f"{lost} stays within the tolerance"
    rounds = math.ceil(loss.draws / alarm.draws_per_round)
    return f"{lost} needs {rounds} {'round' if rounds == 1 else 'rounds'} of {alarm.draws_per_round} draws"
