"""Rows in memory that are neither stored nor on disk: what is taken next, and what goes when there is no room."""

from __future__ import annotations

import hashlib
import uuid
from collections import deque
from collections.abc import Sequence

import numpy as np

from agent.store.table_rows import Insert, Row, TableRows

# Tables in the order in which they are written; when the buffer is full, rows are dropped from the last one up.
KEPT_LONGEST = (
    *("goldens", "verdicts", "notices", "states", "watching", "passport_clocks", "worth"),
    *("rounds", "files_replays", "flips"),
    *("traffic_rounds", "evidence", "heartbeats", "calibrations", "traffic_scores", "embeddings", "comparisons"),
)
# The row of a batch after its other rows: store.counted_upto rests on it.
TRAFFIC = ("request_counts", "interactions", "aside", "batches")
# Of one segment, so that it is written and read back without much memory.
MOST_ROWS, MOST_BYTES = 20_000, 16e6


class WaitingFindings:
    """Everything but traffic, up to so many bytes. dropped: rows without room, the least important first"""

    def __init__(self, limit_bytes: float, rows_an_insert: int) -> None:
        self._limit, self._most, self._bytes = limit_bytes, rows_an_insert, 0
        self._rows: dict[str, deque[tuple[Row, int]]] = {table: deque() for table in KEPT_LONGEST}
        self.dropped = 0

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    @property
    def tables(self) -> dict[str, list[Row]]:
        """What waits, of tables with any."""
        return {table: [row for row, _ in rows] for table, rows in self._rows.items() if rows}

    @property
    def n_bytes(self) -> int:
        return self._bytes

    def add(self, group: TableRows) -> None:
        if group.table == "states":
            self._without_earlier(group)
        sized = [(row, _size(row)) for row in group.rows]
        self._rows[group.table].extend(sized)
        self._bytes += sum(size for _, size in sized)
        for table in reversed(KEPT_LONGEST):
            rows = self._rows[table]
            while rows and self._bytes > self._limit:
                self._bytes -= rows.popleft()[1]
                self.dropped += 1

    def take(self) -> tuple[Insert, ...]:
        """At most MOST_ROWS rows and about MOST_BYTES, in inserts that have a token each."""
        inserts: list[Insert] = []
        rows_left, bytes_left = MOST_ROWS, MOST_BYTES
        for table, rows in self._rows.items():
            while rows and rows_left > 0 and bytes_left > 0:
                taken: list[Row] = []
                while rows and bytes_left > 0 and len(taken) < min(self._most, rows_left):
                    row, size = rows.popleft()
                    taken.append(row)
                    self._bytes -= size
                    bytes_left -= size
                rows_left -= len(taken)
                inserts.append(Insert(table, tuple(taken), uuid.uuid4().hex))
        return tuple(inserts)

    def _without_earlier(self, later: TableRows) -> None:
        """A later state replaces the one before it: one of each base waits."""
        bases = {row["base"] for row in later.rows}
        waiting = self._rows[later.table]
        self._bytes -= sum(size for row, size in waiting if row["base"] in bases)
        self._rows[later.table] = deque((row, size) for row, size in waiting if row["base"] not in bases)


class WaitingTraffic:
    """Batches of Kafka, never dropped: while they wait nothing more is read."""

    def __init__(self) -> None:
        self._groups: deque[TableRows] = deque()
        self._n_rows = 0

    def __len__(self) -> int:
        return self._n_rows

    def add(self, group: TableRows) -> None:
        self._groups.append(group)
        self._n_rows += len(group.rows)

    def take(self) -> tuple[Insert, ...]:
        """At most about MOST_ROWS rows, one insert a table: one costs the engine as much as thousands of rows do.

        Within a table the order of the batches is kept, and the row of a batch comes after its other rows: what is
        left for the next call are whole later groups.
        """
        taken: dict[str, list[TableRows]] = {table: [] for table in TRAFFIC}
        left = MOST_ROWS
        while self._groups and left > 0:
            group = self._groups.popleft()
            taken[group.table].append(group)
            left -= len(group.rows)
        self._n_rows -= MOST_ROWS - left
        return tuple(
            Insert(table, tuple(row for group in groups for row in group.rows), _token(groups))
            for table, groups in taken.items()
            if groups
        )


def _token(groups: Sequence[TableRows]) -> str:
    """The token of one offset range, or a hash of the tokens of several. What was once on disk keeps its ranges. Where
    the disk refused them, a crash may combine them differently, and such copies pass deduplication: they have the same
    key, so FINAL drops them, and counts resume from store.counted_upto."""
    tokens = [group.token for group in groups]
    return tokens[0] if len(tokens) == 1 else hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def _size(row: Row) -> int:
    """Approximate bytes of one row: arrays and text by their length, everything else 50."""
    return sum(
        v.nbytes if isinstance(v, np.ndarray) else len(v) if isinstance(v, str | bytes) else 50 for v in row.values()
    )
