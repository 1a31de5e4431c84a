"""Several agents that watch the same adapters: how many incidents one fault opens, and who closes them afterwards.

Each agent is a process of its own over the in-memory runner, whose fault is in the configuration; PagerDuty is the
demo's receiver, the store one server for all. Two releases on one topic are two agents of two consumer groups.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import orjson

from agent.demo.broker import start_broker
from agent.demo.receiver import Receiver
from agent.kafka.client import ensure_topic, publish
from agent.kafka.contract import Outgoing
from benchmarks.figures import Figure, console, exactly
from benchmarks.process.agents import Agent, agent, store_server, wait_for
from probes.runners.memory import Config, Runner
from tests.end_to_end.world import ADAPTERS, accept

BASE = "tiny"
SIZES = (1, 3, 20)
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
# In the store the last findings of a fleet take a moment; none of them is waited for by name.
SETTLE_S = 8.0
HEALTHY, DEGRADED, UNMONITORABLE = 0.0, 2.0, 3.0
RECORDS = 100


def measure(quick: bool) -> list[Figure]:
    """Pages for each size of the fleet, a blind agent beside a page, and two releases on one topic."""
    figures: list[Figure] = []
    for size in SIZES[:2] if quick else SIZES:
        console.print(f"{size} agents ...")
        figures += _one_fault(size)
        console.print(", ".join(f"{figure.name}: {figure.value:g}" for figure in figures[-3:]))
    return [*figures, *_blind_beside_a_page(), *_two_releases()]


def _one_fault(size: int) -> list[Figure]:
    """An adapter that no agent finds applied; then the mended release, in pods that know nothing of it."""
    with _world() as world, Receiver() as receiver:
        settings = world | _alerts(world, receiver, size)
        with _fleet(size, settings, {"alpha": "not_applied"}) as agents:
            _wait_for_status(agents, "alpha", DEGRADED)
            time.sleep(SETTLE_S)
            opened = len(receiver.incidents)
        with _fleet(size, settings, {}) as agents:
            _wait_for_status(agents, "alpha", HEALTHY)
            time.sleep(3 * SETTLE_S)
            left = len(receiver.open_incidents)
        with _fleet(size, settings, {"": "base_swapped:0.3"}) as agents:
            _wait_for_status(agents, "alpha", None)
            time.sleep(SETTLE_S)
            changes = len(receiver.changes)
    of = f"{size} agents" if size > 1 else "1 agent"
    return [
        exactly(f"{of}: incidents opened by one fault", opened, "incidents", 1),
        exactly(f"{of}: incidents still open after a rollout that mends it", left, "incidents", 0),
        exactly(f"{of}: change events of one changed base", changes, "events", 1),
    ]


def _blind_beside_a_page() -> list[Figure]:
    """One agent cannot read its files, the other finds the adapter not applied: the team has to learn of both."""
    with _world() as world, Receiver() as receiver:
        settings = world | _alerts(world, receiver, 2)
        with _fleet(1, settings, {"alpha": "unreadable"}, "blind") as blind:
            _wait_for_status(blind, "alpha", UNMONITORABLE)
            wait_for(lambda: receiver.incidents, "an incident of the blind agent")
            with _fleet(1, settings, {"alpha": "not_applied"}, "watching") as watching:
                _wait_for_status(watching, "alpha", DEGRADED)
                time.sleep(SETTLE_S)
                severities = {i.events[-1].get("payload", {}).get("severity") for i in receiver.open_incidents}
                opened = len({i.dedup_key for i in receiver.open_incidents})
    paged = float(bool(severities & {"critical", "error"}))
    name = "a blind agent beside a degraded adapter"
    return [
        exactly(f"{name}: incidents", opened, "incidents", 2),
        exactly(f"{name}: a critical or error one among them", paged, "", 1),
    ]


def _two_releases() -> list[Figure]:
    """Two Deployments with different adapters read one topic, each as a consumer group; both write to one store."""
    with tempfile.TemporaryDirectory() as folder, store_server(Path(folder) / "store") as dsn:
        with start_broker(Path(folder) / "broker", kind="tansu") as broker, ExitStack() as opened:
            ensure_topic(broker.bootstrap, "t", 1)
            publish(broker.bootstrap, "t", [_record(i, name) for i in range(RECORDS) for name in ("first", "second")])
            for name in ("first", "second"):
                model = {"name": "m", "path": "./b", "replay": False, "adapters": [{"name": name, "path": "./a"}]}
                kafka: dict[str, Any] = {"bootstrap_servers": [broker.bootstrap], "topic": "t", "group_id": name}
                kafka |= {"auto_offset_reset": "earliest", "session_timeout_ms": 3000}
                settings = {"models": [model], "kafka": kafka, "clickhouse": {"dsn": dsn}, "pod": name}
                running = opened.enter_context(agent(Path(folder) / name, settings))
                with suppress(TimeoutError):  # what was not read by then is not counted, which the figure shows
                    wait_for(partial(_has_read, running), f"the records of {name}")
                time.sleep(SETTLE_S)
            counted = {name: _counted(dsn, name) for name in ("first", "second")}
    return [
        exactly(f"two releases on one topic: records of the {name} that are counted", n, f"of {RECORDS}", RECORDS)
        for name, n in counted.items()
    ]


def _has_read(running: Agent) -> bool:
    """Everything that was published is read: its own records and the other release's."""
    page = running.get("/metrics")
    lines = re.findall(r'^gapwatch_records_total\{.*kind="read".*\} (\S+)$', page, re.M)
    return sum(map(float, lines)) >= 2 * RECORDS


def _counted(dsn: str, adapter: str) -> int:
    server, _, database = dsn.removeprefix("clickhouse://default@").partition("/")
    query = f"SELECT sum(n) FROM {database}.request_counts FINAL WHERE adapter = '{adapter}' FORMAT TSV"
    return int(httpx.post(f"http://{server}/", content=query, timeout=30).text.strip() or 0)


def _record(number: int, adapter: str) -> Outgoing:
    body = {
        "schema": "gapwatch.v1",
        "request_id": f"{adapter}-{number}",
        "ts": time.time(),
        "adapter": adapter,
        "base": "m",
        "pod": "engine-0",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "output": f"answer {number}",
        "finish_reason": "stop",
    }
    return Outgoing(adapter.encode(), orjson.dumps(body))


@contextmanager
def _world() -> Iterator[dict[str, Any]]:
    """Golden records of three adapters of the in-memory runner, and one store; the settings that name them."""
    with tempfile.TemporaryDirectory() as place, store_server(Path(place) / "store") as dsn:
        folder = Path(place)
        # The runner takes the paths of the configuration as seeds of its language.
        runner = Runner(Config(base=str(folder / BASE), adapters={name: str(folder / name) for name in ADAPTERS}))
        for name in ADAPTERS:
            accept(folder / "golden", name, runner)
        (folder / "key").write_text(ROUTING_KEY)
        (folder / "canaries.jsonl").write_text('{"messages": [{"role": "user", "content": "as enrolled"}]}\n')
        yield {"folder": folder, "clickhouse": {"dsn": dsn}}


def _alerts(world: dict[str, Any], receiver: Receiver, size: int) -> dict[str, Any]:
    pagerduty = {"routing_key_file": str(world["folder"] / "key"), "url": receiver.url}
    return {"alerts": {"sidecars": size, "pagerduty": pagerduty}}


@contextmanager
def _fleet(size: int, settings: dict[str, Any], faults: dict[str, str], name: str = "pod") -> Iterator[list[Agent]]:
    """Agents of the same configuration with state of their own, as the pods of one Deployment."""
    shared = dict(settings)
    folder: Path = shared.pop("folder")
    canaries = str(folder / "canaries.jsonl")
    adapters = [{"name": each, "path": str(folder / each), "canaries": canaries} for each in ADAPTERS]
    shared["models"] = [{"name": BASE, "path": str(folder / BASE), "adapters": adapters}]
    shared["kafka"] = None
    shared["probes"] = {
        "runner": "memory",
        "runner_settings": {"faults": faults},
        "every": "5s",
        "golden_dir": str(folder / "golden"),
        "cache_dir": str(folder / "cache"),
    }
    with tempfile.TemporaryDirectory(dir=folder) as place, ExitStack() as opened:
        yield [
            opened.enter_context(agent(Path(place) / f"{name}-{i}", shared | {"pod": f"{name}-{i}"}))
            for i in range(size)
        ]


def _wait_for_status(agents: list[Agent], subject: str, wanted: float | None) -> None:
    """Until each agent says so of the subject; None for any status."""

    def says(running: Agent) -> bool:
        status = running.metric(rf'gapwatch_status\{{subject="{subject}"')
        return status is not None and wanted in (None, status)

    for running in agents:
        try:
            wait_for(partial(says, running), f"status {wanted} of {subject} in {running.folder.name}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {(running.folder / 'agent.log').read_text()[-500:]}") from None
