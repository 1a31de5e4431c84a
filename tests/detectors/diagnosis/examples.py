"""One diagnosis for every text in detectors/on_call_text.py."""

from __future__ import annotations

import math
from dataclasses import replace

from detectors.diagnosis.record import (
    BaseDiagnosis,
    CacheReplay,
    Diagnosis,
    FaultyReplicas,
    MatchedFault,
    MeanFigures,
    ModeGap,
    ResponseDiagnosis,
)
from detectors.evidence.alternative import Alternative
from detectors.records import NO_GRID, Cause, FaultKind, Identity, Interval, Mode

MEANS = MeanFigures(retention=0.4, gap_ratio=0.5, scale=0.45, distortion=0.0144, base_shift=0.02)
SAME = Identity("sha256:aaaa", "sha256:aaaa")
OTHER_WEIGHTS = Identity("sha256:aaaa", "sha256:bbbb")
QUANTISED = replace(OTHER_WEIGHTS, golden_grid=NO_GRID, live_grid="4 bits in groups of 64 (NF4 levels): 168 of 168")
OTHER_FILES = replace(SAME, golden_adapter="sha256:0123456789abcdef", live_adapter="sha256:fedcba9876543210")
OTHER_SOURCE = replace(SAME, golden_source="router-v3 on smol", live_source="router-v2 on smol")
OTHER_TEMPLATE = replace(SAME, golden_template="sha256:t", live_template="sha256:u", scheme=2)
OTHER_TOKENIZER = replace(SAME, golden_tokenizer="sha256:t", live_tokenizer="sha256:u", scheme=2)


def match(*names: str, kind: FaultKind | None = None, value: float = math.nan) -> MatchedFault:
    return MatchedFault(kind, names, value, 0.03)


def of_canaries(adapter: str = "router") -> tuple[Diagnosis, ...]:
    """Every variant of every cause, and everything that may be said beside one."""
    blank = Diagnosis(Cause.UNKNOWN, adapter, SAME, MEANS)

    def strength(value: float) -> Diagnosis:
        return replace(blank, cause=Cause.WRONG_STRENGTH, match=match("one strength", value=value))

    def part(kind: FaultKind | None, *names: str) -> Diagnosis:
        return replace(blank, cause=Cause.PARTLY_APPLIED, match=match(*names, kind=kind))

    def mixture(kind: FaultKind, value: float) -> Diagnosis:
        matched = match("rewriter", kind=kind, value=value)
        return replace(blank, cause=Cause.COMPOSITION_INTERFERENCE, match=matched)

    def template(identity: Identity) -> Diagnosis:
        return Diagnosis(Cause.TEMPLATE_CHANGED, adapter, identity, changed_prompts=15, canaries=16)

    lost = replace(blank, cause=Cause.ADAPTER_NOT_APPLIED, nothing_left=True)
    swapped = replace(blank, cause=Cause.BASE_SWAPPED, base_moved=True)
    cached = Diagnosis(Cause.SHARED_CACHE, adapter, SAME, cache=CacheReplay(1.0, 0.6, ""))
    return (
        blank,
        Diagnosis(Cause.UNKNOWN, adapter, SAME),
        replace(blank, changed_prompts=15, canaries=16),
        lost,
        replace(lost, cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST, base_moved=True, identity=OTHER_WEIGHTS),
        replace(
            swapped,
            cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
            identity=OTHER_WEIGHTS,
            means=replace(MEANS, base_shift=0.0),
            missing_block="mlp",
        ),
        swapped,
        replace(swapped, merged_adapter="rewriter"),
        replace(blank, cause=Cause.QUANTISED_BASE, match=match("4", "4/32"), base_moved=True),
        replace(swapped, cause=Cause.QUANTISED_BASE, identity=QUANTISED),
        *(strength(value) for value in (0.354, 0.5, 0.65, 2.0, 8.0, 16.0)),
        strength(math.sqrt(1 / 2)),
        replace(strength(0.6), base_moved=True),
        *(replace(strength(value), rank=8, alpha=16.0) for value in (8**0.5, 8**-0.5, 8.0, 0.125, 2.0, 0.5, 0.6)),
        *(replace(strength(value / 24), rank=8, alpha=24.0) for value in (8.0, 8**0.5)),
        replace(blank, cause=Cause.WRONG_ADAPTER, match=match("rewriter", kind=FaultKind.OTHER_ADAPTER)),
        replace(
            blank,
            cause=Cause.WRONG_ADAPTER,
            match=match(f"{adapter}@0123456789ab", kind=FaultKind.OTHER_ADAPTER),
        ),
        part(FaultKind.WITHOUT, "q_proj", "layers.0", "layers.1", "layers.2"),
        *(part(None, name) for name in ("first", "after the first", "after 16", "after 128")),
        part(FaultKind.PREFILLED, "prompt and first"),
        mixture(FaultKind.STACKED, 0.8),
        mixture(FaultKind.AVERAGED, 0.4),
        mixture(FaultKind.TAKEN_AWAY, 1.0),
        mixture(FaultKind.TAKEN_AWAY, 0.5),
        mixture(FaultKind.OTHER_ADAPTER, math.nan),
        *(
            replace(blank, cause=Cause.SAMPLING_CHANGED, match=match(whose, value=1.3))
            for whose in ("adapter", "adapter and base")
        ),
        *(template(identity) for identity in (SAME, OTHER_TEMPLATE, OTHER_TOKENIZER)),
        cached,
        replace(cached, cache=CacheReplay(1.0, 0.6, "rewriter")),
        replace(blank, cause=Cause.SHARED_CACHE, match=match("", kind=FaultKind.WARMED)),
        *(
            Diagnosis(Cause.SERVING_PATH, adapter, SAME, mode=ModeGap(mode, 7, 8, 0.4))
            for mode in Mode
            if mode is not Mode.WARM
        ),
        *(
            Diagnosis(Cause.ONE_REPLICA, adapter, SAME, replicas=FaultyReplicas(6, 24, pods, lost))
            for pods in ((), ("pod-0", "pod-3"))
        ),
        Diagnosis(Cause.ONE_REPLICA, adapter, SAME, replicas=FaultyReplicas(6, 24, (), lost, in_modes=True)),
        replace(blank, cause=Cause.ADAPTER_REPLACED, identity=OTHER_FILES),
        replace(blank, cause=Cause.ADAPTER_REPLACED, identity=OTHER_SOURCE),
        replace(
            blank,
            cause=Cause.WRONG_ADAPTER,
            match=match("rewriter", kind=FaultKind.OTHER_ADAPTER),
            replicas=FaultyReplicas(6, 24, (), lost),
        ),
        replace(lost, identity=OTHER_FILES),
    )


def of_bases() -> tuple[BaseDiagnosis, ...]:
    typical = replace(of_canaries()[4], adapter="router")
    return (BaseDiagnosis("smol", ("router", "rewriter"), 3, typical),)


def of_responses(adapter: str = "router") -> tuple[ResponseDiagnosis, ...]:
    """Every cause, alternative and variant."""

    def diagnosis(cause: Cause, name: str, pods: tuple[str, ...] = ()) -> ResponseDiagnosis:
        alternative = Alternative.from_text(name) if name else None
        return ResponseDiagnosis(cause, adapter, alternative, 12, 30, pods, Interval(0.4, 0.3, 0.5, 30))

    def of_base(cause: Cause, name: str, pods: tuple[str, ...] = ()) -> ResponseDiagnosis:
        return replace(diagnosis(cause, name, pods), strength=None, of_base=True)

    plain = [
        diagnosis(Cause.ADAPTER_NOT_APPLIED, "base"),
        diagnosis(Cause.BASE_SWAPPED_AND_ADAPTER_LOST, "base"),
        *(diagnosis(Cause.QUANTISED_BASE, name) for name in ("4 bits", "rounded 4/32")),
        diagnosis(Cause.PARTLY_APPLIED, "without mlp"),
        diagnosis(Cause.WRONG_ADAPTER, "previous"),
        diagnosis(Cause.WRONG_ADAPTER, "adapter:rewriter"),
        *(diagnosis(Cause.WRONG_STRENGTH, name) for name in ("half", "double", "path 0.5")),
        diagnosis(Cause.ONE_REPLICA, "base"),
        diagnosis(Cause.ONE_REPLICA, "base", ("pod-0",)),
        diagnosis(Cause.UNKNOWN, ""),
        *(of_base(Cause.BASE_ANSWERED_BY_ADAPTER, name) for name in ("adapter:rewriter", "path 0.5 adapter:rewriter")),
        of_base(Cause.QUANTISED_BASE, "4 bits"),
        *(of_base(Cause.ONE_REPLICA, "adapter:rewriter", pods) for pods in ((), ("pod-0",))),
        of_base(Cause.UNKNOWN, ""),
    ]
    return (*plain, *(replace(one, strength=None) for one in plain[:1]))
