"""gapwatch drift: which kinds of prompts, or outputs, grew or shrank? Explains evidence of embedding drift.

It decides nothing. The embeddings are those that dashboards/sql/embedded.sql selects, by its names of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent.cli.query import ask
from agent.clock import Clock
from agent.config import load
from agent.errors import Refused
from agent.terminal.console import as_json, console, rows_table, say
from detectors.evidence.two_sample import permutation_p_values
from probes.drift_clusters import ClusterShift, explain

CANNOT_TELL = 2
LEAST, COMPARED = 2, 400  # a sample of one has no variance; more would make the permutation test slow
FOUR_WEEKS_H = 4 * 168


def explain_drift(path: Path, adapter: str, side: str, hours: int, json: bool) -> int:
    """Clusters of the last ``hours`` against those of up to four weeks before. 2 where there is too little to compare.

    side: prompt or output. Raises Refused for an unknown adapter or side.
    """
    config = load(path)
    config.adapter(adapter)
    if side not in ("prompt", "output"):
        raise Refused("--side", repr(side), "prompt or output")
    columns, rows = ask(config, "embedded", {"subject": adapter, "side": side, "hours": str(FOUR_WEEKS_H)})
    before, now = _split([dict(zip(columns, row, strict=True)) for row in rows], Clock().now() - 3600 * hours)
    if min(len(before), len(now)) < LEAST:
        say(f"{len(before)} {side}s from before the last {hours} h and {len(now)} since: nothing to compare yet")
        return CANNOT_TELL
    texts = [row["text"] for row in now]
    shifts = explain(_vectors(before), _vectors(now), texts if any(texts) else None)
    p_values = permutation_p_values(_subsample(before), _subsample(now))
    if json:
        as_json({"p_values": p_values, "clusters": [asdict(shift) for shift in shifts]})
    else:
        listed = " and ".join(f"{p:.3g} by {name}" for name, p in p_values.items())
        caution = "valid for one look; requests of one session are not independent"
        say(f"Are both from one distribution? Permutation p-values: {listed} ({caution})")
        _show(shifts, f"{side}s of {adapter}: {len(before)} before, {len(now)} in the last {hours} h", bool(any(texts)))
    return 0


def _split(rows: Sequence[dict[str, Any]], edge: float) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows from before that time, and those since. edge: seconds since the epoch"""
    before = [row for row in rows if _seconds(row["at"]) < edge]
    return before, [row for row in rows if _seconds(row["at"]) >= edge]


def _seconds(at: Any) -> float:
    """A time as the store gives it, or as JSON from a running agent has it; in seconds since the epoch."""
    moment = at if isinstance(at, datetime) else datetime.fromisoformat(str(at))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _vectors(rows: Sequence[dict[str, Any]]) -> Any:
    return np.array([row["vector"] for row in rows], dtype=np.float32)


def _subsample(rows: Sequence[dict[str, Any]]) -> Any:
    """At most COMPARED rows, evenly over their time: a permutation test compares every row with every other."""
    step = max(1, len(rows) // COMPARED)
    return _vectors(rows[::step][:COMPARED]).astype(np.float64)


def _show(shifts: Sequence[ClusterShift], title: str, with_texts: bool) -> None:
    rows = [
        (f"{s.before:.0%}", f"{s.now:.0%}", f"{s.p_value:.2g}", ", ".join(s.terms), " | ".join(s.examples))
        for s in shifts
    ]
    console.print(rows_table(["before", "now", "p", "terms", "examples"], rows, title=title))
    if not with_texts:
        say("Terms and examples need stored texts: clickhouse.store_text, which is off by default.")
