"""Is anything lost or doubled when an agent without models is killed with -9 at random times, again and again?

`python -m benchmarks.process.killed CONFIG DSN KILLS SEED` lives one life after another: each is ``gapwatch run`` of
this configuration in a process of its own, killed at a random moment: one in four in its start, the others at work, up
to some seconds after the store has the first row of that life. They are forked from one that has imported everything,
or most of the time would go to importing. Meanwhile numbered requests are published; a test server with an engine of
its own takes the rows, and is never killed. The last life lasts until all is stored.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import orjson
import yaml

from agent.cli.run import run_agent
from agent.demo.broker import Broker, free_port, start_broker
from agent.kafka.client import Publisher, ensure_topic, publisher
from agent.kafka.contract import Outgoing
from agent.store import client as store
from benchmarks.figures import Figure, at_least, context, exactly
from benchmarks.process.agents import ROOT, store_server, wait_for, without_models

# So many worlds of so many kills each.
PIECES, KILLS, QUICK_KILLS = 5, 40, 5
# Of a life that is killed in its start, from the fork; of one that is killed at work, from its first stored row.
LONGEST_START_S, LONGEST_WORK_S = 2.0, 2.0
STARTS = 0.25
# For all to be stored in the end; for the first row of a life.
PATIENCE_S, FIRST_ROW_S = 300.0, 60.0
RATE = 200
TOPIC, ADAPTER, PARTITIONS = "requests", "a", 4
# Of each table what it says of how many requests: the counts, the roll-up of them by hours, the samples.
_STORED = {
    "counts": "SELECT sum(n) FROM request_counts FINAL",
    "counts by hours": "SELECT sum(arraySum(mapValues(by_minute))) FROM requests_hourly",
    "samples": "SELECT count() FROM interactions FINAL",
}


class Lives(NamedTuple):
    """What came of all kills. published: requests; stored: as each table has them; working: killed lives with a row"""

    kills: int
    published: int
    stored: dict[str, int]
    working: int


def measure(quick: bool) -> list[Figure]:
    return figures_of([piece(QUICK_KILLS, 0)] if quick else [piece(KILLS, seed) for seed in range(PIECES)])


def figures_of(pieces: list[Lives]) -> list[Figure]:
    stored = {name: sum(each.stored[name] for each in pieces) for name in _STORED}
    kills, published = sum(each.kills for each in pieces), sum(each.published for each in pieces)
    lives = Lives(kills, published, stored, sum(each.working for each in pieces))
    what = f"killed with -9 {lives.kills} times"
    figures = [at_least(f"{what}: requests published meanwhile", lives.published, "requests", 1)]
    for name, n in lives.stored.items():
        figures += [
            exactly(f"{what}: {name} lost", max(0, lives.published - n), "requests", 0),
            exactly(f"{what}: {name} doubled", max(0, n - lives.published), "requests", 0),
        ]
    return [*figures, context(f"{what}: lives that stored something before", lives.working, "lives")]


def piece(kills: int, seed: int) -> Lives:
    with tempfile.TemporaryDirectory() as at, ExitStack() as opened:
        folder = Path(at)
        (folder / "broker").mkdir()
        broker = opened.enter_context(start_broker(folder / "broker", kind="tansu"))
        ensure_topic(broker.bootstrap, TOPIC, partitions=PARTITIONS)
        dsn = opened.enter_context(store_server(folder / "store"))
        config = _configuration(folder, broker, dsn)
        requests = opened.enter_context(Requests(opened.enter_context(publisher(broker.bootstrap, TOPIC))))
        command = [sys.executable, "-m", "benchmarks.process.killed", str(config), dsn, str(kills), str(seed)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"))
        requests.stop()
        last = opened.enter_context(_Running(config))
        client = store.connect(dsn)
        with suppress(TimeoutError):  # what is missing then is lost
            wait_for(lambda: _count(client, _STORED["counts"]) >= requests.n, "all requests in the store", PATIENCE_S)
        time.sleep(5.0)  # what would be doubled is stored by then, too
        stored = {name: _count(client, sql) for name, sql in _STORED.items()}
        last.end()
        working = "SELECT uniqExact(started_at) FROM heartbeats"
        return Lives(kills, requests.n, stored, _count(client, working) - 1)


def _configuration(folder: Path, broker: Broker, dsn: str) -> Path:
    settings = without_models() | {
        "role": "apart",
        "pod": "agent-0",
        "kafka": {
            "bootstrap_servers": [broker.bootstrap],
            "topic": TOPIC,
            "group_id": "gapwatch",
            "auto_offset_reset": "earliest",
        },
        "sampling": {"rate": 1.0, "per_adapter_per_minute": 10**6},
        "clickhouse": {"dsn": dsn},
        "telemetry": {"prometheus_port": free_port(), "control_port": free_port()},
        "state_dir": str(folder / "state"),
    }
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def _count(client: store.Client, sql: str) -> int:
    try:
        return int(client.query(sql).result_rows[0][0])
    except Exception as error:  # the driver's errors share no root; no table yet
        if store.error_code(error) in (store.UNKNOWN_TABLE, 81):
            return 0
        raise


class Requests:
    """Published until stopped, so many a second. n: how many the broker has acknowledged"""

    def __init__(self, out: Publisher) -> None:
        self._out, self._stopping, self.n = out, threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Requests:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        sent = 0
        while not self._stopping.wait(0.1):
            numbers = range(sent, sent + RATE // 10)
            sent = numbers.stop
            self.n += sum(self._out.send(_request(number) for number in numbers))


def _request(number: int) -> Outgoing:
    body = {"schema": "gapwatch.v1", "request_id": str(number), "ts": time.time(), "adapter": ADAPTER}
    return Outgoing(None, orjson.dumps(body | {"prompt": "p" * 100, "output": "o" * 100}))


class _Running:
    """One life from now until it is ended, in a process that this one forks or starts."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "agent", "run", "--config", str(config)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> _Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)


def _one_life_after_another(config: Path, dsn: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        begun = time.time()
        child = os.fork()
        if not child:
            run_agent(config, None, threading.Event())
            os._exit(0)
        if chance.random() < STARTS:
            time.sleep(chance.uniform(0.0, LONGEST_START_S))
        else:
            _await_first_row(dsn, begun)
            time.sleep(chance.uniform(0.0, LONGEST_WORK_S))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _await_first_row(dsn: str, begun: float) -> None:
    """Of the life that began after that time: its heartbeat is among the first that it stores."""
    sql = f"SELECT count() FROM heartbeats WHERE started_at >= toDateTime64({begun:.3f}, 3)"
    with suppress(TimeoutError):  # it is then killed in its start, and counted as that
        wait_for(lambda: _rows(dsn, sql) > 0, "the first row of a life", FIRST_ROW_S)


def _rows(dsn: str, sql: str) -> int:
    """0 too while there is no database yet."""
    try:
        client = store.connect(dsn)
    except Exception:  # the driver's errors share no root
        return 0
    try:
        return _count(client, sql)
    finally:
        client.close()


if __name__ == "__main__":
    import agent.app
    import agent.assemble
    import agent.sinks.clickhouse  # noqa: F401 - imported once, for all lives

    _one_life_after_another(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
