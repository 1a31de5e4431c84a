"""From the address of a serving engine to a verdict on what it serves, by the commands alone, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.enrol import EnrolOptions, enrol_adapters
from agent.cli.init import InitOptions, init
from agent.cli.probe import probe_now
from tests.end_to_end.world import canaries
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

ADAPTERS = ("alpha", "beta")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ToyEngine(noise=0.002)) as server:
        yield server


@pytest.fixture(scope="module")
def config(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by init, with canaries added, and both adapters enrolled through the engine."""
    folder = tmp_path_factory.mktemp("one_address")
    out = folder / "gapwatch.yaml"
    assert init(InitOptions(server.url, out=out), json=True) == 0
    (folder / "canaries").mkdir()
    for name in ADAPTERS:
        rows = [{"id": canary.id, "messages": list(canary.messages)} for canary in canaries(name, 48).canaries]
        (folder / "canaries" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out.write_text(out.read_text().replace("        #canaries:", "        canaries:"))
    assert enrol_adapters(out, [], EnrolOptions(), json=True) == 0
    return out


def causes(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Subject -> cause of those that are degraded."""
    capsys.readouterr()
    probe_now(config, [], json=True)
    verdicts = json.loads(capsys.readouterr().out)
    return {verdict["subject"]: verdict["cause"] for verdict in verdicts if verdict["status"] == "degraded"}


def test_what_is_served_is_what_was_accepted_until_the_engine_does_not_apply_an_adapter(
    server: Server, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert causes(config, capsys) == {}
    server.engine.faults.of_adapter["alpha"] = "not_applied"
    try:
        assert causes(config, capsys) == {"alpha": "adapter_not_applied"}
    finally:
        server.engine.faults.of_adapter.clear()
    server.engine.faults.of_adapter["beta"] = "wrong_adapter:alpha"
    try:
        assert set(causes(config, capsys)) == {"beta"}
    finally:
        server.engine.faults.of_adapter.clear()
