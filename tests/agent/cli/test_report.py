"""gapwatch report on a store whose story is known: which windows it takes, what differs, and what is missing."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.alerting.notice import to_notice
from agent.cli.report import ReportOptions, report
from agent.errors import Refused
from agent.records import Finding, NoticeReason
from agent.store import client as store
from agent.store.table_rows import Origin
from detectors.records import CanarySplit, Onset, Reason, Status, SubjectKind
from detectors.traffic_records import Embedding, Side
from tests.agent import findings
from tests.agent.findings import BASE, NOW, ROUTER, TONE
from tests.agent.store.stored import embedded, insert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# Of the fault: the last healthy round, the first bad one, the first good one, and the end. Then of a former incident.
HEALTHY, BAD, GOOD, ENDED = NOW - 3720, NOW - 3600, NOW - 1560, NOW - 1200
FORMER_HEALTHY, FORMER_BAD, FORMER_ENDED = NOW - 5520, NOW - 5400, NOW - 4800
SECRET = "the caller's own words"


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    settings = {
        "models": [{"name": "smollm2", "path": "./base", "adapters": [{"name": ROUTER, "path": "a"}]}],
        "clickhouse": {"dsn": dsn},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
        "cluster": "prod",
    }
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def rounds() -> Iterator[Finding]:
    """Every two minutes, two canaries of twenty-four each. Lost in the incident, half lost in the former one."""
    random = np.random.default_rng(0)
    for number, at in enumerate(np.arange(NOW - 9000, NOW, 120.0)):
        level = 0.0 if BAD <= at < GOOD else 0.5 if FORMER_BAD <= at < FORMER_ENDED else 1.0
        drawn = [
            findings.measurement(ROUTER, f"c{c}", CanarySplit.HELD_OUT, at, level + random.normal(0, 0.01))
            for c in (2 * number % 24, 2 * number % 24 + 1)
        ]
        member = findings.round_(number=number, at=at, measurements=tuple(drawn))
        yield replace(findings.base_round(number, at), members=(member,))
        yield findings.evidence(30.0 if level < 0.2 else 0.0, at=at)


def incident(healthy: float, bad: float, ended: float) -> Iterator[Finding]:
    alarm = findings.alarm(bad, onset=Onset(healthy, bad))
    resolved = findings.verdict(reason=Reason.RESOLVED, at=ended)
    yield from (alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", bad + 1))
    yield findings.verdict(Status.DEGRADED, at=ended - 480, onset=Onset(healthy, bad))
    yield findings.verdict(Status.DEGRADED, Reason.RECOVERING, at=ended - 360)
    yield from (resolved, to_notice(resolved, NoticeReason.RECOVERED, "prod", ended))


def requests(with_vectors: bool) -> Iterator[Finding]:
    """One a minute. In the incident answers have twice the words and other vectors; prompts stay as they were."""
    random = np.random.default_rng(1)
    asked = []
    for i, at in enumerate(np.arange(NOW - 9000 + 5, NOW, 60.0)):
        lost = BAD <= at < GOOD
        words = int(random.integers(20, 30) if lost else random.integers(5, 15))
        prompt = ({"role": "user", "content": f"{SECRET} {'x' * int(random.integers(1, 40))}"},)
        asked.append(findings.interaction(i, at=at, messages=prompt, output=" ".join(["word"] * words)))
        if with_vectors:
            for side, moved in ((Side.PROMPT, 0.0), (Side.OUTPUT, 6.0 * lost)):
                vector = (random.normal(0, 1, 8) + moved).astype(np.float32)
                yield Embedding(ROUTER, side, f"r{i}", vector, at)
    yield replace(findings.batch(0, at=NOW), interactions=tuple(asked))


def told(capsys: pytest.CaptureFixture[str], config: Path, options: ReportOptions) -> dict[str, Any]:
    capsys.readouterr()
    assert report(config, options, json=True) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def differing(answer: dict[str, Any]) -> set[str]:
    return {row["title"] for row in answer["columns"] if row["differs"]}


@embedded
def test_an_incident_against_the_healthy_time_around_a_former_one(
    migrated: store.Client, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    everything = [*rounds(), *incident(HEALTHY, BAD, ENDED), *incident(FORMER_HEALTHY, FORMER_BAD, FORMER_ENDED)]
    insert(migrated, *everything, *requests(with_vectors=True), place=Origin("prod", "pod-0", store_text=True))
    out = tmp_path / "report.html"
    answer = told(capsys, config, ReportOptions(out=out))
    assert answer["adapter"] == ROUTER and answer["lacking"] == []
    assert _times(answer["windows"]["incident"]) == pytest.approx((BAD, GOOD - 0.001))
    # 3600 s before the last healthy round, without the former incident.
    assert [_times(span) for span in answer["windows"]["healthy"]] == [
        pytest.approx((FORMER_HEALTHY - 2520, FORMER_HEALTHY)),
        pytest.approx((FORMER_ENDED, HEALTHY)),
    ]
    assert answer["counts"] == {
        **{"canaries": [24, 24], "requests": [60, 34]},
        **{"prompt embeddings": [60, 34], "answer embeddings": [60, 34]},
        **{"prompts as text": [60, 34], "answers as text": [60, 34]},
    }
    assert differing(answer) == {
        *("canaries: retention", "canaries: effective scale"),
        *("requests: answer: characters", "requests: answer: words"),
        "answer embeddings: axis 1",
    }
    page = out.read_text()
    assert SECRET not in page, "texts are described, and not shown"
    assert "roll the base back" in page and 'class="timeline"' in page and "srcdoc" in page
    with pytest.raises(Refused, match="which exists"):
        report(config, ReportOptions(out=out), json=True)

    former = told(capsys, config, ReportOptions(ROUTER, "", f"{ROUTER}@{_clock(FORMER_BAD)}", out, force=True))
    assert _times(former["windows"]["incident"]) == pytest.approx((FORMER_BAD, FORMER_ENDED - 360.001))


@embedded
def test_two_windows_by_hand_where_neither_text_nor_embeddings_are_stored(
    migrated: store.Client, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    insert(migrated, *rounds(), *requests(with_vectors=False))
    out = tmp_path / "report.html"
    assert report(config, ReportOptions(out=out), json=False) == 2
    assert "no incident is stored: give --healthy and --incident" in capsys.readouterr().out
    since_now = math.ceil((time.time() - NOW) / 60)  # the rounds end there, and "27m" is counted from the command
    between = f"{60 + since_now}m..{27 + since_now}m"
    by_hand = ReportOptions(ROUTER, f"{_clock(NOW - 7200)}..{_clock(NOW - 5520)}", between, out)
    answer = told(capsys, config, by_hand)
    assert differing(answer) == {"canaries: retention", "canaries: effective scale", "requests: answer: characters"}
    assert [line.partition(":")[0] for line in answer["lacking"]] == [
        *("prompt embeddings", "answer embeddings", "prompts as text", "answers as text")
    ]
    page = out.read_text()
    assert "Not in the store" in page and 'id="incident"' not in page
    nothing = ReportOptions(ROUTER, "20d..19d", "18d..17d", tmp_path / "none.html")
    assert report(config, nothing, json=False) == 2 and "canaries: 0 in the healthy" in nothing.out.read_text()
    printed = " ".join(capsys.readouterr().out.split())
    assert "nothing to compare: too little of the incident is stored so far" in printed and "requests 0" in printed
    assert f"written: {nothing.out.resolve()}" in printed


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (ReportOptions("", "6h..5h", "2h..1h"), "no --adapter"),
        (ReportOptions("nobody", "6h..5h", "2h..1h"), "nobody"),
        (ReportOptions(ROUTER, "6h..5h", "2h"), r"--incident: .*FROM\.\.TO"),
        (ReportOptions(ROUTER, "6h..5h", "1h..2h"), "an end after its begin"),
        (ReportOptions(ROUTER, "6h..1h", "2h..30m"), "do not overlap"),
    ],
)
@embedded
def test_windows_that_make_no_sense_are_refused(config: Path, tmp_path: Path, options: ReportOptions, why: str) -> None:
    with pytest.raises(Refused, match=why):
        report(config, replace(options, out=tmp_path / "report.html"), json=False)


def _times(span: dict[str, float]) -> Sequence[float]:
    return span["begin"], span["end"]


def _clock(at: float) -> str:
    return f"{np.datetime64(int(at), 's')}"


@embedded
def test_of_a_bases_incident_each_adapter_has_a_file_of_its_own(
    migrated: store.Client, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing is stored to compare, and each says so; a file of before is not written over."""
    odd = "org/tone v2"
    whole: dict[str, Any] = {"subject_kind": SubjectKind.BASE, "subject": BASE, "members": (ROUTER, TONE, odd)}
    alarm = findings.alarm(BAD, onset=Onset(HEALTHY, BAD), **whole)
    insert(migrated, alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", BAD + 1))
    wish = ReportOptions(out=tmp_path / "night.html", each=True)
    capsys.readouterr()
    assert report(config, wish, json=True) == 2
    files = [tmp_path / f"night-{name}.html" for name in (ROUTER, TONE, "org-tone-v2")]
    assert [answer["out"] for answer in json.loads(capsys.readouterr().out)] == [str(file) for file in files]
    for name, file in zip((ROUTER, TONE, odd), files, strict=True):
        assert name in file.read_text()
    with pytest.raises(Refused, match="which exists"):
        report(config, wish, json=True)
    with pytest.raises(Refused, match="--each"):
        report(config, replace(wish, adapter=ROUTER), json=True)
