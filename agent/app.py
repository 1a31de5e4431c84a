"""The agent's loop, and the order in which its parts are opened and closed.

One turn: results of the worker and records of Kafka in, each to the judge, and every finding to the worker and to the
sinks. Offsets are committed after the sinks have flushed. Nothing here may wait for a model, a broker or a store. Parts
are closed in the reverse order of opening, within one shared budget, of which each has a fixed share.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import structlog

from agent.alerting.judge import Judge
from agent.alerting.rounds_due import RoundsDue
from agent.back_off import BackOff
from agent.clock import Clock
from agent.health import Routes, Statuses, no_routes
from agent.records import Finding, Heartbeat, Observation, ScoredResponses, TrafficBatch, Watching
from agent.sink import Sinks
from agent.traffic.feed import TrafficFeed
from detectors.records import BaseRound, FaultReplay, FilesRound

IDLE_S = 0.1
HEARTBEAT_S = 30.0
# The saved state in the store is at most so old, where the pod ends without a word.
SAVED_EVERY_S = 300.0
# So long the store has for the state of a base that goes, while the group waits.
HAND_OVER_S = 2.0

log = structlog.get_logger(__name__)


class Feed(Protocol):
    """A source of records for the judge: what came since the last call."""

    def poll(self, now: float) -> Sequence[Observation]: ...


class Ownership(Protocol):
    """Which bases are this agent's; see ``agent.kafka.owned_bases.OwnedBases``."""

    on_lost: Callable[[frozenset[str]], None]

    @property
    def owned(self) -> frozenset[str]: ...
    def open(self) -> None: ...
    def poll(self) -> frozenset[str]: ...
    def close(self, budget_s: float) -> None: ...


class Models(Protocol):
    """Who answers by models. It takes findings and has results handed to the feeds; neither waits for a model."""

    def open(self) -> None: ...
    def submit(self, finding: Finding) -> None: ...
    def deliver(self) -> None: ...
    def close(self, budget_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the loop turns; made by assemble.py or by a test.

    feeds: polled in each turn, their records judged in this order; traffic: the one of them whose records Kafka keeps
    until they are committed, None without Kafka; worker: None where no model is loaded
    ownership: of a witness, which shares the bases with others; None where all are this agent's own
    own: told which bases are this agent's whenever that changes: the models and the feeds
    stores_traffic: False where other agents count and store what ``traffic`` reads
    rounds_due: which bases are to be judged here and how often
    unwatched: base -> its adapters, of those that others are to judge and nobody does
    routes: what the health servers answer with
    beat: called with each heartbeat, for figures that only the loop's thread may read
    models_cpu_s: CPU seconds that the models have used so far
    opening: called first of all; closing: called last of all
    """

    judge: Judge
    sinks: Sinks
    worker: Models | None
    feeds: Sequence[Feed]
    traffic: TrafficFeed | None
    clock: Clock
    pod: str
    cluster: str
    ownership: Ownership | None = None
    own: Sequence[Callable[[frozenset[str]], None]] = ()
    stores_traffic: bool = True
    rounds_due: RoundsDue = field(default_factory=partial(RoundsDue, {}))
    unwatched: Callable[[], Mapping[str, Sequence[str]]] = dict
    beat: Callable[[], None] = lambda: None
    models_cpu_s: Callable[[], float] = lambda: 0.0
    opening: Callable[[], None] = lambda: None
    closing: Callable[[], None] = lambda: None
    shutdown_budget_s: float = 4.0
    routes: Routes = field(default_factory=no_routes)


class App:
    """Turns records into findings until told to stop.

    A record whose judging fails is handed on without a verdict, counted and told by part ``judge``: the others must not
    wait for it, as they would if Kafka sent it again after each start. A stored round can be judged later (rejudge).
    A feed that raises is told by part ``feeds``, a sink by its own, and each is tried again while the others go on.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started_at, self._cpu_at_start_s = parts.clock.now(), parts.clock.cpu()
        self._last_beat = self._last_saved = float("-inf")
        self._rounds = self._records = 0
        self._watched: tuple[str, ...] | None = None  # as it was last said
        self._unjudged: dict[type[Observation], str] = {}  # -> why the last record of that kind has no verdict
        self._n_unjudged = self._n_aside = 0
        self._feeds = [(feed, BackOff(type(feed).__name__, parts.clock)) for feed in parts.feeds]

    @property
    def routes(self) -> Routes:
        return replace(self._parts.routes, parts=self._statuses)

    def _statuses(self) -> Statuses:
        return {**self._parts.routes.parts(), "judge": self._judge_status(), "feeds": self._feeds_status()}

    def _feeds_status(self) -> tuple[bool, str]:
        """Not well while one of them raises; the others are polled meanwhile."""
        failed = [f"{type(feed).__name__} {back_off.words}" for feed, back_off in self._feeds if back_off.words]
        return not failed, "; ".join(failed) or "every feed answers"

    def _judge_status(self) -> tuple[bool, str]:
        """Not well from a record that failed until one of the same kind is judged."""
        if not self._n_unjudged:
            return True, "every record was judged"
        count = f"records without a verdict since the start: {self._n_unjudged}"
        latest = "; ".join(
            f"the latest {kind.__name__} failed with {why}" for kind, why in self._unjudged.copy().items()
        )
        return not latest, f"{count}; {latest}; the log has the traceback" if latest else count

    def run(self, stop: threading.Event) -> None:
        """Turn until ``stop`` is set, then take down in the reverse order of opening, within the shared budget."""
        with ExitStack() as opened:
            self.open(opened)
            while not stop.is_set():
                if not self.step():
                    stop.wait(IDLE_S)

    def open(self, opened: ExitStack) -> None:
        """Sinks first, sources last, so that nothing is read before it has somewhere to go.

        Each part of the take-down has its share of one budget; together they are the whole of it.
        """
        parts, budget = self._parts, self._parts.shutdown_budget_s
        opened.callback(parts.closing)
        parts.opening()
        if parts.ownership is not None:
            parts.ownership.on_lost = self._hand_over
            parts.ownership.open()
            # After the sinks: another witness may have the bases once the state that it goes on from is stored.
            opened.callback(parts.ownership.close, 0.05 * budget)
        parts.sinks.open(opened, 0.3 * budget)
        parts.judge.save()  # whether it can be saved is told before there is anything to lose
        opened.callback(self._save_last)
        if parts.traffic is not None:
            parts.traffic.open()
            opened.callback(parts.traffic.close, 0.05 * budget)
        # While the consumer is still open: what the sinks have by then may be committed.
        opened.callback(self._drain, 0.15 * budget)
        if parts.worker is not None:
            parts.worker.open()
            opened.callback(parts.worker.close, 0.4 * budget)

    def step(self) -> bool:
        """One turn: read, judge, hand on, and only then let Kafka forget. True when there was something to do."""
        parts, now = self._parts, self._parts.clock.now()
        self._take_over(now)
        if parts.worker is not None:
            parts.worker.deliver()
        observations = [observation for polled in self._polls(now) for observation in polled]
        for observation in observations:
            self._count(observation)
            for finding in self._judged(observation, now):
                self._hand_on(finding)
            if isinstance(observation, BaseRound | ScoredResponses | FaultReplay):
                parts.judge.save()
        self._beat(now)
        self._save_in_store(now)
        self._settle()
        if parts.sinks.set_aside != self._n_aside:
            self._n_aside = parts.sinks.set_aside
            parts.routes.telemetry.set("gapwatch.findings.aside", self._n_aside)
        return bool(observations)

    def _take_over(self, now: float) -> None:
        """Bases that came are judged and replayed from now on."""
        ownership = self._parts.ownership
        if ownership is not None and (gained := ownership.poll()):
            self._parts.judge.gained(gained, now)
            self._tell_owned()

    def _hand_over(self, lost: frozenset[str]) -> None:
        """Before another witness may have these bases: what it goes on from is stored, so far as the store takes it
        in that time, and nothing of them comes from here any more."""
        parts, clock = self._parts, self._parts.clock
        for state in parts.judge.lost(lost, clock.now()):
            parts.sinks.submit(state)
        self._tell_owned()
        give_up = clock.steady() + HAND_OVER_S
        while not parts.sinks.is_stored() and clock.steady() < give_up:
            clock.sleep(IDLE_S / 4)

    def _tell_owned(self) -> None:
        if self._parts.ownership is not None:
            for own in self._parts.own:
                own(self._parts.ownership.owned)

    def _polls(self, now: float) -> Iterator[Sequence[Observation]]:
        """Of every feed but those that raise, each of which is polled again after a while."""
        for feed, back_off in self._feeds:
            yield back_off.tried(partial(feed.poll, now)) or ()

    def _judged(self, observation: Observation, now: float) -> Sequence[Finding]:
        kind = type(observation)
        try:
            findings = self._parts.judge(observation, now)
        except Exception as error:  # of any kind: the next record is judged all the same
            self._n_unjudged += 1
            self._unjudged[kind] = type(error).__name__  # its message could quote production text
            self._parts.routes.telemetry.set("gapwatch.unjudged", self._n_unjudged)
            log.error("record_not_judged", record=kind.__name__, exc_info=error)
            return _as_findings(observation)
        self._unjudged.pop(kind, None)
        self._parts.rounds_due.judged(observation, self._parts.clock.steady())
        return findings

    def _hand_on(self, finding: Finding) -> None:
        """The worker gets it as it is, the sinks what of it may leave the process."""
        if self._parts.worker is not None:
            self._parts.worker.submit(finding)
        if self._parts.stores_traffic or not isinstance(finding, TrafficBatch):
            self._parts.sinks.submit(finding)

    def _save_in_store(self, now: float) -> None:
        """By the clock and never for what the state holds: a pod that goes on from the last one does not choose. What
        is judged here is said as often, and at once where it has changed."""
        steady, watched = self._parts.clock.steady(), self._parts.judge.watched
        is_due = steady - self._last_saved >= SAVED_EVERY_S
        if is_due or watched != self._watched:
            self._watched = watched
            self._parts.sinks.submit(Watching(now, watched))
        if is_due:
            self._last_saved = steady
            self._store_state(now)

    def _save_last(self) -> None:
        self._parts.judge.save(closing=True)
        self._store_state(self._parts.clock.now(), closed=True)

    def _store_state(self, now: float, closed: bool = False) -> None:
        for saved in self._parts.judge.saved_states(now, closed):
            self._parts.sinks.submit(saved)

    def _settle(self) -> bool:
        """Commit what is durable."""
        settled = self._parts.sinks.flush() and self._parts.judge.is_saved
        if settled and self._parts.traffic is not None:
            self._parts.traffic.commit()
        return settled

    def _drain(self, budget_s: float) -> None:
        """Give the sinks this long to have the last findings; what is not committed is read again."""
        clock = self._parts.clock
        give_up = clock.steady() + budget_s
        while not self._settle() and clock.steady() < give_up:
            clock.sleep(IDLE_S / 4)

    def _count(self, observation: Observation) -> None:
        if isinstance(observation, BaseRound):
            self._rounds += 1
        elif isinstance(observation, TrafficBatch):
            self._records += observation.records

    def _beat(self, now: float) -> None:
        parts, steady = self._parts, self._parts.clock.steady()
        if steady - self._last_beat < HEARTBEAT_S:
            return
        self._last_beat = steady
        parts.beat()
        parts.judge.adopt(now)
        parts.judge.save()  # in a pod without rounds nothing else would notice that its folder cannot be written
        overdue = parts.rounds_due.overdue(steady)
        self._tell_overdue(overdue, now)
        counts = self._rounds, self._records, parts.sinks.unsent
        cpu_s = parts.clock.cpu() - self._cpu_at_start_s, parts.models_cpu_s()
        self._hand_on(Heartbeat(now, parts.pod, parts.cluster, self._started_at, *counts, tuple(overdue), *cpu_s))

    def _tell_overdue(self, overdue: Mapping[str, int], now: float) -> None:
        """That nobody can tell, by the same way as where a model does not answer: here, or anywhere."""
        states = (self._judge_status(), self._feeds_status())
        why = "; ".join(words for ok, words in states if not ok) or "no round came"
        judge, unwatched = self._parts.judge, self._parts.unwatched()
        try:
            findings = [*judge.overdue(overdue, why, now), *judge.unwatched(unwatched, now)]
        except Exception as error:  # a judge that fails on rounds may fail on this too; the heartbeat names the bases
            log.error("silence_not_judged", bases=sorted({*overdue, *unwatched}), exc_info=error)
            return
        for finding in findings:
            self._hand_on(finding)


def _as_findings(observation: Observation) -> list[Finding]:
    """What of a record is kept where it has no verdict."""
    match observation:
        case ScoredResponses(round=round, embeddings=embeddings):
            return [*((round,) if round else ()), *embeddings]
        case FaultReplay() | FilesRound():
            return []
        case _:
            return [observation]
