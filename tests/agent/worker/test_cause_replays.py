"""Which incidents have faults replayed, with which adapters, for how long; a canary round always comes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.clock import HandClock
from agent.records import GoldenAccepted
from agent.worker.cause_replays import BUSY_S, MEMBERS, WAITING_S, CauseReplays
from detectors.records import BaseRound, Cause, FaultReplay, Reason, ShareOf, Status, SubjectKind, Verdict
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.record import Golden
from probes.runner import BatchShape, Replay, Replayed, Stop
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, enrolled, never


class Slow(Runner):
    """A replay takes so many seconds of the clock."""

    clock: HandClock
    takes = 0.0

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.clock.advance(self.takes)
        return super().run(replays, stop, shape)


@pytest.fixture
def runner() -> Slow:
    made = Slow(Config(adapters=dict(ADAPTERS)))
    made.clock = HandClock()
    made.open()
    return made


@pytest.fixture
def goldens() -> dict[str, Golden]:
    return {name: enrolled(name) for name in ADAPTERS}


@pytest.fixture
def round(runner: Slow, goldens: dict[str, Golden]) -> BaseRound:
    for name in ADAPTERS:
        runner.inject(name, "without:part.0")
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 100.0, 512, seed=1), never)
    assert done is not None
    return done


def alarm(round: BaseRound, subject: str = "alpha", **more: Any) -> Verdict:
    kind = SubjectKind.BASE if subject == round.base else SubjectKind.ADAPTER
    plain = Verdict(kind, subject, round.base, round.number, round.at, Status.DEGRADED, Reason.ALARM, Cause.UNKNOWN)
    share_of = ShareOf.SCORES if kind is SubjectKind.BASE else ShareOf.DRAWS
    return replace(plain, **{"share_of": share_of, **more})


def finished(causes: CauseReplays, runner: Slow, goldens: dict[str, Golden]) -> list[FaultReplay]:
    replays = []
    while causes.waiting:
        if (replayed := causes.step(runner, goldens, never)) is not None:
            replays.append(replayed)
    return replays


def test_an_alarm_has_its_faults_replayed_once_and_its_rounds_measured_against_them_until_it_ends(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    causes = CauseReplays(runner.clock)
    for finding in (round, alarm(round), alarm(round, reason=Reason.STILL_DEGRADED)):
        causes.submit(finding)
    (replayed,) = finished(causes, runner, goldens)
    assert (replayed.subject, replayed.replayed, replayed.missing) == ("alpha", ("alpha",), "")
    signed = causes.with_signatures(goldens)
    assert isinstance(signed["alpha"], Golden) and len(signed["alpha"].faults) == replayed.faults > 0
    assert signed["beta"] is goldens["beta"]
    causes.submit(alarm(round, status=Status.HEALTHY, reason=Reason.RESOLVED, cause=Cause.NONE))
    assert not causes.waiting and causes.with_signatures(goldens) == goldens


def test_another_golden_record_has_none_of_the_signatures_of_the_former(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round))
    finished(causes, runner, goldens)
    other = goldens | {"alpha": replace(goldens["alpha"], hash="sha256:another")}
    assert causes.with_signatures(other) == other
    causes.submit(GoldenAccepted("alpha", "toy", "sha256:another", "", "why", 1.0, b""))
    causes.submit(alarm(round))
    assert len(finished(causes, runner, goldens)) == 1, "an alarm against the new record is another incident"


@pytest.mark.parametrize(
    "more",
    [
        {"covered_by": "toy"},
        {"cause": Cause.ADAPTER_NOT_APPLIED},
        {"cause": Cause.TEMPLATE_CHANGED},
        {"at": 99.0},
        {"reason": Reason.RECOVERING},
        {"status": Status.UNMONITORABLE, "reason": Reason.FILES_CHANGING},
    ],
)
def test_what_its_base_speaks_for_what_is_known_and_what_is_no_alarm_of_this_round_has_none_replayed(
    runner: Slow, round: BaseRound, more: dict[str, Any]
) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round, **more))
    assert not causes.waiting


def test_a_base_has_faults_replayed_with_a_few_of_its_broken_adapters(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    many = tuple(replace(round.members[0], adapter=f"a{n}") for n in range(20))
    causes = CauseReplays(runner.clock)
    causes.submit(replace(round, members=(*many, *round.members)))
    causes.submit(alarm(round, "toy", members=("a3", "alpha", "gamma", "beta", "a4")))
    (replayed,) = finished(causes, runner, goldens)
    assert replayed.subject_kind is SubjectKind.BASE
    assert len(replayed.replayed) + replayed.missing.count("no golden record") == MEMBERS
    assert len(replayed.round.members) == 23


def test_an_alarm_is_another_incident_though_responses_spoke_when_the_former_ended(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round))
    assert len(finished(causes, runner, goldens)) == 1
    causes.submit(alarm(round, reason=Reason.STILL_DEGRADED, share_of=ShareOf.RESPONSES))
    causes.submit(alarm(round))
    assert len(finished(causes, runner, goldens)) == 1


def test_a_base_has_no_faults_replayed_with_an_adapter_whose_record_was_replaced_meanwhile(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    """The runner would answer with the new files in place of those that the former record accepted."""
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round, "toy", members=("alpha",)))
    assert causes.waiting and causes.step(runner, goldens, never) is None
    replaced = goldens | {"alpha": replace(goldens["alpha"], hash="sha256:another")}
    assert finished(causes, runner, replaced) == []


def test_a_runner_that_injects_no_faults_has_none_replayed_and_its_incidents_say_nothing_of_it(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    class Plain(Slow):
        blocks = None  # type: ignore[assignment]

    plain = Plain(Config(adapters=dict(ADAPTERS)))
    plain.open()
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round))
    causes.submit(alarm(round, "toy", members=("alpha", "gone")))
    assert finished(causes, plain, goldens) == []


def test_an_error_ends_the_replays_of_its_incident_and_of_no_other(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    class Broken(Slow):
        def run(self, *_: object, **__: object) -> Iterator[Replayed]:
            raise TypeError("a defect")

    broken = Broken(Config(adapters=dict(ADAPTERS)))
    broken.open()
    causes = CauseReplays(runner.clock)
    for finding in (round, alarm(round), alarm(round, "beta")):
        causes.submit(finding)
    with pytest.raises(TypeError):
        while causes.waiting:
            causes.step(broken, goldens, never)
    assert [replayed.subject for replayed in finished(causes, runner, goldens)] == ["beta"]


def test_an_adapter_of_which_nothing_is_left_needs_no_replay_and_none_is_missed(
    runner: Slow, goldens: dict[str, Golden]
) -> None:
    runner.inject(None, "swapped_and_lost")
    lost = replay_base_round(runner, goldens, Scheduled("toy", 0, 100.0, 512, seed=1), never)
    assert lost is not None
    causes = CauseReplays(runner.clock)
    causes.submit(lost)
    causes.submit(alarm(lost, "toy", cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST))
    assert causes.waiting and finished(causes, runner, goldens) == []


def test_its_time_is_bounded_and_it_says_what_was_left(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round))
    runner.takes = BUSY_S / 4
    (replayed,) = finished(causes, runner, goldens)
    assert replayed.faults == 5 and replayed.missing.endswith("faults for lack of time")


def test_what_never_gets_a_turn_ends_without_one_and_says_so(
    runner: Slow, goldens: dict[str, Golden], round: BaseRound
) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    causes.submit(alarm(round))
    assert causes.waiting and not causes.overdue
    runner.clock.jump(365 * 86400.0)
    assert not causes.overdue, "the time that was set is not the time that it waited"
    runner.clock.jump(-366 * 86400.0)
    runner.clock.advance(WAITING_S + 1)
    assert causes.overdue
    replayed = causes.step(runner, goldens, lambda: True)
    assert replayed is not None and replayed.faults == 0
    assert replayed.missing.endswith("faults for lack of time") and not causes.waiting


def test_the_round_that_is_kept_holds_no_constants_of_its_judgement(round: BaseRound, runner: Slow) -> None:
    causes = CauseReplays(runner.clock)
    causes.submit(round)
    kept = causes._latest["toy"].members[0].measurements[0].comparison.reference
    assert type(kept).__name__ == "Reference"
    assert kept.curve is round.members[0].measurements[0].comparison.reference.curve
