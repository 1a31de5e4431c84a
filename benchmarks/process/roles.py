"""What each role holds of memory once it has judged and nothing more happens.

Each is a process of its own with its model process, over a broker and a store that answer. A sidecar asks an engine of
the toy language for three adapters; witness and ``all`` replay what deploy/gapwatch.yaml names, on the CPU:
SmolLM2-135M with one adapter.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.demo.broker import start_broker
from agent.demo.stage import ADAPTERS as HELPDESK_ADAPTERS
from agent.demo.stage import BASE, HELPDESK, Stage, cache_dir, set_up
from agent.kafka.client import ensure_topic
from benchmarks.figures import Figure, at_most, console, context, exactly
from benchmarks.process.agents import agent, store_server, wait_for
from tests.end_to_end.world import ADAPTERS, enrolled
from tests.serving_engines.shim import serving
from tests.serving_engines.toy_engine import ToyEngine

# A first round of the real base takes half a minute on two cores that are free.
PATIENCE_S = 480.0
SETTLE_S = 20.0
JUDGED = re.compile(r"^gapwatch_rounds_total\{.*\} [1-9]", re.M)
READING = re.compile(r'^gapwatch_part_ok\{.*part="kafka".*\} 1', re.M)
TRAFFIC, REPLAYS = "llm.interactions", "gapwatch.replays"
# Three quarters of the limit in deploy/kubernetes/sidecar.yaml; and the target of the agent without models.
SIDECAR_MB, APART_MB = 400, 250


@dataclass(frozen=True, slots=True)
class Idle:
    """memory_mb: resident, of the agent and its model process; libraries: files of torch that they have mapped"""

    memory_mb: float
    libraries: int


def measure_light(quick: bool) -> list[Figure]:  # noqa: ARG001 - it is as short as it can be
    """The roles that load no model."""
    toy = ToyEngine(adapters={name: f"{name}-v1" for name in ADAPTERS})
    with _world() as (folder, common), serving(toy) as engine:
        enrolled(folder / "golden")
        settings = common | _served(engine.url, folder / "golden")
        sidecar = _idle(folder, {"role": "sidecar", **settings}, JUDGED)
        apart = _idle(folder, {"role": "apart", **settings}, READING)
    return [
        at_most("idle memory, role sidecar", sidecar.memory_mb, "MB", SIDECAR_MB),
        at_most("idle memory, role apart", apart.memory_mb, "MB", APART_MB),
        exactly("model libraries in these two", sidecar.libraries + apart.libraries, "files", 0),
    ]


def measure_with_models(quick: bool) -> list[Figure]:  # noqa: ARG001 - it is as short as it can be
    """The roles that replay from files."""
    with _world() as (folder, common):
        settings = common | _from_files(set_up(folder / "stage"))
        idle = {role: _idle(folder, {"role": role, **settings}, JUDGED) for role in ("witness", "all")}
    return [
        context(f"idle memory, role {role}, a base of 135 M parameters", of_role.memory_mb, "MB")
        for role, of_role in idle.items()
    ]


@contextmanager
def _world() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and settings with the addresses of a broker and a store that answer."""
    with tempfile.TemporaryDirectory() as place, store_server(Path(place) / "store") as dsn:
        with start_broker(Path(place) / "broker") as broker:
            ensure_topic(broker.bootstrap, TRAFFIC, 2)
            ensure_topic(broker.bootstrap, REPLAYS, 1)
            kafka = {"bootstrap_servers": [broker.bootstrap], "topic": TRAFFIC, "replays_topic": REPLAYS}
            yield Path(place), {"kafka": kafka, "clickhouse": {"dsn": dsn}}


def _served(url: str, goldens: Path) -> dict[str, Any]:
    adapters = [{"name": name} for name in ADAPTERS]
    served = {"url": url, "base": ToyEngine().base}
    return {
        "models": [{"name": "tiny", "served": served, "adapters": adapters}],
        "probes": {"golden_dir": str(goldens)},
    }


def _from_files(stage: Stage) -> dict[str, Any]:
    adapter = {"name": HELPDESK_ADAPTERS[0], "path": str(HELPDESK / "adapters" / HELPDESK_ADAPTERS[0])}
    model = {"name": BASE, "path": str(stage.base), "golden_path": str(stage.golden), "adapters": [adapter]}
    probes = {"golden_dir": str(stage.folder / "golden"), "cache_dir": str(cache_dir()), "device": "cpu"}
    return {"models": [model], "probes": probes}


def _idle(folder: Path, settings: dict[str, Any], ready: re.Pattern[str]) -> Idle:
    """What one holds SETTLE_S after its metrics said that it is at work."""
    role = settings["role"]
    with agent(folder / role, settings | {"pod": role}) as running:
        wait_for(lambda: ready.search(running.get("/metrics")), f"an agent at work, role {role}", PATIENCE_S)
        time.sleep(SETTLE_S)
        maps = [region.path for process in running.processes for region in process.memory_maps()]
        idle = Idle(running.memory_mb(), sum("torch" in Path(path).name for path in maps))
    console.print(f"{role}: {idle.memory_mb:.0f} MB")
    return idle
