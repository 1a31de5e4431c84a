"""Verdicts and notices as rows: the level that is stored of several, and what is unknown."""

from __future__ import annotations

import math
from dataclasses import replace

from agent.store.rows import to_rows
from agent.store.table_rows import Origin, when
from agent.store.verdict_rows import verdict_row
from detectors.records import Onset
from tests.agent import findings
from tests.agent.findings import FIXED


def test_the_level_of_a_verdict_is_the_strongest_evidence_that_may_page() -> None:
    alarm = findings.alarm(FIXED)
    louder = findings.evidence(200.0, detector="embedding_drift", pages=False)
    row = verdict_row(replace(alarm, evidence=(*alarm.evidence, louder)))
    assert row["log_e"] == 93.9
    assert (row["onset_after"], row["onset_by"]) == (when(FIXED - 60), when(FIXED))
    assert row["onset_earliest"] is None and row["onset_latest"] is None


def test_the_interval_of_an_onset_has_columns_of_its_own() -> None:
    row = verdict_row(findings.alarm(FIXED, onset=Onset(FIXED - 60, FIXED, None, FIXED - 180, FIXED + 720)))
    assert (row["onset_earliest"], row["onset_latest"]) == (when(FIXED - 180), when(FIXED + 720))
    assert (row["onset_after"], row["onset_by"]) == (when(FIXED - 60), when(FIXED))


def test_what_a_verdict_does_not_know_is_nan_or_nothing_and_no_evidence_is_a_level_of_zero() -> None:
    row = verdict_row(findings.verdict())
    assert math.isnan(row["retention"]) and row["retention_n"] == 0
    assert row["onset_by"] is None and row["log_e"] == 0.0


def test_an_evidence_row_says_which_agent_stored_it() -> None:
    (group,) = to_rows(findings.evidence(3.0, at=FIXED), Origin("prod", "pod-0"))
    (row,) = group.rows
    assert (group.table, row["cluster"], row["pod"], row["log_e"]) == ("evidence", "prod", "pod-0", 3.0)
