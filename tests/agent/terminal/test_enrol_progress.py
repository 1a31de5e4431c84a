"""The progress of several adapters: one count of replays, and lines with an estimate where there is no terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from agent.clock import HandClock
from agent.terminal.console import console
from agent.terminal.enrol_progress import EnrolProgress
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.workload import replays_by_stage
from tests.probes.worlds import SETTINGS, canary_set, never, opened


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What was printed; not to a terminal."""
    printed = io.StringIO()
    monkeypatch.setattr(console, "_file", printed)
    return printed


STAGES = {"first": 100, "second": 300}


def test_all_adapters_are_one_count_that_never_falls(said: io.StringIO) -> None:
    progress = EnrolProgress(STAGES, 2)
    assert progress.total == 800
    counts = []
    for adapter, stage, done, total in (
        ("a", "first", 1, 2), ("a", "first", 2, 2), ("b", "first", 1, 1), ("a", "second", 2, 3), ("a", "second", 0, 9),
        ("a", "an unknown one", 1, 2),
    ):  # fmt: skip
        progress.turn_to(adapter)
        progress.show(stage, done, total)
        counts.append(progress.completed)
    assert counts == pytest.approx([50, 100, 200, 400, 400, 400])
    progress.turn_to("b")
    progress.end()
    assert progress.completed == 700, "one that is refused is work that is over"


def test_without_a_terminal_each_stage_is_a_line_with_an_estimate(said: io.StringIO) -> None:
    clock = HandClock()
    with EnrolProgress(STAGES, 2, clock) as progress:
        progress.turn_to("[a]")
        progress.show("first", 0, 4)
        clock.advance(60.0)
        progress.show("first", 4, 4)
        progress.turn_to("b")
        progress.show("first", 0, 4)
        progress.show("first", 4, 4)
        progress.turn_to("[a]")
        clock.advance(60.0)
        progress.show("second", 0, 2)
    assert said.getvalue().splitlines() == [
        "1 of 2, [a]: first ...",
        "2 of 2, b: first ... 12% done, about 7 min left",
        "1 of 2, [a]: second ... 25% done, about 6 min left",
    ]


def test_a_single_adapter_is_not_numbered(said: io.StringIO) -> None:
    with EnrolProgress(STAGES, 1) as progress:
        progress.turn_to("a")
        progress.show("first", 0, 4)
    assert said.getvalue() == "a: first ...\n"


def test_every_stage_of_an_enrolment_is_expected_in_its_order() -> None:
    runner, settings, stages = opened(), replace(SETTINGS, per_half=6, min_pool=6), list[str]()
    enrol(Request(runner, "alpha", canary_set(16), settings, ["beta"], lambda stage, *_: stages.append(stage), never))
    assert list(dict.fromkeys(stages)) == list(replays_by_stage(runner, settings, 1))
