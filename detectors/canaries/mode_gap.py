"""Does an engine answer alike in whatever mode: as it writes, streams, through its chat endpoint, from its cache?

A canary that was scored cold is had in other modes in the same round, and each such answer is compared with the scored
one and with nothing else: no release of a base and no other version of an adapter moves one mode against another.

The score of a canary in a mode is 1 where any of its answers in that mode is apart. H0 of everything built on it: given
everything before, at most ``share`` of the canary pool is apart in that mode, in whichever combination of modes it is
had. Canaries are drawn at random with replacement, and the score of one is a function of its own answers, so the mean
of each score given the past and the earlier draws of its round is at most ``share``; which combination each is had in
may be fixed in advance. What breaks it: draws that depend on the answers; a benign difference between modes that the
enrolment has not met. Source: docs/mathematics.md#served-modes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np

from detectors.canaries.kl_divergence import with_zero_pads
from detectors.canaries.retention import PreparedReference, energy, measure, prepare, unprepared
from detectors.canaries.tolerance import Tolerances, blocked_by, in_own_order, members_needed
from detectors.records import BaseRound, Bools, Comparison, Measurement, Mode, Reference, Round, Summary

# Of the tolerance on an adapter, what a mode may be apart beyond noise: nothing benign but noise is in it.
TOLERATED = 0.2
# So many times its floor is noise that the enrolment, which had a dozen canaries in each mode once, need not have met.
NOISE = 2.0
# Below: rounding of log-probabilities that an engine writes with six digits.
LEAST_FLOOR = 1e-3
# Modes that one request chooses; the others follow from the canary, or hold in every cell.
FACTORS = (Mode.STREAMED, Mode.CHAT, Mode.WARM)
FIGURES = tuple(f.name for f in fields(Measurement) if f.name not in ("comparison", "finite", "bands"))


def mode_shift(reference: PreparedReference, served: Summary, scored: Summary) -> float:
    """How far an answer is from the scored one, as a share of the adapter's effect: 0 for the same answer.

    reference: of all T positions; served: (n, K) of the first n <= T; scored: (T, K), the same canary scored cold

    Root of the mean over n positions of |y - y'|^2 over the mean over T positions of |delta|^2. The effect is that of
    the whole canary: what was written may end where the adapter has none yet. Source: docs/mathematics.md#served-modes.
    """
    n, positions = len(served.rest), len(scored.rest)
    mask = reference.mask[:n]
    apart = with_zero_pads(served.log_probs, mask) - with_zero_pads(scored.log_probs[:n], mask)
    weights = reference.weights[:n]
    centred = apart - np.sum(weights * apart, axis=-1, keepdims=True)
    energy = float(np.sum(weights * centred**2))
    return math.sqrt(energy / n / (reference.energy / positions))


def beginning(reference: Reference, positions: int) -> Reference:
    """The reference of the first so many positions, 1 at least."""
    if positions == len(reference.kept):
        return reference
    a, b = (
        Summary(side.log_probs[:positions], side.rest[:positions], side.top1[:positions])
        for side in (reference.golden_adapter, reference.golden_base)
    )
    return replace(
        unprepared(reference),
        kept=reference.kept[:positions],
        golden_adapter=a,
        golden_base=b,
        curve=reference.curve[:, :positions],
        others={name: other[:positions] for name, other in reference.others.items()},
        faults={},
    )


def in_modes(answer: Measurement, scored: Measurement) -> Measurement:
    """An answer had in modes, with its distance from that of the same canary scored cold in the same round."""
    reference = prepare(scored.comparison.reference)
    if not (answer.finite and scored.finite):
        return answer
    return replace(answer, mode_shift=mode_shift(reference, answer.comparison.served, scored.comparison.served))


def measured_in_modes(comparison: Comparison, scored: Measurement) -> Measurement:
    """An answer had in modes in numbers, with that distance. Where the adapter has no effect on what was written there
    are no other figures, and ``finite`` is False: it scores as any other, and no diagnosis rests on it."""
    if energy(comparison.reference) > 0:
        return in_modes(measure(replace(comparison, reference=prepare(comparison.reference))), scored)
    nothing = replace(scored, comparison=comparison, finite=False, bands=(), **dict.fromkeys(FIGURES, math.nan))
    whole = prepare(scored.comparison.reference)
    return replace(nothing, mode_shift=mode_shift(whole, comparison.served, scored.comparison.served))


def is_apart(measurement: Measurement, tolerances: Tolerances) -> bool:
    """Is this answer further from the scored one than the mode's own noise and a little of the tolerance?

    Where a mode's noise is not known, that of the least floor is taken. NaN is apart.
    """
    comparison = measurement.comparison
    floors = comparison.reference.mode_floors
    floor = max((floors.get(mode, LEAST_FLOOR) for mode in comparison.modes), default=LEAST_FLOOR)
    allowed = TOLERATED * tolerances.allowed_deviation(comparison.adapter) + NOISE * floor
    return not measurement.mode_shift <= allowed


def mode_scores(round: Round, tolerances: Tolerances) -> dict[Mode, Bools]:
    """Mode -> (n,) the score of each draw that was had in it, of the modes that the round has; a canary drawn twice
    counts twice. In a mode whose noise was measured no answer counts that was had in another one whose noise was not:
    its noise would be taken for theirs."""
    in_modes = {mode: _that_count(round, mode) for mode in Mode}
    return {mode: _scores(_by_canary(cells), tolerances) for mode, cells in in_modes.items() if cells}


def base_mode_scores(record: BaseRound, tolerances: Tolerances) -> dict[Mode, Bools]:
    """Mode -> (n,) the score of a base in it, draw by draw: 1 where ``members_needed`` of its members score 1 there.

    Of the modes in which two members or more were had whose noise was measured; n is the fewest draws of these. H0,
    guarantee and what breaks it: as of ``base_scores``, with "apart in the mode" for "beyond tolerance", the order of
    each member's draws included.
    """
    scores: dict[Mode, list[Bools]] = defaultdict(list)
    for member in record.members:
        if blocked_by(member) is None:
            for mode, own in mode_scores(member, tolerances).items():
                if floors_known(member, mode):
                    scores[mode].append(in_own_order(member, own))
    return {mode: _together(rows, tolerances.share) for mode, rows in scores.items() if len(rows) > 1}


def _together(rows: Sequence[Bools], share: float) -> Bools:
    n = min(map(len, rows))
    apart: Bools = np.sum([row[:n] for row in rows], axis=0) >= members_needed(share, len(rows))
    return apart


def floors_known(round: Round, mode: Mode) -> bool:
    """Did the enrolment measure the noise of this mode? Without it, nothing in it may page."""
    in_mode = _with(round.cells, mode)
    return bool(in_mode) and all(mode in m.comparison.reference.mode_floors for m in in_mode)


def noise_known(cells: Sequence[Measurement]) -> list[Measurement]:
    """Of these answers those in which the enrolment measured the noise of all that was chosen: LONG is not, it is a
    property of the canary, and canaries with long prompts are in the sample of every other mode as in the pool."""
    return [
        m
        for m in cells
        if all(mode in m.comparison.reference.mode_floors for mode in m.comparison.modes if mode is not Mode.LONG)
    ]


def faulty_mode(cells: Sequence[Measurement], tolerances: Tolerances) -> Mode | None:
    """The mode that makes the difference; None where no answer is apart.

    That of the factors whose answers are apart more often with it than without it, by half of the former share at
    least; LONG likewise; and WRITTEN where it is none of them. A name for what evidence has shown, and no evidence.
    """
    if not _share(cells, tolerances):
        return None
    contrasts = {mode: _contrast(cells, mode, tolerances) for mode in (*FACTORS, Mode.LONG)}
    mode = max(contrasts, key=lambda each: contrasts[each])
    return mode if contrasts[mode] >= 0.5 * _share(_with(cells, mode), tolerances) > 0 else Mode.WRITTEN


def _that_count(round: Round, mode: Mode) -> list[Measurement]:
    in_mode = _with(round.cells, mode)
    return noise_known(in_mode) if floors_known(round, mode) else in_mode


def _by_canary(cells: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    by_canary: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in cells:
        by_canary[measurement.comparison.reference.canary].append(measurement)
    return by_canary


def _scores(by_canary: Mapping[str, Sequence[Measurement]], tolerances: Tolerances) -> Bools:
    apart = [any(is_apart(m, tolerances) for m in answers) for answers in by_canary.values()]
    draws = [answers[0].comparison.draws for answers in by_canary.values()]
    return np.repeat(np.array(apart, dtype=np.bool_), draws)


def _contrast(cells: Sequence[Measurement], mode: Mode, tolerances: Tolerances) -> float:
    without = [m for m in cells if mode not in m.comparison.modes]
    if not without:  # in every answer: it makes no difference between them, and is what WRITTEN is
        return 0.0 if any(Mode.WRITTEN in m.comparison.modes for m in cells) else _share(cells, tolerances)
    return _share(_with(cells, mode), tolerances) - _share(without, tolerances)


def _with(cells: Sequence[Measurement], mode: Mode) -> list[Measurement]:
    return [m for m in cells if mode in m.comparison.modes]


def _share(cells: Sequence[Measurement], tolerances: Tolerances) -> float:
    return float(np.mean([is_apart(m, tolerances) for m in cells])) if cells else 0.0
