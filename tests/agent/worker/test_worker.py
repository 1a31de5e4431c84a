"""The worker's turns: several bases, rounds beside responses, and what findings ask of it.

tests/end_to_end has the whole story.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.clock import HandClock
from agent.records import GoldenAccepted, TrafficBatch
from agent.worker.goldens import Goldens
from agent.worker.response_feed import LiveIdentities, ScoredBatch, TurnEnded
from agent.worker.response_scorer import ResponseScorer
from agent.worker.worker import BATCH, EVENTS_APART_S, EVENTS_EVERY_S, TURN_S, Result, Schedule, WatchedBase, Worker
from detectors.records import BaseRound, Cause, FilesRound, Floats, Reason, ShareOf, Status, SubjectKind, Verdict
from probes.canaries.watched_files import WatchedFiles
from probes.errors import NoMemory, Unreplayable
from probes.golden.archive import save
from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners.memory import FAULTS, Config, Runner
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import ScoringOptions
from tests.agent import findings
from tests.end_to_end import world
from tests.probes.worlds import enrolled

EVERY_S = 60.0
ALONE = Schedule(EVERY_S, 512, seed=1, responses_every_s=EVERY_S, canaries=False)
BOTH = replace(ALONE, canaries=True)
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]


class Slow(Runner):
    """A pass takes a second of the clock, a canary round seven; ``looks`` counts looks at the files."""

    clock: HandClock
    looks = 0

    def refresh(self):  # type: ignore[no-untyped-def]
        self.looks += 1
        return super().refresh()

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.clock.advance(7.0 if replays else 0.0)
        return super().run(replays, stop, shape)

    def embed(self, texts: Texts, stop: Stop) -> list[tuple[Floats, Floats]]:
        vectors: list[tuple[Floats, Floats]] = []
        for text in texts:
            if stop():
                break
            vectors += super().embed([text], stop)
            self.clock.advance(1.0)
        return vectors


def watched(folder: Path, clock: HandClock, adapter: str, options: ScoringOptions | None = None) -> WatchedBase:
    runner = Slow(Config(adapters={adapter: f"{adapter}-v1"}))
    runner.clock = clock
    shelf = Goldens(folder, f"base-of-{adapter}", {adapter: ""})
    return WatchedBase(f"base-of-{adapter}", runner, shelf, (adapter,), ResponseScorer(runner, options))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bases(tmp_path: Path, clock: HandClock) -> list[WatchedBase]:
    return [watched(tmp_path, clock, name) for name in ("a", "b")]


class Turned(Worker):
    """Not opened: the test takes the turns that the thread would take. ``given``: all results so far."""

    def __init__(self, bases: Sequence[WatchedBase], schedule: Schedule, clock: HandClock) -> None:
        self.given: list[Result] = []
        super().__init__(bases, schedule, clock, [self.given.append])

    def turn(self) -> list[Result]:
        """The results of one turn."""
        before = len(self.given)
        self._guarded(self._turn)
        self.deliver()
        return self.given[before:]


def sampled(*interactions: Interaction) -> TrafficBatch:
    return replace(findings.batch(), interactions=interactions)


def embedded(results: Sequence[Result]) -> dict[str, int]:
    """Responses by base."""
    batches = [result for result in results if isinstance(result, ScoredBatch)]
    return {batch.base: len(batch.results.embeddings) // 2 for batch in batches}


def test_each_base_has_a_batch_in_a_turn_however_much_waits_for_another(
    bases: list[WatchedBase], clock: HandClock
) -> None:
    worker = Turned(bases, ALONE, clock)
    worker.submit(sampled(*(findings.interaction(n, "a") for n in range(50))))
    worker.submit(sampled(*(findings.interaction(n, "b") for n in range(3)), findings.interaction(9, "unwatched")))
    assert embedded(worker.turn()) == {"base-of-a": BATCH, "base-of-b": 3}


def test_a_verdict_by_responses_that_says_suspect_reaches_what_scores_them_and_no_other_does(
    bases: list[WatchedBase], clock: HandClock
) -> None:
    worker, scorer = Turned(bases, ALONE, clock), bases[0].responses
    assert scorer is not None
    by_responses = partial(findings.verdict, base="base-of-a", subject="a", share_of=ShareOf.RESPONSES)
    worker.submit(by_responses(Status.HEALTHY))
    worker.submit(by_responses(Status.SUSPECT, subject_kind=SubjectKind.BASE))
    worker.submit(findings.verdict(Status.SUSPECT, base="base-of-a", subject="a", share_of=ShareOf.DRAWS))
    assert scorer._verdicts.empty()
    worker.submit(by_responses(Status.SUSPECT))
    worker.submit(by_responses(Status.DEGRADED, reason=Reason.ALARM))
    assert [scorer._verdicts.get().status for _ in range(2)] == [Status.SUSPECT, Status.DEGRADED]


def test_what_was_handed_out_before_is_not_scored_again(bases: list[WatchedBase], clock: HandClock) -> None:
    worker = Turned(bases, ALONE, clock)
    worker.submit(sampled(findings.interaction(1, "a"), replace(findings.interaction(2, "a"), redelivered=True)))
    assert embedded(worker.turn()) == {"base-of-a": 1}


@pytest.mark.parametrize("schedule", [ALONE, BOTH])
def test_a_batch_of_one_base_ends_when_the_round_of_another_is_due(
    bases: list[WatchedBase], clock: HandClock, schedule: Schedule
) -> None:
    worker = Turned(bases, schedule, clock)
    worker.turn()
    for base, ago in zip(bases, (20.0, EVERY_S - TURN_S - 1.0), strict=True):
        base.last = base.looked = clock.now() - ago
    worker.submit(sampled(*(findings.interaction(n, "a") for n in range(30))))
    assert embedded(worker.turn()) == {"base-of-a": TURN_S + 1.0}


def test_a_batch_ends_when_the_responses_own_round_is_due(tmp_path: Path, clock: HandClock) -> None:
    worker = Turned([watched(tmp_path, clock, "a")], replace(BOTH, responses_every_s=9.0), clock)
    worker.turn()
    worker.submit(sampled(*(findings.interaction(n, "a") for n in range(30))))
    assert embedded(worker.turn()) == {"base-of-a": 9}


def test_a_canary_round_says_when_it_began_and_how_long_it_took(tmp_path: Path, clock: HandClock) -> None:
    save(enrolled("alpha"), tmp_path)
    clock.at += 0.1234567
    bases = [watched(tmp_path, clock, "alpha"), watched(tmp_path / "none", clock, "b")]
    first, second = [result for result in Turned(bases, BOTH, clock).turn() if isinstance(result, BaseRound)]
    assert (first.at, first.duration_s) == pytest.approx((1_700_000_000.123, 7.0), rel=1e-9)
    assert (second.at, second.duration_s) == (1_700_000_007.123, 0.0), "blocked, after the other one was replayed"


def test_a_golden_record_comes_before_the_round_that_is_measured_by_it(tmp_path: Path, clock: HandClock) -> None:
    save(enrolled("alpha"), tmp_path)
    results = Turned([watched(tmp_path, clock, "alpha", ScoringOptions())], BOTH, clock).turn()
    assert [type(result) for result in results] == [GoldenAccepted, BaseRound, LiveIdentities, TurnEnded]


def test_responses_have_golden_records_looked_for_at_their_own_interval_and_files_only_where_no_canary_does_so(
    tmp_path: Path, clock: HandClock
) -> None:
    for both_lines, looks_at_files in ((BOTH, 1), (ALONE, 2)):
        schedule = replace(both_lines, responses_every_s=10.0)
        base = watched(tmp_path / str(looks_at_files), clock, "alpha")
        worker = Turned([base], schedule, clock)
        assert GoldenAccepted not in map(type, worker.turn())
        save(enrolled("alpha"), tmp_path / str(looks_at_files))
        clock.advance(9.0)
        assert [type(result) for result in worker.turn()] == [TurnEnded]
        clock.advance(1.0)
        assert [type(result) for result in worker.turn()] == [GoldenAccepted, LiveIdentities, TurnEnded]
        assert base.runner.looks == looks_at_files  # type: ignore[attr-defined]


def test_with_one_interval_for_both_there_is_no_look_beside_the_canaries(tmp_path: Path, clock: HandClock) -> None:
    worker = Turned([watched(tmp_path, clock, "alpha")], BOTH, clock)
    for _ in range(3):
        assert [type(result) for result in worker.turn()] == [BaseRound, LiveIdentities, TurnEnded]
        clock.advance(EVERY_S)


def test_a_base_with_an_interval_of_its_own_has_its_rounds_at_that_one(tmp_path: Path, clock: HandClock) -> None:
    bases = [watched(tmp_path, clock, name) for name in ("a", "b")]
    worker = Turned(bases, replace(BOTH, own_every_s={"base-of-b": 3 * EVERY_S}, responses_every_s=None), clock)
    rounds: list[str] = []
    for _ in range(4):
        rounds += ["".join(result.base[-1] for result in worker.turn() if isinstance(result, BaseRound))]
        clock.advance(EVERY_S)
    assert rounds == ["ab", "a", "a", "ab"]


class Eventful(Runner):
    """Something happens to its models where no file shows it. asked: how often it was asked."""

    happened, asked = "", 0

    def event(self) -> str:
        self.asked += 1
        return self.happened

    def refresh(self):  # type: ignore[no-untyped-def]
        self.happened = ""
        return super().refresh()


def test_an_event_makes_a_round_at_once_and_no_two_within_a_minute(tmp_path: Path, clock: HandClock) -> None:
    base = watched(tmp_path, clock, "alpha")
    base.runner = runner = Eventful(Config(adapters={"alpha": "alpha-v1"}))
    save(enrolled("alpha"), tmp_path)
    worker = Turned([base], replace(BOTH, every_s=600.0, responses_every_s=None), clock)
    rounds: list[int] = []
    for second in range(400):
        if second in (10, 200):
            runner.happened = "the engine was started again"
        rounds += [second for result in worker.turn() if isinstance(result, BaseRound)]
        clock.advance(1.0)
    assert rounds == [0, int(EVENTS_APART_S), 200]
    assert runner.asked <= 400 / EVENTS_EVERY_S


def test_responses_of_a_base_that_scores_none_are_not_queued(tmp_path: Path, clock: HandClock) -> None:
    base = watched(tmp_path, clock, "a")
    base.responses = None
    worker = Turned([base], BOTH, clock)
    worker.submit(sampled(findings.interaction(1, "a")))
    assert [type(result) for result in worker.turn()] == [BaseRound, LiveIdentities, TurnEnded]
    assert worker.shed == {"a": 0, "base-of-a": 0}


class Away(Slow):
    """Its volume is not mounted yet."""

    def open(self) -> None:
        raise OSError("no such volume")


def test_until_a_base_is_loaded_its_responses_come_back_with_the_reason_and_it_is_tried_again_at_their_interval(
    tmp_path: Path, clock: HandClock
) -> None:
    base = watched(tmp_path, clock, "a", ScoringOptions())
    working = base.runner
    base.runner = Away(Config(adapters={"a": "a-v1"}))
    worker = Turned([base], replace(BOTH, responses_every_s=10.0), clock)
    worker.submit(sampled(findings.interaction(1, "a")))
    blocked, _, batch, _ = worker.turn()
    assert isinstance(blocked, BaseRound) and blocked.members[0].blocked is Reason.REPLAY_FAILED
    assert isinstance(batch, ScoredBatch)
    assert [score.detail for score in batch.results.scores] == ["OSError: no such volume"]
    base.runner = working
    clock.advance(10.0)
    worker.turn()
    assert base.opened


def test_a_turn_that_fails_is_told_and_ends_all_the_same(bases: list[WatchedBase], clock: HandClock) -> None:
    worker = Turned(bases, ALONE, clock)
    worker.turn()
    bases[0].runner.embed = None  # type: ignore[method-assign, assignment]
    worker.submit(sampled(findings.interaction(1, "a")))
    failure = "TypeError: 'NoneType' object is not callable"
    assert worker.turn() == [TurnEnded(clock.now(), {"a": 1}, failure)]
    assert worker.failures == 1


class Full(Slow):
    """There is no memory for what it is to load."""

    def open(self) -> None:
        raise NoMemory("base", 8_000_000_000, 1_000_000_000)


def test_a_round_that_fails_for_want_of_memory_says_so(tmp_path: Path, clock: HandClock) -> None:
    base = watched(tmp_path, clock, "a")
    base.runner = Full(Config(adapters={"a": "a-v1"}))
    (blocked,) = [result for result in Turned([base], BOTH, clock).turn() if isinstance(result, BaseRound)]
    assert [member.blocked for member in blocked.members] == [Reason.NO_MEMORY]
    assert "8 GB requested, 1 GB free" in blocked.members[0].detail


def test_a_turn_counts_what_it_has_dealt_with_and_not_what_it_gave_back(
    bases: list[WatchedBase], clock: HandClock
) -> None:
    worker = Turned(bases, replace(ALONE, responses_every_s=9.0), clock)
    worker.turn()
    worker.submit(sampled(*(findings.interaction(n, "a") for n in range(30))))
    given: list[int] = []
    for _ in range(6):
        given += [result.done.get("a", 0) for result in worker.turn() if isinstance(result, TurnEnded)]
        clock.advance(9.0)
    assert sum(given) == 30 and max(given) <= BATCH and given[0] < BATCH


def test_a_device_that_is_lost_ends_the_thread_and_names_the_reason(tmp_path: Path, clock: HandClock) -> None:
    save(enrolled("alpha"), tmp_path)
    base = watched(tmp_path, clock, "alpha")
    worker = Worker([base], BOTH, clock, [])
    base.runner.inject(None, "device_lost")  # type: ignore[attr-defined]
    worker.open()
    worker._thread.join(60.0)
    assert (worker.working, worker.lost) == (False, FAULTS["device_lost"])


def wanted(worker: Worker) -> list[str]:
    """Adapters whose worst canaries are to be regenerated."""
    queue = worker._texts_wanted
    return [queue.get().round.adapter for _ in range(queue.qsize())]


def test_an_alarm_of_canaries_has_the_worst_ones_of_its_round_regenerated_once(
    bases: list[WatchedBase], clock: HandClock
) -> None:
    members = tuple(replace(findings.round_(), adapter=name) for name in ("a", "b", "c"))
    done = replace(
        findings.base_round(number=4, at=100.0), members=(*members[:2], replace(members[2], measurements=()))
    )
    alarm = findings.verdict(Status.DEGRADED, at=100.0, reason=Reason.ALARM)
    alarm = replace(alarm, base=done.base, round=4, subject="a")
    of_base = replace(alarm, subject_kind=SubjectKind.BASE, subject=done.base, members=("a", "b", "c"))
    worker = Turned(bases, ALONE, clock)
    for finding in (done, alarm, of_base):
        worker.submit(finding)
    assert wanted(worker) == ["a", "b"], "each once, and none that was not measured"

    for other in (replace(alarm, round=7), replace(alarm, at=101.0), replace(alarm, reason=Reason.STILL_DEGRADED)):
        worker.submit(done)
        worker.submit(other)
    assert wanted(worker) == [], "an alarm of responses, or none"
    silent = Turned(bases, replace(ALONE, flips=0), clock)
    for finding in (done, alarm):
        silent.submit(finding)
    assert wanted(silent) == []


class Interrupted(Slow):
    """A pass takes a minute, which is when the next canary round is due, unless it is that round."""

    passes = 0

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.passes += 1
        if any(replay.target.fault for replay in replays):
            self.clock.advance(EVERY_S)
        return Runner.run(self, replays, stop, shape)


def test_a_canary_round_that_falls_due_breaks_off_the_replay_of_a_fault(tmp_path: Path, clock: HandClock) -> None:
    save(enrolled("alpha"), tmp_path)
    base = watched(tmp_path, clock, "alpha")
    runner = base.runner = Interrupted(Config(adapters={"alpha": "alpha-v1"}))
    runner.clock = clock
    worker = Turned([base], replace(BOTH, responses_every_s=None), clock)
    runner.inject("alpha", "without:part.0")
    (first,) = [result for result in worker.turn() if isinstance(result, BaseRound)]
    worker.submit(first)
    worker.submit(
        Verdict(SubjectKind.ADAPTER, "alpha", first.base, 0, first.at, Status.DEGRADED, Reason.ALARM, Cause.UNKNOWN)
    )
    began = [first.at]
    for _ in range(8):
        began += [result.at for result in worker.turn() if isinstance(result, BaseRound)]
    assert began == [first.at + EVERY_S * n for n in range(len(began))] and len(began) > 3
    assert not worker._causes.with_signatures(base.goldens.held)["alpha"].faults  # type: ignore[union-attr]


def rounds(results: Sequence[Result]) -> list[str]:
    return [result.base for result in results if isinstance(result, BaseRound)]


def test_a_base_that_goes_is_closed_and_what_waits_of_it_dealt_with_and_one_that_comes_has_a_round_at_once(
    bases: list[WatchedBase], clock: HandClock
) -> None:
    worker = Turned(bases, BOTH, clock)
    a, b = bases
    worker.own(frozenset({"base-of-a"}))
    assert rounds(worker.turn()) == ["base-of-a"]
    assert a.opened and not b.opened
    worker.submit(sampled(findings.interaction(1, "a"), findings.interaction(2, "b")))
    worker.own(frozenset({"base-of-b"}))
    given = worker.turn()
    assert rounds(given) == ["base-of-b"], "long before its schedule"
    assert b.opened and not a.opened
    (ended,) = [result for result in given if isinstance(result, TurnEnded)]
    assert ended.done == {"a": 1, "b": 1}, "the queue sends no more before what it has sent is dealt with"
    assert embedded(given) == {"base-of-b": 1}
    worker.own(frozenset({"base-of-a", "base-of-b"}))
    assert rounds(worker.turn()) == ["base-of-a"]


class Pure(Runner):
    """As the runner of files is: what it answers follows from hashes alone."""

    def computed_by(self) -> str:
        return "one kernel"


def test_of_a_base_that_goes_no_answer_is_kept(tmp_path: Path, clock: HandClock) -> None:
    """They would take memory beside those of the bases that are owned."""
    world.enrolled(tmp_path)
    shelf = Goldens(tmp_path, "tiny", dict.fromkeys(world.ADAPTERS, ""))
    tiny = WatchedBase("tiny", Pure(world.new_runner().config), shelf, world.ADAPTERS, None)
    worker = Turned([tiny], BOTH, clock)
    for owned in ({"tiny"}, set(), {"tiny"}):
        worker.own(frozenset(owned))
        worker.turn()
        assert bool(tiny.kept._size) == bool(owned)


def test_a_base_that_comes_back_has_its_golden_records_told_of_again(tmp_path: Path, clock: HandClock) -> None:
    """Whoever judges it has forgotten them with the base."""
    world.enrolled(tmp_path)
    shelf = Goldens(tmp_path, "tiny", dict.fromkeys(world.ADAPTERS, ""))
    runner = world.new_runner()
    worker = Turned([WatchedBase("tiny", runner, shelf, world.ADAPTERS, ResponseScorer(runner, None))], BOTH, clock)
    for owned in ({"tiny"}, set(), {"tiny"}):
        worker.own(frozenset(owned))
        accepted = [result.adapter for result in worker.turn() if isinstance(result, GoldenAccepted)]
        assert accepted == (list(world.ADAPTERS) if owned else [])


def beside_an_engine(folder: Path, clock: HandClock, files: Runner) -> WatchedBase:
    """A base of the tests' world whose canaries another runner answers than its files."""
    base = watched(folder, clock, "alpha", ScoringOptions())
    base.files = WatchedFiles(files, ("alpha",), EVERY_S)
    assert base.responses is not None
    base.responses.runner = files
    return base


def test_files_beside_an_engine_have_rounds_of_their_own_interval(tmp_path: Path, clock: HandClock) -> None:
    save(enrolled("alpha"), tmp_path)
    files = Runner(Config(adapters={"alpha": "alpha-v1"}))
    base = beside_an_engine(tmp_path, clock, files)
    schedule = replace(BOTH, own_every_s={base.name: 10 * EVERY_S}, responses_every_s=None)
    worker = Turned([base], schedule, clock)
    kinds = [type(result) for result in worker.turn() if isinstance(result, BaseRound | FilesRound)]
    assert kinds == [BaseRound, FilesRound], "the engine's first: it is what pages"
    clock.advance(EVERY_S)
    (again,) = [result for result in worker.turn() if isinstance(result, BaseRound | FilesRound)]
    assert isinstance(again, FilesRound) and again.round.number == 1
    assert base.files is not None and base.files.in_force == {"alpha": enrolled("alpha").hash}
    worker.own(frozenset())
    worker.turn()
    assert not base.files.opened and base.files.in_force == {}


def test_files_that_cannot_be_replayed_cost_the_canaries_of_the_engine_nothing(
    tmp_path: Path, clock: HandClock
) -> None:
    class Broken(Runner):
        def open(self) -> None:
            raise Unreplayable("alpha", "its folder is gone")

    save(enrolled("alpha"), tmp_path)
    worker = Turned([beside_an_engine(tmp_path, clock, Broken(Config(adapters={"alpha": "alpha-v1"})))], BOTH, clock)
    rounds = [result for result in worker.turn() if isinstance(result, BaseRound | FilesRound)]
    (measured,) = rounds
    assert isinstance(measured, BaseRound) and measured.members[0].blocked is None
    assert worker.failures == 1 and "its folder is gone" in worker._last_error
    worker.submit(sampled(findings.interaction(1, "alpha")))
    (batch,) = [result for result in worker.turn() if isinstance(result, ScoredBatch)]
    assert batch.results.scores[0].detail, "it is not scored, and the reason is told"
