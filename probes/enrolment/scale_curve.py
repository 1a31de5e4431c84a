"""The scale curve: what the adapter answers at other LoRA strengths, and what other adapters answer in its place.

Retention, effective scale and cause are read against it; other knots change all three for records made from then on.
Each strength costs a pass over all canaries, so only those are replayed without which the effective scale would be read
wrong: a few canaries tell which (docs/mathematics.md#effective-scale).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from detectors.canaries.retention import nearest_scale, prepare
from detectors.records import Floats, Reference
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.candidates import finite
from probes.enrolment.settings import EnrolmentContext
from probes.errors import BadNumbers
from probes.golden.record import GoldenCanary
from probes.runner import Replay, Target

STAGE = "scale curve and other adapters"
# Of every curve: the base and the adapter as it is.
ENDS: tuple[float, ...] = (0.0, 1.0)
# Strengths that every curve holds: the ends, a chord on either side of 1 about as long as a tolerance, and one between
# 0 and 1, without which no reading in between is any good.
ALWAYS: tuple[float, ...] = (0.0, 0.5, 0.9, 1.0, 1.1, 2.0)
# Strengths that may be added, in the order in which they are tried: those that halve long chords first.
IN_BETWEEN = (1.5, 0.75, 0.25, 1.25, 0.125)
# Strengths far above 1: an adapter that is far too strong is not read as one that is too weak, and the strength that
# rsLoRA gives a rank of 16 is fitted near enough for its replay. A half-precision base may overflow there: the curve
# then ends before.
FAR = (4.0, 8.0)
# Answers up to this strength must be finite, and readings between the recorded strengths right.
NEEDED_UP_TO = 2.0
# Canaries on which it is decided which strengths are recorded.
FEW = 4
# Share of the deviation |s - 1|, or of the tolerance where that is more, by which a reading may be wrong.
MISREADING = 0.1


@dataclass(slots=True)
class _Answers:
    """Answers of the adapter on its canaries, each replayed once: (canary, target) -> (T, K) log-probabilities."""

    context: EnrolmentContext
    tables: dict[tuple[str, Target], Floats] = field(default_factory=dict)

    def of(self, drafts: Sequence[GoldenCanary], target: Target) -> list[Floats]:
        """In order of the drafts. Raises Unreplayable when it was stopped."""
        waiting = [draft for draft in drafts if (draft.id, target) not in self.tables]
        replays = [
            Replay(draft.id, draft.prompt, draft.forced, target, draft.reference.kept, draft.reference.listed)
            for draft in waiting
        ]
        answers = ask_all(self.context.runner, replays, self.context.stop)
        self.tables |= {(replay.canary, target): summary(answers[replay]).log_probs for replay in replays}
        return [self.tables[draft.id, target] for draft in drafts]

    def at(self, drafts: Sequence[GoldenCanary], strength: float) -> list[Floats]:
        """Under the adapter at this strength; 0 and 1 are the golden base and adapter themselves."""
        if strength in ENDS:
            sides = [(draft.reference.golden_base, draft.reference.golden_adapter) for draft in drafts]
            return [side[int(strength)].log_probs for side in sides]
        tables = self.of(drafts, Target(self.context.adapter, scale=strength))
        if strength <= NEEDED_UP_TO:
            finite(f"the curve at strength {strength:g}", _kept(drafts, tables))
        return tables


def in_between(rank: int) -> tuple[float, ...]:
    """Strengths that may be added to a curve, in the order in which they are tried.

    rank: of the LoRA, 0 where unknown. 1/sqrt(rank) is one of them: the strength of an rsLoRA adapter that an engine
    scales by alpha / r
    """
    without_rslora = rank**-0.5 if rank > 1 else 1.0
    near = any(abs(without_rslora - scale) < 0.01 for scale in (*ALWAYS, *IN_BETWEEN))
    return IN_BETWEEN if near else (*IN_BETWEEN, without_rslora)


def with_curve(
    context: EnrolmentContext, drafts: Sequence[GoldenCanary], few: Sequence[GoldenCanary], rank: int, tolerance: float
) -> list[GoldenCanary]:
    """The drafts with their recorded curve and the other adapters' answers.

    few: of the drafts, those on which it is decided which strengths are recorded, at least one
    rank: of the LoRA, 0 where unknown; tolerance: on |s - 1|
    Raises Refused for numbers that are not finite, Unreplayable when it was stopped.
    """
    answers, candidates, chosen = _Answers(context), in_between(rank), ALWAYS
    far_at = len(ALWAYS) + len(candidates)
    steps = far_at + 1 + len(context.others)
    for done, strength in enumerate((*ALWAYS, *candidates)):
        context.progress(STAGE, done, steps)
        if strength in ALWAYS or _misread(answers, few, chosen, strength, tolerance):
            answers.at(drafts, strength)
            chosen = tuple(sorted({*chosen, strength}))
    context.progress(STAGE, far_at, steps)
    chosen += _far(answers, drafts)
    for done, name in enumerate(context.others, start=far_at + 1):
        context.progress(STAGE, done, steps)
        _check_other(name, drafts, answers.of(drafts, Target(name)))
    context.progress(STAGE, steps, steps)
    return [_with_reference(answers, draft, chosen) for draft in drafts]


def with_others(context: EnrolmentContext, drafts: Sequence[GoldenCanary]) -> list[GoldenCanary]:
    """The drafts with the other adapters' answers, and the two ends alone for a curve: most engines serve an adapter at
    one strength. Raises as ``with_curve`` does."""
    answers = _Answers(context)
    for done, name in enumerate(context.others):
        context.progress(STAGE, done, len(context.others))
        _check_other(name, drafts, answers.of(drafts, Target(name)))
    context.progress(STAGE, len(context.others), len(context.others))
    return [_with_reference(answers, draft, ENDS) for draft in drafts]


def _misread(
    answers: _Answers, few: Sequence[GoldenCanary], knots: Sequence[float], strength: float, tolerance: float
) -> bool:
    """Would answers at this strength be read as another one of some canary, on curves through these knots?"""
    allowed = MISREADING * max(tolerance, abs(strength - 1))
    for draft, table in zip(few, answers.at(few, strength), strict=True):
        ready = prepare(_on_curve(answers, draft, knots))
        read, _ = nearest_scale(ready.effect_curve, ready.from_base(table))
        if abs(read - strength) > allowed:
            return True
    return False


def _far(answers: _Answers, drafts: Sequence[GoldenCanary]) -> tuple[float, ...]:
    """The strengths far above 1 at which all answers are finite."""
    return tuple(far for far in FAR if _is_finite(answers, drafts, far))


def _is_finite(answers: _Answers, drafts: Sequence[GoldenCanary], far: float) -> bool:
    try:
        return bool(np.isfinite(_kept(drafts, answers.at(drafts, far))).all())
    except BadNumbers:  # an engine's own way to say so
        return False


def _with_reference(answers: _Answers, draft: GoldenCanary, scales: Sequence[float]) -> GoldenCanary:
    others = {name: answers.tables[draft.id, Target(name)] for name in answers.context.others}
    return replace(draft, reference=replace(_on_curve(answers, draft, scales), others=others))


def _on_curve(answers: _Answers, draft: GoldenCanary, scales: Sequence[float]) -> Reference:
    curve = np.stack([answers.at([draft], scale)[0] for scale in scales])
    return replace(draft.reference, scales=np.array(scales, np.float32), curve=curve)


def _check_other(name: str, drafts: Sequence[GoldenCanary], tables: Sequence[Floats]) -> None:
    for draft, table in zip(drafts, tables, strict=True):
        finite(f"canary {draft.id} under {name}", table[draft.reference.kept >= 0])


def _kept(drafts: Sequence[GoldenCanary], tables: Sequence[Floats]) -> Floats:
    return np.concatenate([table[draft.reference.kept >= 0] for draft, table in zip(drafts, tables, strict=True)])
