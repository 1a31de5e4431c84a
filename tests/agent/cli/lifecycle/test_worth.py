"""gapwatch worth: an adapter that adds, a base that has learnt the task, and what of both is kept and stored."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from agent.cli.lifecycle.worth import WorthOptions, show_worth
from agent.config import load
from agent.economics import worth_file
from agent.errors import Refused
from agent.lifecycle.passport_feed import read_clocks
from agent.terminal.console import console
from detectors.economics.worth import Worth
from probes.golden.archive import save
from probes.golden.weights import keep_adapter
from tests.probes.rebuild.worlds import ADAPTER, base_and_adapter, record_of
from tests.probes.worth.test_checked_answers import learnt, with_checks

FEW = WorthOptions(examples="2", margin=0.3)  # for sixteen canaries of the tiny base


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worth")
    base, adapter = base_and_adapter(folder)
    golden = record_of(base, adapter, folder / "cache")
    save(with_checks(golden), folder / "golden")
    keep_adapter(adapter, folder / "golden", golden.adapter_hash)
    learnt(base, adapter, folder / "learnt")
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": [{"name": ADAPTER, "path": "adapter"}]}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


def test_an_adapter_that_adds(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More examples than its record has are not tried, and that is said."""
    assert show_worth(config, [], replace(FEW, examples="2,60"), json=True) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["worth"], found["base_right"], found["adapter_right"]) == ("adds", 0, found["checked"])
    assert found["original_gain"] == found["gain"] == 1.0 and found["gain_low"] > 0.4
    assert 2 <= found["examples_possible"] < 60
    assert [own["examples"] for own in found["prompted"]] == [0, 2] and found["prompted"][1]["extra_tokens"] > 20
    kept = worth_file.read(load(config).probes.golden_dir, ADAPTER)
    assert kept is not None and kept.worth is Worth.ADDS and kept.left == 1.0
    (stored,) = read_clocks(load(config), time.time()).worth
    assert (stored.worth, stored.gain_left, set(stored.right_with_examples)) == ("adds", 1.0, {0, 2})


def test_a_base_that_has_learnt_the_task_is_a_finding_of_its_own(config: Path) -> None:
    """Tried with --base, which keeps nothing; then in place, where the agent says it once and pages nobody."""
    folder = config.parent
    before = worth_file.read(folder / "golden", ADAPTER)
    other = replace(FEW, examples="", base=str(folder / "learnt"))
    with console.capture() as printed:
        assert show_worth(config, [ADAPTER], other, json=False) == 1
    words = " ".join(printed.get().split())
    assert "retire: the base alone passes" in words and f"gapwatch retire {ADAPTER}" in words
    assert worth_file.read(folder / "golden", ADAPTER) == before
    shutil.copytree(folder / "base", folder / "accepted")
    shutil.copytree(folder / "learnt", folder / "base", dirs_exist_ok=True)
    with console.capture():
        assert show_worth(config, [ADAPTER], replace(FEW, examples=""), json=False) == 1
    (clock,) = read_clocks(load(config), time.time()).clocks
    assert clock.kind == "base_passes" and clock.stage and "Nothing is broken" in clock.words
    shutil.copytree(folder / "accepted", folder / "base", dirs_exist_ok=True)


def test_what_cannot_be_measured_is_refused(config: Path) -> None:
    for wrong in (replace(FEW, examples="two"), replace(FEW, examples="0"), replace(FEW, margin=1.0)):
        with pytest.raises(Refused):
            show_worth(config, [ADAPTER], wrong, json=False)
    with pytest.raises(Refused, match="one of"):
        show_worth(config, ["nobody"], FEW, json=False)
