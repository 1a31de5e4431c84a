"""Helpdesk traffic for the demo: recorded requests, published as a serving engine's exporter would."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from agent.clock import Clock
from agent.kafka.contract import Outgoing

PAUSE_S = 0.05
POD = "engine-0"
Publish = Callable[[list[Outgoing]], object]


class DemoTraffic:
    """Publishes about twenty records a second until closed.

    served_by_base: publish the answers recorded from the base alone, as after the engine has lost its adapters
    """

    def __init__(self, folder: Path, base: str, publish: Publish) -> None:
        self._rows = {
            path.stem: [orjson.loads(line) for line in path.read_bytes().splitlines()]
            for path in folder.glob("*.jsonl")
        }
        self._base, self._publish, self._clock = base, publish, Clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flow, name="traffic", daemon=True)
        self.served_by_base = False

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5.0)

    def records(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of one request after another, without end: the adapters in turn."""
        turns = [zip(itertools.repeat(name), itertools.cycle(rows)) for name, rows in sorted(self._rows.items())]
        for several in zip(*turns, strict=False):
            for adapter, row in several:
                yield adapter.encode(), orjson.dumps(self._record(adapter, row))

    def _flow(self) -> None:
        for key, value in self.records():
            if self._stop.wait(PAUSE_S):
                return
            self._publish([Outgoing(key, value, {"pod": POD.encode()})])

    def _record(self, adapter: str, row: Mapping[str, Any]) -> dict[str, Any]:
        answer = "output_base" if self.served_by_base else "output"
        return {
            "schema": "gapwatch.v1",
            "request_id": uuid.uuid4().hex,
            "ts": self._clock.now(),
            "adapter": adapter,
            "base": self._base,
            "pod": POD,
            "messages": row["messages"],
            "output": row[answer],
            "usage": {"prompt_tokens": row["tokens"]["prompt"], "completion_tokens": row["tokens"][answer]},
            "sampling": {"temperature": 0.0},
        }
