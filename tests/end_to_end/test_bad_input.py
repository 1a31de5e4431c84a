"""What a configuration names is not there or cannot be read: nothing is raised, and each adapter says what it lacks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.app import App
from agent.assemble import assemble
from agent.cli.check_config import check
from agent.config import Config, load, missing_files
from agent.sinks.memory import Config as MemoryConfig
from agent.sinks.memory import Sink as MemorySink
from agent.surroundings import Surroundings
from detectors.records import Status, Verdict
from probes.golden.archive import save
from tests.probes.goldens import golden

TOO_LONG = "a" * 300  # the file system refuses even to look, as it does to all but root in a folder that is not theirs
PATIENCE_S = 120.0


def written(folder: Path, model: Mapping[str, Any] = {}, adapter: Mapping[str, Any] = {}, **more: Any) -> Path:
    """A configuration of which nothing exists but the golden record of ``router``."""
    save(golden("router"), folder / "golden")
    router = {"name": "router", "path": "adapters/router", "canaries": "canaries.jsonl", **adapter}
    settings = {
        "models": [
            {"name": "toy", "path": "./base", "adapters": [router, {"name": "tone", "path": "adapters/tone"}], **model}
        ],
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch", "password_file": "secrets/clickhouse"},
        "alerts": {"pagerduty": {"routing_key_file": "secrets/key"}},
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "traffic"},
        "probes": {"golden_dir": "golden", "cache_dir": "cache"},
        "telemetry": {"prometheus_port": 0, "control_port": 0},
        "state_dir": "state",
        **more,
    }
    path = folder / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


CASES: dict[str, dict[str, Any]] = {
    "nothing is there": {},
    "paths that cannot even be looked at": {
        "model": {"path": f"./{TOO_LONG}", "golden_path": f"./{TOO_LONG}"},
        "adapter": {"path": TOO_LONG, "canaries": TOO_LONG},
    },
    "a pinned record that is not there": {"adapter": {"golden": f"sha256:{'0' * 64}"}},
    "a folder of records that cannot be read": {"probes": {"golden_dir": TOO_LONG, "cache_dir": TOO_LONG}},
    "a state folder that cannot be made": {"state_dir": TOO_LONG},
}


@pytest.fixture(params=CASES.values(), ids=list(CASES))
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(tmp_path, **request.param)


def test_nothing_is_raised_by_what_is_missing_and_check_config_refuses_it_all_the_same(bad: Path) -> None:
    config = load(bad)
    places = [problem.place for problem in missing_files(config)]
    secrets = ["clickhouse.password_file", "alerts.pagerduty.routing_key_file"]
    assert places == [*secrets, "models.0.adapters.0.canaries"]
    assert check(bad, json=True) == 1
    assemble(config)


def test_each_adapter_says_what_it_lacks_and_each_part_what_it_waits_for(tmp_path: Path) -> None:
    config: Config = load(written(tmp_path, adapter={"path": TOO_LONG}, state_dir=TOO_LONG))
    sink = MemorySink(MemoryConfig(), Surroundings())
    parts = assemble(config, [sink])
    with ExitStack() as opened:
        app = App(parts)
        app.open(opened)
        give_up = time.monotonic() + PATIENCE_S
        while len(sink.of(Verdict)) < 2:
            assert time.monotonic() < give_up
            app.step()
            time.sleep(0.01)
        parts.judge.save()
        statuses = parts.sinks.statuses
    verdicts = {verdict.subject: verdict for verdict in sink.of(Verdict)}
    assert {verdict.status for verdict in verdicts.values()} == {Status.UNMONITORABLE}
    assert "no model files there" in verdicts["router"].explanation, "its base is not there"
    assert "gapwatch enrol tone" in verdicts["tone"].explanation
    assert "alerts.pagerduty.routing_key_file: saw No such file" in statuses["sink pagerduty"][1]
    assert "outbox in state_dir: File name too long" in statuses["sink pagerduty"][1]
    assert "clickhouse.password_file: saw No such file" in statuses["sink clickhouse"][1]


def test_a_state_folder_that_cannot_be_written_is_told_at_the_start_of_a_pod_that_has_nothing_to_save_yet(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    config: Config = load(written(tmp_path, model={"replay": False}, scoring={"enabled": False}))
    with ExitStack() as opened:
        app = App(assemble(config))
        app.open(opened)
        ok, words = app.routes.parts()["state"]
        assert not ok and "wanted a folder with room" in words
        (tmp_path / "state").unlink()
        app.step()
        deadline = time.monotonic() + 30.0  # a thread of its own writes it
        while not app.routes.parts()["state"][0] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert app.routes.parts()["state"] == (True, "saved after each round")
