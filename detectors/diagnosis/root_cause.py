"""What is at fault? The table of docs/mathematics.md#causes, as far as one round of canaries can tell.

Scores are residual energies, not e-values (signature_matching.py): they name a fault that evidence has already found.
Read on the held-out canaries, on all of them where there are none.

Some pairs have the same log-probabilities, and another witness decides. "Adapter not applied" and a re-parameterised
base: the hash of the base's weights. Adapter A with B stacked on it, and A on a base with B merged in: the base's own
endpoint. A block left out, and a base on which that part of the adapter speaks to other coordinates: the base again,
by its answers or its hash. A template that changed: the replay from accepted ids. A cache shared across adapters: the
replay on a warmed one. One of several replicas: two heaps of canaries, or the pods' names. Input drift is no fault of
what canaries see; the traffic detectors speak of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from shlex import quote

import numpy as np

from detectors.canaries.retention import prepare
from detectors.canaries.tolerance import Tolerances, base_moved, beyond_tolerance, blocked_by, draw_scores
from detectors.diagnosis import remediation as words
from detectors.diagnosis.faulty_replicas import ReplicaGroups, groups_by_distance, groups_by_pod
from detectors.diagnosis.resembled_adapter import adapter_in_base, adapter_moved_towards
from detectors.diagnosis.signature_matching import ONE_FOR_ALL, Explanation, explanations, named
from detectors.records import THE_BASE, BaseRound, CanarySplit, Cause, FaultKind, Measurement, NamedCause, Round

CauseWords = tuple[Cause, str, str]

# Retention and gap that count as nothing left: .020 and .031 were measured on a base that had lost its adapter.
NOTHING_LEFT = 0.05
# Other weights that answer as before: their coordinates changed, and what is left of the adapter is chance. Of a
# re-parameterised 135M model .00 to .40 was left, by how much of it was permuted.
MOSTLY_LOST = 0.5
# A strength is the same on every canary up to this share of it, or of what is lost, whichever is less. While the base
# has moved: between the curve's knots the tests' toy world scatters by .012 up to x2, and what a base took is not even:
# 4-bit bases scatter by .07-.08 of it. While it stands still only two heaps of canaries must be kept apart from it.
EVEN, EVEN_ON_SAME_BASE = 0.03, 0.15
# Each canary has a point of its own on the curve, so that more is asked of it than of a fixed signature while the base
# stands still: on a 135M model strengths between knots left .000-.002, half of the rows of each matrix zeroed .019.
LEFT_BY_STRENGTH = 0.01


def name_cause(round: Round, tolerances: Tolerances) -> NamedCause:
    """The cause, what was seen, and the first thing to do, the last two in words.

    Order: the template, where the accepted ids are answered as accepted; a warm cache, where the cold one is in order;
    a faulty pod; nothing left of the adapter (with or without another base); the signature that explains the present
    answers; two heaps of canaries; a base that moved; files of the adapter that are other ones. UNKNOWN when it is none
    of these. A signature goes before the
    base, because a base that moved and was tolerated stays moved for months; what a base does to an adapter leaves too
    much over, or scatters too much over canaries, to pass as one. The base counts as moved by its answers or by its
    hash: a re-parameterised base answers as before.
    """
    if not diagnosed_canaries(round):
        return _told(
            (Cause.UNKNOWN, "no canary was measured", f"replay again: gapwatch probe {quote(round.adapter)}"), round
        )
    if _template_alone(round, tolerances):
        told = words.template(round.adapter, len(round.raw), len(round.measurements), round.identity)
        return _told((Cause.TEMPLATE_CHANGED, *told), round)
    read = on_accepted_ids(round)
    found = _of_cache(read, tolerances) or _of_answers(read, tolerances)
    if round.raw:
        found = (found[0], f"{found[1]}; beside that {len(round.raw)} prompts render to other token ids", found[2])
    return _told(found, round)


def name_base_cause(round: BaseRound, tolerances: Tolerances) -> NamedCause:
    """The cause that most of the base's broken members show, in words that name them; needs one measured member."""
    measured = [m for m in round.members if blocked_by(m) is None]
    broken = [m for m in measured if float(np.mean(draw_scores(m, tolerances))) > tolerances.share]
    found = [name_cause(m, tolerances) for m in broken or measured]
    cause = Counter(cause for cause, _, _ in found).most_common(1)[0][0]
    _, what, do = next(row for row in found if row[0] is cause)
    names = ", ".join(m.adapter for m in broken)
    return NamedCause(
        cause, f"{len(broken)} of {len(measured)} adapters of {round.base} are affected ({names}); {what}", do
    )


def diagnosed_canaries(round: Round) -> tuple[Measurement, ...]:
    """The held-out measurements, all of them when there are none; those with numbers only."""
    return _witnesses(round.measurements)


def _of_answers(round: Round, tolerances: Tolerances) -> CauseWords:
    """The cause in one endpoint's answers, or in some of its replicas'."""
    usable, moved = _usable(round.measurements), base_moved(round, tolerances)
    pods = groups_by_pod(usable, tolerances, moved)
    if pods is not None:
        return _one_replica(round, pods, _of_one(replace(round, measurements=pods.bad), tolerances))
    found = _of_one(round, tolerances)
    if found[0] not in (Cause.UNKNOWN, Cause.ADAPTER_REPLACED, Cause.BASE_SWAPPED):
        return found
    heaps = groups_by_distance(usable, tolerances, moved)
    if heaps is None:
        return found
    of_bad = _of_one(replace(round, measurements=heaps.bad), tolerances)
    return _one_replica(round, heaps, of_bad) if _is_alike(heaps, of_bad[0], round, tolerances) else found


def _of_one(round: Round, tolerances: Tolerances) -> CauseWords:
    """The cause as if every canary had been answered by one and the same replica."""
    seen, adapter, answers_moved = diagnosed_canaries(round), round.adapter, base_moved(round, tolerances)
    moved = round.identity.base_moved or answers_moved
    if max(abs(words.average(seen, "retention")), words.average(seen, "gap_ratio")) <= NOTHING_LEFT:
        if moved:
            return Cause.BASE_SWAPPED_AND_ADAPTER_LOST, *words.swapped_and_lost(adapter, seen, round.identity)
        return Cause.ADAPTER_NOT_APPLIED, *words.not_applied(adapter, seen)
    tolerance = tolerances.allowed_deviation(adapter, answers_moved)
    found = named(explanations(seen, tolerances.allowed_deviation(adapter, False)))
    # Another sampler leaves the weights alone, and many a moved base looks sharper or flatter.
    other_weights = bool(found) and found[0].cause is Cause.SAMPLING_CHANGED and round.identity.base_moved
    if found and not other_weights and _counts(found[0], seen, moved, tolerance):
        told = _by_signature(round, seen, found)
        beside = moved and found[0].cause is not Cause.QUANTISED_BASE
        base = f"; beside that the base {words.how_base_moved(seen, round.identity)}" if beside else ""
        return told[0], told[1] + base, told[2]
    left = found[0].name if found and found[0].cause is Cause.PARTLY_APPLIED else ""
    if round.identity.base_moved and not answers_moved and words.average(seen, "retention") <= MOSTLY_LOST:
        return Cause.BASE_SWAPPED_AND_ADAPTER_LOST, *words.re_parameterised(adapter, seen, round.identity, left)
    if moved:
        merged = adapter_in_base(seen) if answers_moved else ""
        return Cause.BASE_SWAPPED, *words.swapped(adapter, seen, round.identity, left, merged)
    if round.identity.adapter_moved:
        return Cause.ADAPTER_REPLACED, *words.replaced(adapter, seen)
    return Cause.UNKNOWN, *words.unknown(adapter, seen)


def _counts(best: Explanation, seen: Sequence[Measurement], moved: bool, tolerance: float) -> bool:
    """May this signature be named? A strength must be off and even; a part may be missing because of the base."""
    if best.cause is Cause.WRONG_STRENGTH:
        fits = moved or best.share <= LEFT_BY_STRENGTH
        even = (best.name == ONE_FOR_ALL and not moved) or _is_even(seen, moved)
        return fits and abs(best.value - 1.0) > tolerance and even
    return best.cause is not Cause.PARTLY_APPLIED or not moved


def _by_signature(round: Round, seen: Sequence[Measurement], found: Sequence[Explanation]) -> CauseWords:
    return found[0].cause, *_signature_words(round, seen, found)


def _signature_words(round: Round, seen: Sequence[Measurement], found: Sequence[Explanation]) -> words.Words:
    best, adapter = found[0], round.adapter
    names, left = [e.name for e in found if e.kind is best.kind], best.share
    match best.cause:
        case Cause.WRONG_STRENGTH:
            return words.wrong_strength(adapter, best.value)
        case Cause.WRONG_ADAPTER:
            return words.wrong_adapter(adapter, names, left)
        case Cause.PARTLY_APPLIED if best.kind is not FaultKind.WITHOUT:
            return words.applied_in_phases(adapter, best.name, seen, left)
        case Cause.PARTLY_APPLIED:
            return words.partly_applied(adapter, names, seen, left)
        case Cause.QUANTISED_BASE:
            return words.quantised(adapter, names, seen, round.identity, left)
        case Cause.COMPOSITION_INTERFERENCE:
            averaged = best.kind is FaultKind.AVERAGED
            return words.composition(adapter, best.name, averaged, best.value, seen, left)
        case Cause.SAMPLING_CHANGED:
            return words.sampling(adapter, best.name, best.value, left)
        case _:
            return words.shared_cache(adapter, None, words.average(seen, "retention"), best.name or THE_BASE)


def _one_replica(round: Round, split: ReplicaGroups, of_bad: CauseWords) -> CauseWords:
    bad, total = len(split.bad), len(split.good) + len(split.bad)
    return Cause.ONE_REPLICA, *words.one_replica(round.adapter, bad, total, split.pods, of_bad[1:])


def _is_alike(heaps: ReplicaGroups, cause: Cause, round: Round, tolerances: Tolerances) -> bool:
    """Has the far heap one cause? Another base only where its answers moved, and those of the near heap did not."""
    if cause is not Cause.BASE_SWAPPED:
        return cause not in (Cause.UNKNOWN, Cause.ADAPTER_REPLACED)
    far, near = (base_moved(replace(round, measurements=m), tolerances) for m in (heaps.bad, heaps.good))
    return far and not near


def _template_alone(round: Round, tolerances: Tolerances) -> bool:
    """Are canaries beyond tolerance as they are rendered now, and within it from the accepted ids?"""
    raw = _usable(round.raw)
    if not raw:
        return False
    changed = {m.comparison.reference.canary for m in raw}
    now = [m for m in _usable(round.measurements) if m.comparison.reference.canary in changed]
    moved = base_moved(replace(round, measurements=raw), tolerances)
    bad_now, bad_raw = (_share_beyond(rows, tolerances, moved) for rows in (now, raw))
    return bad_raw <= tolerances.share < bad_now


def on_accepted_ids(round: Round) -> Round:
    """The round with every canary as answered from its accepted ids, where the present template renders other ones."""
    raw = {m.comparison.reference.canary: m for m in round.raw}
    rows = tuple(raw.get(m.comparison.reference.canary, m) for m in round.measurements)
    return replace(round, measurements=rows)


def _of_cache(round: Round, tolerances: Tolerances) -> CauseWords | None:
    """SHARED_CACHE where canaries are answered within tolerance cold and beyond it warm; None otherwise."""
    warm = {m.comparison.reference.canary: m for m in _usable(round.warm)}
    pairs = [(m, warm[name]) for m in _usable(round.measurements) if (name := m.comparison.reference.canary) in warm]
    moved = base_moved(round, tolerances)
    cold_share, warm_share = (
        _share_beyond(rows, tolerances, moved) for rows in ([c for c, _ in pairs], [w for _, w in pairs])
    )
    if not cold_share <= tolerances.share < warm_share:
        return None
    cold, warmed = [c for c, _ in pairs], _witnesses([w for _, w in pairs])
    previous = _previous_tenant(pairs, warmed, tolerances.allowed_deviation(round.adapter, False))
    kept = [words.average(rows, "retention") for rows in (cold, warmed)]
    return Cause.SHARED_CACHE, *words.shared_cache(round.adapter, kept[0], kept[1], previous)


def _previous_tenant(
    pairs: Sequence[tuple[Measurement, Measurement]], warmed: Sequence[Measurement], tolerance: float
) -> str:
    """Whose cache it was: by its recorded signature, else by the direction in which the answers went; "" unknown."""
    found = named(explanations(warmed, tolerance))
    if found and found[0].kind in (FaultKind.WARMED, FaultKind.PREFILLED, FaultKind.OTHER_ADAPTER):
        return found[0].name or THE_BASE
    moves = []
    for cold, warm in pairs:
        ready = prepare(cold.comparison.reference)
        before, now = (ready.from_base(m.comparison.served.log_probs) for m in (cold, warm))
        moves.append((cold, now - before))
    return adapter_moved_towards(moves)


def _is_even(seen: Sequence[Measurement], moved: bool) -> bool:
    """Is it one strength on all canaries, up to their noise? Of what is left or lost, whichever is less."""
    scale = words.average(seen, "scale")
    noise = float(np.mean([m.comparison.reference.noise.scale for m in seen]))
    spread = float(np.std([m.scale for m in seen]))
    return spread <= (EVEN if moved else EVEN_ON_SAME_BASE) * min(scale, abs(scale - 1.0)) + noise


def _share_beyond(rows: Sequence[Measurement], tolerances: Tolerances, moved: bool) -> float:
    """Share of canaries beyond tolerance, each counted once; 0 for none."""
    return float(np.mean([beyond_tolerance(m, tolerances, moved) for m in rows])) if rows else 0.0


def _usable(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    return tuple(m for m in rows if m.finite)


def _witnesses(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    usable = _usable(rows)
    return tuple(m for m in usable if m.comparison.reference.split is CanarySplit.HELD_OUT) or usable


def _told(found: CauseWords, round: Round) -> NamedCause:
    """Files of the adapter that changed are appended to what was seen, and to what to do where the cause is not that
    already; they explain, and decide only where nothing else does."""
    cause, what, do = found
    if round.identity.adapter_moved:
        golden, live = words.short(round.identity.golden_adapter), words.short(round.identity.live_adapter)
        what = f"{what}; the files of {round.adapter} changed (was {golden}, is {live})"
        if cause is not Cause.ADAPTER_REPLACED:
            do = f"{do}; its files are not the accepted ones: {words.PUT_BACK}"
    return NamedCause(cause, what, do)
