"""The contract of every file in agent/sinks; a new file is under test before anyone writes a test for it."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

import agent.sinks
from agent.demo.receiver import Receiver
from agent.records import Finding
from agent.surroundings import Surroundings
from tests.agent import findings
from tests.agent.stand_in import StandIn

NAMES = sorted(file.stem for file in Path(agent.sinks.__path__[0]).glob("*.py") if file.stem != "__init__")
ROUTING_KEY = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def settings(tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """Required settings of each sink, by its name; a sink with defaults for everything needs no line here."""
    for signal in ("LOGS", "TRACES"):  # their exporters are in an extra, and no collector is here
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    key = tmp_path / "key"
    key.write_text(ROUTING_KEY)
    webhook = tmp_path / "webhook"
    with Receiver() as receiver, StandIn() as stand_in:
        webhook.write_text(stand_in.url)
        yield {
            "alertmanager": {"urls": [stand_in.url]},
            "slack": {"webhook_file": webhook},
            "clickhouse": {"dsn": dsn},
            "pagerduty": {"routing_key_file": key, "url": receiver.url},
            "dead_mans_switch": {"kind": "pagerduty", "secret_file": key, "url": receiver.url},
        }


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"agent.sinks.{request.param}")


@pytest.fixture
def config(module: ModuleType, settings: dict[str, dict[str, Any]]) -> BaseModel:
    made: BaseModel = module.Config(**settings.get(module.__name__.rsplit(".", 1)[1], {}))
    return made


def settle(sink: Any, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not sink.flush():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_the_folder_has_the_four_built_in_sinks() -> None:
    assert {"clickhouse", "pagerduty", "prometheus", "memory"} <= set(NAMES)


def test_findings_made_here_cover_every_kind_of_finding() -> None:
    assert {type(finding) for finding in findings.every_kind()} == set(get_args(Finding))


def test_config_is_frozen_and_refuses_unknown_keys(module: ModuleType, config: BaseModel) -> None:
    given = config.model_dump()
    assert module.Config(**given) == config
    with pytest.raises(ValidationError, match="Extra inputs"):
        module.Config(**given, no_such_key=1)
    with pytest.raises(ValidationError, match="frozen"):
        config.no_such_key = 1  # type: ignore[attr-defined]


def test_takes_every_finding_and_settles(module: ModuleType, config: BaseModel, tmp_path: Path) -> None:
    sink = module.Sink(config, Surroundings("prod", "pod-0", tmp_path))
    sink.open()
    try:
        assert sink.flush(), "nothing was submitted, so nothing can be missing"
        for finding in findings.every_kind():
            sink.submit(finding)
        assert settle(sink), sink.status
        ok, words = sink.status
        assert ok, words
        assert isinstance(words, str)
    finally:
        sink.close(5.0)


def test_opens_where_its_folder_cannot_be_made(module: ModuleType, config: BaseModel, tmp_path: Path) -> None:
    """What may mend itself is a status, never an exception."""
    (tmp_path / "file").write_text("a file where the folder should be")
    sink = module.Sink(config, Surroundings("prod", "pod-0", tmp_path / "file"))
    sink.open()
    try:
        for finding in findings.every_kind():
            sink.submit(finding)
        settle(sink, 2.0)
        ok, words = sink.status
        assert ok or "wanted" in words
    finally:
        sink.close(5.0)


def test_close_without_work_and_before_open_does_nothing_bad(
    module: ModuleType, config: BaseModel, tmp_path: Path
) -> None:
    module.Sink(config, Surroundings(state_dir=tmp_path)).close(1.0)
    sink = module.Sink(config, Surroundings(state_dir=tmp_path))
    sink.open()
    begun = time.monotonic()
    sink.close(10.0)
    assert time.monotonic() - begun < 9.0, "an idle sink does not use up its budget"
