"""What is at fault? The table of evidence.md section 7, as far as one round of canaries can tell.

Scores here are residual energies, not e-values: they name a fault that evidence has already found. Read on the
held-out canaries, on all of them where there are none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.measure import prepare
from detectors.records import BaseRound, Cause, Half, Measurement, Round
from detectors.score import Tolerances, base_moved, blocked_by, scores

# Retention and gap that count as nothing left: .020 and .031 were measured on a base that had lost its adapter.
NOTHING_LEFT = 0.05
# A signature explains a fault when it leaves at most this share of its energy, and half of what the next one leaves.
LEFT_OVER = 0.05
RUNNER_UP = 0.5
# While the base has moved: a strength is the same on every canary up to this share of it (between the curve's knots the
# tests' toy world scatters by .012 up to x2), and what a base took is not: 4-bit bases scatter by .07-.08 of it.
EVEN = 0.03
# A factor is named, and a rank is thought of, where the scale is within this share of it.
NEAR = 0.05
FACTORS = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)
RANKS = (4, 8, 16, 32, 64)
# Base shift below which a person would see no difference in what the base answers; words only, decides nothing.
QUIET = 1e-4


@dataclass(frozen=True, slots=True)
class Signature:
    """One explanation tried. name: "" for the adapter's own curve, else another adapter; left: energy, nats squared."""

    name: str
    left: float


def name_cause(round: Round, tolerances: Tolerances) -> tuple[Cause, str, str]:
    """The cause, what was seen, and the first thing to do, the last two in words.

    Order: nothing left of the adapter (with or without another base), the signature that explains the present answers
    (the adapter at another strength, or another registered adapter), then another base. UNKNOWN when it is none of
    these. A signature goes before the base, because a base that moved and was tolerated stays moved for months; what
    a base does to an adapter leaves too much over, or scatters too much over canaries, to pass as one.
    The base counts as moved by its answers or by its hash: a re-parameterised base answers as before.
    """
    seen = witnesses(round)
    if not seen:
        return _told(Cause.UNKNOWN, round, "no canary was measured", "replay again: gapwatch probe " + round.adapter)
    answers_moved = base_moved(round, tolerances)
    moved = round.identity.base_moved or answers_moved
    kept, gap = _mean(seen, "retention"), _mean(seen, "gap_ratio")
    lost = abs(kept) <= NOTHING_LEFT and gap <= NOTHING_LEFT
    if lost and moved:
        return _told(Cause.BASE_SWAPPED_AND_ADAPTER_LOST, round, *_swapped_and_lost(round, kept, gap, seen))
    if lost:
        return _told(Cause.ADAPTER_NOT_APPLIED, round, *_not_applied(round, kept, gap))
    cause, what, do = _by_signature(round, seen, tolerances.of(round.adapter, answers_moved))
    if not moved:
        return _told(cause, round, what, do)
    if cause is Cause.UNKNOWN or (cause is Cause.WRONG_STRENGTH and not _is_even(seen)):
        return _told(Cause.BASE_SWAPPED, round, *_swapped(round, kept, seen))
    return _told(cause, round, f"{what}; beside that the base {_how_base_moved(round, seen)}", do)


def name_base_cause(round: BaseRound, tolerances: Tolerances) -> tuple[Cause, str, str]:
    """The cause that most of the base's broken members show, in words that name them; needs one measured member."""
    measured = [m for m in round.members if blocked_by(m) is None]
    broken = [m for m in measured if float(np.mean(scores(m, tolerances))) > tolerances.share]
    found = [name_cause(m, tolerances) for m in broken or measured]
    cause = Counter(cause for cause, _, _ in found).most_common(1)[0][0]
    _, what, do = next(row for row in found if row[0] is cause)
    names = ", ".join(m.adapter for m in broken)
    return cause, f"{len(broken)} of {len(measured)} adapters of {round.base} are affected ({names}); {what}", do


def witnesses(round: Round) -> tuple[Measurement, ...]:
    """The held-out measurements, all of them when there are none; those with numbers only."""
    usable = tuple(m for m in round.measurements if m.finite)
    return tuple(m for m in usable if m.comparison.reference.half is Half.HELD_OUT) or usable


def signatures(seen: Sequence[Measurement]) -> tuple[tuple[Signature, ...], float]:
    """What each explanation leaves over, smallest first, and the energy to explain: |delta' - delta|^2.

    All in place (y - z), summed over canaries, in nats squared. What the benign noise of each canary may add is taken
    off. Tried together, because a small strength and a weak other adapter leave the same near nothing apart.
    """
    energy = noise = curve = 0.0
    others: dict[str, float] = {}
    for m in seen:
        ready = prepare(m.comparison.reference)
        mask = ready.mask
        served = np.where(mask, m.comparison.served.log_probs, 0.0).astype(np.float64)
        base = np.where(mask, m.comparison.live_base.log_probs, 0.0)
        now = ready.vector(served - base)
        energy += float((now - ready.delta) @ (now - ready.delta))
        noise += m.comparison.reference.noise.distortion**2 * ready.energy
        curve += m.scale_misfit * ready.energy
        for name, recorded in m.comparison.reference.others.items():
            left = now - ready.vector(np.where(mask, recorded, 0.0) - ready.base)
            others[name] = others.get(name, 0.0) + float(left @ left)
    tried = [Signature("", curve), *(Signature(name, left) for name, left in sorted(others.items()))]
    above = [Signature(s.name, max(s.left - noise, 0.0)) for s in tried]
    return tuple(sorted(above, key=lambda s: s.left)), energy


def _by_signature(round: Round, seen: Sequence[Measurement], tolerance: float) -> tuple[Cause, str, str]:
    """tolerance: |s - 1| that is no other strength. Explanations alike, as two that leave 0 are, name nothing."""
    tried, energy = signatures(seen)
    best, runner_up = tried[0], tried[1].left if len(tried) > 1 else math.inf
    stands_out = best.left < runner_up and best.left <= RUNNER_UP * runner_up
    explained = stands_out and best.left <= LEFT_OVER * energy
    if explained and best.name:
        return Cause.WRONG_ADAPTER, *_wrong_adapter(round, best.name, best.left / energy)
    scale = _mean(seen, "scale")
    if explained and abs(scale - 1.0) > tolerance:
        return Cause.WRONG_STRENGTH, *_wrong_strength(round, scale)
    return Cause.UNKNOWN, *_unknown(round, seen)


def _is_even(seen: Sequence[Measurement]) -> bool:
    """Is it one strength on all canaries, up to their noise? Of what is left or lost, whichever is less."""
    scale = _mean(seen, "scale")
    noise = float(np.mean([m.comparison.reference.noise.scale for m in seen]))
    return float(np.std([m.scale for m in seen])) <= EVEN * min(scale, abs(scale - 1.0)) + noise


def _swapped_and_lost(round: Round, kept: float, gap: float, seen: Sequence[Measurement]) -> tuple[str, str]:
    what = f"{round.adapter} answers as the bare base ({_left(kept, gap)}), and the base {_how_base_moved(round, seen)}"
    do = f"put the former base back, or retrain {round.adapter} on the new one; until then do not serve it"
    return what, do


def _not_applied(round: Round, kept: float, gap: float) -> tuple[str, str]:
    what = f"{round.adapter} answers as the bare base ({_left(kept, gap)}); the base itself has not moved"
    return (
        what,
        f"check that the engine loads {round.adapter}: key names, target modules, requested name; then reload it",
    )


def _swapped(round: Round, kept: float, seen: Sequence[Measurement]) -> tuple[str, str]:
    what = f"the base under {round.adapter} {_how_base_moved(round, seen)}; retention {kept:.2f}"
    return what, f"put the former base back, or accept this one: gapwatch enrol {round.adapter} --replace --why TEXT"


def _wrong_adapter(round: Round, other: str, left: float) -> tuple[str, str]:
    what = f"{round.adapter} answers as {other} does ({100 * (1 - left):.0f} % of the difference explained)"
    return what, f"check what is mounted and routed under the name {round.adapter}: it is {other}"


def _wrong_strength(round: Round, scale: float) -> tuple[str, str]:
    what = f"{round.adapter} runs at x{scale:.2f} of its strength{_known_factor(scale)}; its direction is intact"
    do = "compare alpha, r and use_rslora in adapter_config.json with the scale that the engine applies"
    return what, do + _perhaps_rslora(scale)


def _unknown(round: Round, seen: Sequence[Measurement]) -> tuple[str, str]:
    what = (
        f"{round.adapter} left what was accepted in no recorded way: retention {_mean(seen, 'retention'):.2f}, "
        f"scale {_mean(seen, 'scale'):.2f}, off its direction {math.sqrt(_mean(seen, 'distortion')):.2f}"
    )
    return what, f"compare the flipped canaries, then roll {round.adapter} or the engine back to the last good release"


def _known_factor(scale: float) -> str:
    near = [f", near x{factor:g}" for factor in FACTORS if abs(scale / factor - 1.0) <= NEAR]
    return near[0] if near else ""


def _perhaps_rslora(scale: float) -> str:
    """The rank is not known here, so that this is a possibility and no finding."""
    near = [r for r in RANKS if abs(scale * math.sqrt(r) - 1.0) <= NEAR]
    if not near:
        return ""
    return f"; if the adapter uses rsLoRA with r = {near[0]} (1/s^2), the engine may be ignoring use_rslora"


def _how_base_moved(round: Round, seen: Sequence[Measurement]) -> str:
    shift = _mean(seen, "base_shift")
    if round.identity.base_moved:
        golden, live = _short(round.identity.golden_base), _short(round.identity.live_base)
        quiet = ", though it answers as before" if shift < QUIET else ""
        return f"has other weights{quiet} (was {golden}, is {live}; base shift {shift:.3f})"
    return f"answers differently (base shift {shift:.3f})"


def _told(cause: Cause, round: Round, what: str, do: str) -> tuple[Cause, str, str]:
    """Files of the adapter that changed are appended to what was seen; they explain and never decide."""
    if round.identity.adapter_moved:
        golden, live = _short(round.identity.golden_adapter), _short(round.identity.live_adapter)
        what = f"{what}; the files of {round.adapter} changed (was {golden}, is {live})"
    return cause, what, do


def _left(kept: float, gap: float) -> str:
    return f"retention {kept:.2f}, gap {gap:.2f} of the healthy one"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _mean(seen: Sequence[Measurement], figure: str) -> float:
    return float(np.mean([getattr(m, figure) for m in seen]))
