"""How soon is reading resumed after a broker killed with -9 is back, and is any acknowledged record lost?

`KAFKA_HOME=DIR python -m benchmarks.process.kafka_return --json FILE [--quick]`. One real Apache Kafka on the loopback,
one thread that publishes numbered records and notes which were acknowledged, and the traffic feed as the agent runs it,
committing after each poll. The broker is killed under that load, stays down long enough for every client to reach long
back-off intervals, and is restarted. ``resumed_s`` runs from its first answer to the first record read; it includes the
publisher's own reconnection where everything older was read already.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import orjson

from agent.demo.broker import Broker, start_broker
from agent.kafka.client import Config, Publisher, ensure_topic, publisher
from agent.kafka.consumer import Consumer
from agent.kafka.contract import Outgoing
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler

TOPIC, ADAPTER = "return", "helper"
LOAD_S, AWAY_S, DRAIN_S = 2.0, 6.0, 20.0
CHUNK = 200
TARGETS = {"resumed_s": 5.0, "lost": 0.0}


class Load:
    """Publishes until stopped, on a thread of its own. acknowledged: ids that the broker confirmed."""

    def __init__(self, out: Publisher) -> None:
        self._out = out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.acknowledged: set[str] = set()
        self.sent = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            names = [str(number) for number in range(self.sent, self.sent + CHUNK)]
            self.sent += CHUNK
            answers = self._out.send(_record(name) for name in names)
            self.acknowledged.update(name for name, ok in zip(names, answers, strict=True) if ok)


class Reader:
    """The traffic feed with a store that accepts everything at once. read: how often each id was read."""

    def __init__(self, bootstrap: str) -> None:
        config = Config(bootstrap_servers=(bootstrap,), topic=TOPIC, auto_offset_reset="earliest")
        sampling = SamplingConfig(rate=1.0, per_adapter_per_minute=10**9)
        self.consumer = Consumer(config)
        self.feed = TrafficFeed(self.consumer, TrafficSampler(sampling, (ADAPTER,)), dict)
        self.read: Counter[str] = Counter()

    def __enter__(self) -> Reader:
        self.feed.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.feed.close()

    def turn(self) -> bool:
        """One poll and commit; True when there were records."""
        batches = self.feed.poll(time.time())
        for batch in batches:
            self.read.update(interaction.request_id for interaction in batch.interactions)
        self.feed.commit()
        return bool(batches)

    def turn_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn()


def measure(kafka_home: Path, kills: int = 2) -> dict[str, float]:
    """resumed_s: the slowest recovery, seconds; lost: acknowledged and never read; and the counts behind them.

    kafka_home: an Apache Kafka distribution. Takes 10 s and about 15 s for each kill.
    """
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        broker = opened.enter_context(start_broker(Path(folder), kind="apache", home=kafka_home))
        ensure_topic(broker.bootstrap, TOPIC, partitions=4)
        load = opened.enter_context(Load(opened.enter_context(publisher(broker.bootstrap, TOPIC))))
        reader = opened.enter_context(Reader(broker.bootstrap))
        returns = [_kill_once(broker, reader) for _ in range(kills)]
        reader.turn_for(LOAD_S)
        load.stop()
        _drain(reader, load.acknowledged)
        return _summary(returns, load, reader)


def _kill_once(broker: Broker, reader: Reader) -> float:
    reader.turn_for(LOAD_S)
    broker.kill_minus_9()
    reader.turn_for(AWAY_S)
    restart = threading.Thread(target=broker.restart)
    restart.start()
    while restart.is_alive():  # the agent goes on polling while the broker starts
        reader.turn()
    came_back = time.monotonic()
    while not reader.turn() and time.monotonic() < came_back + 60:
        pass
    return time.monotonic() - came_back


def _drain(reader: Reader, wanted: set[str]) -> None:
    give_up = time.monotonic() + DRAIN_S
    while wanted - reader.read.keys() and time.monotonic() < give_up:
        reader.turn()


def _summary(returns: list[float], load: Load, reader: Reader) -> dict[str, float]:
    return {
        "resumed_s": max(returns),
        "lost": float(len(load.acknowledged - reader.read.keys())),
        "acknowledged": float(len(load.acknowledged)),
        "read": float(len(reader.read)),
        "read_again": float(sum(reader.read.values()) - len(reader.read)),
        "rebuilds": float(reader.consumer.rebuilds),
        "kills": float(len(returns)),
    }


def _record(name: str) -> Outgoing:
    body = {"schema": "gapwatch.v1", "request_id": name, "ts": time.time(), "adapter": ADAPTER, "prompt": "p" * 400}
    return Outgoing(None, orjson.dumps(body | {"output": "o" * 200}))


def _figures(measured: dict[str, float]) -> list[dict[str, object]]:
    def figure(name: str, value: float) -> dict[str, object]:
        target = TARGETS.get(name)
        met = None if target is None else value <= target
        return {"name": name, "value": value, "unit": "s" if name.endswith("_s") else "", "target": target, "met": met}

    return [figure(name, value) for name, value in measured.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="one kill in place of four")
    given = parser.parse_args()
    home = os.environ.get("KAFKA_HOME", "")
    if not home:
        print("kafka_return needs KAFKA_HOME, a folder with the libs/ of an Apache Kafka distribution", file=sys.stderr)
        return 64
    figures = _figures(measure(Path(home), kills=1 if given.quick else 4))
    for figure in figures:
        verdict = {None: "", True: "met", False: "MISSED"}[figure["met"]]  # type: ignore[index]
        print(f"{figure['name']:14} {figure['value']:>12.3f} {figure['unit']:2} {verdict}")
    machine = {"cpu": platform.processor(), "cores": os.cpu_count(), "gpu": None, "python": platform.python_version()}
    if given.json:
        given.json.write_text(json.dumps({"figures": figures, "machine": machine | {"torch": None}, "seed": None}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
