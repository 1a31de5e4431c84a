"""Signatures: how the adapter answers on its held-out canaries under known faults of itself or of its base.

Each fault is injected in the runner (``Target.fault``) and replayed, so that the same fault in production is recognised
by its direction. Signatures name the cause; they are never evidence. Golden records store them with the kind and the
name of each fault, so names that were written once have to stay readable (detectors/diagnosis/name_encoding.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from detectors.diagnosis.name_encoding import is_earlier_version, mixture
from detectors.records import CanarySplit, Fault, FaultKind, Floats, Recorded
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Unreplayable, Unsupported
from probes.golden.record import GoldenCanary
from probes.golden.signature_codec import STEP
from probes.runner import BITS, GROUPED, Breakable, Replay, Runner, Target

STAGE = "signatures of faults"
# Recorded shares of another adapter; between them and the healthy end the diagnosis interpolates along a curve
# (detectors/diagnosis/shared_parameter_fits.py). With the whole share alone, mixtures in between left 1 to 55 % of
# their energy unexplained, with these shares .3 to 3 %.
MIXES = {FaultKind.STACKED: ("", "*0.5"), FaultKind.AVERAGED: ("", "*0.25")}
NO_FAULTS = "the runner cannot inject faults: no signatures, causes are named from strength alone"


@dataclass(frozen=True, slots=True, eq=False)
class RecordedSignatures:
    """canaries: all, the held-out ones with their signatures; unrecorded: the signatures that are missing, and why."""

    canaries: list[GoldenCanary]
    unrecorded: tuple[str, ...]


def faults_of(runner: Runner, adapter: str, others: Sequence[str]) -> tuple[Fault, ...]:
    """The faults to record: each block left out, a base of fewer bits, each other adapter added or averaged in, the
    prompt's KV cache computed by the base or by another adapter, and the prompt prefilled without the adapter.

    others: names of the other registered adapters; earlier versions of this one are left out, because
    ``Reference.others`` holds their answers, and an engine does not stack an adapter on an earlier version of itself
    Empty for a runner that cannot inject faults.
    """
    if not isinstance(runner, Breakable):
        return ()
    blocks = [Fault(FaultKind.WITHOUT, block) for block in runner.blocks(adapter)]
    bits = [Fault(FaultKind.QUANTISED, width) for width in (*BITS, *GROUPED)]
    other_adapters = [other for other in others if not is_earlier_version(other, adapter)]
    mixes = [mixture(kind, other, part) for kind, parts in MIXES.items() for other in other_adapters for part in parts]
    warmed = [Fault(FaultKind.WARMED, other) for other in ("", *other_adapters)]
    return (*blocks, *bits, *mixes, *warmed, Fault(FaultKind.PREFILLED, ""))


def with_signatures(context: EnrolmentContext, canaries: Sequence[GoldenCanary]) -> RecordedSignatures:
    """The canaries with a signature for every fault that the runner can inject.

    A fault that the runner does not support, that overflows or that changes no answer is left out, with the reason: it
    does not prevent enrolment. Raises Unreplayable when it was stopped.
    """
    faults = faults_of(context.runner, context.adapter, context.others)
    if not faults:
        return RecordedSignatures(list(canaries), (NO_FAULTS,))
    held_out = [canary for canary in canaries if canary.split is CanarySplit.HELD_OUT]
    recorded: dict[Fault, list[Recorded]] = {}
    unrecorded = []
    for done, fault in enumerate(faults):
        context.progress(STAGE, done, len(faults))
        answers = _recorded(context, held_out, fault)
        if isinstance(answers, str):
            unrecorded.append(f"{fault.kind.value} {fault.name}: {answers}")
        else:
            recorded[fault] = answers
    context.progress(STAGE, len(faults), len(faults))
    with_faults = dict(_with_faults(held_out, recorded))
    return RecordedSignatures([with_faults.get(canary.id, canary) for canary in canaries], tuple(unrecorded))


def count_by_kind(faults: Sequence[Fault]) -> str:
    """In words: "12 without a block, 4 on a quantised base, 2 stacked, 2 averaged"."""
    names = {
        FaultKind.WITHOUT: "without a block",
        FaultKind.QUANTISED: "on a quantised base",
        FaultKind.WARMED: "on another's cache",
        FaultKind.PREFILLED: "off while the prompt is read",
    }
    counts = {kind: sum(fault.kind is kind for fault in faults) for kind in FaultKind}
    return ", ".join(f"{count} {names.get(kind, kind.value)}" for kind, count in counts.items() if count) or "none"


def _with_faults(
    held_out: Sequence[GoldenCanary], recorded: Mapping[Fault, Sequence[Recorded]]
) -> Iterator[tuple[str, GoldenCanary]]:
    for index, canary in enumerate(held_out):
        faults = {fault: answers[index] for fault, answers in recorded.items()}
        yield canary.id, replace(canary, reference=replace(canary.reference, faults=faults))


def _recorded(context: EnrolmentContext, held_out: Sequence[GoldenCanary], fault: Fault) -> list[Recorded] | str:
    """One answer a canary, or why there is none."""
    try:
        served = _answers(context, held_out, Target(context.adapter, fault=fault))
        bases: Sequence[Floats | None] = [None] * len(held_out)
        if fault.kind is FaultKind.QUANTISED:
            bases = _answers(context, held_out, Target(None, fault=fault))
    except (Unsupported, Unreplayable) as error:
        if context.stop():
            raise
        return str(error)
    answers = [Recorded(*sides) for sides in zip(served, bases, strict=True)]
    return _useless(held_out, answers) or answers


def _answers(context: EnrolmentContext, held_out: Sequence[GoldenCanary], target: Target) -> list[Floats]:
    replays = [Replay(canary.id, canary.prompt, canary.forced, target, canary.reference.kept) for canary in held_out]
    answers = ask_all(context.runner, replays, context.stop)
    return [summary(answers[replay]).log_probs for replay in replays]


def _useless(held_out: Sequence[GoldenCanary], answers: Sequence[Recorded]) -> str:
    """Why these answers are no signature; "" where they are one."""
    pairs = list(zip(held_out, answers, strict=True))
    tables = [
        (canary, table) for canary, answer in pairs for table in (answer.served, answer.live_base) if table is not None
    ]
    if not all(np.isfinite(table[canary.reference.kept >= 0]).all() for canary, table in tables):
        return "NaN or infinite log-probabilities"
    if all(_unmoved(canary, answer.served) for canary, answer in pairs):
        return "answers as if nothing were wrong"
    return ""


def _unmoved(canary: GoldenCanary, served: Floats) -> bool:
    """Is the signature zero once it is rounded to the steps in which it is stored?"""
    used = canary.reference.kept >= 0
    difference = np.abs(served[used] - canary.reference.golden_adapter.log_probs[used])
    return bool(difference.max(initial=0.0) < STEP / 2)
