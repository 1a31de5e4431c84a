"""gapwatch doctor --plan: a plan that fits is one that is loaded, and what does not fit is said before it is tried."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from agent.__main__ import cli
from agent.capacity.memory_plan import MODEL_LIBRARIES_BYTES, Memory, memory_plan
from agent.capacity.verdict import quantity
from agent.config import load
from agent.errors import Refused
from agent.terminal.console import console
from agent.worker.memory_ceiling import ADAPTER_BYTES, AGENT_BYTES
from probes.card_share import CONTEXT_BYTES
from probes.model.base_memory import base_memory
from probes.model.build import AUTO, Placement
from tests.probes.tiny import tiny_adapter, tiny_base

KAFKA = {"bootstrap_servers": ["kafka:9092"], "topic": "t", "group_id": "g"}
LEAST = Placement(torch.device("cpu"), torch.float32, AUTO, 256)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_adapter(folder / "adapter", tiny_base(folder / "base"))
    return folder


def configured(files: Path, **more: Any) -> Path:
    model = {"name": "tiny", "path": str(files / "base"), "adapters": [{"name": "a", "path": str(files / "adapter")}]}
    path = files / "gapwatch.yaml"
    path.write_text(yaml.safe_dump({"models": [model], "kafka": KAFKA} | more))
    return path


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = cli(["doctor", "--plan", "--json", *words], standalone_mode=False)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3Gi", 3 << 30), ("24GiB", 24 << 30), ("80GB", 80 * 10**9), ("512M", 512_000_000), ("80e9", 80 * 10**9)],
)
def test_amounts_are_written_as_kubernetes_or_a_data_sheet_writes_them(text: str, expected: int) -> None:
    assert quantity("--card", text) == expected


@pytest.mark.parametrize("text", ["much", "0", "-3Gi", "3 GB of it"])
def test_another_amount_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="--card"):
        quantity("--card", text)


def test_a_witness_holds_base_and_golden_copy_as_the_loader_counts_them(files: Path) -> None:
    plan = memory_plan(load(configured(files, role="witness")), has_card=False)
    [base], of_role = plan.bases, plan.of("witness")
    counted = base_memory(files / "base", LEAST)
    libraries = AGENT_BYTES + MODEL_LIBRARIES_BYTES + ADAPTER_BYTES
    both = 2 * (counted.held + base.adapters)
    assert of_role.until_release.host == libraries + counted.needed + 2 * base.adapters
    assert of_role.narrow.host == of_role.until_release.host + counted.held
    assert of_role.whole.host > libraries + both and of_role.whole.card == 0
    assert of_role.bases == ("tiny",)


def test_without_traffic_no_response_is_scored_and_no_golden_copy_is_needed(files: Path) -> None:
    plan = memory_plan(load(configured(files, kafka=None)), has_card=False)
    assert plan.of("all").narrow == plan.of("all").until_release
    assert not plan.bases[0].golden


def test_sidecars_and_agents_apart_hold_no_model(files: Path) -> None:
    served = [{"name": "m", "served": {"url": "http://localhost:8000"}, "adapters": [{"name": "a"}]}]
    plan = memory_plan(load(configured(files, models=served)), has_card=True)
    assert plan.of("sidecar").whole == Memory(400_000_000 + ADAPTER_BYTES)
    assert plan.of("apart").whole == Memory(256 << 20)
    assert plan.of("sidecar").bases == plan.of("apart").bases == ()


def test_on_a_card_the_host_needs_no_second_copy_and_enrolment_two_there(files: Path) -> None:
    config = load(configured(files, role="witness"))
    there, here = memory_plan(config, has_card=True), memory_plan(config, has_card=False)
    [base] = there.bases
    assert there.of("witness").whole.host < here.of("witness").whole.host
    assert there.of("witness").whole.card == 2 * (base.wide.weights + base.adapters) + base.wide.replay
    assert there.of("enrolment").whole.card == 2 * (base.wide.weights + base.adapters) + base.eager.replay


def test_the_exit_code_says_whether_the_container_holds_the_role(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured(files, role="witness")
    code, told = facts(capsys, "-c", str(path), "--memory", "4Gi")
    assert code == 0, told
    whole, narrow, alone = (
        next(role for role in told["roles"] if role["role"] == "witness")[key]["host"]
        for key in ("whole", "narrow", "until_release")
    )
    for memory, expected, words in (
        (whole, 0, " of "),
        (whole - 1, 0, "in smaller batches"),
        (narrow, 0, "in smaller batches"),
        (narrow - 1, 1, "no response is scored"),
        (alone - 1, 1, "the verdict would say no_memory"),
    ):
        code, told = facts(capsys, "-c", str(path), "--memory", str(memory))
        [check] = told["checks"]
        assert (code, words in check["seen"]) == (expected, True), check
    assert facts(capsys, "-c", str(path), "--memory", "268435456", "--role", "apart")[0] == 0


def test_of_a_card_the_ceiling_of_the_role_counts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = configured(files, role="witness")
    arguments = ("-c", str(path), "--memory", "8Gi", "--card")
    assert facts(capsys, *arguments, "24GiB")[0] == 0
    beside_an_engine = facts(capsys, *arguments, str(10 * CONTEXT_BYTES), "--role", "all")
    assert beside_an_engine[0] == 1 and "probes.device_memory" in beside_an_engine[1]["checks"][1]["seen"]
    on_cpu = configured(files, role="witness", probes={"device": "cpu"})
    _, told = facts(capsys, "-c", str(on_cpu), "--memory", "8Gi", "--card", "1GB")
    assert [check["part"] for check in told["checks"]] == ["witness on the host"]


def test_what_is_not_here_or_not_given_cannot_be_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_card = configured(files, role="witness", probes={"device": "cuda"})
    code, told = facts(capsys, "-c", str(on_card), "--memory", "8Gi")
    assert code == 2 and told["checks"][1]["wanted"].startswith("--card")
    adapters = [{"name": "a", "path": str(files / "adapter")}]
    models = [{"name": "m", "path": str(files / "none"), "adapters": adapters}]
    elsewhere = configured(files, role="witness", models=models)
    code, told = facts(capsys, "-c", str(elsewhere), "--memory", "8Gi")
    assert code == 2 and [check["part"] for check in told["checks"]] == ["base m"]
    assert facts(capsys, "-c", str(elsewhere), "--memory", "8Gi", "--role", "apart")[0] == 0


def test_people_get_tables_and_senseless_options_are_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shown = str(configured(files)), StringIO()
    monkeypatch.setattr(console, "_file", shown)
    assert cli(["doctor", "--plan", "-c", path, "--memory", "4Gi"], standalone_mode=False) == 0
    assert "golden copy" in shown.getvalue() and "enrolment" in shown.getvalue()
    for words in (["--card", "24GiB"], ["--plan", "--role", "observer"], ["--plan", "--memory", "much"]):
        with pytest.raises(Refused, match="--"):
            cli(["doctor", "-c", path, *words], standalone_mode=False)
