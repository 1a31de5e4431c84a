"""Which incident a notice is about."""

from __future__ import annotations

from agent.alerting.notice import KINDS, blindness_key, dedup_key, to_notice
from agent.records import NoticeReason
from detectors.records import Cause, Status, SubjectKind
from tests.agent.findings import BASE, FIXED, alarm, verdict

BAD = verdict(Status.DEGRADED, cause=Cause.UNKNOWN)
NAMED = verdict(Status.DEGRADED, cause=Cause.WRONG_STRENGTH)


def test_the_key_is_cluster_and_subject_and_never_the_cause() -> None:
    keys = {to_notice(seen, NoticeReason.DEGRADED, "prod", FIXED).dedup_key for seen in (BAD, NAMED, alarm())}
    assert keys == {"gapwatch/prod/adapter/ticket-router"}
    assert dedup_key("prod", SubjectKind.BASE, BASE) == "gapwatch/prod/base/smollm2"


def test_that_a_subject_cannot_be_judged_has_a_key_of_its_own() -> None:
    blind = verdict(Status.UNMONITORABLE)
    of = {reason: to_notice(blind, reason, "prod", FIXED).dedup_key for reason in KINDS}
    own = {NoticeReason.CANNOT_TELL, NoticeReason.CAN_TELL_AGAIN}
    assert {reason for reason, key in of.items() if key == "gapwatch/prod/cannot-tell/adapter/ticket-router"} == own


def test_long_names_keep_keys_apart_within_the_limit() -> None:
    named = [(key, "x" * 300 + end) for key in (dedup_key, blindness_key) for end in ("a", "b")]
    keys = {key("prod", SubjectKind.ADAPTER, name) for key, name in named}
    assert len(keys) == 4
    assert all(len(key) == 255 for key in keys)
