"""The model process: ``python -m agent.worker.model_child FD``, started by ``model_process.py`` and by nobody else.

It is told its settings over the pipe, makes the runners, and has the worker turn them on a thread of its own. The main
thread reads what comes down the pipe and sends what the worker has finished. It writes no state, opens no port and no
store, and ends when the other end of the pipe does. Its log goes up the pipe too: one process writes it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import queue
import signal
import sys
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection

import structlog
from structlog.typing import EventDict, WrappedLogger

from agent.clock import Clock
from agent.errors import Refused, Retryable
from agent.worker import memory_ceiling
from agent.worker.messages import (
    Down,
    Ended,
    Exit,
    GoldenWanted,
    Judged,
    Logged,
    Owned,
    Started,
    Stop,
    StoredGolden,
    ToScore,
)
from agent.worker.record_pipe import PipeClosed, RecordPipe
from agent.worker.watched_bases import ModelSettings, watched_bases
from agent.worker.worker import Result, WatchedBase, Worker
from detectors.records import BaseRound
from probes.golden.record import Golden

# Results wait at most so long before they are sent.
LOOK_S = 0.05
# Seconds that the store's answer may take.
FETCH_S = 30.0
# Rounds of a base that a verdict may still be about.
MOST_UNJUDGED = 2
PR_SET_PDEATHSIG = 1

log = structlog.get_logger(__name__)


class ModelChild:
    """settings: first received over the pipe. ``run`` serves the other end until it says stop."""

    def __init__(self, connection: Connection) -> None:
        self._pipe = RecordPipe(connection, self._in_force)
        self._bases: list[WatchedBase] = []
        self._stored: queue.SimpleQueue[StoredGolden] = queue.SimpleQueue()
        self._unjudged: dict[str, deque[BaseRound]] = {}

    def run(self) -> Exit:
        """Why it ended; the other end was told. Raises PipeClosed."""
        settings: ModelSettings = self._pipe.receive()
        log_up(self._pipe)
        try:
            ended = self._run(settings)
        except ModuleNotFoundError as error:
            ended = Ended(Exit.PACKAGE_MISSING, str(error.name))
        except Refused as error:
            ended = Ended(Exit.REFUSED, str(error))
        except MemoryError as error:
            ended = Ended(Exit.NO_MEMORY, str(error) or "an allocation failed")
        except PipeClosed:
            raise
        except Exception as error:
            log.exception("model_process_failed")
            ended = Ended(Exit.FAILED, f"{type(error).__name__}: {error}")
        self._pipe.send(ended)
        return ended.exit

    def _run(self, settings: ModelSettings) -> Ended:
        self._bases = watched_bases(settings, self._fetch)  # imports the model libraries
        if settings.ceiling is not None and not memory_ceiling.may_use_gpu(settings.config.probes.device):
            memory_ceiling.limit_own_data(settings.ceiling)
        worker = Worker(self._bases, settings.schedule, Clock(), [self._send])
        if settings.owned is not None:
            worker.own(settings.owned)
        self._pipe.send(Started())
        worker.open()
        return self._serve(worker)

    def _serve(self, worker: Worker) -> Ended:
        while True:
            stop = self._read(worker) if self._pipe.waiting(LOOK_S) else None
            working = worker.working  # before the last look for results
            worker.deliver()
            if stop is not None:
                worker.close(stop.budget_s)
                worker.deliver()
                return Ended(Exit.STOPPED, "stopped")
            if not working:
                return Ended(Exit.DEVICE_LOST, worker.lost) if worker.lost else Ended(Exit.FAILED, "its thread ended")

    def _read(self, worker: Worker) -> Stop | None:
        record: Down = self._pipe.receive()
        match record:
            case Stop():
                return record
            case ToScore():
                worker.score(record.interactions)
            case StoredGolden():
                self._stored.put(record)
            case Owned():
                worker.own(record.bases)
            case Judged():
                for made in self._unjudged.get(record.base, ()):
                    if (made.number, made.at) == (record.number, record.at):
                        worker.submit(made)
            case _:
                worker.submit(record)
        return None

    def _send(self, result: Result) -> None:
        if isinstance(result, BaseRound):
            self._unjudged.setdefault(result.base, deque(maxlen=MOST_UNJUDGED)).append(result)
        self._pipe.send(result)

    def _fetch(self, adapter: str, pin: str) -> tuple[str, bytes] | None:
        """From the store, which the agent's process alone has open. On the worker's thread. Raises Retryable."""
        while not self._stored.empty():
            self._stored.get()  # came too late for an earlier question
        self._pipe.send(GoldenWanted(adapter, pin))
        try:
            stored = self._stored.get(timeout=FETCH_S)
        except queue.Empty:
            raise Retryable("clickhouse", f"no answer within {FETCH_S:.0f} s") from None
        if stored.why:
            raise Retryable("clickhouse", stored.why)
        return stored.row

    def _in_force(self) -> Iterator[Golden]:
        for base in self._bases:
            yield from (golden for golden in list(base.goldens.held.values()) if isinstance(golden, Golden))


def log_up(pipe: RecordPipe) -> None:
    """From now on the lines of this process are written by the other one, by its own rules."""

    def send(_: WrappedLogger, level: str, event: EventDict) -> EventDict:
        fields = {key: value if isinstance(value, int | float | str) else repr(value) for key, value in event.items()}
        pipe.send(Logged(level, str(fields.pop("event", "")), fields))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, send])
    logging.basicConfig(level=logging.WARNING, handlers=[_OfLibraries(pipe)], force=True)


class _OfLibraries(logging.Handler):
    def __init__(self, pipe: RecordPipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send(Logged(record.levelname.lower(), record.getMessage(), {"logger": record.name}))


def end_with_parent() -> None:
    """The kernel ends this process with the one that started it, and takes it first where memory runs out."""
    faulthandler.enable()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    memory_ceiling.go_first()


def main(descriptor: int) -> None:
    """Serve the other end of that pipe, and end."""
    end_with_parent()
    try:
        code = ModelChild(Connection(descriptor)).run()
    except PipeClosed:  # the agent has ended
        code = Exit.STOPPED
    # A pass that was abandoned runs C++ code on another thread: a normal exit would unwind it there and abort.
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
