"""Responses alone: what is served reads as somebody else's, and its end is seen, with canaries switched off."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from agent.clock import HandClock
from agent.kafka.contract import Outgoing
from agent.records import Notice, NoticeKind, NoticeReason, TrafficBatch
from agent.worker.response_feed import GRACE_S
from agent.worker.silence import STUCK_S
from detectors import on_call_text
from detectors.kinds import embedding_drift
from detectors.records import Cause, Evidence, Fault, FaultKind, Reason, Status, SubjectKind, Verdict
from detectors.traffic_records import Calibration, Embedding, ScoringMode, Side, TrafficRound
from probes.runner import BatchShape, Replay, Replayed, Stop, Target, Weights
from probes.runners.memory import Runner, golden_name
from probes.scoring.scoring_job import AdapterVersion, ScoringOptions
from tests.end_to_end.world import ADAPTERS, EVERY_S, PLAIN, Line, World, new_runner

ALONE = Line(replace(PLAIN, canaries=False), ScoringOptions())


@pytest.fixture
def alone(tmp_path: Path, goldens: Path) -> Iterator[World]:
    with World(tmp_path, goldens, line=ALONE) as opened:
        yield opened


def serve(
    world: World, adapter: str, writer: str | Target | None, n: int = 8, pods: int = 2, **sampling: float
) -> None:
    """Requests under the adapter's name, answered as ``writer`` would (None: the base), as accepted."""
    target = writer if isinstance(writer, Target) else Target(writer, Weights.GOLDEN)
    for number in range(n):
        messages = [{"role": "user", "content": f"{adapter} asks {number} at {world.clock.now()}"}]
        prompt = world.runner.encode_chat(messages)
        output = world.runner.generate(target, prompt, 24, lambda: False)
        body = {
            "schema": "gapwatch.v1",
            "request_id": f"{adapter}-{world.clock.now()}-{number}",
            "ts": world.clock.now(),
            "adapter": adapter,
            "pod": f"engine-{number % pods}",
            "messages": messages,
            "output": world.runner.decode(output),
            "output_token_ids": list(output),
            "sampling": sampling or {"temperature": 1.0},
        }
        world.topic.publish([Outgoing(adapter.encode(), orjson.dumps(body))])


def heard(world: World) -> list[TrafficRound]:
    return world.sink.of(TrafficRound)


def turn(world: World, wanted: int) -> TrafficRound:
    """One scheduled round, after so many responses have been scored for it."""
    world.turn_until(lambda: len(world.scores) >= wanted)
    before = len(heard(world))
    world.clock.advance(EVERY_S)
    world.turn_until(lambda: len(heard(world)) > before)
    return heard(world)[-1]


def first_round(world: World) -> None:
    """Nothing is scored before the runner was opened, which the first round does."""
    world.turn_until(lambda: len(heard(world)) >= 1)


def latest(world: World, adapter: str) -> Verdict:
    return [v for v in world.sink.verdicts if v.subject == adapter][-1]


def pages(world: World) -> list[Notice]:
    return [notice for notice in world.sink.notices if notice.kind is NoticeKind.TRIGGER]


def test_a_base_that_answers_under_the_name_pages_and_its_end_resolves(alone: World) -> None:
    first_round(alone)
    for adapter in ADAPTERS:
        serve(alone, adapter, adapter)
    turn(alone, 24)
    assert {latest(alone, name).status for name in ADAPTERS} == {Status.HEALTHY}
    assert {seen.adapter for seen in alone.sink.of(Calibration)} == set(ADAPTERS)
    assert pages(alone) == []

    serve(alone, "alpha", None)
    serve(alone, "beta", "beta")
    turn(alone, 16)
    verdict = latest(alone, "alpha")
    assert (verdict.status, verdict.cause) == (Status.DEGRADED, Cause.ADAPTER_NOT_APPLIED), verdict
    assert [notice.dedup_key for notice in pages(alone)] == ["gapwatch/test/adapter/alpha"]
    assert latest(alone, "beta").status is Status.HEALTHY

    for _ in range(2):
        serve(alone, "alpha", "alpha")
        turn(alone, 8)
    assert latest(alone, "alpha").reason is Reason.RESOLVED
    told = [(n.kind, n.reason) for n in alone.sink.notices if n.verdict.subject == "alpha"]
    assert told == [(NoticeKind.TRIGGER, NoticeReason.DEGRADED), (NoticeKind.RESOLVE, NoticeReason.RECOVERED)]
    # Nobody has asked gamma for three rounds: that is shown, and wakes nobody.
    assert latest(alone, "gamma").reason is Reason.NO_TRAFFIC
    assert {n.verdict.subject for n in alone.sink.notices} == {"alpha"}


def test_an_adapter_that_answers_requests_for_the_base_pages_as_that_and_its_end_resolves(alone: World) -> None:
    first_round(alone)
    serve(alone, "tiny", None)
    serve(alone, "beta", "beta")
    turn(alone, 16)
    assert pages(alone) == []
    for _ in range(2):
        serve(alone, "tiny", "beta")
        serve(alone, "beta", "beta")
        turn(alone, 16)
    (page,) = pages(alone)
    assert (
        page.dedup_key == "gapwatch/test/base_requests/tiny" and page.verdict.subject_kind is SubjectKind.BASE_REQUESTS
    )
    assert page.summary.startswith("[test] requests for base tiny: base answered by adapter")
    assert "like beta" in page.details["first action"]
    assert page.details["runbook"].startswith("gapwatch runbook base_answered_by_adapter")
    assert latest(alone, "beta").status is Status.HEALTHY

    for _ in range(3):
        serve(alone, "tiny", None)
        turn(alone, 8)
    kinds = [(notice.kind, notice.reason) for notice in alone.sink.notices]
    assert kinds == [(NoticeKind.TRIGGER, NoticeReason.DEGRADED), (NoticeKind.RESOLVE, NoticeReason.RECOVERED)]


def test_all_adapters_lost_at_once_are_one_page_and_one_resolve(alone: World) -> None:
    first_round(alone)
    for writers in (ADAPTERS, (None, None, None), ADAPTERS, ADAPTERS):
        for adapter, writer in zip(ADAPTERS, writers, strict=True):
            serve(alone, adapter, writer)
        turn(alone, 24)
    (page,) = pages(alone)
    assert page.dedup_key == "gapwatch/test/base/tiny" and page.verdict.cause is Cause.ADAPTER_NOT_APPLIED
    assert page.details["adapters"] == ", ".join(ADAPTERS)
    assert all(name in page.summary for name in ADAPTERS)
    told = [(notice.kind, notice.verdict.subject) for notice in alone.sink.notices]
    assert told == [(NoticeKind.TRIGGER, "tiny"), (NoticeKind.RESOLVE, "tiny")]


def test_another_adapter_under_the_name_is_named(alone: World) -> None:
    first_round(alone)
    serve(alone, "alpha", "beta", n=16)
    turn(alone, 16)
    verdict = latest(alone, "alpha")
    assert verdict.cause is Cause.WRONG_ADAPTER and "fit beta better" in verdict.explanation


def test_a_block_that_the_engine_lost_pages_and_is_named(alone: World) -> None:
    """Files are as accepted, and no alternative of every response is like it."""
    lost = Target("alpha", Weights.GOLDEN, fault=Fault(FaultKind.WITHOUT, "part.0"))
    first_round(alone)
    for _ in range(4):
        serve(alone, "alpha", lost)
        serve(alone, "beta", "beta")
        turn(alone, 16)
    verdict = latest(alone, "alpha")
    assert (verdict.status, verdict.cause) == (Status.DEGRADED, Cause.PARTLY_APPLIED), verdict
    assert "fit alpha without its part.0 better" in verdict.explanation
    page, *updates = pages(alone)
    assert page.reason is NoticeReason.DEGRADED and page.dedup_key == "gapwatch/test/adapter/alpha"
    # Faults are played from the first suspect responses on: the page may come before they have named the cause.
    assert all((n.reason, n.dedup_key) == (NoticeReason.CAUSE_SHARPER, page.dedup_key) for n in updates)


def test_a_stale_version_under_the_name_is_told_as_that(tmp_path: Path, goldens: Path) -> None:
    """The engine goes on serving the files that were accepted before; the other adapters have no earlier version."""
    world = World(tmp_path, goldens, line=replace(ALONE, scoring=ScoringOptions(passes=None)))
    world.scorer.before = lambda golden: Path("alpha-v0") if golden.adapter == "alpha" else None
    with world:
        first_round(world)
        serve(world, "alpha", golden_name(AdapterVersion("alpha", previous=True)), n=16)
        serve(world, "beta", "beta", temperature=0.0)
        turn(world, 24)
        verdict = latest(world, "alpha")
        assert (verdict.status, verdict.cause) == (Status.DEGRADED, Cause.WRONG_ADAPTER), verdict
        assert "fit the previously accepted version of alpha better" in verdict.explanation
        assert latest(world, "beta").status is Status.HEALTHY


def test_silence_and_what_cannot_be_scored_are_said_and_never_healthy(alone: World) -> None:
    first_round(alone)
    assert {latest(alone, name).reason for name in ADAPTERS} == {Reason.NO_TRAFFIC}
    serve(alone, "alpha", "alpha", top_p=0.9)
    turn(alone, 8)
    verdict = latest(alone, "alpha")
    assert (verdict.status, verdict.reason) == (Status.UNMONITORABLE, Reason.NOT_SCORED)
    assert "temperature is unknown" in verdict.explanation


def test_what_is_served_is_at_fault_while_canaries_are_quiet(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens, line=Line(scoring=ScoringOptions())) as world:
        first_round(world)
        serve(world, "alpha", None)
        turn(world, 8)
        world.turn_until(lambda: bool(pages(world)))
        said = [v for v in world.sink.verdicts if v.subject == "alpha" and v.status is Status.DEGRADED]
        assert said and on_call_text.CANARIES_HEALTHY in said[-1].explanation
        assert len(pages(world)) == 1
        for _ in range(2):
            serve(world, "alpha", "alpha")
            turn(world, 8)
        world.turn_until(lambda: world.sink.notices[-1].kind is NoticeKind.RESOLVE)


class SlowRunner(Runner):
    """Its rounds take longer than their schedule, as on a machine that is too small."""

    clock: HandClock

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.clock.advance(2 * EVERY_S)
        return super().run(replays, stop, shape)


def test_rounds_longer_than_their_schedule_leave_responses_their_turn(tmp_path: Path, goldens: Path) -> None:
    slow = SlowRunner(new_runner().config)
    with World(tmp_path, goldens, line=Line(scoring=ScoringOptions(), runner=slow)) as world:
        slow.clock = world.clock
        first_round(world)
        serve(world, "alpha", "alpha")
        world.turn_until(lambda: sum(len(seen.scores) for seen in heard(world)) >= 8)
        assert {score.scored for seen in heard(world) for score in seen.scores} == {ScoringMode.SAMPLED}


def test_responses_are_judged_at_their_own_interval_and_by_their_own_numbers(tmp_path: Path, goldens: Path) -> None:
    line = Line(replace(PLAIN, responses_every_s=10.0), ScoringOptions())
    with World(tmp_path, goldens, line=line) as world:
        first_round(world)
        for number in range(1, 4):
            serve(world, "alpha", None if number == 3 else "alpha")
            world.turn_until(lambda: len(world.scores) >= 8)
            world.clock.advance(10.0)
            world.turn_until(lambda: len(heard(world)) > number)  # noqa: B023 - called before it changes
        assert [(seen.number, len(seen.scores)) for seen in heard(world)] == [(0, 0), (1, 8), (2, 8), (3, 8)]
        assert len(world.rounds) == 1
        (page,) = pages(world)
        assert (page.verdict.subject, page.verdict.round) == ("alpha", 3)


def test_a_canary_round_that_hangs_does_not_hold_back_what_was_scored(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens, line=Line(scoring=ScoringOptions())) as world:
        first_round(world)
        serve(world, "alpha", None)
        world.turn_until(lambda: len(world.scores) >= 8)
        hold, refresh = threading.Event(), world.runner.refresh
        world.runner.refresh = lambda: (hold.wait(30), refresh())[1]  # type: ignore[method-assign]
        try:
            world.clock.advance(EVERY_S + GRACE_S)
            world.turn_until(lambda: bool(pages(world)))
            assert len(world.rounds) == 1 and latest(world, "alpha").reason is Reason.ALARM
        finally:
            hold.set()


def test_an_incident_of_responses_outlives_a_restart(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens, line=ALONE) as world:
        first_round(world)
        serve(world, "alpha", None)
        turn(world, 8)
        assert len(pages(world)) == 1
    with World(tmp_path, goldens, topic=world.topic, line=ALONE) as again:
        again.clock.advance(10 * EVERY_S)
        first_round(again)
        serve(again, "alpha", None)
        turn(again, 8)
        assert latest(again, "alpha").reason is Reason.STILL_DEGRADED
        assert pages(again) == []


def much_later(world: World) -> None:
    """So that what is served now has other ids; its own round is over."""
    before = len(heard(world))
    world.clock.advance(10 * EVERY_S)
    world.turn_until(lambda: len(heard(world)) > before)


def counted(world: World, adapter: str) -> int:
    """Responses in the evidence about an adapter, by its bounded stream."""
    found = [e for e in world.sink.of(Evidence) if (e.subject, e.stream) == (adapter, "replica")]
    return found[-1].n if found else 0


def scored(world: World) -> int:
    """Responses in the rounds so far."""
    return sum(score.request_id != "" for seen in heard(world) for score in seen.scores)


def embedded(world: World, adapter: str) -> int:
    """Prompts that drift has read: each is a reference of its reservoir, which is larger than any number here."""
    saved = world.judge._monitor.own_past_json()["detectors"]["embedding_drift"]
    state = embedding_drift.State.from_json(saved["state"])
    bank = state.banks.get((adapter, Side.PROMPT))
    return len(bank.references) if bank else 0


def test_what_was_judged_before_a_crash_is_not_judged_again_though_the_store_never_had_it(
    tmp_path: Path, goldens: Path
) -> None:
    """The store was away, so nothing was committed and the store's marks know nothing; the state file knows."""
    with World(tmp_path, goldens, line=ALONE) as world:
        world.sink.settled = False
        first_round(world)
        serve(world, "alpha", "alpha", n=12)
        turn(world, 12)
        assert (counted(world, "alpha"), embedded(world, "alpha")) == (12, 12)
    assert world.topic.committed == {}
    with World(tmp_path, goldens, topic=world.topic, line=ALONE) as after:
        first_round(after)
        much_later(after)
        serve(after, "alpha", "alpha", n=4)
        turn(after, 4)
        assert sum(len(batch.interactions) for batch in after.sink.of(TrafficBatch)) == 16
        assert scored(after) == 4
        assert (counted(after, "alpha"), embedded(after, "alpha")) == (16, 16)


def test_what_was_scored_and_not_judged_before_a_crash_is_scored_again(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens, line=ALONE) as world:
        world.sink.settled = False
        first_round(world)
        serve(world, "alpha", "alpha", n=8)
        turn(world, 8)
        serve(world, "alpha", "alpha", n=4)
        world.turn_until(lambda: len(world.scores) >= 4)
    with World(tmp_path, goldens, topic=world.topic, line=ALONE) as after:
        # They are in the first round, or, where the first turn of the worker was over before, in the next.
        after.turn_until(lambda: len(after.scores) + scored(after) >= 4)
        after.clock.advance(EVERY_S)
        after.turn_until(lambda: scored(after) >= 4)
        assert (counted(after, "alpha"), embedded(after, "alpha")) == (12, 12)


def test_of_a_topic_made_anew_responses_are_heard_from_its_first_record(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens, line=ALONE) as world:
        first_round(world)
        serve(world, "alpha", "alpha", n=12)
        turn(world, 12)
    world.topic.recreate()
    with World(tmp_path, goldens, topic=world.topic, line=ALONE) as after:
        first_round(after)
        much_later(after)
        serve(after, "alpha", "alpha", n=3)
        turn(after, 3)
        assert counted(after, "alpha") == 15
        assert after.judge.judged == {("traffic", 0, "alpha"): 3}


def test_where_responses_are_only_embedded_and_canaries_are_off_the_silence_is_not_called_a_fault(
    tmp_path: Path, goldens: Path
) -> None:
    with World(tmp_path, goldens, line=replace(ALONE, scoring=None)) as world:
        world.turn_first_responses()
        for _ in range(2):
            serve(world, "alpha", "alpha", n=2)
            world.turn_until(lambda: len(world.embeddings) >= 4)
            before = len(world.sink.of(Embedding))
            world.clock.advance(STUCK_S - 1.0)
            world.turn_until(lambda: len(world.sink.of(Embedding)) > before)  # noqa: B023 - called before it changes
        assert world.rounds == [] and world.sink.verdicts == []
    with World(tmp_path, goldens, topic=world.topic, line=replace(ALONE, scoring=None)) as after:
        assert after.judge.judged == {("traffic", 0, "alpha"): 4}


def test_a_busy_adapter_costs_a_quiet_one_nothing_and_what_it_sheds_is_told(alone: World) -> None:
    first_round(alone)
    serve(alone, "alpha", "alpha", n=200)
    serve(alone, "beta", "beta", n=3)
    turn(alone, 67)
    assert len([score for seen in heard(alone) for score in seen.scores if score.adapter == "beta"]) == 3
    assert alone.worker.shed["alpha"] > 0 == alone.worker.shed["beta"]
    assert alone.worker.status == (True, f"working; sampled responses shed for lack of time: alpha {shed(alone)}")


def shed(world: World) -> int:
    return sum(world.worker.shed.values())
