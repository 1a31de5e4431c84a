"""What is at fault? The table of docs/mathematics.md#causes, as far as one round of canaries can tell.

Scores are residual energies, not e-values (signature_matching.py): they name a fault that evidence has already found.
Read on the held-out canaries, on all of them where there are none. A diagnosis is a record (record.py); its sentences
are made afterwards (wording.py). Changing an order or a threshold here changes which cause a round gets:
tests/detectors/diagnosis/test_cause_table.py.

Some pairs of causes have the same log-probabilities, and something else decides. "Adapter not applied" and a
re-parameterised base: the hash of the base's weights. Adapter A with B stacked on it, and A on a base with B merged in:
the base's own endpoint. A block left out, and a base on which that part of the adapter no longer fits: the base again,
by its answers or its hash. A template that changed: the replay from the accepted token ids. A cache shared across
adapters, or one that is stale: the answers through it. One of several replicas: two clusters of canaries, or the pods'
names. Input drift is not visible to canaries; the traffic detectors report it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.mode_gap import faulty_mode, is_apart
from detectors.canaries.retention import prepare
from detectors.canaries.tolerance import (
    STRENGTH_PER_SHIFT,
    Tolerances,
    base_moved,
    beyond_tolerance,
    blocked_by,
    draw_scores,
    with_accepted_shift,
)
from detectors.diagnosis.faulty_replicas import ReplicaGroups, groups_by_distance, groups_by_pod
from detectors.diagnosis.record import (
    BaseDiagnosis,
    CacheReplay,
    Diagnosis,
    FaultyReplicas,
    MatchedFault,
    MeanFigures,
    ModeGap,
)
from detectors.diagnosis.resembled_adapter import adapter_in_base, adapter_moved_towards
from detectors.diagnosis.signature_matching import (
    EACH_ITS_OWN,
    ONE_FOR_ALL,
    RUNNER_UP,
    SignatureFit,
    matching_signatures,
    signature_fits,
    temperature_of_both,
)
from detectors.records import (
    THE_BASE,
    THE_FILES,
    BaseRound,
    CanarySplit,
    Cause,
    FaultKind,
    Identity,
    Measurement,
    Mode,
    Round,
)

# Retention and gap that count as nothing left: .020 and .031 were measured on a base that had lost its adapter.
NOTHING_LEFT = 0.05
# Other weights that answer as before: the adapter was trained on another internal layout, and what is left of it is
# chance. Of a re-parameterised 135M model .00 to .40 was left, by how much of it was permuted.
MOSTLY_LOST = 0.5
# A strength is the same on every canary: one for all may leave this share of itself, or of what is lost, whichever is
# less, more than each canary's own (roots of energy over |delta|^2). Where the weights are others by their hash: a
# re-parameterised base answers as before, and what it takes away is not even, .06-.08 of it in the tests' toy world.
# Where they are not, only two clusters of canaries must be excluded.
EVEN, EVEN_ON_SAME_BASE = 0.03, 0.15
# Each canary has a point of its own on the curve, so that more is required of it than of a fixed signature: on a 135M
# model strengths between knots left .000-.002 of the energy to explain, half of each matrix's rows zeroed .019.
LEFT_BY_STRENGTH = 0.01
# A base that moved by its answers alone is the cause of a change of strength where it accounts for this share of it.
# Chosen on the zoo: by .1, three of 57 mild faults, bases that had taken the adapter, were called "not applied". On
# llama.cpp, by a record made in process, a base that nobody touched accounts for .015 (sqrt(B) of .010).
LEAST_OF_LOSS = 0.05
# What a base that has moved adds to both, for each unit of sqrt(B), and of B. Strengths of .5 to 2 on bases with B up
# to .02 (the toy world; a base of the zoo in 8 to 4 bits, and with up to 30 % of a tune) needed .44, and 3.4; a base
# that was at fault itself left .62 and 24 or more.
UNEVEN_PER_SHIFT, LEFT_PER_SHIFT = 0.5, 5.0


def diagnose(round: Round, tolerances: Tolerances) -> Diagnosis:
    """The cause of an adapter's fault, and what it rests on.

    Order: the template, where the accepted ids are answered as accepted; a mode, where what is scored cold is in
    order; a faulty pod; nothing left of the adapter (with or without another base); the signature that explains the
    present answers; two clusters of canaries; a base that moved; files of the adapter that were replaced. UNKNOWN when
    it is none of these. A signature goes before the base, because a base that moved and was tolerated stays moved for
    months; what a base does to an adapter leaves too much over, or is too uneven over canaries, to pass as one. The
    base counts as moved by its answers or by its hash: a re-parameterised base answers as before.
    """
    if not diagnosed_canaries(round):
        return Diagnosis(Cause.UNKNOWN, round.adapter, round.identity)
    changed, canaries = len(round.raw), len(round.measurements)
    if _is_template_alone(round, tolerances):
        cause = Cause.TEMPLATE_CHANGED
        return Diagnosis(cause, round.adapter, round.identity, changed_prompts=changed, canaries=canaries)
    from_accepted = on_accepted_ids(round)
    diagnosis = _of_modes(from_accepted, tolerances) or _of_answers(from_accepted, tolerances)
    return replace(diagnosis, changed_prompts=changed, canaries=canaries)


def diagnose_base(round: BaseRound, tolerances: Tolerances) -> BaseDiagnosis:
    """The cause that most of the base's broken members show; needs one measured member.

    Where some of these have signatures, which are made for a few of them after an alarm, their word is the one asked.
    """
    measured = [m for m in round.members if blocked_by(m) is None]
    scored = [m for m in measured if float(np.mean(draw_scores(m, tolerances))) > tolerances.share]
    broken = scored or [m for m in measured if _of_modes(on_accepted_ids(m), tolerances)]
    with_signatures = [m for m in broken or measured if has_signatures(m)]
    diagnoses = [diagnose(m, tolerances) for m in with_signatures or broken or measured]
    commonest = Counter(d.cause for d in diagnoses).most_common(1)[0][0]
    typical = next(d for d in diagnoses if d.cause is commonest)
    return BaseDiagnosis(round.base, tuple(m.adapter for m in broken), len(measured), typical)


def has_signatures(round: Round) -> bool:
    """Do its references hold signatures, of an earlier enrolment or made after an alarm?"""
    return any(m.comparison.reference.faults for m in round.measurements)


def is_nothing_left(canaries: Sequence[Measurement]) -> bool:
    """Do these, at least one, answer like the base? Then no signature says more."""
    means = _means(canaries)
    return max(abs(means.retention), means.gap_ratio) <= NOTHING_LEFT


def diagnosed_canaries(round: Round) -> tuple[Measurement, ...]:
    """The canaries that a diagnosis reads: the held-out ones, all of them when there are none; finite ones only."""
    return _held_out(round.measurements)


def fault_of_base(canaries: Sequence[Measurement]) -> MatchedFault | None:
    """The fault that explains the present answers of base and adapter together: a recorded rounding, kind QUANTISED,
    or a temperature of both, kind None; None where neither does."""
    fits = matching_signatures(signature_fits(canaries, 0.0))
    return _match(fits) if fits and fits[0].moves_base else None


def on_accepted_ids(round: Round) -> Round:
    """The round with every canary as answered from its accepted ids, where the present template renders other ones."""
    raw = {m.comparison.reference.canary: m for m in round.raw}
    rows = tuple(raw.get(m.comparison.reference.canary, m) for m in round.measurements)
    return replace(round, measurements=rows)


def _of_answers(round: Round, tolerances: Tolerances) -> Diagnosis:
    """The cause in one endpoint's answers, or in some of its replicas'."""
    usable = _finite(round.measurements)
    by_pod = groups_by_pod(usable, tolerances)
    if by_pod is not None:
        return _of_replicas(round, by_pod, _of_one_endpoint(replace(round, measurements=by_pod.bad), tolerances))
    whole = _of_one_endpoint(round, tolerances)
    if whole.cause not in (Cause.UNKNOWN, Cause.ADAPTER_REPLACED, Cause.BASE_SWAPPED):
        return whole
    by_distance = groups_by_distance(usable, tolerances)
    if by_distance is None:
        return whole
    of_bad = _of_one_endpoint(replace(round, measurements=by_distance.bad), tolerances)
    has_one_cause = _has_one_cause(by_distance, of_bad.cause, round, tolerances)
    return _of_replicas(round, by_distance, of_bad) if has_one_cause else whole


def _of_one_endpoint(round: Round, tolerances: Tolerances) -> Diagnosis:
    """The cause as if every canary had been answered by one and the same replica."""
    canaries, answers_moved = diagnosed_canaries(round), base_moved(round, tolerances)
    moved, means = round.identity.base_moved or answers_moved, _means(canaries)
    by_the_base = round.identity.base_moved or (answers_moved and _moved_enough(canaries))
    blank = Diagnosis(Cause.UNKNOWN, round.adapter, round.identity, means, base_moved=moved)
    blank = replace(blank, rank=round.rank, alpha=round.alpha)
    if is_nothing_left(canaries):
        cause = Cause.BASE_SWAPPED_AND_ADAPTER_LOST if by_the_base else Cause.ADAPTER_NOT_APPLIED
        return replace(blank, cause=cause, nothing_left=True)
    tried = signature_fits(canaries, tolerances.allowed_deviation(round.adapter))
    fits = matching_signatures(tried) or temperature_of_both(tried) or _strength_beside_the_base(tried)
    # Another sampler leaves the weights alone, and many a moved base looks sharper or flatter.
    other_weights = bool(fits) and fits[0].cause is Cause.SAMPLING_CHANGED and round.identity.base_moved
    if fits and not other_weights and _may_be_named(fits[0], tried, round, tolerances, moved):
        return replace(blank, cause=fits[0].cause, match=_match(fits))
    block = fits[0].name if fits and fits[0].cause is Cause.PARTLY_APPLIED else ""
    if round.identity.base_moved and not answers_moved and means.retention <= MOSTLY_LOST:
        return replace(blank, cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST, missing_block=block)
    if by_the_base:
        merged = adapter_in_base(canaries) if answers_moved else ""
        # By the weights themselves: rounding errors of two recipes have no direction in common.
        cause = Cause.QUANTISED_BASE if round.identity.base_quantised and not merged else Cause.BASE_SWAPPED
        return replace(blank, cause=cause, missing_block=block, merged_adapter=merged)
    replaced = round.identity.adapter_moved or round.identity.source_moved
    return replace(blank, cause=Cause.ADAPTER_REPLACED) if replaced else blank


def _moved_enough(canaries: Sequence[Measurement]) -> bool:
    """Does what the base moved by account for enough of what the adapter has lost or gained?

    A shift that is beyond the noise explains no loss by that alone: by a record that was made in another program, and
    without that program's noise, the base has moved on every engine.
    """
    lost = abs(1.0 - float(np.mean([m.scale for m in canaries])))
    return STRENGTH_PER_SHIFT * _root_of_shift(canaries) >= LEAST_OF_LOSS * lost


def _may_be_named(
    best: SignatureFit, tried: Sequence[SignatureFit], round: Round, tolerances: Tolerances, moved: bool
) -> bool:
    """May this signature be the cause? A part may be missing because of the base; of a strength more is asked."""
    if best.cause is Cause.WRONG_STRENGTH:
        return _is_strength(tried, round, tolerances)
    return best.cause is not Cause.PARTLY_APPLIED or not moved


def _strength_beside_the_base(tried: Sequence[SignatureFit]) -> tuple[SignatureFit, ...]:
    """The strength, where it leaves at most half of what any other fault in place leaves, however much that is.

    How much it may leave depends on the base: ``_is_strength``. Faults of the base do not compete: it moved as well.
    """
    in_place = sorted((fit for fit in tried if not fit.moves_base), key=lambda fit: (fit.left, fit.raw))
    others = (fit.left for fit in in_place if fit.cause is not Cause.WRONG_STRENGTH)
    is_clear = bool(in_place) and in_place[0].left <= RUNNER_UP * next(others, math.inf)
    return (in_place[0],) if is_clear and in_place[0].cause is Cause.WRONG_STRENGTH else ()


def _is_strength(tried: Sequence[SignatureFit], round: Round, tolerances: Tolerances) -> bool:
    """Is it one strength on all canaries, and off by more than the base can be to blame for?

    All three limits grow with the base shift, as tolerances do: whether the base counts as moved decides none of them.
    """
    canaries = diagnosed_canaries(round)
    fits = {fit.name: fit for fit in tried if fit.cause is Cause.WRONG_STRENGTH}
    best = min(fits.values(), key=lambda fit: (fit.left, fit.raw))
    by_the_base = tolerances.allowed_deviation(round.adapter) + STRENGTH_PER_SHIFT * _root_of_shift(canaries)
    left = LEFT_BY_STRENGTH * best.energy + _added_by_the_base(canaries)
    return abs(best.value - 1.0) > by_the_base and best.left <= left and _is_even(fits, canaries, round.identity)


def _is_even(fits: Mapping[str, SignatureFit], canaries: Sequence[Measurement], identity: Identity) -> bool:
    """Does one strength of all canaries leave hardly more than each canary's own?"""
    if ONE_FOR_ALL not in fits or EACH_ITS_OWN not in fits:
        return False
    uneven = max(fits[ONE_FOR_ALL].raw - fits[EACH_ITS_OWN].raw, 0.0) / sum(map(_energy, canaries))
    scale = float(np.mean([m.scale for m in canaries]))
    noise = float(np.mean([m.comparison.reference.noise.scale for m in canaries]))
    share = (EVEN if identity.base_moved else EVEN_ON_SAME_BASE) * min(scale, abs(scale - 1.0))
    return math.sqrt(uneven) <= share + UNEVEN_PER_SHIFT * _root_of_shift(canaries) + noise


def _root_of_shift(canaries: Sequence[Measurement]) -> float:
    return math.sqrt(float(np.mean([m.base_shift for m in canaries])))


def _added_by_the_base(canaries: Sequence[Measurement]) -> float:
    """Nats squared that a base which has moved this far may add to what a strength leaves."""
    return LEFT_PER_SHIFT * sum(m.base_shift * _energy(m) for m in canaries)


def _energy(m: Measurement) -> float:
    return prepare(m.comparison.reference).energy


def _match(fits: Sequence[SignatureFit]) -> MatchedFault:
    best = fits[0]
    return MatchedFault(best.kind, tuple(fit.name for fit in fits if fit.kind is best.kind), best.value, best.share)


def _of_replicas(round: Round, groups: ReplicaGroups, of_bad: Diagnosis, in_modes: bool = False) -> Diagnosis:
    """Whose answers they are goes before where they come from: another tenant's, from one engine, are its own fault."""
    total = len(groups.good) + len(groups.bad)
    replicas = FaultyReplicas(len(groups.bad), total, groups.pods, of_bad, in_modes)
    if of_bad.cause is Cause.WRONG_ADAPTER and round.answered_by not in ("", THE_FILES):
        return replace(of_bad, replicas=replicas)
    return Diagnosis(Cause.ONE_REPLICA, round.adapter, round.identity, replicas=replicas)


def _has_one_cause(groups: ReplicaGroups, cause: Cause, round: Round, tolerances: Tolerances) -> bool:
    """Have the bad canaries one cause? Another base only where its answers moved, and not on the good canaries."""
    if cause is not Cause.BASE_SWAPPED:
        return cause not in (Cause.UNKNOWN, Cause.ADAPTER_REPLACED)
    bad, good = (base_moved(replace(round, measurements=m), tolerances) for m in (groups.bad, groups.good))
    return bad and not good


def _is_template_alone(round: Round, tolerances: Tolerances) -> bool:
    """Are canaries beyond tolerance as they are rendered now, and within it from the accepted ids?

    How far the base has moved is that of the accepted ids: given other tokens, the same base answers differently.
    """
    raw = _finite(round.raw)
    if not raw:
        return False
    replayed = {m.comparison.reference.canary for m in raw}
    measurements = _finite(with_accepted_shift(round).measurements)
    now = [m for m in measurements if m.comparison.reference.canary in replayed]
    bad_now, bad_raw = (_share_beyond(rows, tolerances) for rows in (now, raw))
    return bad_raw <= tolerances.share < bad_now


def _of_modes(round: Round, tolerances: Tolerances) -> Diagnosis | None:
    """Where canaries are answered within tolerance as they are scored cold, and otherwise in some mode: SHARED_CACHE
    where that is the cache of prefixes, else SERVING_PATH. None otherwise: what is at fault is at fault in any mode."""
    cells = _finite(round.cells)
    mode = faulty_mode(cells, tolerances)
    if mode is None or _share_beyond(_finite(round.measurements), tolerances) > tolerances.share:
        return None
    in_mode = [m for m in cells if mode in m.comparison.modes]
    apart = sum(is_apart(m, tolerances) for m in in_mode)
    if apart <= tolerances.share * len(in_mode):
        return None
    if mode is Mode.WARM:
        return _of_cache(round, in_mode, tolerances)
    if mode is Mode.WRITTEN and (groups := _of_some_requests(cells, tolerances)):
        of_bad = _of_one_endpoint(replace(round, measurements=groups.bad), tolerances)
        return _of_replicas(round, groups, of_bad, in_modes=True)
    return Diagnosis(
        Cause.SERVING_PATH,
        round.adapter,
        round.identity,
        mode=ModeGap(mode, apart, len(in_mode), float(np.mean([m.mode_shift for m in in_mode]))),
    )


def _of_some_requests(cells: Sequence[Measurement], tolerances: Tolerances) -> ReplicaGroups | None:
    """The answers as accepted and the others, where most canaries with one that is apart have one that is not, and no
    mode makes the difference: then it is not the writing that is at fault but some of the requests."""
    by_canary: dict[str, list[bool]] = defaultdict(list)
    for m in cells:
        by_canary[m.comparison.reference.canary].append(is_apart(m, tolerances))
    apart = [answers for answers in by_canary.values() if any(answers)]
    if 2 * sum(map(all, apart)) >= len(apart):
        return None
    bad = tuple(m for m in cells if is_apart(m, tolerances))
    good = tuple(m for m in cells if not is_apart(m, tolerances))
    return ReplicaGroups(good, bad)


def _of_cache(round: Round, warmed: Sequence[Measurement], tolerances: Tolerances) -> Diagnosis:
    scored = {m.comparison.reference.canary: m for m in _finite(round.measurements)}
    pairs = [(scored[name], m) for m in warmed if (name := m.comparison.reference.canary) in scored]
    cold = [scored_cold for scored_cold, _ in pairs]
    previous = _previous_tenant(pairs, warmed, tolerances.allowed_deviation(round.adapter))
    cache = CacheReplay(_means(cold).retention, _means(warmed).retention, previous)
    return Diagnosis(Cause.SHARED_CACHE, round.adapter, round.identity, cache=cache)


def _previous_tenant(
    pairs: Sequence[tuple[Measurement, Measurement]], warmed: Sequence[Measurement], allowed: float
) -> str:
    """Whose cache it was: by its signature, else by the direction in which the answers moved; "" unknown."""
    fits = matching_signatures(signature_fits(warmed, allowed))
    if fits and fits[0].kind in (FaultKind.WARMED, FaultKind.PREFILLED, FaultKind.OTHER_ADAPTER):
        return fits[0].name or THE_BASE
    moves = []
    for cold, warm in pairs:
        ready, positions = prepare(warm.comparison.reference), len(warm.comparison.served.rest)
        before, now = (ready.from_base(m.comparison.served.log_probs[:positions]) for m in (cold, warm))
        moves.append((warm, now - before))
    return adapter_moved_towards(moves)


def _means(canaries: Sequence[Measurement]) -> MeanFigures:
    return MeanFigures(*(float(np.mean([getattr(m, name) for m in canaries])) for name in MeanFigures.__slots__))


def _share_beyond(rows: Sequence[Measurement], tolerances: Tolerances) -> float:
    """Share of canaries beyond tolerance, each counted once; 0 for none."""
    return float(np.mean([beyond_tolerance(m, tolerances) for m in rows])) if rows else 0.0


def _finite(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    return tuple(m for m in rows if m.finite)


def _held_out(rows: Sequence[Measurement]) -> tuple[Measurement, ...]:
    usable = _finite(rows)
    return tuple(m for m in usable if m.comparison.reference.split is CanarySplit.HELD_OUT) or usable
