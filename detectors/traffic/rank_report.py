"""Are tokens distributed otherwise than the accepted adapter's, and no other sampler explains it? In words,
and as the reason of a suspect verdict.

It never pages: ranks move with the weights, with the sampler and with the engine's numerics alike
(detectors/kinds/rank_histogram.py). The template is in detectors/on_call_text.py.
"""

from __future__ import annotations

from dataclasses import replace

from detectors.on_call_text import CHECK_THE_ENGINE, RANKS_MOVED
from detectors.records import Cause, Reason, Status, Verdict
from detectors.traffic_records import Calibration


def with_ranks(verdict: Verdict, log_e: float, calibration: Calibration | None) -> Verdict:
    """A healthy verdict is suspect where the evidence of the ranks passes the threshold of a page, and another sampler
    is not what explains it.

    log_e: nats, 0 where it no longer grows; calibration: of the sampler in force, None where that is not estimated.
    An incident already says that something is wrong, and a suspect verdict has its own reason. So has the end of an
    incident: who was called is told of it, and the evidence that it ended on is spent by it.
    """
    sampler_explains = calibration is not None and calibration.log_e >= verdict.log_threshold
    has_own_reason = verdict.status is not Status.HEALTHY or verdict.reason is Reason.RESOLVED
    if has_own_reason or log_e < verdict.log_threshold or sampler_explains:
        return verdict
    words = "; ".join(filter(None, (verdict.explanation, RANKS_MOVED.format(nats=log_e))))
    action = verdict.action or CHECK_THE_ENGINE
    return replace(
        verdict, status=Status.SUSPECT, reason=Reason.RANKS_MOVED, cause=Cause.UNKNOWN, explanation=words, action=action
    )
