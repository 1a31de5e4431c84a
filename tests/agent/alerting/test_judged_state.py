"""What a judge knows, as a whole and by base."""

from __future__ import annotations

import json

from agent.alerting.alert_state import AlertState
from agent.alerting.judged_state import JudgedState, replayed, subjects_of
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import SubjectKind
from detectors.verdicts.incident import Rules
from tests.detectors.synthetic import ADAPTERS, make_base_round

RULES = Rules(Tolerances(), 20.0)


def judged() -> JudgedState:
    """Of the base smol with its adapters, and of another one with an adapter that has the name of the first base."""
    monitor = Monitor(RULES)
    monitor.observe(make_base_round(dict.fromkeys(ADAPTERS, "not_applied")))
    return JudgedState(
        monitor,
        {"base/smol": AlertState(), "adapter/router": AlertState(cause="unknown"), "adapter/smol": AlertState()},
        {"router": "sha256:a", "smol": "sha256:b"},
        {("t", 0, "router"): 10, ("t", 1, "smol"): 20},
        {"smol": 5.0, "other": 6.0},
    )


def test_a_part_is_what_is_about_the_base_and_its_adapters_and_taking_a_blank_one_forgets_it() -> None:
    state = judged()
    part = state.part("smol", ADAPTERS)
    assert set(part.alerts) == {"base/smol", "adapter/router"}
    assert (part.goldens, part.judged, part.judged_at) == (
        {"router": "sha256:a"}, {("t", 0, "router"): 10}, {"smol": 5.0},
    )  # fmt: skip
    assert part.knows("smol", ADAPTERS) and not part.knows("other", ["smol"])
    assert part.monitor.open_subjects == state.monitor.open_subjects != frozenset()
    state.take("smol", ADAPTERS, state.blank())
    assert set(state.alerts) == {"adapter/smol"}, "an adapter of the base's name is another subject"
    assert (state.goldens, state.judged) == ({"smol": "sha256:b"}, {("t", 1, "smol"): 20})
    assert state.judged_at == {"other": 6.0}
    assert state.monitor.open_subjects == frozenset()


def test_it_comes_back_as_it_was_saved_and_from_files_that_do_not_say_when_a_base_was_judged() -> None:
    saved = json.loads(json.dumps(judged().to_json()))
    again = JudgedState.from_json(saved, Monitor(RULES))
    assert again.to_json() == judged().to_json()
    del saved["judged_at"], saved["judged"]
    former = JudgedState.from_json(saved, Monitor(RULES))
    assert (former.judged, former.judged_at) == ({}, {})


def test_rounds_of_canaries_are_about_the_base_and_its_adapters_and_not_about_requests_that_name_it() -> None:
    """Where none is judged nobody can tell of these; nobody has to ask for the base, and no round takes it back."""
    assert replayed("smol", ["router"]) == [(SubjectKind.BASE, "smol"), (SubjectKind.ADAPTER, "router")]
    assert set(subjects_of("smol", ["router"])) - set(replayed("smol", ["router"])) == {
        (SubjectKind.BASE_REQUESTS, "smol")
    }
