"""``gapwatch probe`` over tiny models on disk: a release that breaks an adapter, with the cause by replay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.cli.probe import CANNOT_TELL, DEGRADED, HEALTHY, probe_now
from probes.golden.archive import load_pinned
from probes.golden.smallest_loss import smallest_loss
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

QUESTIONS = [f"q {i} {i * 37 % 101} item" for i in range(260)]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with one adapter of rank 8, enrolled."""
    folder = tmp_path_factory.mktemp("volume")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    tiny_adapter(folder / "a", base, r=8, lora_alpha=12)
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapter = {"name": "a", "path": "a", "canaries": "canaries.jsonl"}
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": [adapter]}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1, "seed": 3},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    assert enrol_adapter(folder / "gapwatch.yaml", "a", EnrolOptions(), json=True) == 0
    return folder


@pytest.fixture
def volume(accepted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(accepted, tmp_path / "volume"))


def probed(volume: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code, and the verdict on the adapter."""
    code = probe_now(volume / "gapwatch.yaml", (), json=True)
    (verdict,) = json.loads(capsys.readouterr().out)
    return code, verdict


def test_accepted_files_are_healthy(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, verdict = probed(volume, capsys)
    assert code == HEALTHY and verdict["status"] == "healthy"
    golden = load_pinned(volume / "golden", "a")
    loss = smallest_loss(golden)
    assert loss is not None and verdict["smallest_loss"] == pytest.approx(1 - loss.strength)


def test_files_without_a_module_are_named_by_it(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(volume / "a" / WEIGHTS)
    save_file({key: t for key, t in tensors.items() if "down_proj" not in key}, volume / "a" / WEIGHTS)
    code, verdict = probed(volume, capsys)
    assert (code, verdict["reason"], verdict["cause"]) == (DEGRADED, "cause_refined", "partly_applied")
    assert "down_proj" in verdict["explanation"] and "cause refined by replay" in verdict["explanation"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_rslora": True}, "= sqrt(8): the engine scales by alpha / sqrt(r) (rsLoRA), and the adapter was acc"),
        ({"lora_alpha": 24}, "x2: the adapter is applied twice, or lora_alpha was doubled"),
        ({"lora_alpha": 8}, "= 8 / 12: the engine scales by 1, and the adapter was accepted with alpha / r = 12 / 8"),
    ],
)
def test_a_scaling_that_was_changed_is_named_by_its_arithmetic(
    volume: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], words: str
) -> None:
    file = volume / "a" / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    code, verdict = probed(volume, capsys)
    assert (code, verdict["cause"]) == (DEGRADED, "wrong_strength")
    assert words in verdict["explanation"], verdict["explanation"]


def test_what_a_sidecar_leaves_to_a_witness_is_said_and_nothing_is_replayed(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = volume / "gapwatch.yaml"
    kafka = {"kafka": {"bootstrap_servers": ["a:1"], "topic": "t"}}
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"role": "sidecar"} | kafka))
    assert probe_now(file, (), json=True) == CANNOT_TELL
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert "base tiny is watched by a witness; this pod replays nothing of it" in " ".join(printed.err.split())
