"""gapwatch canaries on a real store: the file that it writes, what it says of it, and bad input."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.__main__ import cli
from agent.cli.canaries import CanaryOptions, propose
from agent.config import load
from agent.demo.broker import Broker
from agent.errors import Refused, Retryable
from agent.sinks import clickhouse
from agent.surroundings import Surroundings
from agent.terminal.console import console
from probes.canaries.canary_file import read_canaries
from tests.agent import findings
from tests.agent.findings import ROUTER, TONE
from tests.kafka_brokers import LEFT_CONNECTING, BrokerWorld, request

SUBJECTS = ("parcel", "refund", "password", "invoice")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path, **more: Any) -> Path:
    adapters = [{"name": ROUTER}, {"name": TONE}]
    settings = {
        "models": [{"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": adapters}],
        "clickhouse": {"dsn": f"chdb://{folder / 'store'}", "store_text": True},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
    }
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings | more))
    return file


def stored(config: Path, prompts: Sequence[str]) -> None:
    """Through the sink, one request each."""
    dsn = load(config).clickhouse.dsn
    sink = clickhouse.Sink(clickhouse.Config(dsn=dsn, store_text=True), Surroundings(state_dir=config.parent))
    sink.open()
    interactions = tuple(
        findings.interaction(n, at=time.time(), prompt_tokens=0, messages=({"role": "user", "content": text},))
        for n, text in enumerate(prompts)
    )
    sink.submit(replace(findings.batch(), interactions=interactions))
    sink.flush()
    sink.close(10.0)


def test_a_canary_file_that_an_engine_alone_needs_no_model_for(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A served engine is asked nothing: none answers at that address."""
    several = [f"{SUBJECTS[n % 4]} {n} of ann@example.org" for n in range(120)]
    several += ["long " * 500, "much too long " * 400]
    stored(config, several)
    assert propose(config, ROUTER, CanaryOptions(count=60), json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    out = tmp_path / "canaries" / f"{ROUTER}.jsonl"
    assert (facts["file"], facts["canaries"], facts["requests"]) == (str(out), 60, 122)
    assert facts["left_out"] == {"longer than probes may be": 1}
    assert facts["lengths"] == {"up to 32": 59, "up to 128": 0, "beyond 128": 1}
    assert len(read_canaries(out).canaries) == 60
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    first = out.read_bytes()
    with pytest.raises(Refused, match="--force"):
        propose(config, ROUTER, CanaryOptions(count=60), json=True)
    with console.capture() as said:
        assert propose(config, ROUTER, CanaryOptions(count=60, force=True), json=False) == 0
    assert out.read_bytes() == first
    for words in ("production prompts as text, unchanged", "121 distinct", "left out: 1 requests", f"canaries: {out}"):
        assert words in said.get().replace("\n", " ")


def test_one_prompt_again_and_again_is_too_few_and_its_secret_is_not_written(tmp_path: Path) -> None:
    config = written(tmp_path, sampling={"redact": [{"pattern": r"\S+@\S+", "with": "[mail]"}]})
    stored(config, ["why was ann@example.org billed?"] * 200)
    out = tmp_path / "few.jsonl"
    with console.capture() as said:
        assert propose(config, ROUTER, CanaryOptions(out=out), json=False) == 2
    assert "47 are missing" in said.get() and "changed by the rules of sampling.redact (1)" in said.get()
    with pytest.raises(Refused, match="no sampled request of it"):
        propose(config, TONE, CanaryOptions(), json=False)
    (canary,) = read_canaries(out).canaries
    assert canary.messages[0]["content"] == "why was [mail] billed?"
    with pytest.raises(Refused, match="--count"):
        propose(config, ROUTER, CanaryOptions(out=out, force=True, select=True, count=20), json=False)


def test_no_tables_a_store_that_is_away_and_an_unknown_adapter(config: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="gapwatch migrate"):
        propose(config, ROUTER, CanaryOptions(), json=False)
    with pytest.raises(Refused, match="nobody"):
        propose(config, "nobody", CanaryOptions(), json=False)
    away = written(tmp_path, clickhouse={"dsn": "clickhouse://127.0.0.1:9/g"})
    with pytest.raises(Retryable, match="refused"):
        propose(away, ROUTER, CanaryOptions(), json=False)
    assert not (tmp_path / "canaries").exists()


@LEFT_CONNECTING
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("broker", ["tansu"], indirect=True)
def test_where_the_store_does_not_answer_the_topic_is_read(broker: Broker, tmp_path: Path) -> None:
    world = BrokerWorld(broker, 2)
    for partition in (0, 1):
        world.publish((request(100 * partition + n, (ROUTER, TONE)[n % 2]) for n in range(60)), partition)
    kafka = {"bootstrap_servers": [broker.bootstrap], "topic": world.name}
    config = written(tmp_path, kafka=kafka, clickhouse={"dsn": "clickhouse://127.0.0.1:9/g"})
    with console.capture() as said:
        assert propose(config, ROUTER, CanaryOptions(), json=False) == 0
    canaries = read_canaries(tmp_path / "canaries" / f"{ROUTER}.jsonl").canaries
    wanted = {f"question {100 * partition + n}" for partition in (0, 1) for n in range(0, 60, 2)}
    assert {canary.messages[0]["content"] for canary in canaries} == wanted
    assert f"from the last 120 records of {world.name}, since " in said.get().replace("\n", " ")


def test_prompts_of_production_are_written_only_when_that_is_wished() -> None:
    with pytest.raises(Refused, match="--from-traffic"):
        cli(["canaries", ROUTER], standalone_mode=False)
