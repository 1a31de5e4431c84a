"""``gapwatch compose`` over two enrolled adapters: what it predicts, measures, recommends and writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from agent.cli.lifecycle.compose import ComposeOptions, compose_adapters, numbers
from agent.composition.folders import ABOUT
from agent.errors import Refused
from agent.terminal.console import console
from probes.artefacts.lora_files import read_adapter
from probes.golden.archive import save
from probes.golden.record import Golden
from tests.probes.composition.conftest import Pair
from tests.probes.composition.conftest import pair as pair  # a fixture
from tests.probes.composition.test_common_prompts import checking

NAMES = ("tone", "form")


@pytest.fixture(scope="module")
def config(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return configured(pair, pair.goldens, tmp_path_factory.mktemp("config"))


def configured(pair: Pair, goldens: Mapping[str, Golden], folder: Path) -> Path:
    for golden in goldens.values():
        save(golden, folder / "golden")
    (folder / "canaries.jsonl").write_text("")
    adapters = [{"name": name, "path": str(pair.folders[name]), "canaries": "canaries.jsonl"} for name in NAMES]
    other = {"name": "else", "path": str(pair.base), "adapters": [{"name": "alone", "path": str(pair.folders["tone"])}]}
    settings = {
        "models": [{"name": "tiny", "path": str(pair.base), "adapters": adapters}, other],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


def answered(config: Path, wish: ComposeOptions, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = compose_adapters(config, NAMES, wish, json=True)
    return code, json.loads(capsys.readouterr().out)


def test_half_of_each_is_predicted_to_lose_both_and_routing_to_keep_them(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.capture() as said:
        code = compose_adapters(config, NAMES, ComposeOptions("linear", (0.1, 0.1)), json=False)
    words = said.get()
    assert code in (1, 2) and "keeps 0." in words and "its own weight" in words
    assert "tone and form in the weights: cosine" in words and "--replay measures" in words
    _, facts = answered(config, ComposeOptions("linear", (0.1, 0.1)), capsys)
    assert [own["choice"] for own in facts["choices"]] == ["merge as asked", "reweight", "prune", "route"]  # type: ignore[attr-defined, index]
    assert facts["exit_code"] == code and str(facts["identity"]).startswith("sha256:")


def test_a_replay_decides_and_the_composition_is_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ComposeOptions("cat", (0.02, 1.0), replay=True, output=tmp_path / "both")
    code, facts = answered(config, wish, capsys)
    assert code == 1 and facts["verdict"] == "a_skill_will_be_lost"
    skills = {own["skill"]: own for own in facts["choices"][0]["skills"]}  # type: ignore[index]
    assert skills["tone"]["measured"]["of_effect"]["high"] < 0.95
    assert skills["form"]["measured"]["of_effect"]["low"] > 0.8
    assert read_adapter(tmp_path / "both").r == 8
    about = json.loads((tmp_path / "both" / ABOUT).read_text())
    assert about["identity"] == facts["identity"] and [own["weight"] for own in about["members"]] == [0.02, 1.0]


def test_behaviours_that_exclude_each_other_are_proven_on_prompts_in_common(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is nearly one member alone: on the prompts of both it fails the other's check."""
    goldens = {name: checking(pair.goldens[name]) for name in NAMES}
    file = configured(pair, goldens, tmp_path)
    wish = ComposeOptions("cat", (1e-6, 1.0), replay=True)
    code, facts = answered(file, wish, capsys)
    known = facts["common_prompts"][0]  # type: ignore[index]
    common = facts["choices"][0]["common"][0]  # type: ignore[index]
    assert code == 1 and known["members"] == common["members"] == list(NAMES)
    assert known["excluding"] > 0 and common["first"] == 0 < common["second"]
    with console.capture() as said:
        compose_adapters(file, NAMES, wish, json=False)
    words = " ".join(said.get().split())
    assert "prompts in common" in words and "pass both checks" in words and "for example:" in words


@pytest.mark.parametrize(
    ("names", "wish", "about"),
    [
        (("tone", "nobody"), ComposeOptions(), "nobody"),
        (("tone", "alone"), ComposeOptions(), "adapters of one base"),
        (("tone",), ComposeOptions(), "two adapters or more"),
        (NAMES, ComposeOptions(weights=(1.0,)), "--weights"),
        (NAMES, ComposeOptions("average"), "--method"),
        (NAMES, ComposeOptions("ties"), "density of ties"),
    ],
)
def test_what_makes_no_sense_is_refused(config: Path, names: tuple[str, ...], wish: ComposeOptions, about: str) -> None:
    with pytest.raises(Exception, match=about):
        compose_adapters(config, names, wish, json=False)


def test_weights_are_numbers() -> None:
    assert numbers("0.7, -0.3") == (0.7, -0.3) and numbers("") == ()
    with pytest.raises(Refused, match="--weights"):
        numbers("0.7;0.3")
