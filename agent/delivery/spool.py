"""Inserts that the store does not have yet, on disk: a store that is away, or an agent that is killed, costs no row.

One file a segment, named by its number, written whole or not at all and deleted once the store has all of it. What was
once written is sent as it is, with the same tokens over the same rows, also by the process after this one, so that the
store drops what it has already. One process at a time owns the folder. Rows may hold production text where
``clickhouse.store_text`` is on: files are for this user alone.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from agent.alerting.set_aside import set_aside
from agent.delivery.whole_file import write_whole
from agent.store.table_rows import Insert, plain
from agent.trouble import Trouble

Counted = Mapping[tuple[str, int], int]
"""(topic, partition) -> the first offset that is not in a count of these rows."""

# 1: a line of JSON about the segment, then its inserts, as lines of JSON under zlib.
VERSION = 1
# Fast, and rows of one table are alike: a tenth of the bytes is left.
_LEVEL = 1
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """What is written in one go. n_bytes: of its file; counted: see Counted, of the group that counted"""

    number: int
    n_rows: int
    n_bytes: int
    group: str
    counted: Counted


class Spool:
    """Segments in the order in which they were written; one thread may append while another reads and removes.

    limit_bytes: of all files together; what does not fit is refused until something was removed
    group: Kafka's consumer group, whose counts these are; part: what uses it, as /readyz and the log name it
    """

    def __init__(self, folder: Path, limit_bytes: float, group: str = "", part: str = "spool") -> None:
        self._folder, self._limit, self._group = folder, limit_bytes, group
        self._lock = threading.Lock()
        self._segments: dict[int, Segment] = {}
        self._trouble = Trouble(part)
        self._next = self._n_bytes = 0
        self.damaged = 0

    @property
    def trouble(self) -> str:
        """Why nothing can be appended now; "" where it can."""
        return str(self._trouble)

    @property
    def n_bytes(self) -> int:
        """Bytes that the files take on the disk."""
        with self._lock:
            return self._n_bytes

    def open(self) -> tuple[Segment, ...]:
        """What an earlier process left, the oldest first. A file that holds no segment of this version is renamed."""
        with suppress(OSError):  # told by the first append
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._folder.iterdir()):
                if file.suffix == ".new":  # cut off while it was written
                    file.unlink()
                elif file.suffix == ".rows" and (segment := self._headed(file)):
                    self._keep(segment)
        self._next = max(self._segments, default=-1) + 1
        return tuple(self._segments.values())

    def append(self, inserts: Sequence[Insert]) -> Segment | None:
        """None where the disk refuses it or there is no room: ``trouble`` says which."""
        counted = _counted(inserts)
        n_rows, ends = sum(len(insert.rows) for insert in inserts), [[*key, end] for key, end in counted.items()]
        head = {"version": VERSION, "rows": n_rows, "group": self._group, "counted": ends}
        content = orjson.dumps(head) + b"\n" + zlib.compress(_packed(inserts), _LEVEL)
        n_bytes = _blocks(len(content))
        if self.n_bytes + n_bytes > self._limit:
            limit = f"sinks.clickhouse.spool_mb is used up ({self._limit / 1e6:.0f} MB for these rows)"
            self._trouble.begin(f"{limit}: what comes waits in memory and in Kafka until the store takes it")
            return None
        segment = Segment(self._next, n_rows, n_bytes, self._group, counted)
        try:
            self._write(self._file(segment.number), content)
        except OSError as error:
            wanted = f"a folder with room that user {os.getuid()} may read and write"
            self._trouble.begin(f"spool in state_dir: {error.strerror or type(error).__name__}, wanted {wanted}")
            return None
        self._trouble.end()
        self._keep(segment)
        self._next += 1
        return segment

    def read(self, segment: Segment) -> tuple[Insert, ...]:
        """Its inserts; () where its file is gone, or was damaged since, which renames it. Raises OSError."""
        file = self._file(segment.number)
        try:
            body = zlib.decompress(file.read_bytes().split(b"\n", 1)[1])
            return tuple(_unpacked(body))
        except FileNotFoundError:
            self.damaged += 1
            return ()
        except (zlib.error, ValueError, KeyError, TypeError, IndexError, RuntimeError):
            self._set_aside(file)
            return ()

    def remove(self, segment: Segment) -> None:
        """The store has it. A file that stays, because the disk became read-only, is sent again after a restart, and
        dropped by its tokens."""
        with self._lock:
            if self._segments.pop(segment.number, None):
                self._n_bytes -= segment.n_bytes
        with suppress(OSError):
            self._file(segment.number).unlink(missing_ok=True)

    def counted_upto(self) -> dict[tuple[str, int], int]:
        """See Counted, of what the present group has counted and the store may not have."""
        ends: dict[tuple[str, int], int] = {}
        with self._lock:
            segments = [segment for segment in self._segments.values() if segment.group == self._group]
        for partition, end in (item for segment in segments for item in segment.counted.items()):
            ends[partition] = max(end, ends.get(partition, 0))
        return ends

    def _keep(self, segment: Segment) -> None:
        with self._lock:
            self._segments[segment.number] = segment
            self._n_bytes += segment.n_bytes

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:012d}.rows"

    def _headed(self, file: Path) -> Segment | None:
        """By the first line of its file alone; None for a file that is none of this version, which is renamed."""
        try:
            with file.open("rb") as stream:
                head = orjson.loads(stream.readline())
            if head["version"] != VERSION:
                raise ValueError
            counted = {(topic, partition): end for topic, partition, end in head["counted"]}
            return Segment(int(file.stem), head["rows"], _blocks(file.stat().st_size), head["group"], counted)
        except (ValueError, KeyError, TypeError):
            self._set_aside(file)
            return None

    def _set_aside(self, file: Path) -> None:
        self.damaged += 1
        with suppress(OSError):
            set_aside(file, "no segment of this version")

    def _write(self, file: Path, content: bytes) -> None:
        try:
            write_whole(file, content)
        except OSError:
            with suppress(OSError):  # it comes again under the same number, as other rows perhaps
                file.unlink(missing_ok=True)
            raise


def _blocks(n_bytes: int) -> int:
    """What a file of so many bytes takes, which is what a limit on a volume counts."""
    return -(-n_bytes // _BLOCK) * _BLOCK


def _counted(inserts: Iterable[Insert]) -> dict[tuple[str, int], int]:
    """By the counts and by the batches, as store.counted_upto."""
    ends: dict[tuple[str, int], int] = {}
    for insert in inserts:
        if insert.table in ("request_counts", "batches"):
            for row in insert.rows:
                partition = (row["topic"], row["partition"])
                end = row["next_offset"] if insert.table == "batches" else row["last_offset"] + 1
                ends[partition] = max(end, ends.get(partition, 0))
    return ends


def _packed(inserts: Iterable[Insert]) -> bytes:
    """A line for each insert, and one for each of its columns with the kind of its values: times, bytes and arrays of
    numbers have no form of their own in JSON. By lines, because one call that writes or reads JSON keeps all other
    threads waiting, and the loop must not."""
    lines = []
    for insert in inserts:
        columns = list(insert.rows[0])
        lines.append(json.dumps({"table": insert.table, "token": insert.token, "columns": columns}))
        lines += [json.dumps(_column([row[name] for row in insert.rows])) for name in columns]
    return "\n".join(lines).encode()


def _column(values: list[Any]) -> tuple[str, list[Any]]:
    first = next((value for value in values if value is not None), None)
    match first:
        case datetime():
            return "time", [value if value is None else value.timestamp() for value in values]
        case bytes():
            return "bytes", [value if value is None else base64.b64encode(value).decode() for value in values]
        case np.ndarray():  # as text they would be ten times as long
            return "array", [
                [value.dtype.str, value.shape, base64.b64encode(value.tobytes()).decode()] for value in values
            ]
        case np.generic():
            return "plain", [plain(value) for value in values]
        case _:
            return "plain", values


def _unpacked(body: bytes) -> Iterator[Insert]:
    lines = iter(body.split(b"\n"))
    for line in lines:
        insert = json.loads(line)
        columns = {name: _values(*json.loads(next(lines))) for name in insert["columns"]}
        rows = tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        yield Insert(insert["table"], rows, insert["token"])


def _values(kind: str, values: list[Any]) -> list[Any]:
    match kind:
        case "time":
            return [value if value is None else datetime.fromtimestamp(value, UTC) for value in values]
        case "bytes":
            return [value if value is None else base64.b64decode(value) for value in values]
        case "array":
            return [np.frombuffer(base64.b64decode(data), kind).reshape(shape) for kind, shape, data in values]
        case _:
            return values
