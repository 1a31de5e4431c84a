"""How small a loss of an adapter's strength would its canaries show? The minimum detectable change beside each verdict.

Pure: of what enrolment recorded, on a finer scale than the sentence of statistical power has.
"""

from __future__ import annotations

import math

from detectors.canaries.tolerance import Tolerances
from detectors.records import Reference
from probes.canaries.schedule import draws_of_round
from probes.golden.record import Golden
from probes.golden.statistical_power import AlarmSettings, StrengthLoss, loss_of

# Losses that are looked at: whole steps of this, up to half of the strength.
STEP, STEPS = 0.005, 100
# A loss that needs more rounds than these is not called detectable: 20 minutes of replays in process, or some hours of
# an engine's.
ROUNDS = 20


def smallest_loss(golden: Golden) -> StrengthLoss | None:
    """The smallest loss that pages within ROUNDS rounds; None where even half of the strength does not, where the
    record has no power, and where it does not say by which threshold and token budget it was made.

    By the threshold at its enrolment: a larger fleet takes a few draws more. ``share`` is of the pool beyond tolerance
    at that loss. Holds for a loss of strength that is alike on all canaries; other faults have other sizes. Between two
    recorded strengths the answers are taken as linear in log-probabilities (docs/mathematics.md#effective-scale).
    """
    threshold, budget = golden.settings.get("log_threshold"), golden.settings.get("token_budget")
    if not golden.power.monitorable or not isinstance(threshold, int | float) or not isinstance(budget, int):
        return None
    alarm = AlarmSettings(float(threshold), draws_of_round(golden, budget))
    pool = [canary.reference for canary in golden.pool]
    return _smallest(golden.adapter, pool, golden.tolerances, alarm)


def _smallest(adapter: str, pool: list[Reference], tolerances: Tolerances, alarm: AlarmSettings) -> StrengthLoss | None:
    """By bisection: a larger loss is beyond tolerance wherever a smaller one is."""
    most_draws = ROUNDS * alarm.draws_per_round
    low, high, smallest = 0, STEPS + 1, None
    while high - low > 1:
        middle = (low + high) // 2
        loss = loss_of(adapter, pool, 1 - STEP * middle, tolerances, alarm)
        if (loss.draws or math.inf) <= most_draws:
            high, smallest = middle, loss
        else:
            low = middle
    return smallest
