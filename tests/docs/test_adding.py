"""The worked examples of docs/adding-a-*.md, as they stand on the page: each passes the suite that every file of its
kind must pass, and all of them work in an assembled agent that knows of them by its configuration alone."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import yaml

import agent.sinks
import detectors.kinds
import probes.runners
from agent.app import App
from agent.assemble import assemble
from agent.config import Config, load
from agent.demo.broker import Broker, start_broker
from agent.health import Health
from agent.kafka.client import ensure_topic, publish
from agent.kafka.contract import Outgoing
from agent.records import Finding, TrafficBatch
from agent.sinks.memory import Sink as MemorySink
from agent.traffic import decoder, formats
from agent.worker.watched_bases import runner_of
from detectors.records import BaseRound, Verdict
from tests.agent.sinks import test_every_sink
from tests.agent.traffic.formats import records, test_every_format
from tests.detectors import test_every_detector
from tests.detectors.record_streams import stream_for
from tests.end_to_end.world import ADAPTERS, accept
from tests.probes import test_every_runner

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, ModuleType], ModuleType]]:
    """Puts the Python block of a page beside the files of a package, under the name that the page gives it."""
    imported: list[str] = []

    def add(page: str, package: ModuleType) -> ModuleType:
        folder = package.__name__.replace(".", "/")
        (name,) = re.findall(rf"`{folder}/(\w+)\.py`, whole", (DOCS / page).read_text())
        beside = tmp_path / package.__name__
        beside.mkdir()
        (beside / f"{name}.py").write_text(block(page, "python"))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(beside)])
        importlib.invalidate_caches()
        imported.append(f"{package.__name__}.{name}")
        return importlib.import_module(imported[-1])

    yield add
    for name in imported:
        del sys.modules[name]


def block(page: str, language: str) -> str:
    """The one fenced block of that language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return str(found)


def held_to(suite: ModuleType, given: Mapping[str, Any]) -> list[str]:
    """Run every test of the suite that asks for no more than is given; which ones ran."""
    ran = []
    for name, test in inspect.getmembers(suite, inspect.isfunction):
        wanted = inspect.signature(test).parameters
        if name.startswith("test_") and wanted and set(wanted) <= set(given):
            try:
                test(**{key: given[key] for key in wanted})
            except pytest.skip.Exception:
                continue
            ran.append(name)
    return ran


def test_the_detector_of_the_page(added: Callable[[str, ModuleType], ModuleType]) -> None:
    kind = added("adding-a-detector.md", detectors.kinds)
    stream = stream_for(kind.Detector, test_every_detector.config_of(kind))
    ran = held_to(test_every_detector, {"kind": kind, "stream": stream})
    assert {"test_notices_a_broken_adapter", "test_fair_bet"} <= set(ran)
    test_every_detector.test_restored_state_goes_on_as_if_never_stopped(kind, stream, 3)


def test_the_format_of_the_page(
    added: Callable[[str, ModuleType], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = added("adding-a-format.md", formats)
    (tmp_path / "plain_log.json").write_text(block("adding-a-format.md", "json"))
    monkeypatch.setattr(records, "EXAMPLES", tmp_path)
    monkeypatch.setitem(test_every_format.FILES, form.NAME, "plain_log")
    decoder.formats_by_name.cache_clear()
    try:
        ran = held_to(test_every_format, {"name": form.NAME})
    finally:
        decoder.formats_by_name.cache_clear()
    assert "test_no_reason_repeats_production_text" in ran
    assert len(ran) >= 6


def test_the_sink_of_the_page(added: Callable[[str, ModuleType], ModuleType], tmp_path: Path) -> None:
    module = added("adding-a-sink.md", agent.sinks)
    config = module.Config(path=tmp_path / "verdicts.jsonl")
    assert len(held_to(test_every_sink, {"module": module, "config": config, "tmp_path": tmp_path})) >= 3
    assert b'"status":"degraded","cause":"base_swapped_and_adapter_lost"' in config.path.read_bytes()


def test_the_runner_of_the_page(added: Callable[[str, ModuleType], ModuleType]) -> None:
    module = added("adding-a-runner.md", probes.runners)
    runner = module.Runner(module.Config("base-v1", {name: name for name in test_every_runner.ADAPTERS}))
    runner.open()
    prompt = runner.encode_chat(test_every_runner.MESSAGES)
    assert len(held_to(test_every_runner, {"runner": runner, "prompt": prompt})) >= 10
    assert runner.replays[None] > 0 < runner.replays["alpha"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with start_broker(tmp_path / "broker", kind="tansu") as running:
        yield running


def test_all_four_work_in_an_agent_that_knows_of_them_by_its_configuration_alone(
    added: Callable[[str, ModuleType], ModuleType], broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line of the product names them: a canary round by the runner, its evidence by the detector, records of the
    format counted and sampled, and all of it in the sinks."""
    added("adding-a-detector.md", detectors.kinds)
    added("adding-a-format.md", formats)
    added("adding-a-sink.md", agent.sinks)
    noted = added("adding-a-runner.md", probes.runners)
    # The models run in a process of their own, where the runner lies beside the others too.
    site = f"import probes.runners\nprobes.runners.__path__[:] = {probes.runners.__path__!r}\n"
    (tmp_path / "sitecustomize.py").write_text(site)
    monkeypatch.syspath_prepend(tmp_path)
    decoder.formats_by_name.cache_clear()
    ensure_topic(broker.bootstrap, "llm")
    config = load(configured(tmp_path, broker.bootstrap))
    record_goldens(config)
    publish(broker.bootstrap, "llm", [plain_log_record(number) for number in range(6)])
    try:
        findings, metrics = what_reaches_the_sinks(config)
    finally:
        decoder.formats_by_name.cache_clear()

    runner: Any = runner_of(config, config.models[0])
    assert isinstance(runner, noted.Runner) and runner.config.noise == 0.001
    (base_round,) = [finding for finding in findings if isinstance(finding, BaseRound)]
    assert [len(member.measurements) > 0 for member in base_round.members] == [True, True, True]

    verdicts = [finding for finding in findings if isinstance(finding, Verdict)]
    levels = {e.subject: e.log_e for v in verdicts for e in v.evidence if e.detector == "kl_ceiling"}
    assert levels.keys() == set(ADAPTERS) and all(np.isfinite(list(levels.values())))
    assert b'gapwatch_informing_evidence_nats{detector="kl_ceiling",stream="",subject="alpha"' in metrics

    batches = [finding for finding in findings if isinstance(finding, TrafficBatch)]
    assert sum(count.n for batch in batches for count in batch.counts if count.adapter == "alpha") == 6
    sampled = [interaction for batch in batches for interaction in batch.interactions]
    assert [interaction.output for interaction in sampled] == [f"answer {number}" for number in range(6)]

    lines = [orjson.loads(line) for line in (tmp_path / "verdicts.jsonl").read_bytes().splitlines()]
    assert {(line["pod"], line["subject"], line["status"]) for line in lines} >= {
        ("pod-7", name, "healthy") for name in ADAPTERS
    }


def configured(folder: Path, bootstrap: str) -> Path:
    """A configuration that switches the four on by their keys. Its paths seed the memory runner, so they are the same
    wherever the test runs; nothing has to exist there."""
    adapters = [{"name": name, "path": f"/models/{name}"} for name in ADAPTERS]
    settings = {
        "models": [{"name": "tiny", "path": "/models/base", "adapters": adapters}],
        "detectors": {"kl_ceiling": {"ceiling": 0.2}},
        "sinks": {"verdict_log": {"path": "verdicts.jsonl"}},
        "probes": {
            "runner": "noted",
            "runner_settings": {"noise": 0.001},
            "golden_dir": "golden",
            "every": "1h",
            "seed": 5,
        },
        "kafka": {
            "bootstrap_servers": bootstrap,
            "topic": "llm",
            "format": "plain_log",
            "auto_offset_reset": "earliest",
            "session_timeout_ms": 3000,  # the small broker takes half of this to let a member in
        },
        "sampling": {"rate": 1.0},
        "scoring": {"enabled": False},
        "clickhouse": {"dsn": f"chdb://{folder / 'store'}"},
        "telemetry": {"prometheus_port": 0, "control_port": 0},
        "pod": "pod-7",
        "state_dir": "state",
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


def record_goldens(config: Config) -> None:
    """As ``gapwatch enrol`` would, by the runner that the configuration names."""
    for name in ADAPTERS:
        accept(config.probes.golden_dir, name, runner_of(config, config.models[0], golden=False))


def plain_log_record(number: int) -> Outgoing:
    body = orjson.loads(block("adding-a-format.md", "json"))["value"]
    body |= {"id": f"req-{number}", "model": "alpha", "answer": f"answer {number}"}
    return Outgoing(b"alpha", orjson.dumps(body))


def what_reaches_the_sinks(config: Config) -> tuple[list[Finding], bytes]:
    """Run the loop of an assembled agent until a round and all six records went through it: findings, metrics page."""
    memory = MemorySink()
    parts = assemble(config, extra_sinks=(memory,))
    app, deadline = App(parts), time.monotonic() + 60.0

    def complete() -> bool:
        return bool(memory.verdicts) and sum(len(batch.interactions) for batch in memory.of(TrafficBatch)) == 6

    with ExitStack() as opened:
        health = Health(parts.routes, parts.clock, 0, 0)
        health.open()
        opened.callback(health.close)
        app.open(opened)
        while not complete():
            assert time.monotonic() < deadline, memory.status
            app.step()
            time.sleep(0.01)
        metrics = httpx.get(f"http://127.0.0.1:{health.public_port}/metrics").content
    return list(memory.findings), metrics
