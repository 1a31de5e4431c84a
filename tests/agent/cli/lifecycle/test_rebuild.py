"""``gapwatch rebuild`` and ``gapwatch accept`` over a permuted base: the successor, its test, and the passport."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from agent.cli.lifecycle.accept import AcceptOptions, accept
from agent.cli.lifecycle.rebuild import RebuildOptions, rebuild_adapter
from agent.cli.lifecycle.retire import RetireOptions, retire
from agent.errors import Refused
from agent.lifecycle import passport_file
from agent.lifecycle.passport import Passport
from agent.terminal.console import console
from examples.helpdesk.releases import make_release
from probes.golden.archive import newest, save
from probes.golden.weights import keep, keep_adapter
from tests.probes.rebuild.worlds import ADAPTER, CANARIES, base_and_adapter, record_of


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and its release, an adapter that was enrolled on the one and is configured on the other."""
    folder = tmp_path_factory.mktemp("volume")
    base, adapter = base_and_adapter(folder)
    golden = record_of(base, adapter, folder / "cache")
    golden_dir = folder / "golden"
    keep_adapter(adapter, golden_dir, golden.adapter_hash)
    keep(base, golden_dir, golden.base_hash)
    save(golden, golden_dir)
    passport_file.write(golden_dir, Passport(adapter=ADAPTER, owner="Ada"))
    rows = [json.dumps(canary.as_json()) for canary in CANARIES.canaries]
    (folder / "canaries.jsonl").write_text("\n".join(rows))
    make_release("reparameterised", base, folder / "new")
    own = {"name": ADAPTER, "path": "adapter", "canaries": "canaries.jsonl"}
    settings = {
        "models": [{"name": "tiny", "path": "./new", "adapters": [own, {"name": "other", "path": "adapter"}]}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_from_the_swap_to_an_accepted_successor(volume: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, new, out = volume / "gapwatch.yaml", str(volume / "new"), volume / "rebuilt"
    record = newest(volume / "golden", ADAPTER)
    with console.capture() as said:
        assert accept(config, ADAPTER, AcceptOptions(), json=False) == 1
    assert "not accepted" in said.get() and "retention" in said.get()
    with console.capture() as said:
        code = rebuild_adapter(config, ADAPTER, RebuildOptions(new, out, train=False), json=False)
    words = said.get()
    assert code == 0 and "a permutation of hidden units explains the weights" in words
    assert "re-expressed" in words and "gapwatch enrol" in words
    assert accept(config, ADAPTER, AcceptOptions(out / "re-expressed", new), json=True) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["accepted"] and done["of_effect"]["low"] > 0.99
    passport = passport_file.read(volume / "golden", ADAPTER)
    assert passport is not None and passport.last_rebuild and "re-expressed" in passport.history[-1].what
    assert passport.economics.rebuild_gpu_hours is not None and passport.economics.rebuild_gpu_hours > 0
    assert passport.measured[-1].low is not None and passport.measured[-1].low > 0.99
    assert newest(volume / "golden", ADAPTER) == record, "the reference moves by enrol alone"


def test_of_a_retired_adapter_that_is_configured_no_more(volume: Path) -> None:
    config = volume / "gapwatch.yaml"
    with console.capture():
        retire(config, ADAPTER, RetireOptions("its owner has left"), json=False)
    settings = yaml.safe_load(config.read_text())
    settings["models"][0]["adapters"] = settings["models"][0]["adapters"][1:]
    (volume / "without.yaml").write_text(yaml.safe_dump(settings))
    out = volume / "later"
    shutil.rmtree(volume / "adapter")
    with console.capture():
        wish = RebuildOptions(str(volume / "new"), out, train=False)
        assert rebuild_adapter(volume / "without.yaml", ADAPTER, wish, json=False) == 0
    with pytest.raises(Refused, match="--candidate"):
        accept(volume / "without.yaml", ADAPTER, AcceptOptions(base=str(volume / "new")), json=False)


def test_a_name_that_nothing_has_is_refused(volume: Path) -> None:
    with pytest.raises(Refused, match="nobody"):
        rebuild_adapter(volume / "gapwatch.yaml", "nobody", RebuildOptions(str(volume / "new")), json=False)
