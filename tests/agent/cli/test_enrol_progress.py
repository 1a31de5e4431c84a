"""The progress of several adapters: one count of replays, and lines with an estimate where there is no terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from agent.cli.console import console
from agent.cli.enrol_progress import EnrolProgress
from agent.clock import HandClock
from probes.enrolment.enrol import enrol
from probes.enrolment.workload import replays_by_stage
from tests.probes.worlds import SETTINGS, canary_set, never, opened


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What was printed; not to a terminal."""
    printed = io.StringIO()
    monkeypatch.setattr(console, "file", printed)
    return printed


STAGES = {"first": 100, "second": 300}


def test_all_adapters_are_one_count_that_never_falls() -> None:
    progress = EnrolProgress(STAGES, 2)
    assert progress.total == 800
    assert progress.completed("first", 1, 2) == 50
    assert progress.completed("second", 0, 7) == 100
    assert progress.completed("second", 7, 7) == 400
    assert progress.completed("an unknown one", 1, 2) == 0
    progress.end()
    assert progress.completed("second", 1, 3) == 600


def test_without_a_terminal_each_stage_is_a_line_with_an_estimate(said: io.StringIO) -> None:
    clock = HandClock()
    with EnrolProgress(STAGES, 2, clock) as progress:
        progress.begin("[a]")
        progress.show("first", 0, 4)
        clock.advance(60.0)
        progress.show("first", 4, 4)
        progress.show("second", 0, 2)
        clock.advance(180.0)
        progress.end()
        progress.begin("b")
        progress.show("first", 0, 4)
    assert said.getvalue().splitlines() == [
        "1 of 2, [a]: first ...",
        "1 of 2, [a]: second ... 12% done, about 7 min left",
        "2 of 2, b: first ... 50% done, about 4 min left",
    ]


def test_a_single_adapter_is_not_numbered(said: io.StringIO) -> None:
    with EnrolProgress(STAGES, 1) as progress:
        progress.begin("a")
        progress.show("first", 0, 4)
    assert said.getvalue() == "a: first ...\n"


def test_every_stage_of_an_enrolment_is_expected_in_its_order() -> None:
    runner, settings, stages = opened(), replace(SETTINGS, per_half=6, min_pool=6), list[str]()
    enrol(runner, "alpha", canary_set(16), settings, ["beta"], lambda stage, *_: stages.append(stage), never)
    assert list(dict.fromkeys(stages)) == list(replays_by_stage(runner, settings, 1))
