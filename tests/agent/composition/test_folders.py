"""Compositions from files to verdicts: made of their members, enrolled, and judged when a member is missing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from agent.cli.enrol import EnrolOptions, enrol_adapters
from agent.cli.probe import probe_now
from agent.composition.folders import ABOUT, make_folders
from agent.config import load
from agent.terminal.console import console
from probes.composition.compose import compose, read_members, write
from probes.composition.recipe import Member, Recipe
from probes.golden.archive import load_pinned
from tests.probes.tiny import ends_now_and_then, overwrite, tiny_adapter, tiny_base

QUESTIONS = [f"q {i} {i * 37 % 101} item" for i in range(90)]


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volume")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    for seed, name in enumerate(("tone", "form"), start=1):
        tiny_adapter(folder / name, base, seed=seed)
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapters = [{"name": name, "path": name, "canaries": "canaries.jsonl"} for name in ("tone", "form")]
    desk = {"name": "desk", "members": [{"adapter": "tone"}, {"adapter": "form"}]}
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": adapters, "compositions": [desk]}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1, "seed": 1},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_made_once_and_again_when_a_member_changes(volume: Path) -> None:
    config = load(volume / "gapwatch.yaml")
    model = config.models[0]
    make_folders(config, model)
    made = volume / "cache/compositions/tiny/desk"
    first = json.loads((made / ABOUT).read_text())
    assert first["method"] == "stacked" and [own["adapter"] for own in first["members"]] == ["tone", "form"]
    before = (made / ABOUT).stat().st_ino
    make_folders(config, model)
    assert (made / ABOUT).stat().st_ino == before
    kept = shutil.copytree(volume / "form", volume / "kept")
    overwrite(tiny_adapter(volume / "later", volume / "base", seed=7), volume / "form")
    make_folders(config, model)
    assert json.loads((made / ABOUT).read_text())["identity"] != first["identity"]
    (volume / "form/adapter_model.safetensors").write_bytes(b"half")
    make_folders(config, model)
    assert made.is_dir(), "what cannot be made again leaves what was there"
    overwrite(kept, volume / "form")


def test_a_skill_is_enrolled_and_a_missing_member_pages_for_its_own_skill(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = volume / "gapwatch.yaml"
    assert enrol_adapters(config, ["desk / form"], EnrolOptions(), json=True) == 0
    golden = load_pinned(volume / "golden", "desk / form")
    assert set(golden.canaries[0].reference.others) == {"tone", "form"}
    names = ["desk / form"]
    assert probe_now(config, names, json=True) == 0
    capsys.readouterr()
    merged = yaml.safe_load(config.read_text())
    merged["models"][0]["compositions"][0]["path"] = "tone"  # the engine has lost one of the two
    (volume / "lost.yaml").write_text(yaml.safe_dump(merged))
    with console.capture() as said:
        assert probe_now(volume / "lost.yaml", names, json=False) == 1
    words = " ".join(said.get().split())
    assert "desk / form" in words and "the other members are missing from the composition" in words


def test_a_member_at_half_of_its_weight_is_named(volume: Path) -> None:
    config = volume / "gapwatch.yaml"
    recipe = Recipe((Member("tone"), Member("form", 0.5)))
    folders = {name: volume / name for name in ("tone", "form")}
    write(compose(recipe, read_members(recipe, folders)), volume / "tone", volume / "half")
    settings = yaml.safe_load(config.read_text())
    settings["models"][0]["compositions"][0]["path"] = "half"
    (volume / "half.yaml").write_text(yaml.safe_dump(settings))
    with console.capture() as said:
        assert probe_now(volume / "half.yaml", ["desk / form"], json=False) == 1
    words = " ".join(said.get().split())
    # Which canaries are drawn depends on the time of the round, and with them the last per cents.
    assert re.search(r"as if form had (4[5-9]|5[0-5]) % of its weight in the composition", words), words
