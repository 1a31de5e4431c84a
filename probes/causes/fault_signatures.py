"""Signatures: how the accepted adapter answers on its held-out canaries under known faults of itself or of its base.

They are made after an alarm: each fault is injected in the runner (``Target.fault``) and replayed on the golden copies,
so that the same fault in production is recognised by its direction. Signatures name the cause; they are never evidence.
Golden records of earlier versions hold some that their enrolment made; names that were written there have to stay
readable (detectors/diagnosis/name_encoding.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.retention import measure, prepare
from detectors.records import Fault, FaultKind, Floats, Measurement, Recorded, Reference, Round
from probes.canaries.replay_pairs import ask, summary
from probes.errors import Unreplayable, Unsupported
from probes.golden.record import Golden, GoldenCanary, short
from probes.golden.signature_codec import STEP
from probes.runner import Breakable, Replay, Runner, Stop, Target, Weights

Signatures = Mapping[Fault, Sequence[Recorded]]
"""Fault -> one answer for each held-out canary, in the order of the golden record."""


def why_no_copies(runner: Breakable, golden: Golden) -> str:
    """Why no fault can be replayed on what this record accepted, in words; "" where its base and its adapter answer on
    the golden side. A signature of other files would name a wrong cause."""
    try:
        present = runner.golden_hashes(golden.adapter, golden.hash_scheme)
    except (Unreplayable, Unsupported) as error:
        return str(error)
    pairs = zip(("base", "adapter"), (golden.base_hash, golden.adapter_hash), present, strict=True)
    differ = [
        f"the accepted {part} {short(accepted)} is not at hand, {short(hash_)} was loaded in its place"
        for part, accepted, hash_ in pairs
        if accepted and accepted != hash_
    ]
    return "; ".join(differ)


def signature_of(runner: Runner, golden: Golden, fault: Fault, stop: Stop) -> list[Recorded] | str | None:
    """One answer for each held-out canary, or why there is none, in words: the runner does not support the fault, it
    overflows, or it changes no answer. None where it was stopped."""
    canaries = golden.held_out
    try:
        served = answers_of(runner, canaries, Target(golden.adapter, Weights.GOLDEN, fault=fault), stop)
        bases: Sequence[Floats | None] | None = [None] * len(canaries)
        if fault.kind is FaultKind.QUANTISED:
            bases = answers_of(runner, canaries, Target(None, Weights.GOLDEN, fault=fault), stop)
    except (Unreplayable, Unsupported) as error:
        return str(error)
    if served is None or bases is None:
        return None
    answers = [Recorded(*sides) for sides in zip(served, bases, strict=True)]
    return _useless(canaries, answers) or answers


def answers_of(runner: Runner, canaries: Sequence[GoldenCanary], target: Target, stop: Stop) -> list[Floats] | None:
    """The target's log-probabilities of each canary's kept tokens, from the accepted token ids; None where it was
    stopped. Raises as the runner does."""
    replays = [Replay(canary.id, canary.prompt, canary.forced, target, canary.reference.kept) for canary in canaries]
    answers = ask(runner, replays, stop)
    if len(answers) < len(replays):
        return None
    return [summary(answers[replay]).log_probs for replay in replays]


def with_signatures(golden: Golden, signatures: Signatures, strengths: Mapping[float, Sequence[Floats]]) -> Golden:
    """The record with further signatures, and with further points on the curve of strengths, on its held-out canaries.

    Only in memory: the record on disk, and its hash, stay what was accepted. strengths: scale -> one answer for each
    held-out canary
    """
    held_out = {
        canary.id: replace(canary, reference=_extended(canary.reference, index, signatures, strengths))
        for index, canary in enumerate(golden.held_out)
    }
    return replace(golden, canaries=tuple(held_out.get(canary.id, canary) for canary in golden.canaries))


def measured_against(round: Round, golden: Golden) -> Round:
    """The answers of a round, measured against the references that the record now has for its held-out canaries."""
    references = {canary.id: prepare(canary.reference) for canary in golden.held_out}

    def again(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
        return tuple(
            m if (known := references.get(m.comparison.reference.canary)) is None
            else measure(replace(m.comparison, reference=known))
            for m in measurements
        )  # fmt: skip

    rows = again(round.measurements)
    return replace(round, measurements=rows, raw=again(round.raw))


def _extended(
    reference: Reference, index: int, signatures: Signatures, strengths: Mapping[float, Sequence[Floats]]
) -> Reference:
    faults = dict(reference.faults) | {fault: answers[index] for fault, answers in signatures.items()}
    points = dict(zip(map(float, reference.scales), reference.curve, strict=True))
    points |= {scale: answers[index] for scale, answers in strengths.items()}
    scales = sorted(points)
    curve = np.stack([points[scale] for scale in scales])
    return replace(reference, faults=faults, scales=np.array(scales, np.float32), curve=curve)


def _useless(canaries: Sequence[GoldenCanary], answers: Sequence[Recorded]) -> str:
    """Why these answers are no signature; "" where they are one."""
    pairs = list(zip(canaries, answers, strict=True))
    tables = [
        (canary, table) for canary, answer in pairs for table in (answer.served, answer.live_base) if table is not None
    ]
    if not all(np.isfinite(table[canary.reference.kept >= 0]).all() for canary, table in tables):
        return "NaN or infinite log-probabilities"
    if all(_unmoved(canary, answer.served) for canary, answer in pairs):
        return "answers as if nothing were wrong"
    return ""


def _unmoved(canary: GoldenCanary, served: Floats) -> bool:
    """Is the signature no larger than the rounding by which recorded ones are stored?"""
    used = canary.reference.kept >= 0
    difference = np.abs(served[used] - canary.reference.golden_adapter.log_probs[used])
    return bool(difference.max(initial=0.0) < STEP / 2)
