"""Any finding as rows of the tables in deploy/clickhouse; pure. Which function makes them is in the table below.

A new kind of finding needs a line there: one without is a TypeError, so that none is lost in silence.
"""

from __future__ import annotations

from functools import singledispatch

from agent.records import (
    Finding,
    Flip,
    GoldenAccepted,
    Heartbeat,
    Notice,
    PassportClocks,
    SavedState,
    TrafficBatch,
    Watching,
)
from agent.store.canary_rows import base_round_rows, files_replay_rows, flip_rows, golden_rows
from agent.store.handover import state_rows
from agent.store.table_rows import Origin, TableRows
from agent.store.traffic_rows import batch_rows, calibration_rows, embedding_rows, traffic_round_rows
from agent.store.verdict_rows import clock_rows, evidence_rows, heartbeat_rows, notice_rows, verdict_rows, watching_rows
from detectors.records import BaseRound, Evidence, FilesReplay, Verdict
from detectors.traffic_records import Calibration, Embedding, TrafficRound


@singledispatch
def to_rows(finding: Finding, origin: Origin) -> tuple[TableRows, ...]:
    """All rows of one finding, in the order in which they must become durable. Tables without rows are left out."""
    del origin
    raise TypeError(f"no table for a {type(finding).__name__}")


to_rows.register(TrafficBatch, batch_rows)
to_rows.register(TrafficRound, traffic_round_rows)
to_rows.register(Embedding, embedding_rows)
to_rows.register(Calibration, calibration_rows)
to_rows.register(BaseRound, base_round_rows)
to_rows.register(FilesReplay, files_replay_rows)
to_rows.register(Flip, flip_rows)
to_rows.register(GoldenAccepted, golden_rows)
to_rows.register(Verdict, verdict_rows)
to_rows.register(Evidence, evidence_rows)
to_rows.register(Notice, notice_rows)
to_rows.register(Heartbeat, heartbeat_rows)
to_rows.register(SavedState, state_rows)
to_rows.register(Watching, watching_rows)
to_rows.register(PassportClocks, clock_rows)
