"""Canaries, responses and embeddings together."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from detectors import on_call_text
from detectors.records import Cause, Reason, ShareOf, Status, SubjectKind, Verdict
from detectors.verdicts import fusion
from detectors.verdicts.incident import Incident


def verdict(status: Status, reason: Reason, cause: Cause = Cause.NONE, **more: object) -> Verdict:
    told = Verdict(SubjectKind.ADAPTER, "router", "smol", 3, 180.0, status, reason, cause, log_threshold=20.0)
    return replace(told, **{"explanation": "seen", **more})  # type: ignore[arg-type]


HEALTHY = verdict(Status.HEALTHY, Reason.WITHIN_TOLERANCE)
BROKEN = verdict(Status.DEGRADED, Reason.ALARM, Cause.ADAPTER_NOT_APPLIED)
SUSPECT = verdict(Status.SUSPECT, Reason.EVIDENCE_GROWING)
BLIND = verdict(Status.UNMONITORABLE, Reason.NOT_SCORED)
OPEN, CLOSED = Incident(open=True), Incident()


def test_canaries_alone_that_fail_beside_quiet_responses() -> None:
    told = fusion.by_canaries(BROKEN, HEALTHY, CLOSED, {})
    assert told.status is Status.DEGRADED and on_call_text.RESPONSES_HEALTHY in told.explanation


def test_responses_alone_that_fail_beside_quiet_canaries() -> None:
    told = fusion.by_traffic(BROKEN, HEALTHY, False, {})
    assert told is not None and told.reason is Reason.ALARM and on_call_text.CANARIES_HEALTHY in told.explanation
    again = fusion.by_canaries(replace(HEALTHY, at=240.0), BROKEN, OPEN, {})
    assert (again.status, again.reason) == (Status.DEGRADED, Reason.STILL_DEGRADED)
    assert again.cause is Cause.ADAPTER_NOT_APPLIED


def test_beside_canaries_that_an_engine_answered_nothing_is_said_of_files_that_nobody_replayed() -> None:
    engine = "vllm 0.33.0, scoring in the prompt"
    told = fusion.by_traffic(BROKEN, replace(HEALTHY, answered_by=engine), False, {})
    assert told is not None and told.is_of_engine and on_call_text.ENGINE_CANARIES_HEALTHY in told.explanation
    assert on_call_text.CANARIES_HEALTHY not in told.explanation
    quiet = fusion.by_canaries(replace(BROKEN, answered_by=engine), HEALTHY, CLOSED, {})
    assert on_call_text.ENGINE_RESPONSES_HEALTHY in quiet.explanation
    assert on_call_text.RESPONSES_HEALTHY not in quiet.explanation


def test_a_verdict_has_number_and_time_of_the_round_that_it_was_given_in() -> None:
    """Canaries and responses count their rounds each for themselves, and a canary round may end after one of responses
    that began later."""
    canary, traffic = replace(HEALTHY, round=3, at=180.0), replace(BROKEN, round=40, at=200.0)
    told = fusion.by_traffic(traffic, canary, False, {})
    assert told is not None and (told.round, told.at, told.reason) == (40, 200.0, Reason.ALARM)
    again = fusion.by_canaries(canary, traffic, Incident(open=True), {})
    assert (again.round, again.at, again.reason) == (3, 180.0, Reason.STILL_DEGRADED)


def test_an_open_incident_of_responses_is_held_until_the_first_one_after_a_restart() -> None:
    held = Incident(open=True, cause=Cause.WRONG_ADAPTER, explanation="rewriter wrote them", action="look")
    told = fusion.by_canaries(HEALTHY, None, held, {})
    assert (told.status, told.reason, told.cause) == (Status.DEGRADED, Reason.STILL_DEGRADED, Cause.WRONG_ADAPTER)
    assert "rewriter wrote them" in told.explanation
    assert told.share_of is ShareOf.RESPONSES and math.isnan(told.share_beyond), "the healthy draws are the canaries'"


def test_the_end_of_an_incident_of_responses_leaves_a_change_within_tolerance_as_it_is() -> None:
    ended = fusion.by_traffic(
        verdict(Status.HEALTHY, Reason.RESOLVED), replace(HEALTHY, tolerated_change="x0.99"), False, {}
    )
    assert ended is not None and (ended.status, ended.tolerated_change) == (Status.HEALTHY, "x0.99")


def test_a_suspicion_beside_blind_canaries_says_nothing() -> None:
    assert fusion.by_traffic(SUSPECT, BLIND, False, {}) is None


def test_where_both_lines_page_the_canaries_verdict_speaks_for_both() -> None:
    assert on_call_text.BOTH in fusion.by_canaries(BROKEN, BROKEN, OPEN, {}).explanation
    assert fusion.by_traffic(BROKEN, BROKEN, True, {}) is None, "it was told in the canaries' round"


def test_prompts_that_moved_are_information() -> None:
    told = fusion.by_canaries(HEALTHY, HEALTHY, CLOSED, {"prompt": 25.0, "output": 25.0})
    assert (told.status, told.reason, told.cause) == (Status.HEALTHY, Reason.INPUT_DRIFT, Cause.NONE)
    assert fusion.by_canaries(HEALTHY, HEALTHY, CLOSED, {"prompt": 5.0}).reason is Reason.WITHIN_TOLERANCE
    assert fusion.by_canaries(SUSPECT, HEALTHY, CLOSED, {"prompt": 25.0}) == SUSPECT


@pytest.mark.parametrize("canary", [HEALTHY, BROKEN, SUSPECT])
def test_quiet_responses_add_no_verdict_of_their_own_to_canaries(canary: Verdict) -> None:
    assert fusion.by_traffic(HEALTHY, canary, canary is BROKEN, {}) is None
    assert fusion.by_traffic(BLIND, canary, canary is BROKEN, {}) is None


def test_without_canaries_responses_speak_for_themselves() -> None:
    for alone in (HEALTHY, BROKEN, SUSPECT):
        assert fusion.by_traffic(alone, None, False, {}) == alone


def test_without_scores_embeddings_are_all_there_is_and_never_page() -> None:
    quiet = fusion.by_traffic(BLIND, None, False, {"output": 2.0, "prompt": 1.0})
    moved = fusion.by_traffic(BLIND, None, False, {"output": 25.0, "prompt": 1.0})
    assert quiet is not None and quiet.status is Status.UNMONITORABLE and "only embeddings" in quiet.explanation
    assert moved is not None and (moved.status, moved.reason) == (Status.SUSPECT, Reason.OUTPUT_DRIFT)
    assert "and prompts do not" in moved.explanation


def test_a_base_that_speaks_for_its_members_is_not_talked_over() -> None:
    assert fusion.by_traffic(BROKEN, replace(HEALTHY, covered_by="smol"), False, {}) is None
