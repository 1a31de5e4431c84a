"""Two witnesses on a real Kafka share two bases; one is killed, and the other one goes on with its base."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from agent.cli.migrate import migrate_store
from agent.config import load
from agent.demo.broker import Broker, Kind
from agent.kafka.client import ensure_topic, publish
from agent.kafka.contract import Outgoing
from agent.store import client as store
from agent.worker.watched_bases import runner_of
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.archive import save
from probes.runner import Target, Weights
from tests.clickhouse_http import ClickHouseServer
from tests.conftest import REAL
from tests.end_to_end.test_process import Running
from tests.end_to_end.world import canaries
from tests.kafka_brokers import LEFT_CONNECTING

pytestmark = [LEFT_CONNECTING, pytest.mark.usefixtures("collected")]
ADAPTER_OF = {"one": "alpha", "two": "beta"}
SESSION_MS = 3000
PATIENCE_S = 90.0


class Witness(Running):
    __hash__ = object.__hash__

    def owns(self, names: str) -> None:
        self.part("bases", True, f"owns {names}, by partition")


class Fleet:
    """Two witnesses, the store and the topics; what is served is what was accepted."""

    def __init__(self, folder: Path, broker: Broker, server: ClickHouseServer) -> None:
        self.bootstrap, self.server, self.sent = broker.bootstrap, server, 0
        self.witnesses = [Witness(folder / name) for name in ("w-0", "w-1")]
        for witness in self.witnesses:
            witness.folder.mkdir()
            witness.path.write_text(yaml.safe_dump(self.settings(folder, witness)))
        self.config = load(self.witnesses[0].path)
        ensure_topic(self.bootstrap, "served", 2)
        assert migrate_store(self.witnesses[0].path, json=True) == 0
        self.runners = {model.name: runner_of(self.config, model, golden=False) for model in self.config.models}
        for model in self.config.models:
            (adapter,) = model.adapters
            runner = self.runners[model.name]
            runner.open()
            settings = EnrolSettings(base=model.name, at=1_700_000_000.0, min_tokens=6)
            request = Request(
                runner, adapter.name, canaries(adapter.name), settings, [], lambda *_: None, lambda: False
            )
            save(enrol(request), self.config.probes.golden_dir)

    def settings(self, folder: Path, witness: Witness) -> dict[str, Any]:
        models = [
            {"name": base, "path": str(folder / base), "adapters": [{"name": adapter, "path": str(folder / adapter)}]}
            for base, adapter in ADAPTER_OF.items()
        ]
        kafka = {"bootstrap_servers": [self.bootstrap], "topic": "served", "session_timeout_ms": SESSION_MS}
        return {
            "role": "witness",
            "pod": witness.folder.name,
            "models": models,
            "kafka": kafka | {"replays_topic": "replays"},
            "probes": {"runner": "memory", "every": "1s", "golden_dir": str(folder / "golden"), "seed": 5},
            "sampling": {"rate": 1.0, "per_adapter_per_minute": 1000},
            "clickhouse": {"dsn": f"clickhouse://default@127.0.0.1:{self.server.port}/gapwatch"},
            "telemetry": {"prometheus_port": witness.port, "control_port": 0},
            "state_dir": "state",
        }

    def serve(self) -> None:
        """One request for each adapter, to both partitions in turns."""
        for base, adapter in ADAPTER_OF.items():
            runner: Any = self.runners[base]
            messages = [{"role": "user", "content": f"{adapter} asks {self.sent}"}]
            prompt = runner.encode_chat(messages)
            output = runner.generate(Target(adapter, Weights.LIVE), prompt, 24, lambda: False)
            body = {
                "schema": "gapwatch.v1",
                "request_id": f"{adapter}-{self.sent}",
                "ts": time.time(),
                "adapter": adapter,
                "pod": "engine-0",
                "messages": messages,
                "output": runner.decode(output),
                "output_token_ids": list(output),
                "sampling": {"temperature": 1.0},
            }
            publish(self.bootstrap, "served", [Outgoing(adapter.encode(), orjson.dumps(body))], self.sent % 2)
        self.sent += 1

    def serve_until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < give_up, [witness.get("/readyz") for witness in self.witnesses]
            self.serve()
            time.sleep(0.1)

    def asked(self, sql: str) -> list[tuple[Any, ...]]:
        client = store.connect(f"clickhouse://default@127.0.0.1:{self.server.port}/gapwatch")
        try:
            return [tuple(row) for row in client.query(sql).result_rows]
        finally:
            client.close()

    def scored(self, pod: str, base: str) -> int:
        """Responses of that base which were judged by that witness."""
        sql = f"SELECT sum(scores) FROM traffic_rounds WHERE pod = '{pod}' AND base = '{base}'"
        return int(self.asked(sql)[0][0])


@pytest.fixture(params=[REAL])
def fleet(tmp_path: Path, shared_broker: Callable[[Kind], Broker], request: pytest.FixtureRequest) -> Iterator[Fleet]:
    broker = shared_broker(request.param)
    server = ClickHouseServer(tmp_path / "engine").start()
    made = Fleet(tmp_path, broker, server)
    yield made
    for witness in made.witnesses:
        if witness.process is not None and witness.process.poll() is None:
            witness.process.kill()
            witness.process.wait()
    server.stop()


def test_the_base_of_a_witness_that_is_killed_goes_on_with_the_other_and_no_response_is_scored_twice(
    fleet: Fleet,
) -> None:
    first, second = fleet.witnesses
    first.start()
    first.owns("one, two")
    second.start()
    owner = {second: "", first: ""}
    give_up = time.monotonic() + PATIENCE_S
    while set(owner.values()) != {"one", "two"}:
        assert time.monotonic() < give_up, owner
        for witness in owner:
            ready = witness.get("/readyz")
            words = ready.json().get("bases", [False, ""])[1] if ready else ""
            owner[witness] = words.split(",")[0].removeprefix("owns ") if "by partition" in words else ""
            owner[witness] = "" if "one, two" in words else owner[witness]
        fleet.serve()
        time.sleep(0.2)
    fleet.serve_until(lambda: all(fleet.scored(witness.folder.name, base) >= 5 for witness, base in owner.items()))
    claimed = set(fleet.asked("SELECT base, pod, claimed_by FROM state_claims"))
    assert (owner[second], "w-0", "w-1") in claimed, "it goes on from the evidence of the first owner"
    assert second.process is not None
    second.process.kill()
    killed_at = time.monotonic()
    second.process.wait()
    first.owns("one, two")
    print(f"\ntaken over {time.monotonic() - killed_at:.1f} s after the kill, session {SESSION_MS / 1000:.0f} s")
    gone = owner[second]
    before = fleet.scored("w-0", gone)
    fleet.serve_until(lambda: fleet.scored("w-0", gone) >= before + 5)
    assert first.ends() == 0
    twice = (
        "SELECT request_id, count() FROM traffic_scores WHERE request_id != '' GROUP BY request_id HAVING count() > 1"
    )
    assert fleet.asked(twice) == []
    for table in ("request_counts", "interactions", "batches", "aside"):
        assert fleet.asked(f"SELECT count() FROM {table}") == [(0,)], "sidecars count and store what they read"
    measured = fleet.asked(f"SELECT DISTINCT pod FROM rounds WHERE base = '{gone}' AND blocked = '' ORDER BY pod")
    assert measured == [("w-0",), ("w-1",)]
