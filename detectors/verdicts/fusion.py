"""Canaries, responses and embeddings of one adapter: one verdict, and what each of them adds to it. Pure.

Canaries say what the artefacts do, responses what was served, embeddings where prompts and outputs come from. Prompts
that moved are information; so is a gap that shrinks on prompts outside the adapter's domain while its canaries are
well: neither of them pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from detectors.on_call_text import (
    BOTH,
    CANARIES_HEALTHY,
    EMBEDDINGS_ALONE,
    ENGINE_CANARIES_HEALTHY,
    ENGINE_RESPONSES_HEALTHY,
    NONE_SINCE_RESTART,
    OUTPUTS_MOVED,
    PROMPTS_MOVED,
    PROMPTS_NOT,
    PROMPTS_TOO,
    RESPONSES_HEALTHY,
)
from detectors.records import Reason, ShareOf, Status, Verdict
from detectors.verdicts.incident import Incident


def by_canaries(canary: Verdict, traffic: Verdict | None, responses: Incident, drift: Mapping[str, float]) -> Verdict:
    """The verdict of a canary round, with what else is known.

    traffic: the latest one by responses, None before the first; responses: their incident, which a restart keeps, open
    or not
    drift: side ("prompt", "output") -> nats of its drift evidence
    """
    if responses.open and canary.status is not Status.DEGRADED:
        return _held_open(canary, responses) if traffic is None else _still_served_alone(traffic, canary)
    if canary.status is Status.DEGRADED and traffic is not None:
        healthy = ENGINE_RESPONSES_HEALTHY if canary.is_of_engine else RESPONSES_HEALTHY
        quiet = healthy if traffic.status is Status.HEALTHY else ""
        by_pod = replace(canary, bad_pods=traffic.bad_pods, pods=traffic.pods)
        return _with(by_pod, BOTH if responses.open else quiet)
    return _with_drift(canary, drift)


def by_traffic(
    traffic: Verdict, canary: Verdict | None, canary_open: bool, drift: Mapping[str, float]
) -> Verdict | None:
    """The verdict of a round of responses; None where the canaries' own, given in their rounds, says all there is.

    canary: the latest one by canaries, None where there are none and before the first one since a restart
    canary_open: their incident, which a restart keeps: good responses do not end it, so they must not sound as if
    """
    if canary_open:
        return None
    if canary is None:
        return _without_score(traffic, drift) if traffic.reason is Reason.NOT_SCORED else _with_drift(traffic, drift)
    news = traffic.status in (Status.DEGRADED, Status.SUSPECT) or traffic.reason is Reason.RESOLVED
    if not news or canary.covered_by:
        return None
    if traffic.status is Status.SUSPECT and canary.status is Status.UNMONITORABLE:
        return None
    if traffic.reason is Reason.RESOLVED and canary.status is not Status.HEALTHY:
        return None
    return _served_alone(traffic, canary)


def _held_open(canary: Verdict, responses: Incident) -> Verdict:
    """No response was scored since a restart: their open incident stays what it was. It is about responses, of which
    none can be counted yet: the share of the round's draws is the canaries', who are well."""
    degraded = replace(
        canary,
        status=Status.DEGRADED,
        share_beyond=float("nan"),
        share_of=ShareOf.RESPONSES,
        reason=Reason.STILL_DEGRADED,
        cause=responses.cause,
        explanation=responses.explanation,
        action=responses.action,
    )
    return _with(degraded, NONE_SINCE_RESTART)


def _served_alone(traffic: Verdict, canary: Verdict) -> Verdict:
    """What the responses say, in their round, with the canaries' figures beside it."""
    quiet = canary.status is Status.HEALTHY and traffic.status is Status.DEGRADED
    both = replace(
        traffic,
        retention_over_rounds=canary.retention_over_rounds,
        scale=canary.scale,
        distortion=canary.distortion,
        base_shift=canary.base_shift,
        gap_ratio=canary.gap_ratio,
        identity=canary.identity,
        covered_by=traffic.covered_by or canary.covered_by,
        tolerated_change=canary.tolerated_change,
        evidence=(*traffic.evidence, *canary.evidence),
        answered_by=canary.answered_by,
    )
    healthy = ENGINE_CANARIES_HEALTHY if canary.is_of_engine else CANARIES_HEALTHY
    return _with(both, healthy if quiet else "")


def _still_served_alone(traffic: Verdict, canary: Verdict) -> Verdict:
    """The same in a round of canaries; an alarm of responses was given in their own round."""
    reason = Reason.STILL_DEGRADED if traffic.reason is Reason.ALARM else traffic.reason
    return replace(_served_alone(traffic, canary), round=canary.round, at=canary.at, reason=reason)


def _with_drift(verdict: Verdict, drift: Mapping[str, float]) -> Verdict:
    """A healthy verdict whose prompts have moved says so: information for whoever owns the adapter."""
    moved = drift.get("prompt", 0.0) >= verdict.log_threshold
    if verdict.status is not Status.HEALTHY or not moved:
        return verdict
    noted = _with(verdict, PROMPTS_MOVED.format(nats=drift["prompt"]))
    return replace(noted, reason=Reason.INPUT_DRIFT) if verdict.reason is Reason.WITHIN_TOLERANCE else noted


def _without_score(traffic: Verdict, drift: Mapping[str, float]) -> Verdict:
    """Embeddings are all there is: outputs that moved while prompts did not are worth a look, and never a page."""
    outputs, prompts = (drift.get(side, 0.0) for side in ("output", "prompt"))
    if outputs < traffic.log_threshold:
        return _with(traffic, EMBEDDINGS_ALONE.format(outputs=outputs, prompts=prompts))
    beside = PROMPTS_TOO if prompts >= traffic.log_threshold else PROMPTS_NOT
    moved = _with(traffic, OUTPUTS_MOVED.format(outputs=outputs, prompts=beside))
    return replace(moved, status=Status.SUSPECT, reason=Reason.OUTPUT_DRIFT)


def _with(verdict: Verdict, sentence: str) -> Verdict:
    if not sentence:
        return verdict
    return replace(verdict, explanation="; ".join(filter(None, (verdict.explanation, sentence))))
