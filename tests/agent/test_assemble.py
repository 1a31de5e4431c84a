"""What a configuration becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.assemble import runner_of
from agent.config import Config, load
from probes.golden_files import save
from probes.golden_weights import folder_of
from tests.probes.goldens import golden


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A golden record whose base was kept."""
    accepted = golden()
    save(accepted, tmp_path / "golden")
    folder_of(tmp_path / "golden", accepted.base_hash).mkdir(parents=True)
    settings = {
        "models": [{"name": "toy", "path": "./base", "adapters": [{"name": "router", "path": "adapters/a"}]}],
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "probes": {"golden_dir": "golden", "cache_dir": "cache"},
        "state_dir": "state",
    }
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load(path)


def test_the_kept_base_is_for_the_agent_and_not_for_enrolment_which_accepts_what_lies_there(config: Config) -> None:
    (model,) = config.models
    watching: Any = runner_of(config, model)
    enrolling: Any = runner_of(config, model, golden=False)
    assert watching.config.golden_base == str(folder_of(config.probes.golden_dir, golden().base_hash))
    assert enrolling.config.golden_base is None
