"""Canaries of a round as a serving engine answers them in other modes, beside what it scores.

Which canaries, and in which two cells each, is fixed by the draws and the round's number before anything is answered:
the guarantee rests on it (docs/mathematics.md#served-modes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from detectors.canaries.mode_gap import FACTORS, beginning, measured_in_modes
from detectors.on_call_text import MODES
from detectors.records import Comparison, Ints, Measurement, Mode, Summary
from probes.canaries.replay_pairs import ReplayPair
from probes.canaries.schedule import RoundPlan
from probes.errors import EngineAway, Unreplayable
from probes.golden.record import Golden
from probes.runner import AnswersInModes, Stop
from probes.serving.engine import Listed
from probes.serving.listed_summary import summary_of

# Draws of a round that are had in other modes, and after an event: a page of 21.5 nats takes 8 that are all apart.
# After an answer that was apart all of a round may be had, because a fault of one request in eight takes some seventy.
DRAWS, DRAWS_AT_EVENT = 4, 12
# Tokens of the largest block by which engines keep prefixes: only a longer prompt leaves a whole one behind.
LONGEST_BLOCK = 128
CHAT_STREAMED = frozenset((Mode.CHAT, Mode.STREAMED))
Cell = tuple[Mode, ...]


@dataclass(frozen=True, slots=True)
class CellDraws:
    """Canaries of one adapter's round that are had in modes -> how often each was drawn.

    first: in any case; most: these and further ones, had where half of the first are apart
    """

    first: Mapping[str, int] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Cells:
    """What was had. facts: of modes in which the engine did not answer, in words; tokens: that it read and wrote

    dropped: those modes, of which nothing counts in this round
    """

    measurements: list[Measurement] = field(default_factory=list)
    facts: tuple[str, ...] = ()
    tokens: int = 0
    dropped: frozenset[Mode] = frozenset()


def two_cells(modes: Sequence[Mode], number: int, streams_chats: bool = True) -> tuple[Cell, Cell]:
    """Two choices of these factors that share none and have each of them once; another pair with the next number.

    modes: those of FACTORS in which the engine can be had answer; streams_chats: at the chat endpoint streamed, too
    """
    factors = [mode for mode in FACTORS if mode in modes]
    # Those without the last factor; the other cell of the pair has it.
    choices = [cell for size in range(len(factors)) for cell in combinations(factors[:-1], size)] or [()]
    pairs = [(cell, tuple(mode for mode in factors if mode not in cell)) for cell in choices]
    if not streams_chats:
        pairs = [pair for pair in pairs if not any(CHAT_STREAMED.issubset(cell) for cell in pair)]
    return pairs[number % len(pairs)]


def drawn_for_cells(golden: Golden, plan: RoundPlan, budget: int | None, most: int) -> dict[str, int]:
    """Canary -> how often it is among the first draws, as many of them as the round's budget holds, at least one.

    budget: scored positions of the round, None for as many as are wanted, after an event; most: draws that are wanted

    What the budget holds is what the scored canaries of such rounds leave of it on average, which no draw decides; and
    whether one more draw is had depends on how long those before it are and not on its own length, so that each is as
    random as any draw. Each is written twice.
    """
    left = math.inf if budget is None else budget - mean_scored(golden, plan)
    had: list[str] = []
    for name in plan.picks[:most]:
        had.append(name)
        left -= 2 * len(golden.canary(name).forced)
        if left <= 0:
            break
    return dict(Counter(had))


def mean_scored(golden: Golden, plan: RoundPlan) -> float:
    """Scored positions of rounds with as many draws and held-out canaries, the mean over which these are."""
    pool, held_out = ([len(canary.forced) for canary in half] for half in (golden.pool, golden.held_out))
    drawn = 1 - (1 - 1 / len(pool)) ** len(plan.picks)
    return drawn * sum(pool) + len(plan.held_out) / max(len(held_out), 1) * sum(held_out)


def cells_of_round(
    runner: AnswersInModes,
    pairs: Sequence[ReplayPair],
    scored: Mapping[str, Measurement],
    draws: CellDraws,
    number: int,
    stop: Stop,
    is_apart: Callable[[Measurement], bool],
) -> Cells:
    """``answers_in_modes`` of the first draws, and where half of them are apart of further ones in the same round.

    Each further draw is as random as any, given those before it, so that it is no less fair a bet: how many there are
    in a round is a stopping time. Arguments and what is left out as of ``answers_in_modes``.
    """
    first = answers_in_modes(runner, pairs, scored, draws.first, number, stop)
    more = {name: times for name, times in draws.most.items() if name not in draws.first}
    apart = {m.comparison.reference.canary for m in first.measurements if is_apart(m)}
    if not more or not apart or 2 * len(apart) < len(draws.first):
        return first
    rest = answers_in_modes(runner, pairs, scored, more, number + len(draws.first), stop)
    facts, tokens = (*first.facts, *rest.facts), first.tokens + rest.tokens
    if not rest.measurements:  # the engine went away: half of what was to be had is no random part of it
        return Cells(facts=facts, tokens=tokens)
    dropped = first.dropped | rest.dropped
    both = (_drawn(m, draws.most) for m in (*first.measurements, *rest.measurements))
    return Cells([m for m in both if not dropped.intersection(m.comparison.modes)], facts, tokens, dropped)


def _drawn(had: Measurement, draws: Mapping[str, int]) -> Measurement:
    times = draws[had.comparison.reference.canary]
    return replace(had, comparison=replace(had.comparison, draws=times))


def answers_in_modes(
    runner: AnswersInModes,
    pairs: Sequence[ReplayPair],
    scored: Mapping[str, Measurement],
    draws: Mapping[str, int],
    number: int,
    stop: Stop,
) -> Cells:
    """Each of these canaries in its two cells.

    pairs: of all canaries of the round; scored: canary -> its measurement, scored cold; draws: canary -> how often it
    counts; number: of the round. A mode in which the engine cannot be had answer has no cell in this round, and is
    said. Nothing comes back where the engine goes away meanwhile, or ``stop()`` turned true.
    """
    by_id = {pair.canary.id: pair for pair in pairs}
    asking = _Asking(runner, list(runner.modes()), stop)
    cells = Cells()
    try:
        for i, (name, times) in enumerate(draws.items()):
            # Without a factor to choose, what is written plainly is the only cell.
            for number_of_cell in (0, 1) if asking.has_factors else (0,):
                had = asking.cell(by_id[name], number + i, number_of_cell)
                if had is None:
                    return Cells(facts=tuple(asking.facts))
                cells.measurements.append(_measured(by_id[name], scored[name], times, *had))
                cells.tokens += len(by_id[name].adapter.prompt) + len(had[1].tokens)
    except EngineAway:  # what was scored is a round all the same
        return Cells()
    whole = [m for m in cells.measurements if not asking.dropped.intersection(m.comparison.modes)]
    return replace(cells, measurements=whole, facts=tuple(asking.facts), dropped=frozenset(asking.dropped))


@dataclass(slots=True)
class _Asking:
    """modes: in which the engine is asked, fewer once one of them failed; dropped: those"""

    runner: AnswersInModes
    modes: list[Mode]
    stop: Stop
    dropped: set[Mode] = field(default_factory=set)
    facts: list[str] = field(default_factory=list)

    @property
    def has_factors(self) -> bool:
        return any(mode in FACTORS for mode in self.modes)

    def cell(self, pair: ReplayPair, number: int, which: int) -> tuple[Cell, Listed] | None:
        """One of a canary's cells, with as few of its modes less as it takes to have an answer; None where there is
        none. Which mode fails may depend on what is at fault: so it is left out of the whole round."""
        if self.stop() or Mode.WRITTEN not in self.modes:
            return None
        factors = [mode for mode in self.modes if mode is not Mode.CHAT or pair.canary.messages]
        chosen = two_cells(factors, number, self.runner.streams_chats())[which]
        try:
            return self._had(pair, chosen)
        except EngineAway:
            raise
        except Unreplayable as error:
            return self._without_one(pair, chosen, error)

    def _without_one(self, pair: ReplayPair, chosen: Cell, error: Unreplayable) -> tuple[Cell, Listed] | None:
        for culprit in (mode for mode in (Mode.CHAT, Mode.STREAMED, Mode.WARM) if mode in chosen):
            try:
                had = self._had(pair, tuple(mode for mode in chosen if mode is not culprit))
            except EngineAway:
                raise
            except Unreplayable:
                continue
            self._drop(culprit, error)
            return had
        self._drop(Mode.WRITTEN, error)
        return None

    def _drop(self, mode: Mode, error: Unreplayable) -> None:
        self.modes.remove(mode)
        self.dropped.add(mode)
        self.facts.append(f"what it answers {MODES[mode]} is not known: {error.why}")

    def _had(self, pair: ReplayPair, chosen: Cell) -> tuple[Cell, Listed] | None:
        listed = self.runner.written(pair.adapter, pair.canary.messages, chosen, self.stop)
        if listed is None:
            return None
        long = (Mode.LONG,) if len(pair.adapter.prompt) > LONGEST_BLOCK else ()
        return tuple(sorted((*chosen, *long, Mode.WRITTEN))), _comparable(listed, pair.adapter.forced)


def _comparable(listed: Listed, forced: Sequence[int]) -> Listed:
    """Up to the first token that is not the given one: until there both follow the same text."""
    given = zip(listed.tokens.tolist(), forced, strict=False)
    differing = (i for i, (written, accepted) in enumerate(given) if written != accepted)
    n = next(differing, min(len(listed.tokens), len(forced)) - 1) + 1
    return Listed(listed.ids[:n], listed.log_probs[:n], listed.tokens[:n], listed.of_tokens[:n])


def _censored_alike(served: Summary, scored: Summary, listed: Listed, kept: Ints, forced: int) -> Summary:
    """Where what was written ends in another token, the accepted one may not be listed. All that is known of it is then
    a bound, and what was scored of it, which is known exactly, is not apart where it keeps that bound.

    kept: (n, K); forced: the accepted token of the last position
    """
    end = len(listed.tokens) - 1
    if listed.tokens[end] == forced or forced in listed.ids[end]:
        return served
    log_probs, of_forced = served.log_probs.copy(), kept[end] == forced
    log_probs[end, of_forced] = np.minimum(log_probs[end, of_forced], scored.log_probs[end, of_forced])
    return replace(served, log_probs=log_probs)


def _measured(pair: ReplayPair, scored: Measurement, times: int, modes: Cell, listed: Listed) -> Measurement:
    reference, of_round = beginning(pair.canary.reference, len(listed.tokens)), scored.comparison
    z = of_round.live_base
    n = len(listed.tokens)
    base = Summary(z.log_probs[:n], z.rest[:n], z.top1[:n])
    summary, kept = summary_of(listed, reference.kept), reference.kept
    served = _censored_alike(summary, of_round.served, listed, kept, pair.adapter.forced[n - 1])
    comparison = Comparison(of_round.adapter, reference, times, served, base, of_round.at, of_round.pod, modes)
    return measured_in_modes(comparison, scored)
