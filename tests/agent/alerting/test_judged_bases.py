"""Bases that pods share out over one store: a record is judged once, and the next owner goes on from the last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from agent.alerting.checkpoint import VERSION, StateFile
from agent.alerting.judge import MAY_ADOPT_S, Judge
from agent.alerting.judged_bases import JudgedBases
from agent.alerting.judged_state import subjects_of
from agent.alerting.notice import state_key
from agent.records import Finding, GoldenAccepted, Notice, SavedState, ScoredResponses, Watching
from agent.store import client as store
from agent.store.fleet import fleet
from agent.store.handover import Wanted, gone_states
from agent.store.table_rows import Origin
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Evidence, Verdict
from detectors.verdicts.incident import Rules
from tests.agent import findings
from tests.agent.store.stored import embedded, insert
from tests.agent.test_roll_out import ONE_ROUND, played
from tests.detectors.record_streams import of_second_base
from tests.detectors.responses import AGAINST, score, traffic_round
from tests.detectors.synthetic import ADAPTERS

pytestmark = embedded
NOW = findings.NOW
ROUTER, ROUTER2 = "router", "router2"
BASES = {"smol": ADAPTERS, "smol2": tuple(f"{name}2" for name in ADAPTERS)}


def of_base(base: str, number: int, fault: str = "weak") -> BaseRound:
    record: BaseRound = played(number, fault)
    return record if base == "smol" else of_second_base(record)


class Witnesses:
    """Pods that share the bases out, over one store. A disk stays with its name."""

    def __init__(self, client: store.Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.pods: dict[str, Judge] = {}
        self.sent: list[tuple[str, str, str]] = []

    def start(self, name: str, *bases: str, at: float = 0.0) -> Judge:
        place = Origin("prod", name)
        judge = Judge(
            Monitor(Rules(Tolerances(), 20.0)),
            "prod",
            StateFile(self.folder / name),
            lambda subjects: fleet(self.client, "prod", name, subjects, 90.0),
            JudgedBases(
                BASES, True, lambda wanted, _: gone_states(self.client, place, of_bases(wanted), own_first=False)
            ),
        )
        self.pods[name] = judge
        insert(self.client, replace(findings.heartbeat(time.time()), pod=name))
        judge.gained(bases, at)
        return judge

    def hand_over(self, base: str, loses: str, gains: str, at: float = 0.0) -> None:
        insert(self.client, *self.pods[loses].lost([base], time.time()), place=Origin("prod", loses))
        self.pods[gains].gained([base], at)
        for name in (loses, gains):
            watching = Watching(time.time(), self.pods[name].watched)
            insert(
                self.client, watching, replace(findings.heartbeat(time.time()), pod=name), place=Origin("prod", name)
            )

    def turn(self, name: str, record: BaseRound | ScoredResponses) -> list[Finding]:
        given = self.pods[name](record, record.at)
        sent = [finding for finding in given if isinstance(finding, Notice)]
        insert(self.client, *sent, *(f for f in given if isinstance(f, Verdict)), place=Origin("prod", name))
        self.sent += [(name, notice.verdict.subject, notice.reason.value) for notice in sent]
        return given


def of_bases(wanted: object) -> list[Wanted]:
    assert isinstance(wanted, dict)
    keys = {base: [state_key(*subject) for subject in subjects_of(base, BASES[base])] for base in wanted}
    return [Wanted(base, keys[base], later_than) for base, later_than in wanted.items()]


@pytest.fixture
def pods(migrated: store.Client, tmp_path: Path) -> Iterator[Witnesses]:
    yield Witnesses(migrated, tmp_path)


def said(given: list[Finding]) -> list[tuple[str, str, object, object]]:
    evidence = [(e.subject, e.detector, e.log_e, e.n) for e in given if isinstance(e, Evidence)]
    return [*evidence, *((v.subject, v.status, v.reason, v.cause) for v in given if isinstance(v, Verdict))]


def n_of(judge: Judge, adapter: str, number: int = 50) -> int:
    """Draws in an adapter's evidence, with those of one more round."""
    record = of_base("smol" if adapter in ADAPTERS else "smol2", number, "none")
    return next(e.n for e in judge(record, record.at) if isinstance(e, Evidence) and e.subject == adapter)


def test_a_base_handed_over_half_way_is_judged_as_by_one_pod_and_the_other_base_does_not_notice(
    pods: Witnesses,
) -> None:
    pods.start("alone", *BASES)
    undisturbed = [said(pods.turn("alone", of_base(base, number))) for number in range(20) for base in BASES]
    assert any("alarm" in map(str, row) for given in undisturbed for row in given)
    del pods.pods["alone"]
    pods.client.command("TRUNCATE TABLE notices")
    pods.sent.clear()

    pods.start("a", *BASES)
    pods.start("b")
    owner = dict.fromkeys(BASES, "a")
    given = []
    for number in range(20):
        if number == 7:
            pods.hand_over("smol2", "a", "b")
            owner["smol2"] = "b"
        given += [said(pods.turn(owner[base], of_base(base, number))) for base in BASES]
    assert given == undisturbed
    assert pods.sent == [("a", ROUTER, "degraded"), ("b", ROUTER2, "degraded")]


def test_what_still_comes_of_a_base_that_was_handed_over_is_left(pods: Witnesses) -> None:
    judge = pods.start("a", *BASES)
    pods.turn("a", of_base("smol2", 0))
    judge.lost(["smol2"], NOW)
    assert pods.turn("a", of_base("smol2", 1)) == []
    assert judge.lost(["smol2"], NOW) == ()
    golden = GoldenAccepted(ROUTER2, "smol2", "sha256:a", "", "first", NOW, b"")
    assert judge(golden, NOW) == [golden], "stored, and no evidence"
    judge.gained(["smol2"], NOW)
    assert n_of(judge, ROUTER2) == ONE_ROUND, "nothing was kept here, and nothing was stored"


def test_an_open_incident_goes_on_at_the_next_owner_who_ends_it_once_while_the_former_one_lives_on(
    pods: Witnesses,
) -> None:
    pods.start("a", *BASES)
    pods.start("b")
    for number in range(4):
        pods.turn("a", of_base("smol2", number, "lost"))
    pods.hand_over("smol2", "a", "b")
    assert said_of(ROUTER2, pods.turn("b", of_base("smol2", 4, "lost"))) == "still_degraded"
    for number in range(5, 20):
        pods.turn("b", of_base("smol2", number, "none"))
    assert pods.sent == [("a", ROUTER2, "degraded"), ("b", ROUTER2, "recovered")]


def said_of(adapter: str, given: list[Finding]) -> str:
    return next(v.reason.value for v in given if isinstance(v, Verdict) and v.subject == adapter)


def test_a_base_that_comes_back_is_gone_on_with_from_its_latest_owner(pods: Witnesses) -> None:
    first = pods.start("a", *BASES)
    pods.start("b")
    for number in range(3):
        pods.turn("a", of_base("smol2", number, "none"))
    pods.hand_over("smol2", "a", "b")
    for number in range(3, 8):
        pods.turn("b", of_base("smol2", number, "none"))
    pods.hand_over("smol2", "b", "a")
    assert n_of(first, ROUTER2) == 9 * ONE_ROUND
    assert n_of(first, ROUTER) == ONE_ROUND


def test_a_pod_that_was_restarted_goes_on_from_the_owner_meanwhile_and_not_from_its_own_disk(pods: Witnesses) -> None:
    first = pods.start("a", *BASES)
    for number in range(3):
        for base in BASES:
            pods.turn("a", of_base(base, number, "none"))
    insert(pods.client, *first.saved_states(time.time(), closed=True), place=Origin("prod", "a"))
    first.save()
    second = pods.start("b")
    second.gained(["smol2"], 0.0)
    for number in range(3, 8):
        pods.turn("b", of_base("smol2", number, "none"))
    insert(pods.client, *second.lost(["smol2"], time.time()), place=Origin("prod", "b"))
    again = pods.start("a", *BASES)
    assert n_of(again, ROUTER2) == 9 * ONE_ROUND, "of the owner meanwhile"
    assert n_of(again, ROUTER) == 4 * ONE_ROUND, "from its own disk, which nobody has moved since"
    claimed = "SELECT base, pod, claimed_by FROM state_claims ORDER BY claimed_by, base"
    assert pods.client.query(claimed).result_rows == [("smol2", "b", "a"), ("smol2", "a", "b")]


def test_a_state_that_comes_after_the_base_is_waited_for_and_what_was_judged_meanwhile_forgotten(
    pods: Witnesses,
) -> None:
    pods.start("a", *BASES)
    later = pods.start("b")
    for number in range(5):
        pods.turn("a", of_base("smol2", number, "none"))
    later.gained(["smol2"], 0.0)
    pods.turn("b", of_base("smol2", 9, "none"))
    assert later.saved_states(NOW) == ()
    insert(pods.client, *pods.pods["a"].lost(["smol2"], time.time()), place=Origin("prod", "a"))
    later.adopt(30.0)
    assert n_of(later, ROUTER2) == 6 * ONE_ROUND
    assert [saved.base for saved in later.saved_states(NOW)] == ["smol2"]


def test_a_base_that_goes_on_before_its_state_came_takes_it_along(pods: Witnesses) -> None:
    """Else the few rounds of the one in between, which are newer, would be what the next owner goes on from."""
    pods.start("a", *BASES)
    between, last = pods.start("b"), pods.start("c")
    for number in range(5):
        pods.turn("a", of_base("smol2", number, "none"))
    between.gained(["smol2"], NOW)
    pods.turn("b", of_base("smol2", 9, "none"))
    insert(pods.client, *pods.pods["a"].lost(["smol2"], NOW), place=Origin("prod", "a"))
    insert(pods.client, *between.lost(["smol2"], NOW + 1), place=Origin("prod", "b"))
    last.gained(["smol2"], 0.0)
    assert n_of(last, ROUTER2) == 6 * ONE_ROUND


def test_two_pods_that_take_a_base_each_from_one_that_is_gone_take_one_state_each(pods: Witnesses) -> None:
    gone = pods.start("gone", *BASES)
    for number in range(3):
        for base in BASES:
            pods.turn("gone", of_base(base, number, "none"))
    gone.adopt(MAY_ADOPT_S)
    insert(pods.client, *gone.saved_states(time.time()), place=Origin("prod", "gone"))
    pods.client.command("TRUNCATE TABLE heartbeats")
    first, second = pods.start("a", "smol"), pods.start("b", "smol2")
    assert (n_of(first, ROUTER), n_of(second, ROUTER2)) == (4 * ONE_ROUND, 4 * ONE_ROUND)
    third = pods.start("c", *BASES)
    assert (n_of(third, ROUTER), n_of(third, ROUTER2)) == (ONE_ROUND, ONE_ROUND), "both are claimed"


def test_a_row_of_an_earlier_version_gives_each_base_its_part_and_its_claim_holds_for_all(pods: Witnesses) -> None:
    former = pods.start("former", *BASES)
    for number in range(3):
        for base in BASES:
            pods.turn("former", of_base(base, number, "none"))
    former.save()
    whole = StateFile(pods.folder / "former").load()
    del whole["judged_at"]
    saved = SavedState(0.0, VERSION, "", tuple(whole["alerts"]), orjson.dumps(whole), closed=True)
    insert(pods.client, replace(saved, at=time.time()), place=Origin("prod", "former"))
    first, second = pods.start("a", "smol"), pods.start("b", "smol2")
    assert (n_of(first, ROUTER), n_of(second, ROUTER2)) == (4 * ONE_ROUND, 4 * ONE_ROUND)

    insert(pods.client, replace(saved, at=time.time() + 1), place=Origin("prod", "former"))
    claimed = "SELECT cluster, pod, at, 'an older one' FROM states"
    pods.client.command(f"INSERT INTO state_claims (cluster, pod, saved_at, claimed_by) {claimed}")
    assert n_of(pods.start("c", "smol"), ROUTER) == ONE_ROUND


def test_no_response_is_bet_on_by_two_owners(pods: Witnesses) -> None:
    key = ("t", 0, ROUTER2)

    def responses(upto: int, number: int) -> ScoredResponses:
        adapters = BASES["smol2"]
        record = traffic_round(score(AGAINST[:2], adapter=ROUTER2), number=number, adapters=adapters)
        record = replace(record, base="smol2")
        return ScoredResponses("smol2", record.at, (), record, {key: upto})

    pods.start("a", *BASES)
    later = pods.start("b")
    pods.turn("a", responses(100, 0))
    pods.hand_over("smol2", "a", "b")
    assert pods.pods["a"].judged == {}
    assert later.judged == {key: 100}
    assert pods.turn("b", responses(80, 1)) == [], "below the mark"
    assert pods.turn("b", responses(120, 2)) == [], "it may begin below the mark"
    assert pods.turn("b", responses(140, 3)) != []
    assert pods.turn("a", responses(160, 4)) == [], "not its own any more"
