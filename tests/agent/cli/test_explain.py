"""gapwatch explain tells one incident whole, from the rows that an agent stored of it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml
from rich.console import Console

from agent.alerting.notice import to_notice
from agent.alerting.policy import Severity, Urgency
from agent.cli.explain import Story, explain, parts_of, screen, story_of
from agent.cli.query import Answered
from agent.demo.receiver import Receiver
from agent.errors import Refused
from agent.records import Finding, Notice, NoticeReason
from agent.shipped import RUNBOOKS, runbook_sections, texts
from agent.sinks.pagerduty import Config as PagerDuty
from agent.sinks.pagerduty import to_event
from agent.store import client as store
from detectors.records import Cause, Onset, Reason, Status, SubjectKind
from tests.agent import findings
from tests.agent.findings import ACCEPTED, BASE, NOW, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import embedded, insert


def story_at(client: store.Client, wanted: str = "") -> Story | None:
    """By answers as a running agent gives them (agent/health.py): times are texts, and no number is null."""

    def ask_one(name: str, params: Any) -> Answered:
        columns, rows = store.run_query(client, name, params)
        return list(columns), orjson.loads(orjson.dumps(list(rows), default=str))

    return story_of(ask_one, wanted, "prod", time.time())


def parts(client: store.Client, wanted: str = "") -> dict[str, list[str]]:
    story = story_at(client, wanted)
    assert story is not None
    return parts_of(story)


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    settings = {
        "models": [{"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": ROUTER}]}],
        "clickhouse": {"dsn": dsn},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
        "cluster": "prod",
    }
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def swap() -> Iterator[Finding]:
    """The base is swapped half an hour ago; its incident is open, and speaks for both adapters."""
    began = NOW - 1800
    for i, at in enumerate((began - 120, began - 60)):
        yield findings.base_round(i, at)
        yield findings.verdict(subject_kind=SubjectKind.BASE, at=at, round=i)
        yield findings.evidence(2.0, subject=BASE, subject_kind=SubjectKind.BASE, at=at)
    yield findings.base_round(2, began, 0.0, identity=SWAPPED, facts=("24 of 120 keys match nothing",))
    members = (ROUTER, TONE)
    base = findings.alarm(began, subject_kind=SubjectKind.BASE, subject=BASE, members=members)
    yield findings.flip(began - 600)
    yield findings.evidence(93.9, subject=BASE, subject_kind=SubjectKind.BASE, at=began)
    yield from (
        base,
        to_notice(base, NoticeReason.DEGRADED, "prod", began),
        replace(findings.flip(began), golden_passes=True, present_passes=False),
    )
    yield from (findings.batch(0, n=100, at=began + 60), findings.batch(1000, n=250, at=began + 120))


@embedded
def test_the_story_of_a_swapped_base_on_one_screen(migrated: store.Client) -> None:
    insert(migrated, *swap())
    told = parts(migrated)
    assert list(told) == [
        "what",
        "since",
        "evidence",
        "changed",
        "touches",
        "canaries",
        "do",
        "check",
        "undo",
        "over when",
        "compare",
        "words",
    ]
    assert told["what"] == [
        "the base has other weights, and ticket-router answers as the base does",
        "1 notice by pod-0; critical",
    ]
    assert "last judged healthy" in told["since"][0] and "first page" in told["since"][0]
    assert "round" not in told["since"][0], "rounds of canaries and of responses are counted apart"
    *chart, most, kept, span = told["evidence"]
    assert "93.9 nats at most; a page takes 21.5" in most
    assert len(chart) == 5 and "█" in chart[0] and "╌" in "".join(chart)
    assert kept.endswith(" retention") and " to " in span
    (changed,) = told["changed"]
    assert (
        "pod-0: base sha256:aaaa → sha256:bbbb; 24 of 120 keys match nothing (polite-rewriter, ticket-router)"
        in changed
    )
    assert told["touches"][0].startswith("350 requests since") and "ticket-router on engine-0" in told["touches"][0]
    assert told["canaries"][0] == "1 text changed, 1 fail their own check now"
    assert told["canaries"][2] == "ticket-router on c0, now:      Sure! Here is..."
    assert told["do"][0] == "roll the base back to sha256:aaaa"
    assert [line[:2] for line in told["check"]] == ["1.", "2."] and f"subject={BASE}" in told["check"][0]
    assert told["do"][1] == "put back the base sha256:aaaa (in place now: sha256:bbbb)"
    assert "enrol ADAPTER --replace" in told["do"][2], "of a base the adapters are several"
    assert told["undo"][0].startswith("Pin the newer revision again"), "how the rollback is taken back"
    assert told["over when"][0].startswith(f"gapwatch probe {ROUTER} {TONE} ends with exit code 0")
    story = story_at(migrated)
    assert story is not None
    shown = io.StringIO()
    Console(file=shown, width=120).print(screen(story, NOW))
    lines = shown.getvalue().splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= 120
    assert lines[0].startswith("OPEN for ") and "gapwatch/prod/base/smollm2" in lines[0]


@embedded
def test_one_that_ended_by_a_restart_of_the_engine_and_one_that_nobody_could_judge(
    migrated: store.Client, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No file changed; pods have told it twice; and a newer one of another adapter is open."""
    began, ended = NOW - 7200, NOW - 3600
    lost = {
        "cause": Cause.ADAPTER_NOT_APPLIED,
        "identity": ACCEPTED,
        "subject": ROUTER,
        "onset": Onset(began - 60, began),
    }
    alarm, healthy = findings.alarm(began, **lost), findings.verdict(reason=Reason.RESOLVED, at=ended)
    insert(migrated, findings.verdict(at=began - 60), findings.base_round(0, began - 60), alarm, healthy)
    insert(
        migrated,
        to_notice(alarm, NoticeReason.DEGRADED, "prod", began),
        to_notice(healthy, NoticeReason.RECOVERED, "prod", ended),
    )
    insert(migrated, findings.golden(began - 3600, smallest_loss=0.055, draws=9))
    blind = findings.verdict(Status.UNMONITORABLE, at=NOW - 60, subject=TONE, explanation="its file is cut short")
    insert(migrated, to_notice(blind, NoticeReason.CANNOT_TELL, "prod", NOW - 60))

    told = parts(migrated, ROUTER)
    assert told["changed"] == ["no file within half an hour before: look at the serving engine"]
    assert told["undo"][0].startswith("A reload has nothing to be undone")
    assert "put back" not in " ".join(told["do"]), "no file was another one"
    assert "over when" not in told
    assert told["watch"] == [f"it would page again for a loss of strength of: {ROUTER} 5.5%"], "one round tells no pace"
    assert f"subject={ROUTER}" in told["check"][0] and "evidence" in told
    story = story_at(migrated, "gapwatch/prod/adapter/ticket-router")
    assert story is not None and story.incident["subject"] == ROUTER
    head = io.StringIO()
    Console(file=head, width=120).print(screen(story, NOW))
    assert "lasted 1 h 0 min" in head.getvalue()

    told = parts(migrated)
    assert told["what"][0] == "its file is cut short", "the open one, though it is no page of a degraded adapter"
    assert "evidence" not in told and "touches" not in told and "do" in told
    with pytest.raises(Refused, match=f"one of: adapter/{TONE}, adapter/{ROUTER}"):
        story_at(migrated, "nobody")
    capsys.readouterr()
    assert explain(config, f"adapter/{ROUTER}", json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["incident"]["ended_by"] == "recovered" and report["steps"]["First action"]
    assert report["page"]["details"]["seen"] == alarm.explanation


@embedded
def test_the_pods_of_the_bad_responses_and_what_to_do_are_those_of_the_latest_verdict(migrated: store.Client) -> None:
    of_base = {"subject": BASE, "subject_kind": SubjectKind.BASE, "members": (ROUTER, TONE)}
    alarm = findings.alarm(
        NOW - 90, bad_pods=("engine-1",), pods=("engine-0", "engine-1"), action=f"load {ROUTER}", **of_base
    )
    insert(migrated, alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", NOW - 89))
    said = parts(migrated)
    assert said["touches"][0] == "bad responses came from engine-1; no response against it came from engine-0"
    insert(migrated, replace(alarm, at=NOW - 60, bad_pods=("engine-0", "engine-1"), action=f"load {TONE}"))
    said = parts(migrated)
    assert said["touches"][0].endswith("engine-0, engine-1, which is every pod with scored responses")
    assert said["do"][0] == f"load {ROUTER}", "another one of them as the example is no news"
    insert(migrated, replace(alarm, at=NOW - 30, action=f"look at the engine; then load {ROUTER}, {TONE}"))
    assert parts(migrated)["do"][:2] == ["1. look at the engine", f"2. load {ROUTER}, {TONE}"]


@embedded
def test_who_works_on_an_open_incident_is_pagerdutys_to_say(
    migrated: store.Client, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    insert(migrated, *swap())
    token = tmp_path / "api-token"
    token.write_text("read-only")
    page = next(notice for notice in swap() if isinstance(notice, Notice))
    _, event = to_event(page, PagerDuty(routing_key_file=token), "pod-0", Urgency(Severity.CRITICAL))
    capsys.readouterr()

    def said(**pagerduty: str) -> str:
        settings = yaml.safe_load(config.read_text())
        settings["alerts"] = {"pagerduty": {"routing_key_file": str(token)} | pagerduty}
        config.write_text(yaml.safe_dump(settings))
        assert explain(config, "", json=True) == 0
        return str(json.loads(capsys.readouterr().out)["answered"])

    with Receiver(api_token="read-only") as receiver:
        httpx.post(f"{receiver.url}/v2/enqueue", json={"routing_key": 32 * "k", **event})
        asks = {"api_token_file": str(token), "api_url": receiver.url}
        assert said() == ""
        assert said(**asks).startswith("at PagerDuty nobody has acknowledged it")
        receiver.acknowledge(page.dedup_key, "Kim Lee")
        assert "acknowledged by Kim Lee" in said(**asks)
        receiver.resolve(page.dedup_key)
        assert "nothing is open under its key" in said(**asks)
    assert "does not tell who works on it" in said(**asks)
    said(runbook_url="https://wiki/{cause}", dashboard_url="https://graphs/?s={subject}")
    assert explain(config, "", json=False) == 0
    screen_text = " ".join(capsys.readouterr().out.split())
    assert "Runbook: base_swapped_and_adapter_lost: https://wiki/base_swapped_and_adapter_lost" in screen_text
    assert f"Dashboard: https://graphs/?s={BASE}" in screen_text
    assert "No such file" in said(**asks | {"api_token_file": str(tmp_path / "gone")})


@embedded
def test_a_former_incident_is_told_by_what_is_of_its_own_time(migrated: store.Client) -> None:
    """Swapped two hours ago and put back; now another fault. ``since`` and others would answer for the latest."""
    began = NOW - 7200
    former = findings.alarm(began, onset=Onset(began - 60, began))
    over, latest = findings.verdict(reason=Reason.RESOLVED, at=began + 600), findings.alarm(NOW - 60, identity=ACCEPTED)
    for alarm, at in ((former, began), (latest, NOW - 60)):
        insert(migrated, alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", at))
    insert(migrated, over, to_notice(over, NoticeReason.RECOVERED, "prod", began + 600), findings.batch(at=NOW - 30))
    by_name = story_at(migrated, ROUTER)
    then = f"{datetime.fromtimestamp(began + 300, UTC):%Y-%m-%dT%H:%M}"
    by_time = story_at(migrated, f"adapter/{ROUTER}@{then}")
    assert by_name is not None and by_name.incident["ended_at"] is None and by_name.since and by_name.requests
    assert by_time is not None and by_time.incident["ended_by"] == "recovered"
    assert not by_time.since and not by_time.requests and not by_time.changes
    assert by_time.page["details"]["hash base"] != by_name.page["details"]["hash base"]
    opened = f"{datetime.fromtimestamp(began, UTC):%Y-%m-%dT%H:%M:%S}"
    assert f"--incident adapter/{ROUTER}@{opened}:" in parts_of(by_time)["compare"][0]
    with pytest.raises(Refused, match="one of"):
        story_at(migrated, f"{ROUTER}@2001-01-01")
    assert story_at(migrated, f"{ROUTER}@{opened}") is not None, "as the report's command has it"


@pytest.mark.parametrize("name", texts(RUNBOOKS, ".md"))
def test_every_runbook_has_the_parts_that_are_shown(name: str) -> None:
    sections = runbook_sections(name)
    assert all(sections[title] for title in ("What it means", "Check", "First action", "Undo", "Recovered when"))
    assert sections["Check"].count("gapwatch query") >= 2, "what a cause is known by is a question that is there"


def lost_as_served(judged_at: float) -> Iterator[Finding]:
    """The three responses of one round of its base's incident: good, then two of the base; what each pod said of it."""
    yield findings.traffic_round(judged_at)
    base = findings.alarm(
        judged_at, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE), identity=ACCEPTED,
        onset=Onset(judged_at - 47, judged_at - 20), reopenings=1,
    )  # fmt: skip
    yield from (base, to_notice(base, NoticeReason.DEGRADED, "prod", judged_at))


@embedded
def test_whom_it_touched_is_counted_by_the_users_that_sampled_records_name(migrated: store.Client) -> None:
    users = ("ann", "bob", "ann", "")
    sampled = tuple(findings.interaction(5000 + i, at=NOW - 1700 + i, group=user) for i, user in enumerate(users))
    before = findings.interaction(6000, at=NOW - 4000, group="cleo")
    insert(migrated, *swap(), replace(findings.batch(5000, at=NOW - 1700), interactions=(*sampled, before)))
    line = parts(migrated)["touches"][-1]
    assert line.startswith(f"users, sessions or tenants, at least: {ROUTER} 2; by ")
    assert line.endswith("of which 3 name one")


@embedded
def test_an_incident_after_another_is_told_with_how_that_ended_and_what_is_not_known_since(
    migrated: store.Client,
) -> None:
    """No flip is of it; nothing was counted or sampled for ten minutes; and the former base was in place before."""
    former, began = NOW - 900, NOW - 600
    swapped = findings.alarm(former, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE))
    mended = replace(swapped, status=Status.HEALTHY, reason=Reason.RESOLVED, at=former + 60)
    insert(
        migrated,
        findings.base_round(0, former - 60),
        findings.base_round(1, former, 0.0, identity=SWAPPED, facts=("24 of 120 keys match nothing",)),
        findings.base_round(2, former + 20, 0.0, identity=SWAPPED),
        findings.base_round(3, former + 50),
        to_notice(swapped, NoticeReason.DEGRADED, "prod", former),
        to_notice(mended, NoticeReason.RECOVERED, "prod", former + 60),
        findings.flip(former),
        *lost_as_served(began),
        findings.batch(0, n=100, at=began),
    )
    told = parts(migrated)
    ended = f"{datetime.fromtimestamp(former + 60, UTC):%Y-%m-%d %H:%M:%S} UTC"
    assert f"reopened within a day of the one before, which ended {ended} (base swapped and" in told["what"][-1]
    assert "whole minute" in told["touches"][0] and told["touches"][1].startswith("nothing was counted since ")
    assert told["canaries"][0].startswith("no text was compared in this incident; the latest changed ones are of ")
    assert not [line for line in told["changed"] if "is over" in line], "the wrong base was still in place"
    assert "good rounds in a row that end it now: 4" in told["over when"]
    most = [line for line in told["evidence"] if "nats at most" in line]
    assert most == ["93.9 nats at most; a page takes 21.5 (╌)"], (
        "as its page says, though a base has no stream of its own"
    )
    # A day stands between "by" and the time where midnight lies in between.
    assert f" {datetime.fromtimestamp(began - 20, UTC):%H:%M:%S}, first page" in told["since"][0]
    story = story_at(migrated)
    assert story is not None and story.judged["subject"] == BASE
    assert story.former["ended_by"] == "recovered"
