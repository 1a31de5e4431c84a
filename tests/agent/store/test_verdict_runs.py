"""Verdicts on change and once an hour: what is stored, and that every question is answered as if each were stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from agent.alerting.notice import to_notice
from agent.records import Finding, NoticeReason, RequestCount, TrafficBatch
from agent.store import client as store
from agent.store.fleet import fleet
from agent.store.rows import to_rows
from agent.store.table_rows import Origin
from agent.store.verdict_runs import VerdictRuns
from detectors.records import Onset, Reason, Status, SubjectKind, Verdict
from tests.agent import findings
from tests.agent.findings import ACCEPTED, BASE, FIXED, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import answers, embedded, insert

MINUTE, HOUR = 60.0, 3600.0


def stored(runs: VerdictRuns, *seen: Finding) -> list[Finding]:
    return [one for finding in seen for one in runs.stored(finding)]


def each_minute(n: int, start: float = FIXED, **more: Any) -> list[Verdict]:
    return [findings.verdict(at=start + MINUTE * i, round=i, scale=1.0 + 0.001 * i, **more) for i in range(n)]


def test_a_day_of_equal_verdicts_is_stored_once_an_hour() -> None:
    rows = stored(VerdictRuns(), *each_minute(1440))
    assert [row.at - FIXED for row in rows if isinstance(row, Verdict)] == [HOUR * i for i in range(24)]


def test_every_round_is_every_round() -> None:
    day = each_minute(100)
    assert stored(VerdictRuns(0.0), *day) == day


def test_of_a_run_the_first_and_the_last_are_stored() -> None:
    healthy, suspect = each_minute(10), each_minute(1, FIXED + 600, status=Status.SUSPECT)
    after = each_minute(2, FIXED + 660)
    assert stored(VerdictRuns(), *healthy, *suspect, *after) == [healthy[0], healthy[9], suspect[0], after[0]]


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.SUSPECT, "reason": Reason.WITHIN_TOLERANCE},
        {"reason": Reason.BASE_MOVED},
        {"cause": findings.alarm().cause},
        {"covered_by": BASE},
        {"tolerated_change": "has changed, and is inside your tolerance"},
        {"identity": SWAPPED},
        {"log_threshold": 20.0},
        {"members": (ROUTER, TONE)},
        {"bad_pods": ("engine-1",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_what_is_said_is_stored_at_once(change: dict[str, Any]) -> None:
    first, second, *_ = each_minute(3)
    other = replace(second, **change)
    assert stored(VerdictRuns(), first, other) == [first, other]


def test_each_good_round_of_a_recovery_is_stored_so_that_the_rows_count_them() -> None:
    recovering = [
        replace(verdict, good_in_a_row=i + 1)
        for i, verdict in enumerate(each_minute(100, status=Status.DEGRADED, reason=Reason.RECOVERING))
    ]
    assert stored(VerdictRuns(), *recovering) == recovering[:64]
    healthy = [replace(verdict, good_in_a_row=i) for i, verdict in enumerate(each_minute(10))]
    assert stored(VerdictRuns(), *healthy) == healthy[:1]


def test_figures_and_the_words_about_a_tolerated_change_are_no_change() -> None:
    run = [replace(one, tolerated_change=f"by {one.scale}", explanation=f"{one.scale}") for one in each_minute(5)]
    assert stored(VerdictRuns(), *run) == run[:1]


def test_the_verdict_of_a_notice_is_stored_and_other_findings_pass() -> None:
    runs, (first, second, third) = VerdictRuns(), each_minute(3)
    notice = to_notice(second, NoticeReason.TOLERATED_CHANGE, "prod", second.at)
    beat = findings.heartbeat(FIXED)
    assert stored(runs, first, beat, notice, second, third) == [first, beat, notice, second]


def test_two_verdicts_of_one_moment_are_both_stored() -> None:
    """Of canaries and of responses: which came first is not kept, so neither stands for the other."""
    first, second, _ = each_minute(3)
    assert stored(VerdictRuns(), first, second, second) == [first, second]


def test_each_subject_has_runs_of_its_own() -> None:
    router, tone = each_minute(3), each_minute(3, subject=TONE)
    assert stored(VerdictRuns(), *(one for pair in zip(router, tone, strict=True) for one in pair)) == [
        router[0],
        tone[0],
    ]


def test_at_the_end_of_the_process_the_last_of_each_run_is_left() -> None:
    runs, router, tone = VerdictRuns(), each_minute(3), each_minute(1, subject=TONE)
    stored(runs, *router, *tone)
    assert runs.ends() == [router[2]]


def test_for_each_round_the_rows_say_what_was_said() -> None:
    """Random stories, read back as a reader does: the row before says it, up to an hour."""
    for seed in range(50):
        random = np.random.default_rng(seed)
        kinds = [Status.HEALTHY, Status.SUSPECT, Status.DEGRADED, Status.UNMONITORABLE]
        said = [kinds[0]]
        while len(said) < 300:
            said += [kinds[int(random.integers(4))]] * int(random.integers(1, 90))
        story = [findings.verdict(status, at=FIXED + MINUTE * i) for i, status in enumerate(said)]
        runs = VerdictRuns()
        rows = [row for row in [*stored(runs, *story), *runs.ends()] if isinstance(row, Verdict)]
        assert [row.at for row in rows] == sorted({row.at for row in rows})
        for verdict in story:
            before = max((row for row in rows if row.at <= verdict.at), key=lambda row: row.at)
            assert before.status is verdict.status and verdict.at - before.at < HOUR
        assert len(rows) < 2 * sum(a is not b for a, b in pairwise(said)) + len(said) / 60 + 2


@dataclass(frozen=True)
class Pod:
    """What one pod said in each minute: (status, minutes) in order, until ``gone`` minutes ago."""

    name: str
    said: Sequence[tuple[Status, int]]
    gone: int = 0


OK, BAD, BLIND = Status.HEALTHY, Status.DEGRADED, Status.UNMONITORABLE
STORIES = {
    "open": [Pod("a", [(OK, 200), (BAD, 130)])],
    "recovered": [Pod("a", [(OK, 90), (BAD, 100), (OK, 75)])],
    "again": [Pod("a", [(OK, 10), (BAD, 20), (OK, 30), (BAD, 90)])],
    "blind": [Pod("a", [(OK, 10), (BAD, 80), (BLIND, 85)])],
    "both open, one for long": [Pod("a", [(OK, 30), (BAD, 170)]), Pod("b", [(OK, 130), (BAD, 70)])],
    "one recovers": [Pod("a", [(OK, 30), (BAD, 70), (OK, 100)]), Pod("b", [(OK, 80), (BAD, 120)])],
    "one is well": [Pod("a", [(OK, 70), (BAD, 130)]), Pod("b", [(OK, 200)])],
    "one is well, the other recovered": [Pod("a", [(OK, 70), (BAD, 80), (OK, 50)]), Pod("b", [(OK, 200)])],
    "the bad one is gone": [Pod("a", [(OK, 70), (BAD, 90)], gone=40), Pod("b", [(OK, 200)])],
    "it was alone and is gone": [Pod("a", [(OK, 70), (BAD, 90)], gone=40)],
    "well": [Pod("a", [(OK, 200)]), Pod("b", [(OK, 170)])],
}


def verdicts_of(pod: Pod, now: float) -> list[Verdict]:
    minutes = sum(n for _, n in pod.said)
    start, last_good = now - MINUTE * (minutes - 1 + pod.gone), None
    spoken: list[Verdict] = []
    for status, n in pod.said:
        for i in range(n):
            at = start + MINUTE * len(spoken)
            if status is BAD and i == 0 and not (spoken and spoken[-1].status is BLIND):
                onset = Onset(last_good, at)
                spoken.append(findings.alarm(at, round=len(spoken), onset=onset, identity=SWAPPED))
            else:
                who = SWAPPED if status is BAD else ACCEPTED
                cause = findings.alarm().cause if status is BAD else findings.verdict().cause
                spoken.append(findings.verdict(status, at=at, round=len(spoken), identity=who, cause=cause))
            last_good = at if status is OK else last_good
    return spoken


def told_as(client: store.Client, cluster: str, pods: Sequence[Pod], now: float, longest_s: float) -> None:
    """The story of all pods, stored by each as its sink does; none of them ends."""
    for pod in pods:
        place, runs = Origin(cluster, pod.name), VerdictRuns(longest_s)
        seen = verdicts_of(pod, now)
        insert_all(client, place, stored(runs, *seen))
        alive_until = time.time() if not pod.gone else seen[-1].at
        beats = [replace(findings.heartbeat(at), pod=pod.name, cluster=cluster) for at in (seen[0].at, alive_until)]
        insert(client, *beats, place=place)
    times = [(minute, now - MINUTE * minute) for minute in range(240)]
    counts = tuple(RequestCount("t", 0, m, m, ROUTER, "engine-0", at - at % 60, 1) for m, at in times)
    insert(client, TrafficBatch("t", 0, 0, 240, (), counts, (), 240, now), place=Origin(cluster, "a"))


def insert_all(client: store.Client, place: Origin, seen: Sequence[Finding]) -> None:
    rows = [row for finding in seen for group in to_rows(finding, place) for row in group.rows]
    client.insert("verdicts", [list(row.values()) for row in rows], column_names=list(rows[0]))


@embedded
@pytest.mark.parametrize("name", STORIES)
def test_every_question_has_the_answer_that_it_has_with_every_round_stored(migrated: store.Client, name: str) -> None:
    pods, now = STORIES[name], float(int(time.time()))
    for cluster, longest_s in (("every round", 0.0), ("changes", HOUR)):
        told_as(migrated, cluster, pods, now, longest_s)
    rows = dict(migrated.query("SELECT cluster, count() FROM verdicts GROUP BY cluster").result_rows)
    assert rows["changes"] < 0.15 * rows["every round"]

    def asked(question: str, cluster: str, *columns: str, **params: str) -> list[tuple[Any, ...]]:
        return [tuple(row[c] for c in columns) for row in answers(migrated, question, cluster=cluster, **params)]

    for question, columns, near in (
        ("degraded", ("subject", "status", "reason", "cause", "covered_by", "judged_by"), "last_judged"),
        ("changed", ("subject", "what"), "last_judged"),
        ("since", ("subject", "status_now", "cause", "onset_after", "onset_by", "alarm_at", "live_base"), ""),
        ("requests_since", ("adapter", "pod", "onset"), "last_minute"),
    ):
        for params in ({}, {"subject": ROUTER}) if "since" in question else ({},):
            every, changes = (asked(question, cluster, *columns, **params) for cluster in ("every round", "changes"))
            assert changes == every, (question, params)
            if near:
                times = [asked(question, cluster, near, **params) for cluster in ("every round", "changes")]
                apart = [abs((a - b).total_seconds()) for (a,), (b,) in zip(*times, strict=True)]
                assert max(apart, default=0.0) <= 2 * MINUTE, (question, params)
    # The first round that is healthy again ends the count; with two pods either may be that one.
    requests = [asked("requests_since", c, "requests", subject=ROUTER) for c in ("every round", "changes")]
    assert all(abs(a - b) <= 2 for (a,), (b,) in zip(*requests, strict=True)), requests
    healthy = [asked("since", c, "last_healthy", subject=ROUTER) for c in ("every round", "changes")]
    for (each_round,), (on_change,) in zip(*healthy, strict=True):
        assert each_round == on_change if len(pods) == 1 else 0 <= (each_round - on_change).total_seconds() <= HOUR
    subjects = [(SubjectKind.ADAPTER, ROUTER), (SubjectKind.ADAPTER, TONE), (SubjectKind.BASE, BASE)]
    judged = [fleet(migrated, c, "another pod", subjects, 90.0).judged for c in ("every round", "changes")]
    assert judged[0] == judged[1]


@embedded
def test_a_pod_that_was_killed_was_bad_until_its_last_sign_of_life(migrated: store.Client) -> None:
    """The last of its run was never stored."""
    now = float(int(time.time()))
    told_as(migrated, "prod", [Pod("a", [(OK, 5), (BAD, 50)], gone=30)], now, HOUR)
    sql = "SELECT toUnixTimestamp(bad_at), concerned, speaks FROM incident_pods(subject = '', cluster = '')"
    assert migrated.query(sql).result_rows == [(int(now - 30 * MINUTE), 1, 1)]
