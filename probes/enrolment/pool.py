"""Which canaries can be used for an adapter, and which of them are drawn for evidence, which held out?

Both choices are random with a fixed seed. The held-out half has to stay a random sample: retention's interval is read
on it alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detectors.records import CanarySplit
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.rendering import readable
from probes.enrolment.candidates import continue_greedily, golden_sides
from probes.enrolment.d_optimal import select_canaries
from probes.enrolment.fault_directions import features_of
from probes.enrolment.scored_prefix import WholeAndShort, whole_and_short
from probes.enrolment.settings import EnrolmentContext, EnrolSettings
from probes.errors import Refused
from probes.golden.record import GoldenCanary
from probes.golden.statistical_power import strong_enough

# Canaries whose log-probabilities over the whole vocabulary are in memory together: 8 x 2 x 40 x 150,000 floats are
# 0.4 GB.
AT_ONCE = 8
# Seeds, beside the enrolment's, of which canaries of a half are scored whole.
OF_POOL, OF_HELD_OUT = 2, 3
WEAK = "the adapter hardly changes the base's answer here"
NOT_CHOSEN = "not chosen: others carry more information per token"


@dataclass(frozen=True, slots=True, eq=False)
class CanarySelection:
    """canaries: those that can be used, with both golden sides; excluded: canary id -> why it cannot be used."""

    canaries: list[GoldenCanary]
    excluded: dict[str, str]


def usable_canaries(context: EnrolmentContext, canaries: CanarySet, settings: EnrolSettings) -> CanarySelection:
    """Canaries with an effect to measure, as many as wanted, in an order that the seed alone decides.

    All of them where the pool is to be chosen. Raises Refused for canaries of a file that this base cannot read, and
    for fewer than the least that both halves need.
    """
    # One token more than is kept: a continuation that ends exactly at the bound has ended.
    readable_canaries, unreadable = readable(context.runner, canaries.canaries, settings.max_new_tokens + 1)
    order = np.random.default_rng(settings.seed).permutation(len(readable_canaries))
    waiting = [readable_canaries[int(index)] for index in order]
    wanted = len(waiting) if settings.select else 2 * settings.per_half
    selection = CanarySelection([], unreadable)
    while waiting and len(selection.canaries) < wanted:
        context.progress("continuations", len(selection.canaries), wanted)
        size = min(AT_ONCE, wanted - len(selection.canaries))
        batch, waiting = waiting[:size], waiting[size:]
        _add_usable(selection, context, batch, settings)
    context.progress("continuations", wanted, wanted)
    _check_enough(context.adapter, selection, settings)
    return selection


def _add_usable(
    selection: CanarySelection, context: EnrolmentContext, batch: Sequence[Canary], settings: EnrolSettings
) -> None:
    bounds = settings.min_tokens, settings.max_new_tokens
    candidates, excluded = continue_greedily(context.runner, context.adapter, batch, bounds, context.stop)
    selection.excluded.update(excluded)
    for canary in golden_sides(context.runner, context.adapter, candidates, settings.top, context.stop):
        if strong_enough(canary.reference, settings.min_energy):
            selection.canaries.append(canary)
        else:
            selection.excluded[canary.id] = WEAK


def assign_splits(context: EnrolmentContext, usable: CanarySelection, settings: EnrolSettings) -> CanarySelection:
    """The same canaries, each in its half and most of them shortened; where the pool is chosen, those that were not
    chosen are excluded."""
    if not settings.select:
        return CanarySelection(_at_random(usable.canaries, settings), usable.excluded)
    order = np.random.default_rng([settings.seed, 1]).permutation(len(usable.canaries))
    # Set aside before any canary is compared: the held-out half is a random sample of the usable canaries.
    count = min(settings.per_half, len(order) - settings.min_pool)
    held_out, rest = ([usable.canaries[int(index)] for index in part] for part in (order[:count], order[count:]))
    chosen = _chosen(context, whole_and_short(rest, settings, OF_POOL), settings)
    ids = {canary.id for canary in chosen}
    passed_over = {canary.id: NOT_CHOSEN for canary in rest if canary.id not in ids}
    canaries = [
        *(_in(canary, CanarySplit.SELECTED) for canary in chosen),
        *(_in(canary, CanarySplit.HELD_OUT) for canary in whole_and_short(held_out, settings, OF_HELD_OUT).all),
    ]
    return CanarySelection(canaries, usable.excluded | passed_over)


def _chosen(context: EnrolmentContext, candidates: WholeAndShort, settings: EnrolSettings) -> list[GoldenCanary]:
    """Whole canaries and short ones in the same shares as in a random pool, each the best of their kind."""
    tolerance = settings.tolerances.allowed_deviation(context.adapter)
    features, costs = features_of(context, candidates.all, tolerance), tokens_of(candidates.all)
    parts = slice(len(candidates.whole)), slice(len(candidates.whole), None)
    wanted, least = (
        (whole := math.ceil(settings.whole_share * count), count - whole)
        for count in (settings.per_half, settings.min_pool)
    )
    # What so many average canaries of either kind take; a budget that is set is divided in the same proportion.
    usual = [n * float(np.mean(costs[part])) if n else 0.0 for n, part in zip(wanted, parts, strict=True)]
    scale = settings.pool_tokens / sum(usual) if settings.pool_tokens else 1.0
    chosen: list[GoldenCanary] = []
    for part, tokens, at_least in zip(parts, usual, least, strict=True):
        if at_least:
            picked = select_canaries(features[part], costs[part], round(scale * tokens), at_least)
            chosen += [candidates.all[part][index] for index in picked]
    return chosen


def tokens_of(canaries: Sequence[GoldenCanary]) -> list[int]:
    """What a replay of each costs: the tokens of its prompt and its scored ones."""
    return [len(canary.prompt) + len(canary.forced) for canary in canaries]


def _check_enough(adapter: str, selection: CanarySelection, settings: EnrolSettings) -> None:
    """Raises Refused with the reasons why canaries were excluded."""
    usable, least = len(selection.canaries), 2 * settings.min_pool
    if usable >= least:
        return
    if not usable and selection.excluded and set(selection.excluded.values()) == {WEAK}:
        present, wanted = "answers that cannot be distinguished from its base's", "an effect on at least some canaries"
        raise Refused(f"adapter {adapter} is unmonitorable", present, f"{wanted}: is this the adapter you mean?")
    counts = Counter(selection.excluded.values())
    reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(counts.items()))
    present = f"{usable} usable canaries" + (f" (excluded: {reasons})" if reasons else "")
    wanted = f"{least}, {settings.min_pool} to draw from and as many held out: {least - usable} are missing"
    raise Refused(f"adapter {adapter} is unmonitorable", present, wanted)


def _at_random(canaries: Sequence[GoldenCanary], settings: EnrolSettings) -> list[GoldenCanary]:
    """Both halves at random: the held-out half is a sample of the same canaries, whatever their order was."""
    order = np.random.default_rng([settings.seed, 1]).permutation(len(canaries)).tolist()
    half = len(canaries) // 2
    selected, held_out = ([canaries[index] for index in sorted(part)] for part in (order[:half], order[half:]))
    return [
        *(_in(canary, CanarySplit.SELECTED) for canary in whole_and_short(selected, settings, OF_POOL).all),
        *(_in(canary, CanarySplit.HELD_OUT) for canary in whole_and_short(held_out, settings, OF_HELD_OUT).all),
    ]


def _in(canary: GoldenCanary, split: CanarySplit) -> GoldenCanary:
    return replace(canary, split=split, reference=replace(canary.reference, split=split))
