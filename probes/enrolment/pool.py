"""Which canaries can be used for an adapter, and which half is each of them in?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from detectors.records import CanarySplit
from probes.canaries.canary_file import CanarySet
from probes.canaries.rendering import readable
from probes.canaries.replay_pairs import Progress
from probes.enrolment.candidates import continue_greedily, golden_sides
from probes.enrolment.d_optimal import select_canaries
from probes.enrolment.fault_directions import features_of
from probes.enrolment.settings import EnrolSettings
from probes.errors import Refused
from probes.golden.power import strong_enough
from probes.golden.record import GoldenCanary
from probes.runner import Runner, Stop

AT_ONCE = 8  # canaries whose whole vocabulary is in memory at a time: 8 x 2 x 40 x 150,000 floats are 0.4 GB
WEAK = "the adapter hardly changes the base's answer here"
NOT_CHOSEN = "not chosen: others tell more per token"


@dataclass(frozen=True, slots=True)
class EnrolmentContext:
    """Who asks: what every step of an enrolment needs. others: the other registered adapters that can be replayed."""

    runner: Runner
    adapter: str
    others: Sequence[str]
    progress: Progress
    stop: Stop


@dataclass(frozen=True, slots=True, eq=False)
class UsableCanaries:
    """usable: canaries with both golden sides; excluded: canary id -> why not."""

    usable: list[GoldenCanary]
    excluded: dict[str, str]


def usable(asked: EnrolmentContext, canaries: CanarySet, settings: EnrolSettings) -> UsableCanaries:
    """Canaries with an effect to measure, as many as wanted, in an order that the seed alone decides.

    All of them where the pool is to be chosen. Raises Refused for canaries of a file that this base cannot be asked and
    for fewer than both halves need at least.
    """
    # One token more than allowed: a continuation that ends exactly at the bound has ended.
    askable, unreadable = readable(asked.runner, canaries.canaries, settings.max_new_tokens + 1)
    order = np.random.default_rng(settings.seed).permutation(len(askable))
    waiting = [askable[int(index)] for index in order]
    wanted = len(waiting) if settings.select else 2 * settings.per_half
    found = UsableCanaries([], unreadable)
    while waiting and len(found.usable) < wanted:
        asked.progress("continuations", len(found.usable), wanted)
        size = min(AT_ONCE, wanted - len(found.usable))
        batch, waiting = waiting[:size], waiting[size:]
        bounds = settings.min_tokens, settings.max_new_tokens
        candidates, excluded = continue_greedily(asked.runner, asked.adapter, batch, bounds, asked.stop)
        found.excluded.update(excluded)
        for canary in golden_sides(asked.runner, asked.adapter, candidates, settings.top, asked.stop):
            if strong_enough(canary.reference, settings.min_energy):
                found.usable.append(canary)
            else:
                found.excluded[canary.id] = WEAK
    asked.progress("continuations", wanted, wanted)
    _enough(asked.adapter, found, settings)
    return found


def halved(asked: EnrolmentContext, found: UsableCanaries, settings: EnrolSettings) -> UsableCanaries:
    """The same canaries, each in its half; those that were not chosen are excluded."""
    if not settings.select:
        return UsableCanaries(_at_random(found.usable, settings.seed), found.excluded)
    order = np.random.default_rng([settings.seed, 1]).permutation(len(found.usable))
    # Kept back before anything is looked at: the held-out half is a sample of the usable canaries, chosen by nothing.
    count = min(settings.per_half, len(order) - settings.min_pool)
    held, rest = ([found.usable[int(index)] for index in part] for part in (order[:count], order[count:]))
    chosen = _chosen(asked, rest, settings)
    ids = {canary.id for canary in chosen}
    passed_over = {canary.id: NOT_CHOSEN for canary in rest if canary.id not in ids}
    both = [
        *(_in(canary, CanarySplit.SELECTED) for canary in chosen),
        *(_in(canary, CanarySplit.HELD_OUT) for canary in held),
    ]
    return UsableCanaries(both, found.excluded | passed_over)


def _chosen(asked: EnrolmentContext, candidates: Sequence[GoldenCanary], settings: EnrolSettings) -> list[GoldenCanary]:
    lengths = [len(canary.forced) for canary in candidates]
    budget = settings.pool_tokens or round(float(np.mean(lengths)) * settings.per_half)
    features = features_of(asked.runner, asked.adapter, candidates, asked.others, asked.progress, asked.stop)
    return [candidates[index] for index in select_canaries(features, lengths, budget, settings.min_pool)]


def _enough(adapter: str, found: UsableCanaries, settings: EnrolSettings) -> None:
    usable, least = len(found.usable), 2 * settings.min_pool
    if usable >= least:
        return
    if not usable and found.excluded and set(found.excluded.values()) == {WEAK}:
        seen, wanted = "answers that cannot be told from its base's", "an effect on at least some canaries"
        raise Refused(f"adapter {adapter} is unmonitorable", seen, f"{wanted}: is this the adapter you mean?")
    counts = Counter(found.excluded.values())
    reasons = ", ".join(f"{count} x {why}" for why, count in sorted(counts.items()))
    seen = f"{usable} usable canaries" + (f" (excluded: {reasons})" if reasons else "")
    wanted = f"{least}, {settings.min_pool} to draw from and as many held out: {least - usable} are missing"
    raise Refused(f"adapter {adapter} is unmonitorable", seen, wanted)


def _at_random(canaries: Sequence[GoldenCanary], seed: int) -> list[GoldenCanary]:
    """Both halves at random: the held-out half is a sample of the same canaries, whatever their order was."""
    order = np.random.default_rng([seed, 1]).permutation(len(canaries))
    selected = set(order[: len(canaries) // 2].tolist())
    splits = [CanarySplit.SELECTED if index in selected else CanarySplit.HELD_OUT for index in range(len(canaries))]
    return [_in(canary, split) for canary, split in zip(canaries, splits, strict=True)]


def _in(canary: GoldenCanary, split: CanarySplit) -> GoldenCanary:
    return replace(canary, split=split, reference=replace(canary.reference, split=split))
