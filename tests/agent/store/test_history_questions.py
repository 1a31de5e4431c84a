"""Questions about hours, days and years, on rows whose answer was computed by hand."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scipy.stats import chi2

from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.records import Finding, NoticeReason
from agent.store import client as store
from agent.store.table_rows import Origin
from detectors.records import BaseRound, Cause, Onset, Reason, Status, SubjectKind, Verdict
from tests.agent import findings
from tests.agent.findings import ACCEPTED, BASE, NOW, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import answers, embedded, insert

HOUR, DAY = 3600.0, 86_400.0
POD_1 = Origin("prod", "pod-1")
LOST = Cause.ADAPTER_NOT_APPLIED


def notice(verdict: Verdict, reason: NoticeReason, at: float) -> Finding:
    return to_notice(verdict, reason, "prod", at)


def page(
    at: float, lasting: float | None, ended: NoticeReason = NoticeReason.RECOVERED, **more: Any
) -> Iterator[Finding]:
    """An alarm with its page, and its end after so many seconds; None: it is open."""
    alarm = findings.alarm(at, **({"cause": LOST, "identity": ACCEPTED} | more))
    yield from (alarm, notice(alarm, NoticeReason.DEGRADED, at + 1))
    if lasting is not None:
        healthy = findings.verdict(reason=Reason.RESOLVED, at=at + lasting, subject=alarm.subject)
        yield from (healthy, notice(healthy, ended, at + lasting))


def a_year() -> Iterator[Finding]:
    """365 days: of the router three pages, one with another base in place, one without any change, one open; of the
    rewriter a page that a new record ended, and two days later nobody could judge it."""
    for subject in (ROUTER, TONE):
        yield findings.verdict(at=NOW - 364.9 * DAY, subject=subject)
    yield from page(NOW - 300 * DAY, 2 * HOUR, identity=SWAPPED)
    yield from page(NOW - 100 * DAY, HOUR)
    yield from page(NOW - 600, None)
    yield from page(NOW - 50 * DAY, HOUR, NoticeReason.REENROLLED, subject=TONE)
    blind = findings.verdict(Status.UNMONITORABLE, at=NOW - 48 * DAY, subject=TONE)
    again = findings.verdict(at=NOW - 0.1 * DAY, subject=TONE)
    yield from (blind, notice(blind, NoticeReason.CANNOT_TELL, NOW - 48 * DAY))
    yield from (again, notice(again, NoticeReason.CAN_TELL_AGAIN, NOW - 47 * DAY))


@embedded
def test_severity_and_owner_are_those_of_the_latest_trigger_and_of_earlier_rows_unknown(
    migrated: store.Client,
) -> None:
    """The policy that was in force when it was sent: the end of an incident, which has no cause, changes neither."""
    policy = Policy.model_validate(
        {
            "causes": {"wrong_adapter": {"severity": "error", "owner": "models"}},
            "adapters": {TONE: {"severity": "critical", "owner": "safety"}},
        }
    )
    alarm = findings.alarm(NOW - HOUR, cause=Cause.UNKNOWN, identity=ACCEPTED)
    sharper = findings.alarm(NOW - HOUR / 2, cause=Cause.WRONG_ADAPTER, identity=ACCEPTED)
    healthy = findings.verdict(reason=Reason.RESOLVED, at=NOW - 60)
    tone = findings.alarm(NOW - HOUR, cause=LOST, identity=ACCEPTED, subject=TONE)
    sent = (
        notice(alarm, NoticeReason.DEGRADED, NOW - HOUR),
        notice(sharper, NoticeReason.CAUSE_SHARPER, NOW - HOUR / 2),
        notice(healthy, NoticeReason.RECOVERED, NOW - 60),
        notice(tone, NoticeReason.DEGRADED, NOW - HOUR),
    )
    insert(migrated, *sent, place=Origin("prod", "pod-0", policy=policy))
    incidents = {row["subject"]: (row["severity"], row["owner"]) for row in answers(migrated, "incidents")}
    assert incidents == {ROUTER: ("error", "models"), TONE: ("critical", "safety")}
    assert [(row["reason"], row["severity"], row["owner"]) for row in answers(migrated, "alerts", subject=ROUTER)] == [
        ("recovered", "critical", ""),
        ("cause_sharper", "error", "models"),
        ("degraded", "critical", ""),
    ]


@embedded
def test_incidents_one_by_one_and_how_many_pages_of_a_year_may_have_been_false(migrated: store.Client) -> None:
    insert(migrated, *a_year())
    sharper = findings.alarm(NOW - 300, cause=Cause.WRONG_ADAPTER, identity=ACCEPTED)
    insert(migrated, notice(sharper, NoticeReason.CAUSE_SHARPER, NOW - 300), place=POD_1)
    rows = answers(migrated, "incidents", days="365")
    is_open, *over = rows
    assert (is_open["subject"], is_open["kind"], is_open["ended_by"]) == (ROUTER, "degraded", "")
    assert [(row["subject"], row["kind"], row["ended_by"], row["minutes"]) for row in over] == [
        (TONE, "cannot_tell", "can_tell_again", 24 * 60),
        (TONE, "degraded", "reenrolled", 60),
        (ROUTER, "degraded", "recovered", 60),
        (ROUTER, "degraded", "recovered", 120),
    ]
    assert (rows[0]["cause"], rows[0]["notices"], sorted(rows[0]["pods"])) == ("wrong_adapter", 2, ["pod-0", "pod-1"])
    assert {(row["severity"], row["owner"]) for row in rows} == {("critical", ""), ("warning", "")}
    assert rows[0]["ended_at"] is None and not any(row["reopened"] for row in rows)
    assert [row["subject"] for row in answers(migrated, "incidents", subject=TONE)] == [TONE, TONE]
    assert len(answers(migrated, "incidents", days="40")) == 1

    total, router, rewriter = answers(migrated, "false_pages")
    assert [row["subject"] for row in (total, router, rewriter)] == ["", ROUTER, TONE]
    counts = "pages", "open_now", "ended_by_new_record", "maybe_false"
    assert [[row[name] for name in counts] for row in (total, router, rewriter)] == [
        [4, 1, 1, 1],
        [3, 1, 0, 1],
        [1, 0, 1, 0],
    ]
    years = router["watched_days"] / 365
    assert router["watched_days"] == pytest.approx(364.9, abs=0.1)
    assert router["maybe_false_a_year"] == pytest.approx(1 / years)
    assert router["maybe_false_a_year_at_most"] == pytest.approx(chi2.ppf(0.95, 4) / 2 / years, rel=0.01)
    assert rewriter["maybe_false_a_year_at_most"] == pytest.approx(
        chi2.ppf(0.95, 2) / 2 / (rewriter["watched_days"] / 365), rel=0.01
    )


def hours() -> Iterator[Finding]:
    """A router that lost a half two hours ago in pod-1, and is whole in pod-0; rounds at .98 and .5 less a little."""
    for i in range(3):
        at = NOW - 2 * HOUR + HOUR * i - 1
        yield findings.base_round(i, at, 1.0)
        yield findings.base_round(10 + i, at + 0.5, 1.0, measurements=(), blocked=Reason.UNREADABLE)


@embedded
def test_retention_by_hour_the_members_of_a_base_and_what_is_watched(migrated: store.Client) -> None:
    insert(migrated, *hours())
    insert(migrated, findings.base_round(0, NOW - 1, 0.5), findings.base_round(1, NOW - 2 * HOUR, 1.0), place=POD_1)
    tone, *routers = sorted(answers(migrated, "retention", hours="4", subject=BASE), key=lambda row: row["adapter"])[1:]
    (pod_0, pod_1) = sorted(routers, key=lambda row: str(row["pod"]))
    assert tone["adapter"] == TONE
    assert (pod_0["latest_hour"], pod_0["rounds"], pod_0["blocked_rounds"]) == (pytest.approx(0.98), 3, 3)
    assert (pod_1["lowest"], pod_1["latest_hour"]) == (pytest.approx(0.48), pytest.approx(0.48))
    assert len(pod_1["retention_by_hour"]) == 4
    # Either side of a full hour: rounds two hours apart lie in the second and the last hour of four.
    series = [value for value in pod_1["retention_by_hour"] if not math.isnan(value)]
    assert series == [pytest.approx(0.98), pytest.approx(0.48)]

    insert(
        migrated,
        findings.verdict(at=NOW),
        findings.alarm(NOW, subject=TONE, cause=LOST),
        findings.heartbeat(time.time()),
    )
    insert(
        migrated,
        findings.verdict(at=NOW, subject_kind=SubjectKind.BASE),
        findings.verdict(at=NOW, subject="alone", base="other"),
    )
    members = answers(migrated, "members", subject=ROUTER)
    assert [(row["subject"], row["status"]) for row in members] == [
        (BASE, "healthy"),
        (TONE, "degraded"),
        (ROUTER, "healthy"),
    ]
    assert members[1]["cause"] == LOST.value and all(row["pod_is_alive"] for row in members)

    insert(
        migrated,
        findings.golden(NOW - DAY, smallest_loss=0.2, draws=30),
        findings.golden(NOW - HOUR, golden="sha256:new", smallest_loss=0.055, draws=9, tolerance=0.05, made_on="vllm"),
    )
    losses = {row["subject"]: row["smallest_loss"] for row in answers(migrated, "members", subject=ROUTER)}
    assert losses == {BASE: None, TONE: None, ROUTER: 0.055}, "of a base it is its adapters' to see"
    watched = {row["adapter"]: row for row in answers(migrated, "watched")}
    router = watched[ROUTER]
    assert (router["smallest_loss"], router["tolerance"], router["made_on"], router["status"]) == (
        0.055,
        0.05,
        "vllm",
        "healthy",
    )
    # Rounds have 4 draws and come once an hour: 9 draws take three of them.
    assert router["minutes_to_page"] == pytest.approx(180, rel=0.02)
    assert (watched[TONE]["smallest_loss"], watched[TONE]["accepted_at"]) == (None, None)


@embedded
def test_a_second_incident_within_a_day_is_a_reopening_and_drift_stands_beside_what_a_page_takes(
    migrated: store.Client,
) -> None:
    insert(migrated, *page(NOW - 10 * DAY, HOUR), *page(NOW - 9.5 * DAY, HOUR), *page(NOW - 5 * DAY, HOUR))
    assert [row["reopened"] for row in answers(migrated, "incidents")] == [False, True, False]
    assert answers(migrated, "incidents", cluster="another") == []
    drift: dict[str, Any] = {"detector": "embedding_drift", "pages": False}
    insert(
        migrated,
        findings.verdict(at=NOW),
        *(
            findings.evidence(level, at=NOW - ago, stream=side, **drift)
            for side, ago, level in (("prompt", 2 * HOUR, 1.0), ("prompt", 0.0, 7.5), ("output", 0.0, 0.2))
        ),
    )
    insert(migrated, replace(findings.evidence(50.0, at=NOW)))
    prompts, outputs = answers(migrated, "input_drift", hours="5")
    assert (prompts["side"], prompts["log_e"], prompts["highest_log_e"], prompts["log_threshold"]) == (
        "prompt",
        7.5,
        7.5,
        21.5,
    )
    assert [value for value in prompts["log_e_by_hour"] if not math.isnan(value)] == [1.0, 7.5]
    assert outputs["highest_log_e"] == 0.2


@embedded
def test_when_faults_began_and_when_they_were_good_again(migrated: store.Client) -> None:
    """Of two incidents of one adapter, by two pods, and of the first one's end by a good round."""
    first, second = NOW - 2 * DAY, NOW - HOUR
    for place in (Origin("prod", "pod-0"), POD_1):
        insert(migrated, findings.alarm(first, onset=Onset(first - 60, first)), place=place)
    bad, good = (findings.verdict(Status.DEGRADED, at=first + after) for after in (120, 300))
    recovering = [replace(good, at=first + after, reason=Reason.RECOVERING) for after in (60, 240, 300)]
    insert(migrated, bad, *recovering, findings.verdict(reason=Reason.RESOLVED, at=first + 360))
    dated = replace(findings.alarm(second, onset=None), onset=Onset(None, second - 30, None, second - 90, second - 10))
    insert(migrated, dated, findings.verdict(Status.DEGRADED, at=second + 60))
    rows = answers(migrated, "onsets", subject=ROUTER)
    assert [(row["pod"], row["alarm_at"].timestamp() - row["last_bad_at"].timestamp()) for row in rows] == [
        ("pod-0", -60.0),
        ("pod-0", -120.0),
        ("pod-1", 0.0),
    ]
    assert rows[0]["onset_after"] is None and rows[0]["good_at"] is None
    times = [rows[0][name].timestamp() - second for name in ("onset_by", "onset_earliest", "onset_latest")]
    assert times == [-30.0, -90.0, -10.0]
    assert rows[1]["good_at"].timestamp() == first + 240, "not the good round before the last bad one"
    assert rows[1]["onset_after"].timestamp() == first - 60 and rows[2]["good_at"] is None
    assert len(answers(migrated, "onsets", days="1")) == 1 and answers(migrated, "onsets", subject=TONE) == []


@embedded
def test_a_stretch_of_canaries_and_of_requests(migrated: store.Client) -> None:
    now = time.time()  # the stretch is counted back from the question
    for number, ago in enumerate((5400, 4800, 4200, 600)):
        insert(migrated, findings.base_round(number, now - ago, 1.0 - number / 10))
    sampled = tuple(findings.interaction(i, at=now - 600 * i - 5) for i in range(10))
    insert(migrated, replace(findings.batch(), interactions=sampled))
    stretch = {"subject": ROUTER, "hours": "1.6", "until_hours": "1"}
    drawn = answers(migrated, "canary_draws", **stretch)
    assert sorted(row["canary"] for row in drawn) == ["c0", "c1", "c2", "c3"]
    assert {row["round"] for row in drawn} <= {0, 1, 2}
    every = answers(migrated, "canary_draws", **stretch, each="9")
    assert len(every) == 12
    assert {(row["canary"], row["round"], round(row["retention"], 2)) for row in every} >= {
        ("c0", 1, 0.9),
        ("c3", 2, 0.77),
    }
    asked = answers(migrated, "sampled_requests", **stretch)
    assert sorted(row["request_id"] for row in asked) == ["r6", "r7", "r8", "r9"]
    assert {(row["output_chars"], row["output_tokens"], row["output"]) for row in asked} == {(21, 8, "")}
    assert len(answers(migrated, "sampled_requests", subject=ROUTER, limit="2")) == 2


@embedded
def test_skills_of_a_composition_stand_beside_the_same_adapters_alone(migrated: store.Client) -> None:
    """The router is whole alone and lost in "desk / all"; a skill of an adapter that is not watched alone."""
    now = time.time()
    names = (f"desk / all / {ROUTER}", f"desk / all / {TONE}", "desk / all / safety")
    for number, ago in enumerate((2 * HOUR, 1.0)):
        lost = 1.0 - 0.5 * number
        rounds = [
            findings.round_(name, number, now - ago, kept) for name, kept in zip(names, (lost, 1.0, 0.9), strict=True)
        ]
        insert(migrated, findings.base_round(number, now - ago, 1.0), BaseRound(BASE, number, now - ago, tuple(rounds)))
    router, safety, tone = answers(migrated, "skills", subject="desk / all", hours="4")
    assert [row["member"] for row in (router, safety, tone)] == [ROUTER, "safety", TONE]
    assert {row["composition"] for row in (router, safety, tone)} == {"desk / all"}
    assert (router["latest_hour"], router["alone"]) == (pytest.approx(0.48), pytest.approx(0.98))
    assert safety["alone"] is None and tone["latest_hour"] == tone["alone"] == pytest.approx(0.98)
    series = [value for value in router["retention_by_hour"] if not math.isnan(value)]
    assert series == [pytest.approx(0.98), pytest.approx(0.48)] and len(router["retention_by_hour"]) == 4
    assert [row["member"] for row in answers(migrated, "skills", subject=TONE)] == [TONE]
    assert answers(migrated, "skills", subject="another") == []


@embedded
def test_how_many_users_sent_the_sampled_requests_of_a_stretch(migrated: store.Client) -> None:
    """Of ten requests, one every ten minutes: three users, one that names none, and one of another adapter."""
    now = time.time()
    users = ["ann", "bob", "ann", "", "cleo", "ann", "bob", "ann", "bob", "dora"]
    names = [ROUTER] * 9 + [TONE]
    sampled = tuple(
        findings.interaction(i, name, at=now - 600 * i - 5, group=user)
        for i, (name, user) in enumerate(zip(names, users, strict=True))
    )
    insert(migrated, replace(findings.batch(), interactions=sampled))
    (row,) = answers(migrated, "requesters", subject=ROUTER, hours="2")
    assert (row["adapter"], row["sampled"], row["naming"], row["requesters"]) == (ROUTER, 9, 8, 3)
    (late,) = answers(migrated, "requesters", subject=ROUTER, hours="0.5")
    assert (late["sampled"], late["requesters"]) == (3, 2)
    assert {row["adapter"] for row in answers(migrated, "requesters", subject=BASE, hours="2")} == {ROUTER, TONE}
    assert answers(migrated, "requesters", subject=ROUTER, hours="2", until_hours="2") == []
