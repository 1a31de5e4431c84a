"""The worked examples of docs/adding-a-*.md are taken from the page and run through the suite that a new file meets."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import agent.sinks
import detectors.kinds
import probes.runners
from agent.traffic import decoder, formats
from tests.agent.sinks import test_every_sink
from tests.agent.traffic.formats import records, test_every_format
from tests.detectors import test_every_detector
from tests.detectors.record_streams import stream_for
from tests.probes import test_every_runner

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, ModuleType], ModuleType]]:
    """Puts the Python block of a page beside the files of a package, under the name that the page gives it."""
    imported: list[str] = []

    def add(page: str, package: ModuleType) -> ModuleType:
        folder = package.__name__.replace(".", "/")
        (name,) = re.findall(rf"`{folder}/(\w+)\.py`, whole", (DOCS / page).read_text())
        (tmp_path / f"{name}.py").write_text(block(page, "python"))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
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
    assert len(held_to(test_every_sink, {"module": module, "config": config})) >= 3
    assert b'"status":"degraded","cause":"base_swapped_and_adapter_lost"' in config.path.read_bytes()


def test_the_runner_of_the_page(added: Callable[[str, ModuleType], ModuleType]) -> None:
    module = added("adding-a-runner.md", probes.runners)
    behind = importlib.import_module("probes.runners.memory")
    runner = module.Runner(module.Config(behind.Config(adapters={name: name for name in test_every_runner.ADAPTERS})))
    runner.open()
    prompt = runner.encode_chat(test_every_runner.MESSAGES)
    assert len(held_to(test_every_runner, {"runner": runner, "prompt": prompt})) >= 10
    assert runner.asked[None] > 0 < runner.asked["alpha"]
