"""Does evidence survive a roll-out? Generations of judges over one store, whose disks end with them.

A weak fault, of two canaries in about twenty, has to be collected over more than ten rounds. All generations are given
the same rounds, so that what is said has to be the same to the last bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import GoneState
from agent.alerting.judge import MAY_ADOPT_S, Judge
from agent.alerting.judged_bases import JudgedBases
from agent.alerting.notice import state_key
from agent.config import parse
from agent.records import Finding, GoldenAccepted, Notice, ScoredResponses
from agent.store import client as store
from agent.store.fleet import fleet
from agent.store.handover import Wanted, gone_states
from agent.store.reader import StoreReader
from agent.store.table_rows import Origin, when
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Evidence, SubjectKind, Verdict
from detectors.verdicts.incident import Rules
from tests.agent import findings
from tests.agent.store.stored import embedded, insert
from tests.clickhouse_http import ClickHouseServer
from tests.detectors.responses import AGAINST, score, traffic_round
from tests.detectors.synthetic import ADAPTERS, make_base_round

pytestmark = embedded
EVERY_S = 60.0
NOW = findings.NOW
HEALTHY = dict.fromkeys(ADAPTERS, "healthy")
LOST = HEALTHY | {"router": "not_applied"}
WATCHED = [Wanted("smol", [state_key(SubjectKind.ADAPTER, name) for name in ADAPTERS])]


@cache
def played(number: int, fault: str) -> BaseRound:
    """fault: "weak", "lost" or "none" of the router"""
    lost = make_base_round(LOST, number)
    if fault == "lost":
        return moved(lost, number)
    healthy = make_base_round(HEALTHY, number)
    if fault == "none":
        return moved(healthy, number)
    members = []
    for good, bad in zip(healthy.members, lost.members, strict=True):
        mixed = (*bad.measurements[:2], *good.measurements[2:])
        members.append(replace(good, measurements=mixed) if good.adapter == "router" else good)
    return moved(replace(healthy, members=tuple(members)), number)


def moved(record: BaseRound, number: int) -> BaseRound:
    at = NOW - 3600 + number * EVERY_S
    return replace(record, at=at, members=tuple(replace(member, at=at) for member in record.members))


class Fleet:
    """Pods over one store. A disk ends with its pod."""

    def __init__(self, client: store.Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.pods: dict[str, Judge] = {}
        self.sent: list[tuple[str, str]] = []

    def start(self, name: str, group: str = "", monitor: Monitor | None = None, **more: Any) -> Judge:
        place = Origin("prod", name, consumer_group=group)
        judge = Judge(
            monitor or Monitor(Rules(Tolerances(), 20.0)),
            "prod",
            StateFile(self.folder / name),
            lambda subjects: fleet(self.client, "prod", name, subjects, 90.0),
            JudgedBases({"smol": ADAPTERS}, gone=more.get("gone", lambda *_: states_for(self.client, place))),
        )
        judge.gained(["smol"], 0.0, at_start=True)
        self.pods[name] = judge
        self.beat(name)
        return judge

    def beat(self, name: str, ago_s: float = 0.0) -> None:
        insert(self.client, replace(findings.heartbeat(time.time() - ago_s), pod=name))

    def end(self, name: str, *, closed: bool = True, saved_ago_s: float = 0.0, group: str = "") -> None:
        """closed: with a last word, as at SIGTERM; without one its heartbeats end four minutes ago"""
        if not closed:
            self.pods[name].adopt(MAY_ADOPT_S)  # it has lived long enough to save by the clock
        (saved,) = self.pods.pop(name).saved_states(time.time() - saved_ago_s, closed)
        insert(self.client, saved, place=Origin("prod", name, consumer_group=group))
        if not closed:
            self.client.command("TRUNCATE TABLE heartbeats")
            self.beat(name, 240.0)
            for alive in self.pods:
                self.beat(alive)

    def turn(self, name: str, number: int, fault: str = "weak") -> list[Finding]:
        record = played(number, fault)
        given = self.pods[name](record, record.at)
        sent = [finding for finding in given if isinstance(finding, Notice)]
        insert(self.client, *sent, place=Origin("prod", name))
        self.sent += [(name, notice.reason.value) for notice in sent]
        return given


def states_for(client: store.Client, place: Origin) -> list[GoneState]:
    return gone_states(client, place, WATCHED, own_first=True)


@pytest.fixture
def pods(migrated: store.Client, tmp_path: Path) -> Iterator[Fleet]:
    yield Fleet(migrated, tmp_path)


def levels(given: list[Finding]) -> list[tuple[str, str, float, int]]:
    return [(e.subject, e.detector, e.log_e, e.n) for e in given if isinstance(e, Evidence)]


def reasons(given: list[Finding]) -> dict[str, str]:
    return {verdict.subject: verdict.reason.value for verdict in given if isinstance(verdict, Verdict)}


def router_n(judge: Judge, number: int = 50) -> int:
    """Draws in the router's evidence, with those of one more round."""
    record = played(number, "none")
    return next(e.n for e in judge(record, record.at) if isinstance(e, Evidence) and e.subject == "router")


ONE_ROUND = 16


@pytest.mark.parametrize("closed", [True, False], ids=["ended by SIGTERM", "killed"])
def test_a_weak_fault_is_found_in_the_same_round_with_a_roll_out_in_between(pods: Fleet, closed: bool) -> None:
    pods.start("without")
    undisturbed = [pods.turn("without", number) for number in range(30)]
    alarm = next(n for n, given in enumerate(undisturbed) if reasons(given)["router"] == "alarm")
    assert alarm >= 10, "a fault that has to be collected"
    del pods.pods["without"]
    pods.client.command("TRUNCATE TABLE notices")

    pods.start("old-a")
    rolled = [pods.turn("old-a", number) for number in range(alarm - 4)]
    pods.end("old-a", closed=closed)
    pods.start("new-b")
    rolled += [pods.turn("new-b", number) for number in range(alarm - 4, alarm + 1)]
    assert [levels(given) for given in rolled] == [levels(given) for given in undisturbed[: alarm + 1]]
    assert [reasons(given) for given in rolled] == [reasons(given) for given in undisturbed[: alarm + 1]]
    assert pods.sent[-1] == ("new-b", "degraded")


def test_a_pod_that_starts_before_the_other_one_ends_goes_on_from_it_all_the_same(pods: Fleet) -> None:
    """What a Deployment does where a surge is allowed. The rounds of its own until then are forgotten."""
    pods.start("old-a")
    for number in range(8):
        pods.turn("old-a", number)
    fresh = pods.start("new-b")
    pods.turn("new-b", 0, "none")
    fresh.adopt(60.0)
    assert fresh.saved_states(NOW) == (), "nobody goes on from a pod that still waits"
    pods.end("old-a")
    fresh.adopt(90.0)
    assert len(fresh.saved_states(NOW)) == 1
    assert router_n(fresh) == 9 * ONE_ROUND


@pytest.mark.parametrize("why", ["half an hour is over", "it has opened an incident"])
def test_later_on_a_pod_goes_on_from_its_own_evidence(pods: Fleet, why: str) -> None:
    pods.start("old-a")
    for number in range(8):
        pods.turn("old-a", number)
    fresh = pods.start("new-b")
    pods.turn("new-b", 0, "none" if "half" in why else "lost")
    pods.turn("new-b", 1, "none" if "half" in why else "lost")
    pods.end("old-a")
    fresh.adopt(MAY_ADOPT_S if "half" in why else 90.0)
    fresh.adopt(90.0)
    assert router_n(fresh) < 8 * ONE_ROUND


def test_of_two_new_pods_one_goes_on_from_the_one_that_is_gone(pods: Fleet) -> None:
    pods.start("old-a")
    for number in range(3):
        pods.turn("old-a", number)
    pods.end("old-a")
    first, second = pods.start("new-b"), pods.start("new-c")
    assert (router_n(first), router_n(second)) == (4 * ONE_ROUND, ONE_ROUND)


def test_a_claim_of_another_pod_is_respected_and_the_earliest_one_wins(pods: Fleet) -> None:
    pods.start("old-a")
    pods.turn("old-a", 0)
    pods.end("old-a")
    ((saved_at,),) = pods.client.query("SELECT at FROM states").result_rows

    def claimed(*who: tuple[str, float]) -> None:
        rows = [["prod", "old-a", saved_at, name, when(NOW - ago)] for name, ago in who]
        columns = ["cluster", "pod", "saved_at", "claimed_by", "at"]
        pods.client.insert("state_claims", rows, column_names=columns)

    def takes(pod: str) -> bool:
        return states_for(pods.client, Origin("prod", pod)) != []

    claimed(("b", 10))
    assert takes("b"), "its own claim holds, also where the answer came too late the first time"
    assert not takes("a")
    # Two claims of one moment, each written before either was read back.
    winner = "SELECT claimed_by FROM state_claims ORDER BY at, claimed_by LIMIT 1"
    claimed(("c", 20), ("bb", 20))
    assert pods.client.query(winner).result_rows == [("bb",)]
    assert not any(map(takes, ("a", "b", "c", "d")))


def test_a_pod_with_a_state_of_its_own_adopts_nothing(pods: Fleet) -> None:
    pods.start("b")
    pods.turn("b", 0, "none")
    pods.pods["b"].save()
    pods.start("old-a")
    for number in range(3):
        pods.turn("old-a", number)
    pods.end("old-a")
    again = pods.start("b")
    again.adopt(60.0)
    assert router_n(again) == 2 * ONE_ROUND
    assert pods.client.query("SELECT count() FROM state_claims").result_rows == [(0,)]


def test_a_pod_that_was_restarted_before_it_judged_anything_has_no_state_of_its_own(pods: Fleet) -> None:
    pods.start("new-b").save()
    pods.start("old-a")
    for number in range(3):
        pods.turn("old-a", number)
    pods.end("old-a")
    assert router_n(pods.start("new-b")) == 4 * ONE_ROUND


def test_a_pod_that_lives_another_group_another_version_and_other_subjects_are_left_alone(pods: Fleet) -> None:
    pods.start("alive")
    pods.turn("alive", 0)
    pods.pods["alive"].adopt(MAY_ADOPT_S)
    (saved,) = pods.pods["alive"].saved_states(time.time())
    closed = replace(saved, closed=True)
    insert(pods.client, saved, place=Origin("prod", "alive"))
    insert(pods.client, closed, place=Origin("prod", "of-a-group", consumer_group="g"))
    insert(pods.client, closed, place=Origin("other", "of-a-cluster"))
    insert(pods.client, replace(closed, version=3), place=Origin("prod", "of-the-next-version"))
    insert(pods.client, replace(closed, base="other"), place=Origin("prod", "of-another-base"))
    former = replace(closed, base="", subjects=("adapter/other",))
    insert(pods.client, former, place=Origin("prod", "of-others"))
    assert states_for(pods.client, Origin("prod", "new")) == []
    assert len(states_for(pods.client, Origin("prod", "new", consumer_group="g"))) == 1


def test_an_incident_that_the_store_says_was_ended_is_neither_paged_nor_resolved_again(pods: Fleet) -> None:
    pods.start("old-a")
    for number in range(4):
        pods.turn("old-a", number, "lost")
    (saved,) = pods.pods["old-a"].saved_states(NOW - 3000, closed=True)
    for number in range(4, 20):
        pods.turn("old-a", number, "none")
    assert [reason for _, reason in pods.sent] == ["degraded", "recovered"]
    insert(pods.client, saved, place=Origin("prod", "old-a"))  # the last one before its end
    del pods.pods["old-a"]
    pods.client.command("TRUNCATE TABLE heartbeats")
    pods.start("new-b")
    given = [pods.turn("new-b", number, "weak" if number == 20 else "none") for number in range(20, 24)]
    assert [reason for _, reason in pods.sent] == ["degraded", "recovered"]
    assert not {"still_degraded", "recovering", "resolved"} & {reasons(findings_)["router"] for findings_ in given}


def test_an_open_incident_is_gone_on_with_and_ended_once(pods: Fleet) -> None:
    pods.start("old-a")
    for number in range(4):
        pods.turn("old-a", number, "lost")
    pods.beat("old-a")  # nothing is left to be sent
    pods.end("old-a", closed=False)
    pods.start("new-b")
    assert reasons(pods.turn("new-b", 4, "lost"))["router"] == "still_degraded"
    for number in range(5, 20):
        pods.turn("new-b", number, "none")
    assert [event for event in pods.sent if event[1] == "recovered"] == [("new-b", "recovered")]


def test_responses_that_the_gone_pod_has_judged_are_not_bet_on_again(pods: Fleet) -> None:
    key = ("t", 0, "router")

    def responses(upto: int, number: int) -> ScoredResponses:
        record = traffic_round(score(AGAINST[:2], adapter="router"), number=number, adapters=ADAPTERS)
        return ScoredResponses("smol", record.at, (), record, {key: upto})

    def n(given: list[Finding]) -> int:
        mine = [e for e in given if isinstance(e, Evidence) and e.subject == "router"]
        return max(e.n for e in mine if e.detector == "traffic_likelihood")

    old = pods.start("old-a")
    pods.turn("old-a", 0, "none")
    of_old = n(old(responses(100, 0), NOW))
    fresh = pods.start("new-b")
    pods.end("old-a")
    fresh.adopt(60.0)
    assert fresh.judged == {key: 100}
    assert fresh(responses(80, 1), NOW) == [], "below the mark"
    assert fresh(responses(120, 2), NOW) == [], "it may begin below the mark"
    assert n(fresh(responses(140, 3), NOW)) == of_old + 1
    assert fresh.judged == {key: 140}


def test_a_state_that_cannot_be_read_is_left_with_a_line_in_the_log(pods: Fleet) -> None:
    broken = GoneState("smol", "old-a", NOW, {"alerts": {}, "goldens": {}, "monitor": {}})
    with capture_logs() as lines:
        judge = pods.start("new-b", gone=lambda *_: [broken])
    assert [(line["event"], line["pod"]) for line in lines] == [("state_not_adopted", "old-a")]
    assert router_n(judge) == ONE_ROUND


def test_a_golden_record_that_was_replaced_meanwhile_starts_its_evidence_again(pods: Fleet) -> None:
    old = pods.start("old-a")
    old(GoldenAccepted("router", "smol", "sha256:a", "", "first", NOW, b""), NOW)
    for number in range(3):
        pods.turn("old-a", number)
    fresh = pods.start("new-b")
    fresh(GoldenAccepted("router", "smol", "sha256:b", "sha256:a", "release", NOW, b""), NOW)
    pods.end("old-a")
    fresh.adopt(60.0)
    assert router_n(fresh) == ONE_ROUND


def reader(server: ClickHouseServer, database: str) -> StoreReader:
    models = [{"name": "smol", "path": "./base", "adapters": [{"name": "router", "path": "a"}]}]
    dsn = f"clickhouse://127.0.0.1:{server.port}/{database}"
    given = {"models": models, "clickhouse": {"dsn": dsn}, "cluster": "prod", "pod": "new-b"}
    return StoreReader(parse(given, Path("gapwatch.yaml")))


def test_a_server_hands_the_state_over_and_without_the_table_evidence_begins_at_0_with_one_line_in_the_log(
    pods: Fleet, clickhouse: ClickHouseServer, database: str
) -> None:
    pods.start("old-a")
    pods.turn("old-a", 0)
    pods.end("old-a")
    new = reader(clickhouse, database)
    ever = {"smol": -math.inf}
    (gone,) = new.gone_states(ever, 20.0)
    assert (gone.base, gone.pod) == ("smol", "old-a") and "adapter/router" in gone.state["alerts"]
    assert new.gone_states(ever, 20.0) == [gone], "its claim holds"
    pods.client.command("DROP TABLE states")
    with capture_logs() as lines:
        assert [*new.gone_states(ever, 20.0), *new.gone_states(ever, 20.0)] == []
    new.close()
    assert [line["event"] for line in lines] == ["states_not_read"]
