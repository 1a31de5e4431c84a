"""A base has moved, and its adapters keep their effect: by what, how much is left of them, and what it costs to wait?

Nothing here decides. It is read on the held-out canaries from their accepted token ids, so that a template that changed
is not taken for a base that did. What "may have moved" means: detectors/canaries/tolerance.py::base_moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.mean_interval import mean_interval
from detectors.canaries.tolerance import Tolerances, blocked_by
from detectors.diagnosis.record import MovedBase
from detectors.diagnosis.root_cause import diagnosed_canaries, fault_of_base, on_accepted_ids
from detectors.diagnosis.wording import moved_base_words
from detectors.records import Measurement, Reason, Round, Verdict


def with_moved_base(verdict: Verdict, members: Sequence[Round], tolerances: Tolerances) -> Verdict:
    """A verdict on a base, or on its only adapter, with what has moved there; as it is where its reason is another.

    members: the adapters' rounds
    """
    measured = [on_accepted_ids(member) for member in members if blocked_by(member) is None]
    if verdict.reason is not Reason.BASE_MOVED or not measured:
        return verdict
    words = moved_base_words(moved_base(verdict.base, measured, tolerances))
    explanation = "; ".join(filter(None, (words.explanation, verdict.explanation)))
    return replace(verdict, explanation=explanation, action=words.action)


def moved_base(base: str, measured: Sequence[Round], tolerances: Tolerances) -> MovedBase:
    """What has moved under these adapters, each with measurements.

    The strength is the mean over adapters of the mean over their held-out canaries; its interval is Student's over
    adapters, over canaries where there is one adapter. What explains it is asked of the first.
    """
    canaries = {member.adapter: diagnosed_canaries(member) for member in measured}
    strengths = {adapter: float(np.mean([m.scale for m in rows])) for adapter, rows in canaries.items()}
    every = [m for rows in canaries.values() for m in rows]
    sample = list(strengths.values()) if len(strengths) > 1 else [m.scale for m in every]
    weakest = min(strengths, key=lambda adapter: (strengths[adapter], adapter))
    allowed = [tolerances.allowed_deviation(m.comparison.adapter, m.base_shift) for m in every]
    return MovedBase(
        base=base,
        adapters=tuple(canaries),
        identity=measured[0].identity,
        fault=fault_of_base(canaries[measured[0].adapter]),
        shift=float(np.mean([m.base_shift for m in every])),
        strength=mean_interval(sample),
        weakest=weakest,
        weakest_strength=strengths[weakest],
        kl=float(np.mean([m.kl_golden_served for m in every])),
        changed_answers=float(np.mean([_is_changed(m) for m in every])),
        tolerance=tolerances.allowed_deviation(measured[0].adapter),
        allowed=(min(allowed), max(allowed)),
    )


def _is_changed(m: Measurement) -> bool:
    """Is the greedy answer another one? Up to its first other token it is what was replayed."""
    return m.top1_agreement < 1.0
