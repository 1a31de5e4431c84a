"""The story at every change: an injected fault becomes a page, its end a resolve, through all but the outside."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.config import parse
from agent.demo.receiver import Receiver
from agent.kafka.in_memory import MemoryTopic
from agent.records import Flip, Notice, NoticeKind, NoticeReason, TrafficBatch
from agent.sinks import clickhouse, pagerduty
from agent.store.reader import StoreReader
from agent.store.verdict_rows import verdict_row
from agent.surroundings import Surroundings
from agent.worker.silence import STUCK_S
from detectors.records import Cause, Evidence, Reason, Status, SubjectKind, Verdict
from detectors.traffic_records import Side
from probes.runners.memory import Runner
from tests.end_to_end.world import ADAPTERS, EVERY_S, Line, World, accept, enrolled, new_runner
from tests.kafka_brokers import request


@pytest.fixture
def world(tmp_path: Path, goldens: Path) -> Iterator[World]:
    with World(tmp_path, goldens) as opened:
        yield opened


def last(world: World, subject: str) -> Verdict:
    return [verdict for verdict in world.sink.verdicts if verdict.subject == subject][-1]


def pages(world: World) -> list[Notice]:
    return [notice for notice in world.sink.notices if notice.kind is NoticeKind.TRIGGER]


def test_healthy_rounds_page_nobody_and_keep_retention_at_one(world: World) -> None:
    for _ in range(5):
        world.turn_round()
    assert world.sink.notices == []
    for name in ADAPTERS:
        verdict = last(world, name)
        assert verdict.status is Status.HEALTHY
        assert verdict.retention is not None
        assert abs(verdict.retention.mean - 1) < 1e-3


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("not_applied", Cause.ADAPTER_NOT_APPLIED),
        ("scale:0.5", Cause.WRONG_STRENGTH),
        ("wrong_adapter:beta", Cause.WRONG_ADAPTER),
    ],
)
def test_one_broken_adapter_pages_in_the_first_round_by_its_cause_and_alone(
    world: World, fault: str, cause: Cause
) -> None:
    world.turn_round()
    world.runner.inject("alpha", fault)
    world.turn_round()
    assert [(notice.verdict.subject, notice.verdict.cause) for notice in pages(world)] == [("alpha", cause)]
    assert last(world, "tiny").status is not Status.DEGRADED
    assert all(last(world, name).status is Status.HEALTHY for name in ("beta", "gamma"))


def refined(world: World, subject: str) -> list[Verdict]:
    reasons = (Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
    return [v for v in world.sink.verdicts if v.subject == subject and v.reason in reasons]


@pytest.mark.parametrize(
    ("fault", "cause", "name"),
    [
        ("without:part.0", Cause.PARTLY_APPLIED, "part.0"),
        ("with:beta", Cause.COMPOSITION_INTERFERENCE, "beta"),
    ],
)
def test_the_page_goes_out_at_once_and_the_cause_is_refined_by_replay_under_the_same_key(
    world: World, fault: str, cause: Cause, name: str
) -> None:
    world.turn_round()
    world.runner.inject("alpha", fault)
    world.turn_round()
    (page,) = pages(world)
    assert page.verdict.cause is Cause.UNKNOWN
    world.turn_until(lambda: bool(refined(world, "alpha")))
    (verdict,) = refined(world, "alpha")
    assert (verdict.reason, verdict.cause, verdict.status) == (Reason.CAUSE_REFINED, cause, Status.DEGRADED)
    assert name in verdict.explanation and "cause refined by replay" in verdict.explanation
    assert verdict.evidence and verdict.onset == page.verdict.onset
    row = verdict_row(verdict)
    assert (row["cause"], row["reason"], row["round"]) == (cause.value, "cause_refined", page.verdict.round)
    _, update = world.sink.notices
    assert (update.kind, update.reason) == (NoticeKind.TRIGGER, NoticeReason.CAUSE_SHARPER)
    assert update.dedup_key == page.dedup_key and cause.value.replace("_", " ") in update.summary

    world.turn_round()
    assert (last(world, "alpha").reason, last(world, "alpha").cause) == (Reason.STILL_DEGRADED, cause)
    world.runner.inject("alpha", "none")
    for _ in range(2):
        world.turn_round()
    assert [notice.reason for notice in world.sink.notices[2:]] == [NoticeReason.RECOVERED]
    assert len(refined(world, "alpha")) == 1


def test_a_fault_that_no_replay_explains_stays_unknown_and_says_what_was_tried(world: World) -> None:
    world.turn_round()
    world.runner.inject("alpha", "distorted:0.5")
    world.turn_round()
    world.turn_until(lambda: bool(refined(world, "alpha")))
    (verdict,) = refined(world, "alpha")
    assert (verdict.reason, verdict.cause) == (Reason.CAUSE_KEPT, Cause.UNKNOWN)
    assert "cause not refined: " in verdict.explanation and "which explains it no better" in verdict.explanation
    assert len(world.sink.notices) == 1


def test_where_the_accepted_base_is_not_at_hand_the_cause_stays_and_says_why(tmp_path: Path, goldens: Path) -> None:
    """A restart on another base, whose weights enrolment did not keep."""
    moved = Runner(replace(new_runner().config, base="base-v2"))
    with World(tmp_path, goldens, line=Line(runner=moved)) as world:
        world.runner.inject("alpha", "without:part.0")
        world.turn_round()
        world.turn_until(lambda: bool(refined(world, "tiny")))
        (verdict,) = refined(world, "tiny")
        assert (verdict.reason, verdict.cause) == (Reason.CAUSE_KEPT, pages(world)[0].verdict.cause)
        assert "no fault could be replayed" in verdict.explanation and "not at hand" in verdict.explanation


def test_a_base_alarm_replays_faults_with_a_few_of_its_adapters(world: World) -> None:
    world.turn_round()
    for name in ADAPTERS:
        world.runner.inject(name, "without:part.0")
    world.turn_round()
    (page,) = pages(world)
    assert page.verdict.subject_kind is SubjectKind.BASE
    world.turn_until(lambda: bool(refined(world, "tiny")))
    (verdict,) = refined(world, "tiny")
    assert (verdict.reason, verdict.cause) == (Reason.CAUSE_REFINED, Cause.PARTLY_APPLIED)
    assert "with 3 of 3 adapters" in verdict.explanation and verdict.members == ADAPTERS
    assert [notice.reason for notice in world.sink.notices] == [NoticeReason.DEGRADED, NoticeReason.CAUSE_SHARPER]
    assert {notice.dedup_key for notice in world.sink.notices} == {page.dedup_key}


def started_after(first: World, second: World) -> World:
    second.clock.at = first.clock.at + EVERY_S
    return second


def test_a_restart_loses_nothing_but_the_signatures_which_are_made_again(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens) as first:
        first.turn_round()
        first.runner.inject("alpha", "without:part.0")
        first.turn_round()
        first.turn_until(lambda: bool(refined(first, "alpha")))
    with started_after(first, World(tmp_path, goldens)) as second:
        second.runner.inject("alpha", "without:part.0")
        second.turn_round()
        # The first round has no signatures: it does not take back what they have named.
        (alpha,) = [v for v in second.sink.verdicts if v.subject == "alpha" and v.reason is Reason.STILL_DEGRADED]
        assert alpha.cause is Cause.PARTLY_APPLIED
        second.turn_until(lambda: bool(refined(second, "alpha")))
        assert refined(second, "alpha")[0].cause is Cause.PARTLY_APPLIED
        second.turn_round()
        assert last(second, "alpha").cause is Cause.PARTLY_APPLIED


def test_a_restart_before_the_replay_was_done_makes_it_up(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path / "state", goldens) as first:
        first.turn_round()
        first.runner.inject("alpha", "without:part.0")
        first.turn_round()
        assert last(first, "alpha").cause is Cause.UNKNOWN and not refined(first, "alpha")
        at_the_alarm = shutil.copytree(tmp_path / "state", tmp_path / "at the alarm")
    with started_after(first, World(at_the_alarm, goldens)) as second:
        second.runner.inject("alpha", "without:part.0")
        second.turn_round()
        second.turn_until(lambda: bool(refined(second, "alpha")))
        assert [(notice.reason, notice.verdict.cause) for notice in second.sink.notices] == [
            (NoticeReason.CAUSE_SHARPER, Cause.PARTLY_APPLIED)
        ]


def test_a_swap_that_loses_every_adapter_is_one_incident_on_the_base_and_resolves(world: World) -> None:
    world.turn_round()
    world.runner.inject(None, "swapped_and_lost")
    world.turn_round()
    (page,) = pages(world)
    assert page.verdict.subject_kind is SubjectKind.BASE
    assert page.verdict.cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert page.verdict.members == ADAPTERS
    assert page.verdict.onset is not None and page.verdict.onset.after is not None

    world.runner.inject(None, "none")
    world.turn_round()
    assert last(world, "tiny").reason is Reason.RECOVERING
    world.turn_round()
    assert last(world, "tiny").reason is Reason.RESOLVED
    assert [notice.kind for notice in world.sink.notices] == [NoticeKind.TRIGGER, NoticeKind.RESOLVE]
    assert world.sink.notices[0].dedup_key == world.sink.notices[1].dedup_key


def test_a_base_that_moved_under_adapters_that_survive_is_told_once_and_pages_nobody(world: World) -> None:
    world.turn_round()
    world.runner.inject(None, "base_swapped:0.05")
    for _ in range(3):
        world.turn_round()
    assert [(notice.kind, notice.reason) for notice in world.sink.notices] == [
        (NoticeKind.CHANGE, NoticeReason.BASE_MOVED)
    ]
    assert all(last(world, name).reason is Reason.BASE_MOVED for name in ADAPTERS)


def test_files_in_mid_rollout_are_unmonitorable_and_told_only_after_three_rounds(world: World) -> None:
    world.turn_round()
    world.runner.inject(None, "files_changing")
    for expected in (0, 0, 1):
        world.turn_round()
        assert all(last(world, name).status is Status.UNMONITORABLE for name in ADAPTERS)
        assert last(world, "alpha").reason is Reason.FILES_CHANGING
        assert len(pages(world)) == expected
    assert pages(world)[0].reason is NoticeReason.CANNOT_TELL


def test_the_worst_canaries_are_kept_as_text_once(world: World) -> None:
    world.turn_round()
    world.runner.inject("alpha", "not_applied")
    world.turn_round()
    world.turn_until(lambda: len(world.sink.of(Flip)) >= 2)
    world.turn_round()
    flips = world.sink.of(Flip)
    assert {flip.adapter for flip in flips} == {"alpha"}
    assert len(flips) == 2
    assert all(flip.golden_text != flip.present_text for flip in flips)


def drift_streams(world: World) -> set[str]:
    return {e.stream for e in world.sink.of(Evidence) if e.detector == "embedding_drift"}


def test_traffic_is_counted_sampled_embedded_and_committed(world: World) -> None:
    world.turn_round()
    world.turn_first_responses()
    world.topic.publish([request(i, ADAPTERS[i % 3]) for i in range(30)])
    world.turn_until(lambda: len(world.embeddings) == 60)
    assert drift_streams(world) == set(), "judged with the round that comes next, and saved with it"
    world.turn_round()
    world.turn_until(lambda: len(drift_streams(world)) == 2)
    batches = world.sink.of(TrafficBatch)
    assert sum(count.n for batch in batches for count in batch.counts) == 30
    assert sum(len(batch.interactions) for batch in batches) == 30
    assert world.topic.committed == {("traffic", 0): 30}
    assert drift_streams(world) == {side.value for side in Side}


def test_an_open_incident_outlives_a_restart_and_still_resolves(tmp_path: Path, goldens: Path) -> None:
    topic = MemoryTopic()
    with World(tmp_path, goldens, topic) as first:
        first.turn_round()
        first.runner.inject("alpha", "not_applied")
        first.turn_round()
        assert len(pages(first)) == 1
    with World(tmp_path, goldens, topic) as second:
        second.runner.inject("alpha", "not_applied")
        second.turn_round()
        assert pages(second) == []
        assert last(second, "alpha").reason is Reason.STILL_DEGRADED
        second.runner.inject("alpha", "none")
        second.turn_round()
        second.turn_round()
        assert [notice.reason for notice in second.sink.notices] == [NoticeReason.RECOVERED]


def test_an_open_incident_outlives_the_pod_and_its_disk_and_is_resolved_by_the_one_that_replaces_it(
    tmp_path: Path, goldens: Path
) -> None:
    dsn = f"chdb://{tmp_path / 'store'}"
    models = [{"name": "tiny", "path": "./base", "adapters": [{"name": name, "path": name} for name in ADAPTERS]}]
    of_pod = {"cluster": "test", "models": models, "clickhouse": {"dsn": dsn}}
    reader = StoreReader(parse(of_pod, tmp_path / "gapwatch.yaml"))
    reader.query("alerts", {})  # connected: the first answer would take longer than the loop waits

    def run(disk: str, fault: str, until: NoticeReason) -> list[NoticeReason]:
        store = clickhouse.Sink(clickhouse.Config(dsn=dsn), Surroundings("test", disk, tmp_path / disk))
        with World(tmp_path / disk, goldens, others=[store], line=Line(fleet=reader.fleet)) as world:
            world.turn_round()
            world.runner.inject("alpha", fault)
            for _ in range(10):
                world.turn_round()
                world.turn_until(lambda: not store.waiting)
                if until in [notice.reason for notice in world.sink.notices]:
                    break
            return [notice.reason for notice in world.sink.notices]

    assert run("lost", "not_applied", NoticeReason.DEGRADED) == [NoticeReason.DEGRADED]
    assert run("new", "none", NoticeReason.RECOVERED) == [NoticeReason.RECOVERED]
    reader.close()


def test_a_release_that_is_meant_ends_the_incident_with_its_reason(tmp_path: Path) -> None:
    enrolled(tmp_path / "goldens")
    with World(tmp_path / "state", tmp_path / "goldens") as world:
        world.turn_round()
        world.runner.inject("alpha", "scale:0.5")
        world.turn_round()
        assert len(pages(world)) == 1

        halved = new_runner()
        halved.inject("alpha", "scale:0.5")
        accept(tmp_path / "goldens", "alpha", halved, at=world.clock.now(), why="trained at half strength on purpose")
        world.turn_round()
        resolve = world.sink.notices[-1]
        assert resolve.reason is NoticeReason.REENROLLED
        assert resolve.dedup_key == pages(world)[0].dedup_key
        assert "trained at half strength on purpose" in resolve.summary
        world.turn_round()
        assert last(world, "alpha").status is Status.HEALTHY
        assert len(world.sink.notices) == 2


def turn_until_another_round(world: World) -> None:
    before = len(world.rounds)
    world.turn_until(lambda: len(world.rounds) > before)


def test_a_replay_that_hangs_is_told_and_not_taken_for_health(world: World) -> None:
    world.turn_round()
    hold = threading.Event()
    refresh = world.runner.refresh
    world.runner.refresh = lambda: (hold.wait(30), refresh())[1]  # type: ignore[method-assign]
    try:
        for _ in range(3):
            world.clock.advance(EVERY_S + STUCK_S + 1)
            turn_until_another_round(world)
            assert last(world, "alpha").reason is Reason.NOT_REPLAYED_YET
        assert [notice.reason for notice in pages(world)] == [NoticeReason.CANNOT_TELL]
    finally:
        hold.set()


def test_a_page_waits_neither_for_the_store_nor_for_the_broker(tmp_path: Path, goldens: Path) -> None:
    (tmp_path / "key").write_text("k" * 32)
    topic = MemoryTopic()
    topic.away = True
    with Receiver() as receiver:
        away = clickhouse.Config(dsn="clickhouse://default@127.0.0.1:9/gapwatch")
        store = clickhouse.Sink(away, Surroundings(state_dir=tmp_path))
        settings = pagerduty.Config(routing_key_file=tmp_path / "key", url=receiver.url, retry_s=0.1)
        pager = pagerduty.Sink(settings, Surroundings(state_dir=tmp_path))
        with World(tmp_path / "state", goldens, topic, (store, pager)) as world:
            world.turn_round()
            world.runner.inject(None, "swapped_and_lost")
            world.turn_round()
            world.turn_until(lambda: len(receiver.open_incidents) == 1)
            assert store.waiting > 0
            assert receiver.open_incidents[0].dedup_key == "gapwatch/test/base/tiny"
    assert all(status == 202 for status, _ in receiver.answers)
