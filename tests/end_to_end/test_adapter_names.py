"""An adapter with every sign in its name that engines allow, from enrolment to the page, the store and the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE
from agent.alerting.judge import Judge
from agent.alerting.policy import Policy
from agent.assemble import monitor_of
from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.config import Config, load
from agent.demo.receiver import violations
from agent.records import Finding, Notice, NoticeKind
from agent.sinks import clickhouse, pagerduty, prometheus
from agent.store import client as store
from agent.surroundings import Surroundings
from agent.telemetry import Telemetry
from agent.worker.watched_bases import goldens_of, runner_of
from detectors.diagnosis.name_encoding import mixture
from detectors.records import FaultKind
from probes.canaries.round import Scheduled, replay_base_round
from probes.causes.fault_signatures import signature_of, why_no_copies
from probes.golden.record import Golden
from probes.runner import Breakable
from tests.clickhouse_http import ClickHouseServer
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

NAME, NEIGHBOUR = "org/a+b@v2#1:x", "org/a+b"
KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Both enrolled on a tiny base."""
    folder = tmp_path_factory.mktemp("names")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    for seed, place in enumerate(("a", "b"), start=1):
        tiny_adapter(folder / place, base, seed=seed)
    asked = [f"q {i} {i * 37 % 101} item" for i in range(260)]
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(asked)]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapters = [{"name": n, "path": p, "canaries": "canaries.jsonl"} for n, p in ((NAME, "a"), (NEIGHBOUR, "b"))]
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": adapters}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1, "seed": 5},
        "state_dir": "state",
        "cluster": "a/b",
    }
    path = folder / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    for name in (NAME, NEIGHBOUR):
        assert enrol_adapter(path, name, EnrolOptions(), json=True) == 0
    return load(path)


@pytest.fixture(scope="module")
def told(config: Config) -> list[Finding]:
    """What the agent tells once the adapter's B is zero: by a second process as well, after the first has told."""
    (model,) = config.models
    folder = model.adapters[0].path
    assert folder is not None
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: t * 0 if "lora_B" in name else t for name, t in tensors.items()}, file)
    runner = runner_of(config, model)
    runner.open()
    findings: list[Finding] = []
    for number in range(6):
        now = 1_764_000_000.0 + 60 * number
        scheduled = Scheduled(model.name, number, now, 512, seed=5)
        made = replay_base_round(runner, goldens_of(config, model), scheduled, lambda: False)
        assert made is not None
        judge = Judge(monitor_of(config), config.cluster, StateFile(config.state_dir), lambda _: ALONE)
        findings += judge(made, now)
        judge.save()
    runner.close()
    return findings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    running = ClickHouseServer(tmp_path_factory.mktemp("engine")).start()
    yield running
    running.stop()


def test_its_record_is_found_and_its_neighbour_is_a_neighbour(config: Config) -> None:
    held = goldens_of(config, config.models[0])[NAME]
    assert isinstance(held, Golden) and held.adapter == NAME
    assert set(held.canaries[0].reference.others) == {NEIGHBOUR}


def test_its_neighbour_is_replayed_on_top_of_it_by_its_name(config: Config) -> None:
    runner = runner_of(config, config.models[0])
    runner.open()
    held = goldens_of(config, config.models[0])[NAME]
    assert isinstance(held, Golden) and isinstance(runner, Breakable) and why_no_copies(runner, held) == ""
    for part in ("", "*0.5"):
        assert isinstance(signature_of(runner, held, mixture(FaultKind.STACKED, NEIGHBOUR, part), lambda: False), list)
    runner.close()


def test_it_pages_once_under_its_own_key_within_pagerdutys_rules(config: Config, told: list[Finding]) -> None:
    (notice,) = [one for one in told if isinstance(one, Notice)]
    assert notice.kind is NoticeKind.TRIGGER
    assert notice.dedup_key == f"gapwatch/a/b/adapter/{NAME}"
    assert notice.details["query since"] == f"gapwatch query since -p 'subject={NAME}'"
    settings = pagerduty.Config(routing_key_file=config.state_dir / "key")
    path, body = pagerduty.to_event(notice, settings, "pod-0", Policy().of_notice(notice))
    assert violations(path, json.dumps({"routing_key": KEY, **body}).encode()) == []
    assert body["payload"]["component"] == NAME


def test_it_is_asked_for_in_the_store_by_its_name(
    told: list[Finding], server: ClickHouseServer, tmp_path: Path
) -> None:
    dsn = f"clickhouse://127.0.0.1:{server.port}/names"
    sink = clickhouse.Sink(clickhouse.Config(dsn=dsn), Surroundings("a/b", "pod-0", tmp_path))
    sink.open()
    for finding in told:
        sink.submit(finding)
    sink.close(30.0)
    client = store.connect(dsn)
    columns, rows = store.run_query(client, "since", {"subject": NAME})
    assert [dict(zip(columns, row, strict=True))["subject"] for row in rows] == [NAME]
    (notice,) = [one for one in told if isinstance(one, Notice)]
    assert client.query(notice.details["sql"]).result_rows
    client.close()


def test_it_is_a_label_of_the_metrics(told: list[Finding]) -> None:
    telemetry = Telemetry()
    sink = prometheus.Sink(prometheus.Config(), Surroundings(telemetry=telemetry))
    for finding in told:
        sink.submit(finding)
    page = telemetry.page().decode()
    telemetry.close()
    assert f'gapwatch_status{{subject="{NAME}",subject_kind="adapter"}} 2.0' in page
    assert f'gapwatch_status{{subject="{NEIGHBOUR}",subject_kind="adapter"}} 0.0' in page
