"""The scale curve: what the adapter answers at other LoRA strengths, and what other adapters answer in its place.

Retention, effective scale and cause are read against it; other knots change all three for records made from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.records import Floats, Reference
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.candidates import finite
from probes.enrolment.settings import EnrolmentContext
from probes.golden.record import GoldenCanary
from probes.runner import Replay, Runner, Stop, Target

STAGE = "scale curve and other adapters"
GRID = (0.0, 0.125, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)
# Answers up to this strength must be finite; far beyond it a half-precision base may overflow, and the curve then ends
# earlier.
NEEDED_UP_TO = 2.0


def strengths(rank: int) -> tuple[float, ...]:
    """Strengths of the recorded curve, ascending.

    rank: of the LoRA, 0 where unknown. 1/sqrt(rank) is added: the strength of an rsLoRA adapter that an engine scales
    by alpha / r
    """
    without_rslora = rank**-0.5 if rank > 1 else 1.0
    near = any(abs(without_rslora - scale) < 0.01 for scale in GRID)
    return GRID if near else tuple(sorted((*GRID, without_rslora)))


def with_curve(
    context: EnrolmentContext, drafts: Sequence[GoldenCanary], scales: Sequence[float]
) -> list[GoldenCanary]:
    """The drafts with their recorded curve and the other adapters' answers.

    scales: ascending, contains 0 and 1: those two are the golden base and adapter themselves, not replayed again
    Raises Refused for numbers that are not finite, Unreplayable when it was stopped.
    """
    targets = {scale: Target(context.adapter, scale=scale) for scale in scales if scale not in (0.0, 1.0)}
    replayed = [*targets.values(), *(Target(name) for name in context.others)]
    answers = {}
    for done, target in enumerate(replayed):
        context.progress(STAGE, done, len(replayed))
        answers[target] = _answers(context.runner, drafts, target, context.stop)
    context.progress(STAGE, len(replayed), len(replayed))
    on_curve = [scale for scale in scales if scale not in targets or _on_curve(drafts, answers[targets[scale]], scale)]
    return [
        _with_reference(
            draft,
            scales=np.array(on_curve, np.float32),
            curve=np.stack([_point(draft.reference, scale, answers, targets, index) for scale in on_curve]),
            others={name: answers[Target(name)][index] for name in context.others},
        )
        for index, draft in enumerate(drafts)
    ]


def _with_reference(draft: GoldenCanary, scales: Floats, curve: Floats, others: dict[str, Floats]) -> GoldenCanary:
    return replace(draft, reference=replace(draft.reference, scales=scales, curve=curve, others=others))


def _point(
    reference: Reference, scale: float, answers: dict[Target, list[Floats]], targets: dict[float, Target], index: int
) -> Floats:
    if scale in targets:
        return answers[targets[scale]][index]
    return (reference.golden_adapter if scale else reference.golden_base).log_probs


def _answers(runner: Runner, drafts: Sequence[GoldenCanary], target: Target, stop: Stop) -> list[Floats]:
    replays = [Replay(draft.id, draft.prompt, draft.forced, target, draft.reference.kept) for draft in drafts]
    answers = ask_all(runner, replays, stop)
    tables = [summary(answers[replay]).log_probs for replay in replays]
    if target.scale == 1.0:
        for draft, table in zip(drafts, tables, strict=True):
            finite(f"canary {draft.id} under {target.adapter}", table[draft.reference.kept >= 0])
    return tables


def _on_curve(drafts: Sequence[GoldenCanary], tables: Sequence[Floats], scale: float) -> bool:
    """Is this strength on the curve? Raises Refused where it has to be and is not finite."""
    kept = np.concatenate([table[draft.reference.kept >= 0] for draft, table in zip(drafts, tables, strict=True)])
    if scale <= NEEDED_UP_TO:
        finite(f"the curve at strength {scale:g}", kept)
    return bool(np.isfinite(kept).all())
