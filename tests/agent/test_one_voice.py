"""Do several pods that watch the same adapters speak with one voice? Real monitors, judges and store, one receiver.

Rounds follow each other by a minute from an hour ago on, one pod after the other; who is alive is what the table of
heartbeats says when a pod asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import pytest

from agent.alerting.checkpoint import StateFile
from agent.alerting.judge import Judge
from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.records import Finding, Notice, NoticeReason
from agent.sinks.pagerduty import Config, to_event
from agent.store import client as store
from agent.store.fleet import fleet
from agent.store.table_rows import Origin
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Identity, Status, Verdict
from detectors.verdicts.incident import Rules
from tests.agent import findings
from tests.agent.findings import NOW
from tests.agent.store.stored import embedded, insert
from tests.detectors.synthetic import ADAPTERS, make_base_round

pytestmark = embedded
EVERY_S = 60.0
HEALTHY = dict.fromkeys(ADAPTERS, "healthy")
LOST, BLIND = HEALTHY | {"router": "not_applied"}, HEALTHY | {"router": "blocked"}
KEY, BLIND_KEY = "gapwatch/prod/adapter/router", "gapwatch/prod/cannot-tell/adapter/router"
MOVED = Identity("sha256:old", "sha256:new", "sha256:a", "sha256:a")
OTHER_FILES = Identity("sha256:old", "sha256:old", "sha256:a", "sha256:b")


@cache
def replayed(faults: tuple[tuple[str, str], ...], number: int) -> BaseRound:
    return make_base_round(dict(faults), number)


class World:
    """The pods by name, each with a state file of its own."""

    def __init__(self, client: store.Client, receiver: Receiver, folder: Path) -> None:
        self.client, self.receiver, self.folder = client, receiver, folder
        self.pods: dict[str, Judge] = {}
        self.rounds: dict[str, int] = {}
        self.number = 0
        self.store_answers = self.pager_answers = True
        self.in_one_second = False
        self._later: list[tuple[str, Sequence[Finding]]] = []
        self.sent: list[tuple[str, str, str]] = []

    def start(self, *names: str) -> None:
        for name in names:
            ask = lambda subjects, pod=name: (  # noqa: E731
                fleet(self.client, "prod", pod, subjects, 90.0) if self.store_answers else None
            )
            file = StateFile(self.folder / name)
            self.pods[name], self.rounds[name] = Judge(Monitor(Rules(Tolerances(), 20.0)), "prod", file, ask), 0

    def stop(self, *names: str) -> None:
        for name in names:
            del self.pods[name]

    def turn(self, faults: Mapping[str, Mapping[str, str]], identities: Mapping[str, Identity] | None = None) -> None:
        """One round of every pod, one after the other, or all before anything of them is stored.

        faults: by pod; those that are not named are healthy
        identities: likewise of the router's files, or of all adapters' where the base is another one
        """
        self.number += 1
        at = NOW - 3600 + self.number * EVERY_S
        self._beat()
        for name, judge in self.pods.items():
            seen = self._round(faults.get(name, HEALTHY), at, (identities or {}).get(name))
            self._later.append((name, judge(seen, at)))
            judge.save()
            self.rounds[name] += 1
            if not self.in_one_second:
                at += EVERY_S / 100
                self._hand_all_on()
        self._hand_all_on()

    def until(self, faults: Mapping[str, Mapping[str, str]], key: str, status: str) -> None:
        for _ in range(40):
            self.turn(faults)
            if [incident.status for incident in self.of(key)][-1:] == [status]:
                return
        raise AssertionError(f"{key} is not {status}: {self.sent}")

    def until_sent(self, reason: str, faults: Mapping[str, Mapping[str, str]]) -> None:
        for _ in range(40):
            self.turn(faults)
            if reason in [event[1] for event in self.sent]:
                return
        raise AssertionError(f"{reason} was not sent: {self.sent}")

    def of(self, key: str) -> list[ReceivedIncident]:
        return [incident for incident in self.receiver.incidents if incident.dedup_key == key]

    def count(self, kind: str, key: str) -> int:
        return sum(event[1:] == (kind, key) for event in self.sent)

    def _round(self, faults: Mapping[str, str], at: float, identity: Identity | None) -> BaseRound:
        record = replayed(tuple(faults.items()), self.number)
        members = [replace(member, at=at) for member in record.members]
        if identity is not None:
            changed = [m for m in members if identity.base_moved or m.adapter == "router"]
            members = [replace(m, identity=identity) if m in changed else m for m in members]
        return replace(record, at=at, members=tuple(members))

    def _beat(self) -> None:
        """Of who is alive now. Of one that is gone the last one is left, which the store no longer takes for alive."""
        self.client.command("TRUNCATE TABLE heartbeats")
        unsent = 0 if self.pager_answers else 1
        gone_s = {name: 0.0 if name in self.pods else 600.0 for name in self.rounds}
        beats = [
            replace(
                findings.heartbeat(time.time() - gone_s[name]),
                pod=name,
                rounds=n,
                unsent=unsent,
                started_at=NOW - 2 * 3600,  # each process sent what it did after it had started
            )
            for name, n in self.rounds.items()
        ]
        insert(self.client, *beats)

    def _hand_all_on(self) -> None:
        for pod, found in self._later:
            self.send(pod, *found)
        self._later.clear()

    def send(self, pod: str, *found: Finding) -> None:
        stored = [finding for finding in found if isinstance(finding, Notice | Verdict)]
        insert(self.client, *stored, place=Origin("prod", pod))
        for notice in (finding for finding in stored if isinstance(finding, Notice)):
            self.sent.append((pod, notice.reason.value, notice.dedup_key))
            if not self.pager_answers:
                continue
            path, body = to_event(notice, Config(routing_key_file=Path("key")), pod, Policy().of_notice(notice))
            answer = httpx.post(self.receiver.url + path, json={"routing_key": "k" * 32, **body})
            assert answer.status_code == 202, answer.text


@pytest.fixture
def world(migrated: store.Client, tmp_path: Path) -> Iterator[World]:
    with Receiver() as receiver:
        yield World(migrated, receiver, tmp_path)


def test_a_pod_that_is_blind_hides_no_page_and_a_page_hides_no_blindness(world: World) -> None:
    world.start("pod-a", "pod-b", "pod-c")
    for _ in range(3):
        world.turn({"pod-a": BLIND})
    assert [(i.dedup_key, i.status) for i in world.receiver.incidents] == [(BLIND_KEY, "triggered")]
    world.until({"pod-a": BLIND, "pod-b": LOST}, KEY, "triggered")
    assert len(world.receiver.open_incidents) == 2
    for _ in range(3):
        world.turn({"pod-b": LOST})
    assert [incident.dedup_key for incident in world.receiver.open_incidents] == [KEY], "that pod sees again"
    world.until({}, KEY, "resolved")
    assert [len(world.of(key)) for key in (KEY, BLIND_KEY)] == [1, 1]
    assert [event[1] for event in world.sent] == ["cannot_tell", "degraded", "can_tell_again", "recovered"]


def test_two_blind_pods_are_one_warning_that_ends_with_the_second(world: World) -> None:
    world.start("pod-a", "pod-b")
    for _ in range(4):
        world.turn({"pod-a": BLIND, "pod-b": BLIND})
    assert world.sent == [("pod-a", "cannot_tell", BLIND_KEY)]
    for _ in range(3):
        world.turn({"pod-b": BLIND})
    assert len(world.sent) == 1
    for _ in range(4):
        world.turn({})
    assert [event[1] for event in world.sent] == ["cannot_tell", "can_tell_again"]


def test_three_pods_with_one_fault_page_once_and_the_last_end_is_the_only_one(world: World) -> None:
    pods = ("pod-a", "pod-b", "pod-c")
    world.start(*pods)
    world.turn({})
    world.until(dict.fromkeys(pods, LOST), KEY, "triggered")
    for faulty in (pods, pods[1:], pods[2:]):
        for _ in range(8):
            world.turn(dict.fromkeys(faulty, LOST))
        assert [event[1:] for event in world.sent] == [("degraded", KEY)], f"{faulty} still show it"
    world.until({}, KEY, "resolved")
    for _ in range(4):
        world.turn({})
    assert [event[1] for event in world.sent] == ["degraded", "recovered"]


@pytest.mark.parametrize("repaired_by", ["the roll-out", "a later repair"])
def test_an_incident_outlives_all_pods_that_reported_it_and_is_resolved_exactly_once(
    world: World, repaired_by: str
) -> None:
    old, new = ("old-a", "old-b", "old-c"), ("new-a", "new-b", "new-c")
    world.start(*old)
    world.until(dict.fromkeys(old, LOST), KEY, "triggered")
    world.turn(dict.fromkeys(old, LOST))
    still = dict.fromkeys(old, LOST)
    if repaired_by == "a later repair":
        still |= dict.fromkeys(new, LOST)
    for gone, fresh in zip(old, new, strict=True):
        world.start(fresh)
        world.turn(still)
        world.stop(gone)
        world.turn(still)
    for _ in range(3):
        world.turn(still)
    if repaired_by == "a later repair":
        assert [event[1:] for event in world.sent] == [("degraded", KEY)]
    for _ in range(12):
        world.turn({})
    assert [incident.status for incident in world.receiver.incidents] == ["resolved"]
    assert [event[1] for event in world.sent] == ["degraded", "recovered"]


def test_a_page_that_was_lost_with_its_pod_is_sent_by_another(world: World) -> None:
    world.pager_answers = False
    world.start("old")
    world.until_sent("degraded", {"old": LOST})
    world.stop("old")
    world.start("new")
    world.turn({"new": LOST})
    world.pager_answers = True
    world.rounds.pop("old")
    world.turn({"new": LOST})
    assert [event[:2] for event in world.sent] == [("old", "degraded"), ("new", "degraded")]


def test_a_new_pod_ends_nothing_before_its_own_rounds_have_spoken_nor_without_the_store(world: World) -> None:
    world.start("old")
    world.until({"old": LOST}, KEY, "triggered")
    world.stop("old")
    world.start("new")
    for _ in range(5):
        world.turn({"new": BLIND})
    assert world.count("recovered", KEY) == 0
    world.store_answers = False
    for _ in range(5):
        world.turn({})
    assert world.count("recovered", KEY) == 0
    world.store_answers = True
    world.until({}, KEY, "resolved")
    world.turn({})
    assert world.count("recovered", KEY) == 1


def test_without_the_store_every_pod_pages_as_it_does_alone(world: World) -> None:
    world.store_answers = False
    pods = ("pod-a", "pod-b")
    world.start(*pods)
    world.turn(dict.fromkeys(pods, LOST))
    assert [(pod, reason) for pod, reason, _ in world.sent] == [("pod-a", "degraded"), ("pod-b", "degraded")]


def test_scaled_to_twenty_and_back_a_change_is_sent_once(world: World) -> None:
    names = [f"pod-{i:02}" for i in range(20)]
    moved = dict.fromkeys(names, MOVED)
    world.start(names[7])
    for _ in range(2):
        world.turn({}, moved)
    world.start(*names[:7], *names[8:])
    for _ in range(3):
        world.turn({}, moved)
    world.stop(*names[:13], *names[14:])
    for _ in range(12):
        world.turn({}, moved)
    assert world.sent == [("pod-07", "base_moved", "gapwatch/prod/base/smol")]
    assert len(world.receiver.changes) == 1


def test_twenty_pods_that_start_together_send_a_change_once_and_the_first_sends_it(world: World) -> None:
    names = [f"pod-{i:02}" for i in range(20)]
    world.start(*reversed(names))
    for _ in range(5):
        world.turn({}, dict.fromkeys(names, MOVED))
    assert [pod for pod, _, _ in world.sent] == ["pod-00"]


def test_a_change_that_one_pod_alone_sees_is_sent_by_that_pod_and_one_that_is_gone_before_is_not(
    world: World,
) -> None:
    names = [f"pod-{i}" for i in range(5)]
    world.start(*names)
    world.turn({})
    world.turn({}, {"pod-4": OTHER_FILES})
    for _ in range(10):
        world.turn({})
    assert world.sent == []
    for _ in range(10):
        world.turn({}, {"pod-4": OTHER_FILES})
    assert world.sent == [("pod-4", "adapter_moved", KEY)]


def test_a_change_waits_for_a_store_that_does_not_answer_and_not_for_ever(world: World) -> None:
    world.store_answers = False
    world.start("pod-a")
    for _ in range(10):
        world.turn({}, {"pod-a": MOVED})
    assert world.sent == []
    world.turn({}, {"pod-a": MOVED})
    assert [reason for _, reason, _ in world.sent] == ["base_moved"]


def test_pods_whose_rounds_fall_into_one_second_end_an_incident_once_and_send_a_change_once(world: World) -> None:
    """None of them sees what the others send in that round. Each sends its page, because a page waits for nobody."""
    pods = ("pod-a", "pod-b", "pod-c")
    world.in_one_second = True
    world.start(*pods)
    for _ in range(4):
        world.turn({}, dict.fromkeys(pods, OTHER_FILES))
    assert world.sent == [("pod-a", "adapter_moved", KEY)]
    world.until(dict.fromkeys(pods, LOST), KEY, "triggered")
    for _ in range(12):
        world.turn({})
    assert [(pod, reason) for pod, reason, _ in world.sent[1:]] == [
        *((pod, "degraded") for pod in pods),
        ("pod-a", "recovered"),
    ]
    assert [incident.status for incident in world.receiver.incidents] == ["resolved"]


def test_after_an_upgrade_a_warning_under_the_key_of_the_page_is_ended_once_by_all_pods_together(world: World) -> None:
    pods = ("pod-a", "pod-b", "pod-c")
    blind = findings.verdict(Status.UNMONITORABLE, subject="router", base="smol", at=NOW - 4000)
    former = replace(to_notice(blind, NoticeReason.CANNOT_TELL, "prod", NOW - 4000), dedup_key=KEY)
    for name in pods:
        alerts = {"adapter/router": {"opened_as": "cannot_tell", "cause": "none", "told": []}}
        monitor = Monitor(Rules(Tolerances(), 20.0)).state_json()
        StateFile(world.folder / name).save({"monitor": monitor, "alerts": alerts, "goldens": {}})
        world.send(name, former)
    world.start(*pods)
    for _ in range(3):
        world.turn({"pod-a": BLIND, "pod-b": BLIND})
    assert len(world.sent) == 3 and len(world.receiver.open_incidents) == 1, "two are still blind"
    for _ in range(6):
        world.turn({})
    assert [event[1:] for event in world.sent[3:]] == [("can_tell_again", KEY)]
    assert world.receiver.open_incidents == []
    for _ in range(3):
        world.turn({"pod-a": BLIND})
    assert [event[1:] for event in world.sent[4:]] == [("cannot_tell", BLIND_KEY)]
