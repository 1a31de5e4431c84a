"""The pictures of the README show a recorded run, drawn by the product's own code, and nothing by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from agent.alerting.notice import to_notice
from agent.records import NoticeReason
from agent.store import client as store
from agent.store import migrations
from benchmarks import pictures
from benchmarks.strips import Mark, Point, Strip, strips
from detectors.records import Interval, Reason, Status, SubjectKind
from tests.agent.findings import BASE, NOW, ROUTER, TONE, alarm, verdict
from tests.agent.store.stored import insert


@pytest.fixture
def client(tmp_path: Path) -> Iterator[store.Client]:
    """The store that a demo leaves behind, still empty."""
    opened = store.connect(f"chdb://{tmp_path / 'store'}")
    migrations.migrate(opened)
    yield opened
    opened.close()


def words(svg: str) -> str:
    """Text of a picture, in one line."""
    return " ".join("".join(ElementTree.fromstring(svg).itertext()).replace("\xa0", " ").split())


def test_the_pictures_are_what_the_recorded_run_says() -> None:
    run = pictures.read(pictures.RUN)
    assert words(pictures.PAGE.read_text()) == words(pictures.page_picture(run))
    assert pictures.RETENTION.read_text() == pictures.retention_picture(run)


def test_the_page_shows_both_rounds_and_the_incident_with_date_and_machine() -> None:
    run = pictures.read(pictures.RUN)
    seen = words(pictures.page_picture(run))
    assert run.page.summary.split(" (")[0] in seen
    assert seen.count("ticket-router") >= 4
    assert re.search(r"first action: (1\. )?roll the base back", seen)
    assert re.search(r"gapwatch demo on \d{4}-\d\d-\d\d, .*, \d+ cores", seen)


@pytest.mark.parametrize("picture", [pictures.PAGE, pictures.RETENTION])
def test_a_picture_loads_nothing_from_elsewhere(picture: Path) -> None:
    assert not re.search(r"(href|src)=|url\((?!#)|@import", picture.read_text().replace('url("#', "url(#"))


def test_a_point_lies_where_its_share_is_and_a_blind_round_is_a_question_mark() -> None:
    points = (Point(0.0, Interval(1.0, 0.9, 1.1, 9), "healthy"), Point(10.0, None, "unmonitorable"))
    rows = [Strip("<a>", (*points, Point(20.0, Interval(0.0, -0.1, 0.1, 9), "degraded")))]
    svg = strips("title", rows, [Mark(15.0, "the page", "#c00")], "note")
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4.5" fill="(#\w+)"', svg)
    (x0, y0, green), (x1, y1, red) = ((float(x), float(y), colour) for x, y, colour in circles)
    assert (x0 < x1, y0 < y1, green, red) == (True, True, "#2e7d32", "#c62828")
    (marked,) = re.findall(r'<line x1="([\d.]+)" x2="[\d.]+" y1="80" ', svg)
    assert float(marked) == pytest.approx(x0 + 0.75 * (x1 - x0), abs=0.1)
    assert "<a> ?" in words(svg)


def test_a_recorded_store_gives_back_what_went_into_it(client: store.Client, tmp_path: Path) -> None:
    names = {"subject_kind": SubjectKind.BASE, "subject": BASE, "members": (ROUTER, TONE)}
    base, good = alarm(NOW, round=1, **names), verdict(Status.HEALTHY, Reason.RESOLVED, round=2, at=NOW + 60, **names)
    first = verdict(round=0, at=NOW - 60, retention=Interval(1.0, 0.9, 1.1, 9), scale=1.0, share_beyond=0.0)
    later = verdict(round=3, at=NOW + 3600)
    page = to_notice(base, NoticeReason.DEGRADED, "demo", NOW + 1)
    end = to_notice(good, NoticeReason.RECOVERED, "demo", NOW + 61)
    insert(client, first, alarm(NOW, round=1), base, page, good, end, later)
    pictures.record(client, tmp_path / "run.json")
    run = pictures.read(tmp_path / "run.json")
    assert [(v.subject, v.round, v.status) for v in run.verdicts] == [
        (ROUTER, 0, "healthy"), (ROUTER, 1, "degraded"), (BASE, 1, "degraded"), (BASE, 2, "healthy"),
    ]  # fmt: skip
    assert run.verdicts[0].retention == Interval(1.0, 0.9, 1.1, 9)
    assert (run.verdicts[1].cause, run.verdicts[1].share_beyond) == ("base_swapped_and_adapter_lost", 1.0)
    assert [(n.kind, n.summary, dict(n.details)) for n in run.notices] == [
        (n.kind, n.summary, dict(n.details)) for n in (page, end)
    ]
