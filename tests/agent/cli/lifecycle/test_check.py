"""gapwatch check: its exit codes, its words and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from agent.cli.lifecycle.check import CheckOptions, check_pair
from agent.errors import Refused
from examples.helpdesk.releases import make_release
from tests.probes.compatibility.releases import noisy, permuted
from tests.probes.tiny import tiny_adapter, tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base", tied=False)


def test_a_base_in_other_coordinates_will_lose_the_adapter(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = CheckOptions(permuted(base, tmp_path / "new"), tiny_adapter(tmp_path / "a", base), base)
    assert check_pair(wish, json=False) == 1
    printed = capsys.readouterr().out
    assert "✗ will lose: it fits by every shape and will be lost" in printed
    assert "by its structure on peft: fits; 6 of 6 parts fit" in printed
    assert "weights: 16 of 21 tensors changed: the same base with its hidden units permuted" in printed


def test_json_holds_each_module_and_the_exit_code(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tiny_adapter(tmp_path / "a", base)
    wish = CheckOptions(
        noisy(base, tmp_path / "new", 0.1), adapter, base, "vllm", "0.32.0", ("lora-target-modules=o_proj",)
    )
    assert check_pair(wish, json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["exit_code"], answer["structure"]) == ("will_lose", 1, "ignored")
    assert {part["outcome"] for part in answer["modules"]} == {"ignored"}
    assert answer["base_changes"] is None and ["not run" in note for note in answer["notes"]] == [True]
    assert check_pair(CheckOptions(wish.base, adapter, base, "vllm"), json=True) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "cannot_tell" and len(answer["base_changes"]["tensors"]) == 16
    assert "the engine's version is not given" in answer["notes"][0]


@pytest.mark.parametrize("setting", ["max_lora_rank", "max_lora_rank=high", "max_loras=3"])
def test_settings_that_no_rule_reads_are_refused(base: Path, tmp_path: Path, setting: str) -> None:
    with pytest.raises(Refused, match="engine-setting"):
        check_pair(CheckOptions(base, base, None, "vllm", "", (setting,)), json=False)


def test_a_folder_that_is_not_there_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file or folder"):
        check_pair(CheckOptions(base, tmp_path / "none"), json=False)


def test_a_replay_decides_where_the_weights_cannot(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canaries = tmp_path / "canaries.jsonl"
    rows = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"{n * 37 % 101} of {chr(65 + n)}"}]} for n in range(8)
    ]
    canaries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    adapter, little = tiny_adapter(tmp_path / "a", base), noisy(base, tmp_path / "little", 0.0005)
    wish = CheckOptions(little, adapter, base, replay=True, canaries=canaries, cache_dir=tmp_path)
    assert check_pair(wish, json=False) == 0
    printed = capsys.readouterr().out
    assert "✓ fits: replayed on both bases, it keeps 1.00 of its effect" in printed
    assert "measured strength:   1.00" in printed and "beyond tolerance: 0 canaries; flipped: " in printed
    with pytest.raises(Refused, match="--replay"):
        check_pair(CheckOptions(little, adapter, base, replay=True), json=False)


def canary_rows(path: Path, count: int = 12) -> Path:
    rows = [
        {"id": f"c{n}", "messages": [{"role": "user", "content": f"{n * 37 % 101} of {chr(65 + n)}"}]}
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("how", ["permuted", "rounded"])
def test_a_loss_that_was_measured_has_the_name_that_its_page_would_have(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    new = permuted(base, tmp_path / "new") if how == "permuted" else rounded(base, tmp_path / "new")
    adapter = tiny_adapter(tmp_path / "a", base, r=8, lora_alpha=12)
    wish = CheckOptions(new, adapter, base, replay=True, canaries=canary_rows(tmp_path / "c.jsonl"), cache_dir=tmp_path)
    assert check_pair(wish, json=True) == {"permuted": 1, "rounded": 2}[how]
    cause = json.loads(capsys.readouterr().out)["measured"]["cause"]
    assert cause["name"] == {"permuted": "base_swapped_and_adapter_lost", "rounded": "quantised_base"}[how]
    assert cause["explanation"]


def rounded(base: Path, out: Path) -> Path:
    return make_release("requantised", base, out)


def test_a_configured_adapter_is_checked_by_its_name(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_adapter(tmp_path / "a", base)
    canary_rows(tmp_path / "c.jsonl")
    own = {"name": "router", "path": "a", "canaries": "c.jsonl", "tolerance": 0.2}
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": [own]}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
    }
    (tmp_path / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    config = tmp_path / "gapwatch.yaml"
    little = noisy(base, tmp_path / "little", 0.0005)
    wish = CheckOptions(little, Path("router"), base, replay=True)
    assert check_pair(wish, json=True, config=config) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["measured"]["retention"]["mean"] == pytest.approx(1, abs=0.05) and answer["measured"]["cause"] is None
    # Nothing is recorded of it: what base it was accepted on is not known, and nobody guesses that it is this one.
    assert check_pair(CheckOptions(base, Path("router")), json=True, config=config) == 2
    assert json.loads(capsys.readouterr().out)["base_changes"] is None
    with pytest.raises(Refused, match="one of: router"):
        check_pair(CheckOptions(little, Path("nobody"), base), json=False, config=config)
