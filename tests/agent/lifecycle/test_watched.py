"""Is a retired adapter left out wherever it is configured, and is a change of that noticed?"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from agent.clock import HandClock
from agent.config import Config, load
from agent.errors import Refused
from agent.lifecycle import retirement
from agent.lifecycle.retirement import Retirement
from agent.lifecycle.watched import marks, without_retired
from agent.supervision.config_file import ConfigFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    models = [
        {"name": base, "path": f"./{base}", "adapters": [{"name": name, "path": name} for name in names]}
        for base, names in {"m": ("router", "rewriter"), "n": ("other",)}.items()
    ]
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": models, "probes": {"golden_dir": "golden"}}))
    return file


def retire(config: Config, *names: str) -> None:
    for name in names:
        retirement.write(config.probes.golden_dir, Retirement(adapter=name, at=date(2026, 11, 28), why="gone"), None)


def test_it_is_left_out_with_a_base_that_nothing_else_is_on(path: Path) -> None:
    config = load(path)
    assert without_retired(config) is config
    retire(config, "router", "other")
    assert {m.name: [a.name for a in m.adapters] for m in without_retired(config).models} == {"m": ["rewriter"]}
    retire(config, "rewriter")
    with pytest.raises(Refused, match="--undo"):
        without_retired(config)


def test_an_agent_notices_within_two_looks(path: Path) -> None:
    clock = HandClock()
    file = ConfigFile(path, lambda own: without_retired(load(own)), clock, beside=marks)

    def looks(count: int) -> None:
        for _ in range(count):
            clock.at += 2.5
            file.look()

    looks(2)
    first = file.config
    assert first is not None and len(first.models) == 2
    retire(first, "other")
    looks(3)
    assert file.config is not None and [model.name for model in file.config.models] == ["m"]
    retirement.undo(first.probes.golden_dir, "other")
    looks(3)
    assert file.config is not None and len(file.config.models) == 2
