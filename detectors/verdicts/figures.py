"""What a verdict reports beside its decision: the round's figures, and the facts and failures in words.

Nothing here decides. The interval of retention is read on held-out canaries alone; the pool is no sample of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import numpy as np

from detectors.canaries.mean_interval import mean_interval
from detectors.canaries.position_bands import standing_apart
from detectors.canaries.tolerance import MASS_OUTSIDE
from detectors.diagnosis.root_cause import diagnosed_canaries, on_accepted_ids
from detectors.on_call_text import BAD_NUMBERS, MASS_IS_OUTSIDE, UNMEASURED, UNMEASURED_BASE
from detectors.records import BaseRound, CanarySplit, Interval, Reason, Round, Status, Verdict


def with_figures(blank: Verdict, round: Round) -> Verdict:
    """The verdict with the means of a measured round; retention with the interval of the round, where there is one. How
    far the base has moved is that of the accepted token ids: given others, the same base answers differently."""
    measured, on_accepted = diagnosed_canaries(round), diagnosed_canaries(on_accepted_ids(round))
    held_out = measured[0].comparison.reference.split is CanarySplit.HELD_OUT
    retentions = [m.retention for m in measured]
    return replace(
        blank,
        retention=_mean(retentions, held_out),
        scale=float(np.mean([m.scale for m in measured])),
        distortion=float(np.mean([m.distortion for m in measured])),
        base_shift=float(np.mean([m.base_shift for m in on_accepted])),
        gap_ratio=float(np.mean([m.gap_ratio for m in measured])),
    )


def with_base_figures(blank: Verdict, members: Sequence[Verdict]) -> Verdict:
    """Means over the measured members; the interval is left to them, their canaries are different ones."""
    measured = [v for v in members if v.retention is not None]
    return replace(
        blank,
        scale=float(np.mean([v.scale for v in measured])),
        distortion=float(np.mean([v.distortion for v in measured])),
        base_shift=float(np.mean([v.base_shift for v in measured])),
        gap_ratio=float(np.mean([v.gap_ratio for v in measured])),
    )


def remarks(round: Round, good: bool) -> tuple[str, ...]:
    """What a measured round's verdict says beside its share: a stretch of the answers unlike the rest; probability that
    has gone to tokens outside the kept ones, which retention cannot see; its facts.
    """
    if good:
        return round.facts
    canaries = diagnosed_canaries(round)
    outside = float(np.mean([m.mass_outside for m in canaries]))
    outside_text = MASS_IS_OUTSIDE.format(percent=100 * outside) if outside > MASS_OUTSIDE else ""
    return (*filter(None, (standing_apart(canaries), outside_text)), *round.facts)


def facts_of(round: BaseRound) -> tuple[str, ...]:
    """The members' facts, each once, with the adapters that it is about in parentheses."""
    about: dict[str, list[str]] = {}
    for member in round.members:
        for fact in member.facts:
            about.setdefault(fact, []).append(member.adapter)
    return tuple(f"{fact} ({', '.join(adapters)})" for fact, adapters in about.items())


def why_blocked(round: Round, reason: Reason) -> str:
    detail = round.detail
    if reason is Reason.BAD_NUMBERS and not detail:
        bad = [m.comparison.reference.canary for m in round.measurements if not m.finite]
        detail = BAD_NUMBERS.format(n=len(bad), canary=bad[0])
    return "; ".join([text for text in (detail, *round.facts) if text])


def action_while_blocked(adapter: str, reason: Reason) -> str:
    """What to do first about an adapter that cannot be measured for that reason."""
    return UNMEASURED[reason].format(adapter=adapter, adapter_argument=quote(adapter))


def action_while_base_blocked(base: str, members: Sequence[Verdict]) -> str:
    """That of the first adapter that cannot be measured, which gives the base its reason."""
    actions = (v.action for v in members if v.status is Status.UNMONITORABLE and v.action)
    return next(actions, UNMEASURED_BASE.format(base=base))


def why_base_blocked(members: Sequence[Verdict]) -> tuple[Reason, str]:
    blocked = [v for v in members if v.status is Status.UNMONITORABLE]
    reason = blocked[0].reason if blocked else Reason.NOT_REPLAYED_YET
    return reason, "; ".join(f"{v.subject}: {v.explanation or v.reason.value}" for v in blocked)


def _mean(retentions: Sequence[float], held_out: bool) -> Interval:
    """Drawn canaries are no sample of the prompts: without held-out ones there is a mean, and no interval."""
    if held_out:
        return mean_interval(retentions)
    return Interval(float(np.mean(retentions)), math.nan, math.nan, len(retentions))
