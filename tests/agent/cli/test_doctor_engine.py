"""What doctor reports about a serving engine: reachable, how it can be asked, and whether it lists what is watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.doctor import Check, model_checks
from agent.config import Config, load
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.transport import html


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine()) as server:
        yield server


def config(folder: Path, url: str, adapters: tuple[str, ...] = ("alpha", "beta"), **served: Any) -> Config:
    file = folder / "gapwatch.yaml"
    (folder / "canaries.jsonl").write_text('{"id": "c", "messages": [{"role": "user", "content": "q"}]}\n')
    rows = [{"name": name, "canaries": "canaries.jsonl"} for name in adapters]
    model = {"name": "toy", "served": {"url": url, "base": "base-v1"} | served, "adapters": rows}
    file.write_text(yaml.safe_dump({"models": [model], "probes": {"golden_dir": "golden"}}))
    return load(file)


def checks(config: Config) -> dict[str, Check]:
    return {check.part: check for check in model_checks(config)}


def test_an_engine_that_serves_what_is_watched_passes_with_its_identity_routes_and_sources(
    server: Server, tmp_path: Path
) -> None:
    made = checks(config(tmp_path, server.url))
    wrong = {part for part, check in made.items() if not check.ok}
    assert wrong == {"golden alpha", "golden beta"}
    assert made["engine toy"].result.startswith("vllm 0.33.0, vllm-0.33.0-1f2e3d4c")
    assert made["routes toy"].result == "prompt, walk, generated; lists 20 tokens at a position, context 2048"
    assert made["tokenizer toy"].result == "the engine's; prompts that its chat template renders: 2"
    assert made["adapter alpha"].result.startswith("loaded from ")
    assert made["names toy"].result == "a name that is not loaded is refused"
    assert made["golden alpha"].wanted == "gapwatch enrol alpha"


def test_an_engine_that_is_away_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    (away,) = [check for check in model_checks(config(tmp_path, "http://127.0.0.1:9")) if check.part == "engine toy"]
    assert not away.ok and "http://127.0.0.1:9" in away.result and away.wanted.startswith("served.url")


def test_what_is_no_engine_and_a_token_that_is_missing_are_named(server: Server, tmp_path: Path) -> None:
    server.settings.token = "hunter2"
    refused = checks(config(tmp_path, server.url))["engine toy"]
    assert not refused.ok and "401" in refused.result and "token_file" in refused.wanted
    server.transport.set(html)
    page = checks(config(tmp_path, server.url))["engine toy"]
    assert not page.ok and "no serving engine that is known" in page.result


def test_names_that_are_missing_twice_or_answered_although_unknown_are_named(server: Server, tmp_path: Path) -> None:
    server.settings.twice = "alpha"
    server.engine.faults.unknown_is_base = True
    made = checks(config(tmp_path, server.url, ("alpha", "beta", "gamma")))
    assert made["adapter alpha"].result == "the engine lists 2 models named alpha" and not made["adapter alpha"].ok
    assert made["adapter gamma"].result == "the engine does not list it" and not made["adapter gamma"].ok
    assert made["adapter beta"].ok and not made["names toy"].ok


def test_an_adapter_under_the_bases_name_is_a_fault_of_the_base(server: Server, tmp_path: Path) -> None:
    server.engine.faults.base_serves = "alpha"
    made = checks(config(tmp_path, server.url))
    assert not made["base toy"].ok and "the base's name" in made["base toy"].result


def test_a_base_that_the_engine_does_not_list_ends_the_checks_with_the_names_that_it_does(
    server: Server, tmp_path: Path
) -> None:
    made = checks(config(tmp_path, server.url, base="other"))
    assert made["base toy"].result == "the engine lists base-v1, alpha, beta"
    assert made["base toy"].wanted.startswith("served.base") and "adapter alpha" not in made
