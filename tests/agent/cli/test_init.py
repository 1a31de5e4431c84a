"""From one address to a configuration that ``run`` reads, and a first answer for each adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from agent.cli.init import LATE, InitOptions
from agent.cli.init import init as init_here
from agent.config import load
from tests.agent.cli.test_command_line import gapwatch
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.transport import html


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine(noise=0.01)) as server:
        yield server


def init(server: Server, out: Path, *words: str) -> CompletedProcess[str]:
    return gapwatch("init", "--url", server.url, "--out", str(out), *words)


def answers(done: CompletedProcess[str]) -> dict[str, Any]:
    return {row["adapter"]: row["differs"] for row in json.loads(done.stdout)["adapters"]}


def test_one_address_gives_a_configuration_that_loads_and_an_answer_for_each_adapter(
    server: Server, tmp_path: Path
) -> None:
    out = tmp_path / "gapwatch.yaml"
    done = init(server, out)
    assert done.returncode == 0, done.stderr + done.stdout
    (model,) = load(out).models
    assert model.served is not None and (model.name, model.served.url) == ("base-v1", server.url)
    assert [adapter.name for adapter in model.adapters] == ["alpha", "beta"]
    for adapter in ("alpha", "beta"):
        assert f"{adapter} (not accepted yet): differs from its base: " in done.stdout
    assert "canaries/alpha.jsonl" in done.stdout and "routing_key_file" in done.stdout
    assert "written: base base-v1 with 2 adapters\n" in done.stdout
    checked = gapwatch("check-config", "--config", str(out))
    assert checked.returncode == 0 and ": 1 base, 2 adapters, role sidecar\n" in checked.stdout


def test_within_a_minute_means_that_what_there_is_no_time_for_is_left_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agent.cli.init.MEASURED_FOR_S", 0.0)
    assert init_here(InitOptions(server.url, out=tmp_path / "c.yaml"), json=True) == 2
    rows = json.loads(capsys.readouterr().out)["adapters"]
    assert {row["words"] for row in rows} == {LATE} and {row["differs"] for row in rows} == {None}
    assert not [body for body in server.bodies("/v1/completions") if body["model"] in ("alpha", "beta")]


def test_a_file_that_exists_is_left_as_it_is_unless_it_may_be_replaced(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "gapwatch.yaml"
    out.write_text("mine")
    done = init(server, out)
    assert done.returncode == 64 and "a file of that name, wanted --force" in done.stderr
    assert out.read_text() == "mine" and not server.questions
    assert init(server, out, "--force").returncode == 0
    assert len(load(out).models[0].adapters) == 2


def test_an_adapter_that_is_not_applied_and_wrong_names_are_told(server: Server, tmp_path: Path) -> None:
    server.engine.faults.of_adapter["beta"] = "not_applied"
    server.engine.faults.unknown_is_base = True
    server.settings.twice = "alpha"
    done = init(server, tmp_path / "c.yaml", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert answers(done) == {"alpha": True, "beta": False}
    assert {row["accepted"] for row in told["adapters"]} == {False}
    twice, unknown = told["findings"]
    assert twice == "the engine lists 2 models named alpha"
    assert unknown.startswith("the engine answers the unknown name gapwatch-")


def test_the_adapter_that_answers_under_the_bases_name_is_the_one_without_a_difference(
    server: Server, tmp_path: Path
) -> None:
    server.engine.faults.base_serves = "alpha"
    done = init(server, tmp_path / "c.yaml", "--json")
    assert done.returncode == 1 and answers(done) == {"alpha": False, "beta": True}
    (finding,) = [words for words in json.loads(done.stdout)["findings"] if "adapter of" in words]
    assert "base-v1, the base's name" in finding


def test_an_engine_that_is_away_or_none_writes_nothing_and_says_why(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    away = gapwatch("init", "--url", "http://127.0.0.1:9", "--out", str(out))
    assert away.returncode == 2 and "127.0.0.1:9" in away.stderr and "Traceback" not in away.stderr
    server.transport.set(html)
    assert init(server, out).returncode == 2
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--url", "localhost:8000"], "--url: saw one without http:// or https:// and a host"),
        (["--url", "http://u:hunter2@h"], "a token is read from token_file"),
        (["--url", "http://h", "--engine", "ollama"], "--engine: saw ollama, wanted one of: auto"),
        (["--url", "http://h", "--token-file", "hunter2"], "--token-file: saw no file of that name"),
    ],
)
def test_a_wrong_option_is_refused_without_a_secret(words: list[str], message: str, tmp_path: Path) -> None:
    done = gapwatch("init", *words, "--out", str(tmp_path / "c.yaml"))
    assert done.returncode == 64 and message in done.stderr and "hunter2" not in done.stderr


def test_the_token_is_read_from_its_file_and_the_file_alone_stands_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    with serving(ToyEngine()) as server:
        server.settings.token = "hunter2"
        out = tmp_path / "c.yaml"
        done = init(server, out, "--token-file", str(tmp_path / "token"))
        assert done.returncode == 0, done.stderr
        assert init(server, tmp_path / "other.yaml").returncode == 2
    assert "hunter2" not in out.read_text()
    served = yaml.safe_load(out.read_text())["models"][0]["served"]
    assert served == {"url": server.url, "token_file": str(tmp_path / "token")}


def test_names_of_any_printable_characters_come_through(tmp_path: Path) -> None:
    names = {"org/model@v2": "a", 'say "x": #1': "b"}
    with serving(ToyEngine(adapters=names)) as server:
        done = init(server, tmp_path / "c.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [adapter.name for adapter in load(tmp_path / "c.yaml").models[0].adapters] == list(names)
