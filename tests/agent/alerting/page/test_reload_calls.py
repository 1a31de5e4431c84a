"""The call that loads an adapter again: of the engine that is known, and where a load helps at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.alerting.page.reload_calls import UNDONE_BY_A_LOAD, engine_kind, reload_call
from agent.shipped import runbook
from detectors.on_call_text import RELOAD_CALLS
from detectors.records import THE_FILES, Cause, Identity, SubjectKind
from tests.agent.findings import BASE, FIXED, alarm

LOST = alarm(FIXED, cause=Cause.ADAPTER_NOT_APPLIED, answered_by="vllm 0.32.0, prompt log-probabilities")


def test_one_adapter_stands_in_the_call_and_several_behind_it() -> None:
    assert '{"lora_name": "ticket-router", "lora_path": PATH, "load_inplace": true}' in reload_call(LOST)
    of_base = replace(LOST, subject_kind=SubjectKind.BASE, subject=BASE, members=("a", "b"))
    assert '"lora_name": NAME' in reload_call(of_base) and reload_call(of_base).endswith("; NAME: each of a, b")


@pytest.mark.parametrize("kind", RELOAD_CALLS)
def test_each_engine_has_its_call_without_gaps_and_in_the_runbook(kind: str) -> None:
    said = reload_call(replace(LOST, answered_by=f"{kind} 1.0, by walking"))
    assert said and "{name}" not in said and "{{" not in said
    assert f"| {kind} |" in runbook("adapter_not_applied")


def test_none_is_said_of_an_engine_that_is_not_known_and_of_a_fault_that_no_load_undoes() -> None:
    assert reload_call(replace(LOST, answered_by=THE_FILES)) == ""
    assert reload_call(replace(LOST, answered_by="")) == ""
    assert reload_call(replace(LOST, answered_by="openai, by walking")) == ""
    assert reload_call(replace(LOST, subject_kind=SubjectKind.BASE_REQUESTS)) == ""
    assert reload_call(replace(LOST, subject_kind=SubjectKind.BASE, members=())) == ""
    for cause in set(Cause) - set(UNDONE_BY_A_LOAD):
        assert reload_call(replace(LOST, cause=cause)) == ""


def test_the_engine_is_known_by_who_answered_or_by_what_the_agent_last_heard_of_it() -> None:
    beside = replace(LOST, answered_by=THE_FILES, identity=Identity(live_engine="sglang 0.5.2, ab12"))
    assert engine_kind(LOST) == "vllm"
    assert engine_kind(beside) == "sglang"
