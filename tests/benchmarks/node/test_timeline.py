"""What a sidecar cost its pod, from looks that are written down here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.node.timeline import (
    Look,
    first_ready,
    last_end,
    last_statuses,
    read_look,
    seconds_silent,
    seconds_unready,
    unwell,
    unwell_in_metrics,
)


def looks(ready: str) -> list[Look]:
    """One look every tenth of a second: r for Ready."""
    return [Look(at=100 + i / 10, ready=letter == "r") for i, letter in enumerate(ready)]


@pytest.mark.parametrize(
    ("ready", "seconds"),
    [
        ("", 0.0),
        ("......", 0.0),  # never Ready: told by first_ready
        ("..rrrr", 0.0),  # the start is no loss of readiness
        ("..rr...rr", 0.3),
        ("r.r.r", 0.2),
        ("rr..", 0.1),  # the last look counts until a next one, which there is not
    ],
)
def test_seconds_unready_are_those_after_the_pod_was_ready_once(ready: str, seconds: float) -> None:
    assert seconds_unready(looks(ready)) == pytest.approx(seconds)


def test_a_pod_that_never_was_ready_has_no_first_time() -> None:
    assert first_ready(looks("...")) is None
    assert first_ready(looks("..r.r")) == pytest.approx(100.2)


def test_an_engine_is_silent_only_after_it_has_answered() -> None:
    answers = [Look(at=i, engine_answers=answered) for i, answered in enumerate((False, False, True, False, True))]
    assert seconds_silent(answers) == 1


def test_unwell_is_what_was_so_when_it_was_asked_last() -> None:
    page = 'gapwatch_part_ok{part="kafka"} 0.0\ngapwatch_part_ok{part="config"} 1.0\n'
    starting = Look(1.0, parts={"config": (False, "not read yet")}, metrics='gapwatch_part_ok{part="config"} 0.0\n')
    running = Look(2.0, parts={"config": (True, "read"), "kafka": (False, "no such topic")}, metrics=page)
    assert unwell([starting, running, Look(3.0)]) == {"kafka": "no such topic"}
    assert unwell_in_metrics([starting, running, Look(3.0)]) == {"kafka"}


def test_statuses_and_ends_are_the_last_ones() -> None:
    line = 'gapwatch_status{{subject="a",subject_kind="adapter"}} {}.0\n'
    both = [Look(1.0, metrics=line.format(0), sidecar_ended="first"), Look(2.0, metrics=line.format(2)), Look(3.0)]
    assert last_statuses(both) == {"a": 2}
    assert last_end(both) == "first"


def test_a_line_of_the_watcher_is_read_as_the_newer_pod_of_that_name() -> None:
    def pod(name: str, uid: str) -> dict[str, Any]:
        running = {"ready": True, "engine_running": True, "sidecar_running": True}
        ended = {"engine_restarts": 0, "sidecar_restarts": 2, "sidecar_ended": "Error, exit code 137"}
        return {"name": name, "uid": uid, "sidecar_id": "x", **running, **ended}

    pods = [pod("llm-node", "old"), pod("other-node", "z"), pod("llm-node", "new")]
    readyz = json.dumps({"kafka": [True, "reading"]})
    line = json.dumps({"at": 5.0, "pods": pods, "engine_answers": True, "readyz": readyz, "metrics": None})
    look = read_look(line, "llm")
    assert (look.uid, look.ready, look.sidecar_restarts, look.engine_answers) == ("new", True, 2, True)
    assert look.parts == {"kafka": (True, "reading")}


def test_no_pod_and_a_page_that_is_no_json_are_a_look_too() -> None:
    line = json.dumps({"at": 5.0, "pods": [], "engine_answers": False, "readyz": "starting\n", "metrics": ""})
    assert read_look(line, "llm") == Look(5.0)
