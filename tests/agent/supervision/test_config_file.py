"""A configuration that changes while the agent runs: what is put in force, what is refused, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from agent.clock import HandClock
from agent.config import load
from agent.errors import Refused
from agent.supervision.config_file import LOOK_S, RESTLESS_S, RETRY_S, ConfigFile, configured_ports

BASE: dict[str, Any] = {"models": [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "adapters/a"}]}]}


def written(path: Path, **over: Any) -> Path:
    path.write_text(yaml.safe_dump(BASE | over))
    return path


def looked(file: ConfigFile, clock: HandClock, times: int = 2) -> None:
    for _ in range(times):
        clock.advance(LOOK_S)
        file.look()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "gapwatch.yaml")


@pytest.fixture
def file(path: Path, clock: HandClock) -> ConfigFile:
    return ConfigFile(path, load, clock)


def test_the_first_sound_file_is_in_force_at_once(file: ConfigFile, clock: HandClock) -> None:
    file.look()
    assert file.config is not None and file.loaded_at == clock.now()
    assert file.status[0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such file"),
        ("models: [", "wanted valid YAML"),
        ("kafak: {}", "models: saw nothing"),
        (yaml.safe_dump(BASE | {"kafak": {}}), "kafak: saw this key"),
        ("", "an empty file"),
    ],
)
def test_without_a_usable_file_there_is_a_reason_and_the_first_usable_one_is_read_at_the_next_look(
    path: Path, clock: HandClock, text: str | None, why: str
) -> None:
    path.unlink() if text is None else path.write_text(text)
    file = ConfigFile(path, load, clock)
    file.look()
    ok, words = file.status
    assert not ok and why in words and file.config is None
    written(path)
    looked(file, clock, 1)
    assert file.config is not None and file.status[0]


def test_an_unexpected_error_of_a_file_is_a_reason_too_and_is_tried_again(path: Path, clock: HandClock) -> None:
    faults: list[Exception] = [ModuleNotFoundError("No module named 'x'", name="x"), MemoryError()]

    def flaky(path: Path) -> Any:
        if faults:
            raise faults.pop(0)
        return load(path)

    file = ConfigFile(path, flaky, clock)
    file.look()
    assert file.status[1].startswith("ModuleNotFoundError: No module named 'x'")
    clock.advance(RETRY_S - LOOK_S)
    file.look()
    assert len(faults) == 1, "the same file is not read again before its time"
    clock.advance(LOOK_S)
    file.look()
    assert "MemoryError" in file.status[1]
    clock.advance(RETRY_S)
    file.look()
    assert file.status[0] and file.config is not None


def test_a_change_is_put_in_force_once_two_looks_agree_on_it(file: ConfigFile, path: Path, clock: HandClock) -> None:
    file.look()
    written(path, cluster="half")
    looked(file, clock, 1)
    written(path, cluster="whole")
    looked(file, clock, 1)
    assert file.config is not None and file.config.cluster == "default"
    looked(file, clock, 1)
    assert file.config.cluster == "whole" and file.loaded_at == clock.now()


def test_the_same_settings_in_another_text_are_the_same_configuration(
    file: ConfigFile, path: Path, clock: HandClock
) -> None:
    file.look()
    before = file.config
    path.write_text("# a comment\n" + path.read_text())
    looked(file, clock)
    assert file.config is before and file.loaded_at == clock.now()


@pytest.mark.parametrize("text", [None, "kafak: {}", "models: ["])
def test_a_change_that_is_refused_leaves_the_former_in_force_and_says_so(
    file: ConfigFile, path: Path, clock: HandClock, text: str | None
) -> None:
    file.look()
    before = file.config
    path.unlink() if text is None else path.write_text(text)
    looked(file, clock)
    ok, words = file.status
    assert not ok and file.config is before
    assert words.startswith("changed at 22:13:24 UTC and is refused: ")
    assert words.endswith("; the former one, of 22:13:20 UTC, stays in force")
    written(path)
    looked(file, clock)
    assert file.status[0] and file.config is before


def test_a_configuration_from_which_no_agent_can_be_assembled_gives_way_to_the_former_until_it_changes(
    file: ConfigFile, path: Path, clock: HandClock
) -> None:
    file.look()
    before = file.config
    written(path, cluster="unusable")
    looked(file, clock)
    file.refuse_in_force(Refused("probes.threads", 0, "more"))
    assert file.config is before
    looked(file, clock, int(3 * RETRY_S / LOOK_S))
    assert file.config is before and "probes.threads: saw 0" in file.status[1]
    written(path, cluster="other")
    looked(file, clock)
    assert file.config is not None and file.config.cluster == "other" and file.status[0]


def test_a_mounted_configmap_changes_by_the_swap_of_a_link(tmp_path: Path, clock: HandClock) -> None:
    """As the kubelet does it: gapwatch.yaml -> ..data/gapwatch.yaml, ..data -> a folder that is replaced."""
    for name in ("one", "two"):
        (tmp_path / f"..{name}").mkdir()
        written(tmp_path / f"..{name}" / "gapwatch.yaml", cluster=name)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "gapwatch.yaml").symlink_to("..data/gapwatch.yaml")
    file = ConfigFile(tmp_path / "gapwatch.yaml", load, clock)
    file.look()
    (tmp_path / "..data_tmp").symlink_to("..two")
    (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    looked(file, clock)
    assert file.config is not None and file.config.cluster == "two"


def test_a_pipe_is_read_once(tmp_path: Path, clock: HandClock) -> None:
    """``gapwatch run --config <(render)``."""
    text = yaml.safe_dump(BASE).encode()
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    pipe = Path(f"/dev/fd/{reading}")
    assert configured_ports(pipe) == (9464, 9465)
    file = ConfigFile(pipe, load, clock)
    file.look()
    looked(file, clock, 5)
    os.close(reading)
    assert file.config is not None and file.status[0]


def test_files_that_are_missing_are_named_until_they_are_there(path: Path, clock: HandClock) -> None:
    canaries = [{"name": "a", "path": "adapters/a", "canaries": "c.jsonl"}]
    written(
        path,
        models=[{"name": "m", "path": "./base", "adapters": canaries}],
        alerts={"pagerduty": {"routing_key_file": "key"}},
    )
    file = ConfigFile(path, load, clock)
    with capture_logs() as lines:
        file.look()
        ok, words = file.status
        looked(file, clock)
        (path.parent / "key").touch()
        (path.parent / "c.jsonl").touch()
        looked(file, clock)
    events = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("configured")]
    assert events == [("configured_files_missing", "warning"), ("configured_files_found", "info")]
    assert file.config is not None and not ok
    assert "alerts.pagerduty.routing_key_file: saw no file of that name" in words
    assert "models.0.adapters.0.canaries: saw " in words
    assert file.status[0]


def test_another_port_takes_a_restart_unless_the_command_line_fixed_it(path: Path, clock: HandClock) -> None:
    moved = written(path, telemetry={"prometheus_port": 9500})
    followed, fixed = (ConfigFile(moved, load, clock, ports) for ports in ((9464, 9465), (None, 9465)))
    followed.look()
    fixed.look()
    assert fixed.status[0]
    wanted = "telemetry.prometheus_port: 9500 takes a restart of the container; 9464, as at the start, stays"
    assert followed.status == (False, wanted)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        (None, (9464, 9465)),
        ("", (9464, 9465)),
        ("telemetry: {prometheus_port: 1, control_port: 2}", (1, 2)),
        ("telemetry:\n  prometheus_port: 1\nkafak: {}\n", (1, 9465)),
        ("telemetry:\n  prometheus_port: 1  # metrics\n  control_port: 2\nmodels: [\n", (1, 2)),
        ("# prometheus_port: 1\nmodels: [\n", (9464, 9465)),
        ("telemetry: {prometheus_port: 1, control_port: 2}\nmodels: [", (1, 2)),
        (f"telemetry: {{prometheus_port: 1, control_port: {'9' * 5000}}}", (1, 9465)),
        ("telemetry: {prometheus_port: 70000}", (9464, 9465)),
        ("telemetry: {prometheus_port: true}", (9464, 9465)),
        ("telemetry: [prometheus_port]", (9464, 9465)),
    ],
)
def test_ports_are_those_of_the_file_as_far_as_it_can_be_read(
    tmp_path: Path, text: str | None, ports: tuple[int, int]
) -> None:
    path = tmp_path / "gapwatch.yaml"
    if text is not None:
        path.write_text(text)
    assert configured_ports(path) == ports


def test_a_file_that_never_rests_is_told_after_a_while_and_read_once_it_does(
    file: ConfigFile, path: Path, clock: HandClock
) -> None:
    file.look()
    in_force = file.config
    for n in range(round(RESTLESS_S / LOOK_S) + 2):
        assert file.status[0] == (n <= RESTLESS_S / LOOK_S), n
        written(path, cluster=f"cluster-{n}")
        looked(file, clock, 1)
    ok, words = file.status
    assert not ok and "has changed at each look for 32 s, so it is not read" in words and "stays in force" in words
    assert file.config is in_force
    looked(file, clock, 1)
    assert file.status[0] and file.config is not None and file.config.cluster == f"cluster-{n}"
