"""The report's page: everything on it is escaped, and its policy lets nothing be loaded."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np

from agent.report.contents import Column, Contents, MovedCanary
from agent.report.evidently_report import Drift
from agent.report.page import Course, Report, differences, rendered
from agent.report.windows import Span, Windows

EVIL = "</script><script>alert(1)</script>"
COLUMNS = (
    Column("requests", "same", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0])),
    Column("canaries", "retention", np.array([1.0, 1.0, 0.9]), np.array([0.0, 0.5])),
)
DRIFT = Drift({"requests: same": 0.7, "canaries: retention": 0.001}, 0.025, f"<!DOCTYPE html><p>{EVIL}</p>")
CONTENTS = Contents(
    COLUMNS,
    (),
    (),
    (MovedCanary("c1", 1.0, 0.001), MovedCanary("c2", 1.0, 0.99)),
    ((EVIL, 1, 2),),
    {"canaries": (3, 2)},
    ("prompts as text: 0",),
)
REPORT = Report(
    "[prod] ticket-router 🚨: adapter lost",
    'rou"ter',
    Windows((Span(0, 3600),), Span(3660, 4000), 60.0),
    CONTENTS,
    DRIFT,
    Course([(0, -1.0), (3700, 30.0)], [(0, 1.0), (3700, 0.0)], 21.5),
    {"what": ["it answers as the base does", EVIL]},
    "2026-11-28 14:00:00 UTC",
)


def test_columns_that_differ_come_first_with_their_figures() -> None:
    first, second = differences(COLUMNS, DRIFT)
    assert (first.title, first.differs, first.p_value) == ("canaries: retention", True, "0.001")
    assert first.healthy == "1 (0.95 to 1), 3" and first.incident == "0.25 (0.125 to 0.375), 2"
    assert not second.differs and differences(COLUMNS, None) == []


def test_nothing_of_the_store_is_markup_and_nothing_is_loaded() -> None:
    page = rendered(REPORT)
    assert page.count("<script>") == 1 and "alert(1)" in page, "its own"
    (document,) = re.findall(r'srcdoc="([^"]*)"', page)
    assert html.unescape(document) == DRIFT.document
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy and "connect-src" not in policy and "http" not in policy
    assert re.findall(r"(?:src|href)\s*=", page.replace("srcdoc=", "")) == []


def test_windows_gaps_and_what_is_missing_are_said() -> None:
    page = rendered(REPORT)
    for words in (
        "1970-01-01 00:00:00 UTC to 1970-01-01 01:00:00 UTC, 60 min",
        "Left out: 60 s",
        "prompts as text: 0",
        "1 of 2 that both windows have kept their retention within .05",
        "it answers as the base does",
        "pages at the broken line: 30 to 30",
    ):
        assert words in page, words
    assert "texts of canaries are" not in page
    assert "texts of canaries are" in rendered(replace(REPORT, story={"canaries": ["c1 on a, now: no"]}))
    nothing_healthy = rendered(replace(REPORT, windows=Windows((), Span(0, 10)), story={}, drift=None))
    assert "no healthy time before it" in nothing_healthy and "<iframe" not in nothing_healthy
