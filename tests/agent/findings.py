"""Findings of every kind for the tests of sinks, store and alerts: the product's own records, filled in by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from agent.alerting.notice import to_notice
from agent.records import (
    AdapterClock,
    AdapterWorth,
    Finding,
    Flip,
    GoldenAccepted,
    Heartbeat,
    NoticeReason,
    PassportClocks,
    RejectedRecord,
    RejectionReason,
    RequestCount,
    SavedState,
    TrafficBatch,
    Watching,
)
from detectors.evidence import alternative
from detectors.records import (
    BaseRound,
    CanarySplit,
    Cause,
    Comparison,
    Evidence,
    FilesReplay,
    Identity,
    Interval,
    Measurement,
    NoiseFloor,
    Onset,
    Reason,
    Reference,
    Round,
    Status,
    SubjectKind,
    Summary,
    Verdict,
)
from detectors.traffic_records import Calibration, Embedding, ScoringMode, Side, TrafficRound, TrafficScore
from probes.scoring.interaction import Interaction

# The store forgets by age, also at the insert: rows of a fixed date would one day vanish. FIXED is for golden files.
NOW = float(int(time.time()))
FIXED = 1_790_000_000.0
BASE, ROUTER, TONE = "smollm2", "ticket-router", "polite-rewriter"
ACCEPTED = Identity("sha256:aaaa", "sha256:aaaa", "sha256:cccc", "sha256:cccc")
SWAPPED = replace(ACCEPTED, live_base="sha256:bbbb")
T, K = 3, 4


def summary(seed: int) -> Summary:
    random = np.random.default_rng(seed)
    log_probs = np.log(random.dirichlet(np.ones(K + 1), T)).astype(np.float32)
    return Summary(log_probs[:, :K], log_probs[:, K], random.integers(0, 50, T).astype(np.int32))


def measurement(adapter: str, canary: str, split: CanarySplit, at: float, retention: float) -> Measurement:
    healthy, base = summary(1), summary(2)
    kept = np.arange(T * K, dtype=np.int32).reshape(T, K)
    scales = np.array([0.0, 1.0], dtype=np.float32)
    curve = np.stack([base.log_probs, healthy.log_probs])
    noise = NoiseFloor(0.001, 0.001, 0.001)
    reference = Reference(canary, "sha256:gggg", split, kept, healthy, base, scales, curve, {}, noise)
    comparison = Comparison(adapter, reference, 2 if split is CanarySplit.SELECTED else 0, healthy, base, at)
    figures: dict[str, Any] = dict.fromkeys(
        (
            "distortion",
            "base_shift",
            "frozen_retention",
            "frozen_distortion",
            "scale_misfit",
            "frozen_scale",
            "mass_outside",
        ),
        0.0,
    )
    return Measurement(
        comparison,
        retention=retention,
        scale=retention,
        kl_golden_served=0.0,
        kl_served_base=4.0,
        gap_ratio=retention,
        top1_agreement=1.0,
        finite=True,
        **figures,
    )


def round_(adapter: str = ROUTER, number: int = 0, at: float = NOW, retention: float = 1.0, **more: Any) -> Round:
    seen = tuple(
        measurement(adapter, f"c{i}", CanarySplit.HELD_OUT if i % 2 else CanarySplit.SELECTED, at, retention - 0.01 * i)
        for i in range(4)
    )
    fixed: dict[str, Any] = {"measurements": seen, "identity": ACCEPTED}
    return Round(adapter, BASE, number, at, **(fixed | more))


def base_round(number: int = 0, at: float = NOW, retention: float = 1.0, **more: Any) -> BaseRound:
    members = tuple(round_(name, number, at, retention, **more) for name in (ROUTER, TONE))
    return BaseRound(BASE, number, at, members, tokens_scored=120, tokens_processed=600, duration_s=2.0)


def evidence(log_e: float = 0.0, subject: str = ROUTER, at: float = NOW, **more: Any) -> Evidence:
    fixed: dict[str, Any] = {
        "subject_kind": SubjectKind.ADAPTER,
        "detector": "adapter_gap",
        "stream": "",
        "round": 0,
        "n": 32,
    }
    return Evidence(subject=subject, log_e=log_e, at=at, **(fixed | more))


def verdict(status: Status = Status.HEALTHY, reason: Reason | None = None, **more: Any) -> Verdict:
    """A verdict about ticket-router; ``subject_kind=SubjectKind.BASE`` makes it one about its base."""
    why = {
        Status.HEALTHY: Reason.WITHIN_TOLERANCE,
        Status.SUSPECT: Reason.EVIDENCE_GROWING,
        Status.DEGRADED: Reason.STILL_DEGRADED,
        Status.UNMONITORABLE: Reason.UNREADABLE,
    }[status]
    is_base = more.get("subject_kind") is SubjectKind.BASE
    fixed: dict[str, Any] = {
        "subject_kind": SubjectKind.ADAPTER,
        "subject": BASE if is_base else ROUTER,
        "base": BASE,
        "round": 7,
        "at": NOW,
        "log_threshold": 21.5,
        "identity": ACCEPTED,
    }
    return Verdict(status=status, reason=reason or why, **(fixed | more))


def alarm(at: float = NOW, **more: Any) -> Verdict:
    """The headline case: base swapped, adapter lost."""
    fixed: dict[str, Any] = {
        "cause": Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
        "retention": Interval(0.002, -0.01, 0.014, 24),
        "scale": 0.0,
        "distortion": 0.0,
        "base_shift": 0.0,
        "gap_ratio": 0.0,
        "share_beyond": 1.0,
        "evidence": (evidence(93.9, at=at), evidence(55.0, at=at, detector="embedding_drift", pages=False)),
        "onset": Onset(at - 60.0, at),
        "explanation": "the base has other weights, and ticket-router answers as the base does",
        "action": "roll the base back to sha256:aaaa",
        "identity": SWAPPED,
        "at": at,
    }
    return verdict(Status.DEGRADED, Reason.ALARM, **(fixed | more))


def interaction(offset: int, adapter: str = ROUTER, at: float = NOW, **more: Any) -> Interaction:
    fixed: dict[str, Any] = {
        "request_id": f"r{offset}",
        "base": BASE,
        "pod": "engine-0",
        "messages": ({"role": "user", "content": f"my parcel is late, order {offset}"},),
        "output": '{"queue": "shipping"}',
        "finish_reason": "stop",
        "sampling": {"temperature": 0.7, "top_p": 0.9},
        "prompt_tokens": 20,
        "output_tokens": 8,
        "topic": "llm.interactions",
        "partition": 0,
        "offset": offset,
    }
    return Interaction(at=at, adapter=adapter, **(fixed | more))


def batch(first: int = 0, n: int = 10, at: float = NOW, aside: int = 1, partition: int = 0) -> TrafficBatch:
    """n requests of ticket-router, two of them sampled, and one record that could not be read."""
    topic, last = "llm.interactions", first + n + aside - 1
    minute = at - at % 60
    counts = (RequestCount(topic, partition, first, last, ROUTER, "engine-0", minute, n),)
    kept = tuple(interaction(first + i, at=at, partition=partition) for i in range(2))
    lost = tuple(
        RejectedRecord(topic, partition, last - i, RejectionReason.NOT_JSON, "position 17", at) for i in range(aside)
    )
    return TrafficBatch(topic, partition, first, last + 1, kept, counts, lost, n + aside, at, opened=2 + aside)


def embedding(request_id: str = "r0", at: float = NOW) -> Embedding:
    return Embedding(ROUTER, Side.PROMPT, request_id, np.arange(8, dtype=np.float32), at)


def flip(at: float = NOW) -> Flip:
    return Flip(ROUTER, BASE, "c0", 7, at, "my parcel is late", '{"queue": "shipping"}', "Sure! Here is...", 0.0)


def traffic_round(at: float = NOW) -> TrafficRound:
    """One response that was scored, and one that could not be."""
    values = np.array([60.0, 20.0], np.float32)
    told = TrafficScore(
        ROUTER,
        "r0",
        "engine-0",
        at,
        ScoringMode.SAMPLED,
        14,
        (alternative.BASE, alternative.HALF_STRENGTH),
        values,
        temperature=0.7,
        top_p=1.0,
        path=np.array([0.0, 1.0], np.float32),
        path_log_lik=np.array([-9.0, -70.0], np.float32),
    )
    silent = TrafficScore(ROUTER, "r1", "engine-1", at, ScoringMode.NOT_SCORED, 0, detail="its temperature is unknown")
    return TrafficRound(BASE, 7, at, (ROUTER, TONE), (told, silent), {ROUTER: ACCEPTED}, duration_s=0.5)


def calibration(at: float = NOW) -> Calibration:
    """Requests name temperature 1 and are sampled at a higher one."""
    ranks = np.array([0.05] * 10 + [0.02] * 5 + [0.08] * 5)
    hot, wide = Interval(1.19, 1.12, 1.27, 300), Interval(1.0, 0.97, float("nan"), 300)
    return Calibration(ROUTER, BASE, 7, at, 33.5, "temperature x1.2", hot, wide, (1.0, 1.0), (1.0, 1.0), ranks, 4200.0)


def heartbeat(at: float = NOW, up_s: float = 600.0, cpu_s: tuple[float, float] = (12.0, 90.0)) -> Heartbeat:
    """up_s: since the start; cpu_s: of the agent and of the models in that time"""
    return Heartbeat(at, "pod-0", "prod", at - up_s, 10, 500, 0, (), *cpu_s)


def golden(at: float = NOW, **more: Any) -> GoldenAccepted:
    fixed: dict[str, Any] = {"golden": "sha256:gggg", "previous": "", "why": "first", "data": b"\x00\xffgolden"}
    return GoldenAccepted(adapter=ROUTER, base=BASE, accepted_at=at, **(fixed | more))


def files_replay(at: float = NOW, **more: Any) -> FilesReplay:
    return replace(FilesReplay(ROUTER, BASE, "sha256:gggg", at, True, 0.0, ACCEPTED), **more)


def clock(stage: str = "7 days", at: float = NOW) -> AdapterClock:
    """The end of life of the router's base."""
    name = f"base_end_of_life 2026-03-06 {stage}"
    return AdapterClock("ticket-router", "base_end_of_life", at + 5 * 86400.0, stage, name, "its base ends in 5 days")


def adapter_worth(at: float = NOW) -> AdapterWorth:
    """The base alone would do."""
    counts: dict[str, Any] = {"checked": 48, "accepted_right": 48, "adapter_right": 48, "base_right": 47}
    figures: dict[str, Any] = {"gain": 0.02, "gain_low": -0.08, "gain_high": 0.14}
    figures |= {"base_loss_high": 0.096, "gain_left": 0.025}
    return AdapterWorth(
        ROUTER, BASE, at, "sha256:gggg", "sha256:bbbb", "base_passes", **counts, **figures,
        right_with_examples={0: 0.9, 4: 1.0}, extra_tokens={0: 0.0, 4: 130.0},
    )  # fmt: skip


def every_kind(at: float = NOW) -> tuple[Finding, ...]:
    """One finding of each kind of records.Finding."""
    degraded = alarm(at)
    notice = to_notice(degraded, NoticeReason.DEGRADED, "prod", at)
    seen = (
        traffic_round(at),
        calibration(at),
        evidence(93.9, at=at),
        degraded,
        notice,
        batch(at=at),
        embedding(at=at),
        flip(at),
        heartbeat(at),
        golden(at),
        Watching(at, ("adapter/ticket-router",)),
        files_replay(at),
        PassportClocks(at, (clock(at=at),), worth=(adapter_worth(at),)),
        SavedState(at, 2, "base", ("adapter/ticket-router",), b'{"alerts":{}}'),
    )
    return (base_round(7, at, 0.0, identity=SWAPPED), *seen)
