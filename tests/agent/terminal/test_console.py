"""Output for people: histograms as bars in the answers of gapwatch query."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from agent.terminal.console import number, picture, rows_table, verdict_table
from detectors.records import SubjectKind
from tests.agent import findings


@pytest.mark.parametrize(
    ("shares", "bars"),
    [
        ([0.25, 0.25, 0.25, 0.25], "▄▄▄▄"),
        ([1.0, 0.0, 0.0, 0.0], "█   "),
        ([0.5, 0.25, 0.125, 0.125], "█▄▂▂"),
        ([], ""),
    ],
)
def test_equal_shares_are_half_as_high_as_the_line(shares: list[float], bars: str) -> None:
    assert picture(shares) == bars


@pytest.mark.parametrize("more", [0, 9])
def test_a_histogram_is_drawn_in_narrow_answers_and_in_wide_ones(more: int) -> None:
    columns = ["adapter", "histogram", *(f"column {i}" for i in range(more))]
    out = io.StringIO()
    Console(file=out, width=100).print(rows_table(columns, [["router", [0.7, 0.1, 0.1, 0.1], *[1.0] * more]]))
    assert "█▁▁▁" in out.getvalue() and "0.7" not in out.getvalue()


def test_what_is_rounded_to_0_has_no_sign() -> None:
    assert (number(-0.0004, 3), number(-0.04, 1), number(-0.06, 1)) == ("0.000", "0.0", "-0.1")


def test_a_name_in_brackets_is_shown_and_not_read_as_a_colour() -> None:
    out = io.StringIO()
    Console(file=out, width=160).print(verdict_table([findings.verdict(subject="[red]router[/b]")]))
    assert "[red]router[/b]" in out.getvalue()


def test_a_healthy_adapter_that_has_changed_is_marked() -> None:
    out = io.StringIO()
    changed = findings.verdict(tolerated_change="ticket-router has changed, and is inside your tolerance of 5 %")
    Console(file=out, width=160).print(verdict_table([changed, findings.verdict(subject="other")]))
    assert out.getvalue().count("healthy: changed within tolerance") == 1


def test_beside_a_healthy_verdict_stands_the_smallest_loss_that_would_page() -> None:
    out = io.StringIO()
    sees = {findings.ROUTER: "5.5% in 9 draws", "lost": "10% in 41 draws", findings.BASE: "nothing of its own"}
    verdicts = [
        findings.verdict(),
        findings.alarm(subject="lost"),
        findings.verdict(subject=findings.BASE, subject_kind=SubjectKind.BASE),
    ]
    Console(file=out, width=160).print(verdict_table(verdicts, sees=sees))
    assert out.getvalue().count("pages for") == 1 and "healthy; pages for 5.5% in 9 draws" in out.getvalue()
