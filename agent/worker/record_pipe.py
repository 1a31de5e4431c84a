"""Records from one process to the other, pickled, over a pipe that only these two have.

A measurement holds the reference that it was measured against: some 200 kB a canary, 8 MB an adapter and round, which
the judgement of a healthy round never looks at. A reference of a golden record that was sent before is therefore sent
by name, and its arrays are read from the record's bytes when somebody asks for them.
"""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import lru_cache
from multiprocessing.connection import Connection
from typing import Any

from agent.records import GoldenAccepted
from detectors.canaries.retention import PreparedReference, prepare
from detectors.records import CanarySplit, NoiseFloor, Reference
from probes.golden.codec import from_bytes
from probes.golden.record import Golden

# Golden records whose arrays are kept once somebody has asked for them.
MOST_READ = 8
# What every judgement reads of a reference; all else is for the diagnosis of a bad round.
LIGHT = ("canary", "golden", "split", "noise")
Name = tuple[str, str, CanarySplit, NoiseFloor]


class PipeClosed(Exception):
    """The other end is gone."""


class SentReference(PreparedReference):
    """A reference of which only LIGHT was sent. All else is there as soon as it is asked for."""

    __slots__ = ("_read",)
    _read: Callable[[], PreparedReference]

    def __getattr__(self, name: str) -> Any:
        """Only called for what is not there yet."""
        if name.startswith("_"):
            raise AttributeError(name)
        whole = self._read()
        for field in fields(PreparedReference):
            object.__setattr__(self, field.name, getattr(whole, field.name))
        return getattr(whole, name)


class SentGoldens:
    """The golden records that came over the pipe, as the bytes that they came as."""

    def __init__(self) -> None:
        self._data: dict[str, dict[str, bytes]] = {}
        self._golden = lru_cache(MOST_READ)(self._decoded)

    def add(self, accepted: GoldenAccepted) -> None:
        """An adapter's former record goes once the next one has gone too: rounds against it may still be judged."""
        kept = self._data.setdefault(accepted.adapter, {})
        kept[accepted.golden] = accepted.data
        for former in list(kept)[:-2]:
            del kept[former]

    def reference(self, name: Name) -> SentReference:
        sent = SentReference.__new__(SentReference)
        for field, value in zip(LIGHT, name, strict=True):
            object.__setattr__(sent, field, value)
        canary, golden, *_ = name
        data = next(kept[golden] for kept in self._data.values() if golden in kept)
        object.__setattr__(sent, "_read", lambda: prepare(self._golden(golden, data).canary(canary).reference))
        return sent

    def _decoded(self, _: str, data: bytes) -> Golden:
        return from_bytes(data)


class RecordPipe:
    """One end. ``send`` may be called from several threads, ``receive`` from one.

    goldens: those in force, of the end that measures
    """

    def __init__(self, connection: Connection, goldens: Callable[[], Iterable[Golden]] = tuple) -> None:
        self._connection, self._goldens = connection, goldens
        self._sending = threading.Lock()
        self._announced: set[str] = set()
        self.received = SentGoldens()

    def send(self, record: object) -> None:
        """Waits while the other end does not read. Raises PipeClosed."""
        with self._sending:
            try:
                self._connection.send_bytes(self._pickled(record))
            except OSError as error:
                raise PipeClosed from error
            if isinstance(record, GoldenAccepted):
                self._announced.add(record.golden)

    def waiting(self, timeout_s: float) -> bool:
        """Is there something to receive, or the end of the pipe? Waits so long for it."""
        try:
            return self._connection.poll(timeout_s)
        except OSError:
            return True

    def receive(self) -> Any:
        """The next record; waits for it. Raises PipeClosed."""
        try:
            data = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise PipeClosed from error
        record = _Unpickler(io.BytesIO(data), self.received).load()
        if isinstance(record, GoldenAccepted):
            self.received.add(record)
        return record

    def close(self) -> None:
        self._connection.close()

    def _pickled(self, record: object) -> bytes:
        file = io.BytesIO()
        known = {golden.hash: golden for golden in self._goldens() if golden.hash in self._announced}
        _Pickler(file, known).dump(record)
        return file.getvalue()


class _Pickler(pickle.Pickler):
    """known: golden records that the other end has, by hash"""

    def __init__(self, file: io.BytesIO, known: dict[str, Golden]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._known = known

    def persistent_id(self, record: Any) -> Name | None:
        if not isinstance(record, Reference):
            return None
        golden = self._known.get(record.golden)
        # With signatures that were made after an alarm it is another one than the file's.
        if golden is None or not _is_of(record, golden.canary(record.canary).reference):
            return None
        return record.canary, record.golden, record.split, record.noise


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, goldens: SentGoldens) -> None:
        super().__init__(file)
        self._goldens = goldens

    def persistent_load(self, name: Any) -> SentReference:
        return self._goldens.reference(name)


def _is_of(record: Reference, recorded: Reference) -> bool:
    return all(getattr(record, field.name) is getattr(recorded, field.name) for field in fields(Reference))
