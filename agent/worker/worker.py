"""The thread that owns the models: it replays canaries when a round is due, scores sampled responses, and after an
alarm regenerates the worst canaries as text and replays the faults that may explain it.

It runs in the model process (``model_child.py``), whose main thread hands it findings (``submit``) and passes its
results on (``deliver``), and never waits for a model. One thread, because a GPU (or two cores) shared by two replays
finishes neither sooner, and because a runner is not thread-safe. Everything below ``_work`` belongs to that thread,
everything above it to the main thread.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import structlog

from agent.clock import Clock
from agent.records import Finding, Flip, GoldenAccepted, TrafficBatch
from agent.trouble import Trouble
from agent.worker.backlog import Backlog, with_base_requests
from agent.worker.canary_feed import CanaryResult, blocked_round
from agent.worker.cause_replays import CauseReplays
from agent.worker.goldens import Goldens
from agent.worker.response_feed import LiveIdentities, ScoredBatch, TurnEnded
from agent.worker.response_scorer import ResponseScorer
from agent.worker.results import Results, working
from detectors.records import THE_FILES, BaseRound, Identity, Reason, Round, ShareOf, Status, SubjectKind, Verdict
from probes.canaries.flipped_answers import flips, with_worst
from probes.canaries.kept_answers import KeptAnswers
from probes.canaries.round import Scheduled, reason_of, replay_base_round
from probes.canaries.schedule import due
from probes.canaries.watched_files import WatchedFiles
from probes.errors import ProbeError
from probes.golden.record import Golden, Unmonitorable, identity_of
from probes.runner import LosesDevice, Runner, SeesEvents
from probes.scoring.interaction import Interaction

log = structlog.get_logger(__name__)

BATCH = 16
# Seconds by the clock that a batch of responses has at least; a pass that has begun is finished.
TURN_S = 5.0
IDLE_S = 0.2
# How often a runner is asked for events, and how far apart the rounds are that these make at least: an engine that is
# started again and again must not be asked more often than the threshold of a page allows for.
EVENTS_EVERY_S, EVENTS_APART_S = 10.0, 60.0
Result = CanaryResult | ScoredBatch | LiveIdentities | TurnEnded


@dataclass(slots=True)
class WatchedBase:
    """One base with its runner and the golden records of its adapters, looked for again before each round.

    responses: scores and embeds its sampled responses, None where it cannot; kept: its canaries' answers
    opened: is the runner?
    number: of its next canary round; last: when the last one began; looked: when golden records were last looked for
    events_looked: when its runner was last asked for events
    files: where an engine answers its canaries, its files beside that; they score the responses then
    """

    name: str
    runner: Runner
    goldens: Goldens
    adapters: tuple[str, ...]
    responses: ResponseScorer | None
    number: int = 0
    last: float | None = None
    looked: float | None = None
    events_looked: float | None = None
    opened: bool = False
    kept: KeptAnswers = field(default_factory=KeptAnswers)
    files: WatchedFiles | None = None

    @property
    def by_files(self) -> Mapping[str, Golden | Unmonitorable]:
        """The golden records by which responses are scored, and files beside an engine compared."""
        return self.goldens.for_files() if self.files else self.goldens.held

    @property
    def runners(self) -> list[Runner]:
        """Those that are open."""
        own = [self.runner] if self.opened else []
        return [*own, self.files.runner] if self.files and self.files.opened else own

    @property
    def may_score(self) -> bool:
        """Is the runner open that scores its responses?"""
        return self.files.opened if self.files else self.opened


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each base has its turn.

    every_s: seconds between its canary rounds; responses_every_s: between the rounds of its responses, for which golden
    records are looked for that often; None where there is no traffic
    budget: scored positions per adapter and canary round; seed: of the draws; flips: worst canaries that are
    regenerated at an alarm; canaries: False replays none; own_every_s: base -> seconds between its canary rounds, of
    those that have others
    """

    every_s: float
    budget: int
    seed: int
    responses_every_s: float | None = None
    flips: int = 2
    canaries: bool = True
    own_every_s: Mapping[str, float] = field(default_factory=dict)

    def every(self, base: str) -> float:
        """Seconds between two canary rounds of this base."""
        return self.own_every_s.get(base, self.every_s)


class _TextsWanted(NamedTuple):
    """Regenerate the worst canaries of this round."""

    base: str
    round: Round


class _LatestRound(NamedTuple):
    """Of one base, as far as its canaries may yet be regenerated. unread: adapter -> its part of the round,
    with the worst canaries alone: a whole round holds the references of all"""

    number: int
    at: float
    unread: dict[str, Round]


class Worker:
    """What each base's models have to do, each kind of work in its turn: texts for an alarm, then canary rounds that
    are due, then one batch of each base's responses, then one fault for the cause of an open incident.

    receivers: get each result, in the order in which the results were made (``CanaryFeed.receive`` ...)
    backlog: interactions of each adapter that may wait; what comes beyond is shed by arrival order and counted in
    ``shed``
    A round that fails half-way becomes blocked rounds with the reason; it never stops the thread. Only a device that is
    lost to this process ends it.
    lost: why that is so, in words, "" while it works
    """

    def __init__(
        self,
        bases: Sequence[WatchedBase],
        schedule: Schedule,
        clock: Clock,
        receivers: Sequence[Callable[[Result], None]],
        backlog: int = 64,
    ) -> None:
        self._bases = {base.name: base for base in bases}
        self._owned = frozenset(self._bases)
        self._schedule, self._clock = schedule, clock
        queues = with_base_requests({base.name: base.adapters for base in bases})
        self._base_of = {name: base.name for base in bases if base.responses for name in queues[base.name]}
        self._backlogs = {base: Backlog(names, backlog) for base, names in queues.items()}
        self._texts_wanted: queue.SimpleQueue[_TextsWanted] = queue.SimpleQueue()
        self._results: Results[Result] = Results(receivers)
        self._latest: dict[str, _LatestRound] = {}
        self._causes = CauseReplays(clock)
        self._files_trouble = {base.name: Trouble(f"{THE_FILES} of {base.name}") for base in bases}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="worker", daemon=True)
        self._done: Counter[str] = Counter()
        self.failures = 0
        self.lost = ""
        self._last_error = ""

    def open(self) -> None:
        self._thread.start()

    def close(self, budget_s: float = 2.0) -> None:
        """Stop the thread and wait so long for it; a pass that does not end by then is abandoned with its thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(budget_s)
        if not self._thread.is_alive():
            for base in self._bases.values():
                base.runner.close()
                if base.files is not None:
                    base.files.release()

    def submit(self, finding: Finding) -> None:
        """Queue what a finding means for the models: sampled interactions are to be scored, of an alarm of canaries
        the worst ones are to be regenerated, and for an incident faults are to be replayed. The alarm's verdict comes
        after its round, as the judge gives them."""
        self._causes.submit(finding)
        match finding:
            case TrafficBatch():
                self.score(finding.fresh)
            case Verdict(share_of=ShareOf.RESPONSES, status=Status.SUSPECT | Status.DEGRADED):
                self._suspect(finding)
            case BaseRound() if self._schedule.flips:
                worst = [with_worst(member, self._schedule.flips) for member in finding.members if member.measurements]
                unread = {member.adapter: member for member in worst}
                self._latest[finding.base] = _LatestRound(finding.number, finding.at, unread)
            case Verdict(reason=Reason.ALARM):
                self._queue_texts(finding)

    def score(self, interactions: Sequence[Interaction]) -> None:
        """Queue responses that are to be scored; those of adapters without a model are left out."""
        for interaction in interactions:
            base = self._base_of.get(interaction.adapter)
            if base is not None:
                self._backlogs[base].add(interaction)

    def _suspect(self, verdict: Verdict) -> None:
        base = self._bases.get(verdict.base)
        if base is not None and base.responses is not None and verdict.subject_kind is not SubjectKind.BASE:
            base.responses.judged(verdict)

    def own(self, bases: frozenset[str]) -> None:
        """From now on these are replayed and scored: one that came has a round in the next turn; one that went is
        closed by then, a pass of it that is under way is broken off, and nothing of it is remembered."""
        self._owned = bases

    def deliver(self) -> None:
        """Hand everything that was finished since the last call to the receivers; never waits."""
        self._results.deliver()

    @property
    def working(self) -> bool:
        """Does its thread run?"""
        return self._thread.is_alive()

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter, how many sampled interactions no model had time for."""
        return {name: n for backlog in self._backlogs.values() for name, n in backlog.shed.items()}

    @property
    def status(self) -> tuple[bool, str]:
        if not self._thread.is_alive():
            return False, "the worker thread is not running"
        return not self._last_error, self._last_error or working(self.shed)

    def _queue_texts(self, alarm: Verdict) -> None:
        """Of the adapters that the alarm names, each once a round. An alarm of responses is about no round of canaries,
        which are quiet then."""
        latest = self._latest.get(alarm.base)
        if latest is None or (alarm.round, alarm.at) != (latest.number, latest.at):
            return
        for adapter in alarm.members or (alarm.subject,):
            if (member := latest.unread.pop(adapter, None)) is not None:
                self._texts_wanted.put(_TextsWanted(alarm.base, member))

    def _work(self) -> None:
        while not self._stop.is_set():
            before = self.failures
            busy = self._guarded(self._turn)
            if busy or self.failures > before:
                self.lost = self._lost_device()
            if self.lost:
                return
            if not busy:
                self._stop.wait(IDLE_S)

    def _lost_device(self) -> str:
        runners = [runner for base in self._bases.values() for runner in base.runners]
        return next(
            (why for runner in runners if isinstance(runner, LosesDevice) and (why := runner.lost_device())), ""
        )

    def _guarded(self, turn: Callable[[], bool]) -> bool:
        """One turn; what goes wrong is counted and logged, and the next turn comes all the same."""
        began, before = self._clock.now(), self.failures
        try:
            busy = turn()
            if self.failures == before:
                self._last_error = ""
            return busy
        except ProbeError as error:
            self._failed(str(error))
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            log.exception("worker_turn_failed")
        finally:
            done, self._done = dict(self._done), Counter()
            self._results.put(TurnEnded(began, done, self._last_error))
        return False

    def _failed(self, why: str) -> None:
        self.failures += 1
        self._last_error = why
        log.warning("worker_failure", why=why)

    def _turn(self) -> bool:
        """True when there was something to do. However busy one kind of work is, the others get their turn."""
        self._release_others()
        regenerated = self._texts()
        looked = [self._look(base) for base in self._own_bases()]
        files = [self._look_at_files(base, base.files) for base in self._own_bases() if base.files is not None]
        scored = [self._batch(base) for base in self._own_bases()]
        return any((regenerated, *looked, *files, *scored, self._replay_fault()))

    def _own_bases(self) -> list[WatchedBase]:
        return [base for base in self._bases.values() if base.name in self._owned]

    def _release_others(self) -> None:
        """What is not owned takes no memory, and what was sent of it is dealt with."""
        for base in self._bases.values():
            if base.name in self._owned:
                continue
            self._done.update(interaction.adapter for interaction in self._backlogs[base.name].clear())
            if base.last is not None or base.looked is not None:
                self._release(base)

    def _release(self, base: WatchedBase) -> None:
        base.last = base.looked = None
        if base.files is not None:
            base.files.release()
        base.goldens.forget()
        base.kept = KeptAnswers()
        if base.responses is not None:
            base.responses.take()
        self._causes.forget(base.name, base.adapters)
        if base.opened:
            base.opened = False
            base.runner.close()

    def _texts(self) -> bool:
        done = 0
        while not self._texts_wanted.empty() and not self._stopped():
            self._regenerate(self._texts_wanted.get())
            done += 1
        return done > 0

    def _regenerate(self, wanted: _TextsWanted) -> None:
        base, now = self._bases[wanted.base], self._clock.now()
        if not base.opened:
            return  # it went meanwhile
        stop = partial(self._stopped, base)
        for changed in flips(base.runner, wanted.round, base.goldens.held, self._schedule.flips, stop):
            adapter, number = wanted.round.adapter, wanted.round.number
            self._results.put(Flip(adapter=adapter, base=wanted.base, round=number, at=now, **changed._asdict()))

    def _replay_fault(self) -> bool:
        """One fault for the cause of an open incident, unless a canary round is due, which also breaks one off."""
        if not self._causes.waiting or (self._round_due() and not self._causes.overdue):
            return False
        base = self._bases[self._causes.base]
        if base.name not in self._owned:
            self._causes.forget(base.name, base.adapters)
            return True
        stopped = partial(self._stopped, base)
        replayed = self._causes.step(base.runner, base.goldens.held, lambda: stopped() or self._round_due())
        if replayed is not None:
            self._results.put(replayed)
        return True

    def _round_due(self) -> bool:
        now, schedule = self._clock.now(), self._schedule
        return schedule.canaries and any(due(now, base.last, schedule.every(base.name)) for base in self._own_bases())

    def _look(self, base: WatchedBase) -> bool:
        """A canary round if one is due, else a look for golden records if that is due for the responses' sake."""
        now, schedule = self._clock.now(), self._schedule
        if schedule.canaries and (due(now, base.last, schedule.every(base.name)) or self._event(base, now)):
            base.last = base.looked = now
            self._canary_round(base, now)
        elif schedule.responses_every_s is not None and due(now, base.looked, schedule.responses_every_s):
            base.looked = now
            self._look_for_responses(base)
        else:
            return False
        self._results.put(LiveIdentities(base.name, _identities(base)))
        return True

    def _look_at_files(self, base: WatchedBase, files: WatchedFiles) -> bool:
        """A round of the files beside the engine, if one is due. What goes wrong with them is told, and costs the
        engine's canaries nothing."""
        now = self._clock.now()
        if not self._schedule.canaries or not base.opened or not files.is_due(now):
            return False
        budget, seed = self._schedule.budget, self._schedule.seed
        scheduled = partial(Scheduled, base.name, at=round(now, 3), budget=budget, seed=seed)
        try:
            files.open(now)
            for golden in files.newly_in_force(base.by_files):
                if base.responses is not None:
                    base.responses.accepted(golden)
            done = files.replay(base.by_files, scheduled, partial(self._stopped, base))
        except Exception as error:
            self._failed(f"{THE_FILES} of {base.name}: {type(error).__name__}: {error}")
            return True
        if done is not None:
            self._note_unreplayed(base.name, done.round)
            self._results.put(done)
            self._results.put(LiveIdentities(base.name, _identities(base)))
        return True

    def _note_unreplayed(self, base: str, round: BaseRound) -> None:
        """Files that cannot be replayed are one line in the log; verdicts say that they are not known."""
        blocked = [f"{member.adapter}: {member.detail}" for member in round.members if member.blocked]
        trouble = self._files_trouble[base]
        if blocked:
            trouble.begin("; ".join(blocked))
        else:
            trouble.end()

    def _event(self, base: WatchedBase, now: float) -> bool:
        """Has something happened that a round is to follow at once? Events are no part of the schedule from which the
        threshold of a page follows: rounds that they make are a minute apart at least."""
        runner = base.runner
        if not base.opened or not isinstance(runner, SeesEvents) or not due(now, base.last, EVENTS_APART_S):
            return False
        if not due(now, base.events_looked, EVENTS_EVERY_S):
            return False
        base.events_looked = now
        if event := runner.event():
            log.info("round_at_once", base=base.name, why=event)
        return bool(event)

    def _canary_round(self, base: WatchedBase, now: float) -> None:
        number, base.number = base.number, base.number + 1
        at = round(now, 3)  # as rows keep it: the draws depend on it, and can be repeated from a row
        try:
            self._prepare(base)
            done = self._replayed(base, number, at)
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")
            why = str(error) or type(error).__name__
            done = blocked_round(base.name, base.adapters, number, at, reason_of(error), why)
        if done is not None:
            self._results.put(done)

    def _replayed(self, base: WatchedBase, number: int, at: float) -> BaseRound | None:
        started = self._clock.steady()
        scheduled = Scheduled(base.name, number, at, self._schedule.budget, self._schedule.seed)
        held, stop = self._causes.with_signatures(base.goldens.held), partial(self._stopped, base)
        done = replay_base_round(base.runner, held, scheduled, stop, base.kept)
        return None if done is None else replace(done, duration_s=self._clock.steady() - started)

    def _look_for_responses(self, base: WatchedBase) -> None:
        """Files are looked at in each canary round: only without one is it done here. A second look soon after another
        would take files that are being written for files at rest."""
        try:
            self._prepare(base)
            if not self._schedule.canaries:
                base.runner.refresh()
        except Exception as error:
            self._failed(f"{type(error).__name__}: {error}")

    def _prepare(self, base: WatchedBase) -> None:
        """Open the runner, and put the golden records in force that were accepted since the last look."""
        if not base.opened:
            base.runner.open()
            base.opened = True
        for accepted in base.goldens.look():
            self._accept(base, accepted)

    def _accept(self, base: WatchedBase, accepted: GoldenAccepted) -> None:
        # Handed out first: also where its files cannot be put in force, evidence against the former record ends.
        self._results.put(accepted)
        golden = base.goldens.held.get(accepted.adapter)
        # Files beside an engine may not be loaded yet: their runner is given it in its own round.
        if isinstance(golden, Golden) and base.responses and base.files is None:
            base.responses.accepted(golden)

    def _batch(self, base: WatchedBase) -> bool:
        """Score or embed one batch of the base's responses; what there was no time for comes first in the next turn."""
        backlog = self._backlogs[base.name]
        batch = [] if self._stopped() else backlog.take(BATCH)
        if not batch or base.responses is None:
            return False
        self._done.update(interaction.adapter for interaction in batch)
        began = self._clock.steady()
        if base.may_score:
            ends = self._batch_ends()
            untouched = base.responses.process(
                batch, base.by_files, lambda: self._stopped(base) or self._clock.now() >= ends
            )
            backlog.give_back(untouched)
            self._done.subtract(interaction.adapter for interaction in untouched)
        else:
            base.responses.not_scored(batch, self._last_error or "the base is not loaded yet")
        taken = base.responses.take()._replace(duration_s=self._clock.steady() - began)
        self._results.put(ScoredBatch(base.name, taken))
        return True

    def _batch_ends(self) -> float:
        """When something else is due next: a canary round of any base, or the responses' own round, which takes what
        was scored by then. Where rounds take longer than their schedule that is at once: a batch has TURN_S all the
        same."""
        bases, schedule = self._own_bases(), self._schedule
        due_at: list[float] = []
        if schedule.canaries:
            due_at += [(base.last or 0.0) + schedule.every(base.name) for base in bases]
        if schedule.responses_every_s is not None:
            due_at += [(base.looked or 0.0) + schedule.responses_every_s for base in bases]
        return max(min(due_at, default=0.0), self._clock.now() + TURN_S)

    def _stopped(self, base: WatchedBase | None = None) -> bool:
        """base: whose models are at work: one that went is waited for no longer"""
        return self._stop.is_set() or (base is not None and base.name not in self._owned)


def _identities(base: WatchedBase) -> dict[str, Identity]:
    """Of each adapter with a golden record: what was accepted, and what lies there now where the runner is open."""
    accepted = {name: golden for name, golden in base.goldens.held.items() if isinstance(golden, Golden)}
    if base.opened:
        files, at_hand = base.files, base.files.adapters if base.files and base.files.opened else ()
        return {
            name: identity_of(golden, files.runner if files and name in at_hand else base.runner)
            for name, golden in accepted.items()
        }
    return {
        name: Identity(golden.base_hash, "", golden.adapter_hash, scheme=golden.hash_scheme)
        for name, golden in accepted.items()
    }
