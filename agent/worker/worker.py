"""The source of what models say: replays on schedule, and scores and embeds sampled traffic, on one worker thread.

Finished work comes out at the next ``poll``; the loop never waits for a model. One thread, because a GPU (or two
cores) shared by two replays finishes neither sooner, and because a runner is not thread-safe.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from agent.clock import Clock
from agent.records import Flip, GoldenAccepted, ScoredResponses
from agent.worker.backlog import Backlog
from agent.worker.goldens import Goldens
from agent.worker.response_scorer import ResponseResults, ResponseScorer
from detectors.records import BaseRound, Identity, Reason, Round
from detectors.traffic_records import TrafficRound
from probes.canaries.flipped_answers import flips
from probes.canaries.round import Scheduled, replay_base_round
from probes.canaries.schedule import due
from probes.errors import ProbeError
from probes.golden.record import Golden, identity_of
from probes.runner import Runner
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import not_scored

log = structlog.get_logger(__name__)

TRAFFIC_BATCH = 16
# Seconds that a turn of the traffic may take at least, by the clock; what has begun is finished.
TURN_S = 5.0
# Beyond the schedule, without a finished round: a volume or a device hangs, and nobody else would say so.
STUCK_S = 300.0
IDLE_S = 0.2
Made = BaseRound | ScoredResponses | Flip | GoldenAccepted


@dataclass(slots=True)
class WatchedBase:
    """One base with its runner and the golden records of its adapters, looked for anew before each round.

    responses: what embeds and scores sampled ones
    """

    name: str
    runner: Runner
    goldens: Goldens
    adapters: tuple[str, ...]
    responses: ResponseScorer
    number: int = 0
    last: float | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """every_s: between rounds of one base; budget: scored positions per adapter and round; seed: of the draws

    canaries: replay any?
    """

    every_s: float
    budget: int
    seed: int
    flips: int = 2
    canaries: bool = True


@dataclass(frozen=True, slots=True)
class _Regenerate:
    base: str
    round: Round


@dataclass(slots=True)
class _Box:
    """What the loop and the worker hand each other; every member is safe to use from both."""

    done: queue.SimpleQueue[Made] = field(default_factory=queue.SimpleQueue)
    regenerate: queue.SimpleQueue[_Regenerate] = field(default_factory=queue.SimpleQueue)
    interactions: dict[str, Backlog] = field(default_factory=dict)


class CanaryFeed:
    """Rounds, what was heard of sampled traffic, and flips, as they are finished.

    A round that failed half-way comes out as blocked rounds with the reason; it never stops the thread.
    backlog: interactions of each adapter that may wait; what comes beyond is shed by arrival order and counted in
    ``shed``. Each base has one batch in a turn, and each adapter its turns in the batches of its base.
    """

    def __init__(self, bases: Sequence[WatchedBase], schedule: Schedule, clock: Clock, backlog: int = 64) -> None:
        self._bases = {base.name: base for base in bases}
        self._base_of = {name: base.name for base in bases for name in base.adapters}
        self._schedule, self._clock = schedule, clock
        self._box = _Box(interactions={base.name: Backlog(base.adapters, backlog) for base in bases})
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="canaries", daemon=True)
        self._last_word: dict[str, float] = {}
        self.failures = 0
        self._last_error = ""

    def open(self) -> None:
        self._thread.start()

    def close(self, budget_s: float = 2.0) -> None:
        """Ask the worker to stop and wait so long; a pass that does not end by then is abandoned with its thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(budget_s)
        if not self._thread.is_alive():
            for base in self._bases.values():
                base.runner.close()

    def poll(self, now: float) -> list[Made]:
        """All that was finished since the last call; never waits."""
        finished: list[Made] = []
        while not self._box.done.empty():
            finished.append(self._box.done.get())
        self._last_word.update({made.base: now for made in finished if isinstance(made, BaseRound | ScoredResponses)})
        return [*finished, *self._silent(now)]

    def _silent(self, now: float) -> list[Made]:
        """A blocked round for each base that has given none for too long: a thread that hangs is not healthy."""
        told: list[Made] = []
        for base in self._bases.values():
            quiet = now - self._last_word.setdefault(base.name, now)
            if quiet > self._schedule.every_s + STUCK_S:
                self._last_word[base.name] = now
                why = f"no round finished for {quiet:.0f} s: the replay is too slow, or its files or device hang"
                told += self._unheard(base, now, why)
        return told

    def _unheard(self, base: WatchedBase, now: float, why: str) -> list[Made]:
        """In the kind of round that its next word will be: the word of another kind would stand for ever."""
        if self._schedule.canaries:
            return [_blocked(base, base.number, now, Reason.NOT_REPLAYED_YET, why)]
        if base.responses.asking is None:
            return []
        scores = tuple(not_scored(name, "", "", now, why) for name in base.adapters)
        return [
            ScoredResponses(base.name, now, (), TrafficRound(base.name, base.number, now, base.adapters, scores), {})
        ]

    def commit(self) -> None:
        """Nothing to forget: rounds are made here, not read."""

    def embed(self, interactions: Sequence[Interaction]) -> None:
        """Take sampled interactions for the traffic line; each is in a ScoredResponses later, or is shed."""
        for interaction in interactions:
            base = self._base_of.get(interaction.adapter)
            if base is not None:
                self._box.interactions[base].add(interaction)

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter, how many sampled interactions no model had time for."""
        return {name: n for backlog in self._box.interactions.values() for name, n in backlog.shed.items()}

    def regenerate(self, base: str, round_: Round) -> None:
        """Ask for the worst canaries of this round as text, golden and present, once."""
        if self._schedule.flips:
            self._box.regenerate.put(_Regenerate(base, round_))

    @property
    def status(self) -> tuple[bool, str]:
        if not self._thread.is_alive():
            return False, "the replay thread is not running"
        lost = ", ".join(f"{name} {n}" for name, n in self.shed.items() if n)
        told = f"replaying; sampled and shed for want of time: {lost}" if lost else "replaying"
        return not self._last_error, self._last_error or told

    def _work(self) -> None:
        while not self._stop.is_set():
            if not self._guarded(self._turn):
                self._stop.wait(IDLE_S)

    def _guarded(self, turn: Callable[[], bool]) -> bool:
        """One turn; what goes wrong is counted and said, and the next turn comes all the same."""
        try:
            before = self.failures
            busy = turn()
            if self.failures == before:
                self._last_error = ""
            return busy
        except ProbeError as error:
            self._failed(str(error))
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            log.exception("replay_failed")
        return False

    def _failed(self, why: str) -> None:
        self.failures += 1
        self._last_error = why
        log.warning("worker_turn_failed", why=why)

    def _turn(self) -> bool:
        """Texts for an incident that has just opened, then due rounds, then one batch of each base's traffic: each gets
        its turn, however busy the others are."""
        asked = self._texts()
        now = self._clock.now()
        waiting = [base for base in self._bases.values() if due(now, base.last, self._schedule.every_s)]
        for base in waiting:
            self._round(base, now)
        heard = self._traffic()
        return bool(waiting) or asked or heard

    def _round(self, base: WatchedBase, now: float) -> None:
        number, base.number, base.last = base.number, base.number + 1, now
        now = round(now, 3)  # as rows keep it: the draws depend on it, and can be made again from a row
        try:
            if not base.opened:
                base.runner.open()
                base.opened = True
            for accepted in base.goldens.look():
                self._accept(base, accepted)
            made = self._replayed(base, number, now)
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            made = _blocked(base, number, now, Reason.REPLAY_FAILED, str(error)) if self._schedule.canaries else None
        if made is not None:
            self._box.done.put(made)
        self._hand_out(base, base.responses.take(), number, now)

    def _accept(self, base: WatchedBase, accepted: GoldenAccepted) -> None:
        golden = base.goldens.held.get(accepted.adapter)
        if isinstance(golden, Golden):
            base.responses.accepted(golden)
        self._box.done.put(accepted)

    def _replayed(self, base: WatchedBase, number: int, now: float) -> BaseRound | None:
        plan, held = self._schedule, base.goldens.held
        if not plan.canaries:
            base.runner.refresh()  # the hashes of what lies there now are told beside the responses
            return None
        scheduled = Scheduled(base.name, number, now, plan.budget, plan.seed)
        return replay_base_round(base.runner, held, scheduled, self._stopped)

    def _hand_out(self, base: WatchedBase, taken: ResponseResults, number: int, now: float) -> None:
        """All that was heard since the last round; also where that is nothing, so that silence is seen."""
        scored = self._traffic_round(base, taken, number, now) if base.responses.asking is not None else None
        self._box.done.put(ScoredResponses(base.name, now, taken.embeddings, scored, taken.upto))

    def _traffic_round(self, base: WatchedBase, taken: ResponseResults, number: int, now: float) -> TrafficRound:
        """In the order in which they were scored."""
        identities = {}
        for name, golden in base.goldens.held.items():
            if isinstance(golden, Golden):
                accepted = Identity(golden.base_hash, "", golden.adapter_hash, scheme=golden.hash_scheme)
                identities[name] = identity_of(golden, base.runner) if base.opened else accepted
        return TrafficRound(base.name, number, now, base.adapters, taken.scores, identities)

    def _texts(self) -> bool:
        done = 0
        while not self._box.regenerate.empty() and not self._stopped():
            self._regenerate(self._box.regenerate.get())
            done += 1
        return done > 0

    def _regenerate(self, asked: _Regenerate) -> None:
        base, now = self._bases[asked.base], self._clock.now()
        for changed in flips(base.runner, asked.round, base.goldens.held, self._schedule.flips, self._stopped):
            flip = Flip(
                adapter=asked.round.adapter,
                base=asked.base,
                canary=changed.canary,
                round=asked.round.number,
                at=now,
                prompt=changed.prompt_text,
                golden_text=changed.golden_text,
                present_text=changed.present_text,
                retention=changed.retention,
                golden_passes=changed.golden_passes,
                present_passes=changed.present_passes,
            )
            self._box.done.put(flip)

    def _traffic(self) -> bool:
        """One batch of each base."""
        heard = False
        for name, backlog in self._box.interactions.items():
            batch = [] if self._stopped() else backlog.take(TRAFFIC_BATCH)
            if batch:
                self._listen(self._bases[name], batch)
                heard = True
        return heard

    def _listen(self, base: WatchedBase, batch: Sequence[Interaction]) -> None:
        """What there was no time for before the next round of any base comes first in the next turn."""
        if not base.opened:
            base.responses.not_scored(batch, self._last_error or "the base is not loaded yet")
            return
        # Where rounds take longer than the schedule, the next one is due at once: traffic has its turn all the same.
        due_next = min(one.last or 0.0 for one in self._bases.values()) + self._schedule.every_s
        until = max(due_next, self._clock.now() + TURN_S)
        left = base.responses.hear(batch, base.goldens.held, lambda: self._stopped() or self._clock.now() >= until)
        self._box.interactions[base.name].give_back(left)
        surplus = base.responses.take_surplus()
        if surplus is not None:
            self._box.done.put(ScoredResponses(base.name, self._clock.now(), surplus.embeddings, None, surplus.upto))

    def _stopped(self) -> bool:
        return self._stop.is_set()


def _blocked(base: WatchedBase, number: int, now: float, reason: Reason, why: str) -> BaseRound:
    """A round of which nothing came, so that silence is visible as unmonitorable."""
    rounds = tuple(Round(name, base.name, number, now, (), blocked=reason, detail=why) for name in base.adapters)
    return BaseRound(base.name, number, now, rounds)
