"""What all rows of the tables in deploy/clickhouse share: their type, where they come from, and times that fit.

Column names are those of the migrations; a new column needs a new numbered migration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from agent.alerting.policy import Policy
from detectors.records import Evidence, Identity, Verdict

Row = dict[str, Any]
"""Column -> value. Arrays stay numpy until they are sent, which keeps the buffer small."""
NAN = float("nan")
# What DateTime64 holds, in seconds: years 1900 to 2299.
FIRST, LAST = -2_208_988_800.0, 10_413_791_999.0
HASHES = tuple(f"{side}_{part}" for part in ("base", "adapter", "tokenizer", "template") for side in ("golden", "live"))
GRIDS = ("golden_grid", "live_grid")
ENGINES = ("golden_engine", "live_engine", "golden_source", "live_source")


@dataclass(frozen=True, slots=True)
class TableRows:
    """Rows for one table. token: deduplication token where the finding has one of its own, else ""."""

    table: str
    rows: tuple[Row, ...]
    token: str = ""


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows of one table, sent unchanged under one deduplication token until the store has them."""

    table: str
    rows: tuple[Row, ...]
    token: str

    def halves(self) -> tuple[Insert, Insert]:
        middle = len(self.rows) // 2
        first, second = self.rows[:middle], self.rows[middle:]
        return Insert(self.table, first, f"{self.token}:a"), Insert(self.table, second, f"{self.token}:b")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which agent stores: a column or two of every row. store_text: keep production text (off unless configured)

    consumer_group: of Kafka, by which it reads, "" without one: two groups count the same records each for itself
    policy: how urgent each notice is, and whose it is
    """

    cluster: str = ""
    pod: str = ""
    store_text: bool = False
    consumer_group: str = ""
    policy: Policy = field(default_factory=Policy)

    @property
    def columns(self) -> Row:
        return {"cluster": self.cluster, "pod": self.pod}


def when(at: float) -> datetime:
    """Seconds since the epoch as the aware time that the driver stores; the nearest that the store can hold.

    A nonsensical time of a producer must cost neither its record nor those beside it: nan is the epoch.
    """
    return datetime.fromtimestamp(0.0 if math.isnan(at) else min(max(at, FIRST), LAST), UTC)


def plain(value: Any) -> Any:
    """Arrays of numbers as lists, everything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def fields_of(record: Any, names: Iterable[str]) -> Row:
    """The columns that are fields of the record under the same name."""
    return {name: getattr(record, name) for name in names}


def subject_columns(finding: Verdict | Evidence) -> Row:
    return {"subject_kind": finding.subject_kind.value, "subject": finding.subject}


def identity_columns(identity: Identity) -> Row:
    return fields_of(identity, HASHES) | {"hash_scheme": identity.scheme}


def mean(values: list[float]) -> float:
    """nan of none"""
    return float(np.mean(values)) if values else NAN


def with_rows(*groups: TableRows) -> tuple[TableRows, ...]:
    """The groups that have any: an insert without rows is none."""
    return tuple(group for group in groups if group.rows)
