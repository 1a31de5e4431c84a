"""``gapwatch enrol`` over tiny models on disk: what is written, what is kept, how an earlier release is recognised."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from agent.cli.enrol import EnrolOptions, _of_base, enrol_adapter, enrol_adapters
from agent.config import load as load_config
from agent.errors import Refused
from agent.terminal.console import console
from detectors.records import CanarySplit
from probes.artefacts.identity import NEWEST, adapter_hash, base_hash, template_hash, tokenizer_hashes
from probes.golden.archive import load, newest
from probes.golden.codec import to_bytes
from probes.golden.record import Golden, short
from probes.golden.weights import find, find_adapter
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

ROOT = Path(__file__).resolve().parents[3]
QUESTIONS = [f"q {i} {i * 37 % 101} item" for i in range(260)]


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters and a configuration, laid out as on an engine's volume."""
    folder = tmp_path_factory.mktemp("volume")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    for seed, name in enumerate(("a", "b"), start=1):
        tiny_adapter(folder / name, base, seed=seed)
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapters = [{"name": name, "path": name, "canaries": "canaries.jsonl"} for name in ("a", "b")]
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": adapters}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture(scope="module")
def first(volume: Path) -> Golden:
    assert enrol_adapter(volume / "gapwatch.yaml", "a", EnrolOptions(), json=True) == 0
    return record(volume)


def record(volume: Path) -> Golden:
    found = newest(volume / "golden", "a")
    assert found is not None
    return load(volume / "golden", found)


def test_the_record_holds_messages_and_a_copy_of_the_adapter_and_no_signatures(volume: Path, first: Golden) -> None:
    """Signatures are made after an alarm, on the copies that are kept here."""
    assert all(canary.messages for canary in first.canaries)
    assert first.faults == () and first.unrecorded == ()
    kept = find_adapter(volume / "golden", first.adapter_hash)
    assert kept is not None and adapter_hash(kept) == adapter_hash(volume / "a") == first.adapter_hash


def test_the_base_is_kept_where_responses_are_scored(volume: Path, first: Golden) -> None:
    kept = find(volume / "golden", first.base_hash)
    assert kept is not None and base_hash(kept) == base_hash(volume / "base")


def test_the_record_names_its_hash_scheme_and_the_tokenizer_of_the_base(volume: Path, first: Golden) -> None:
    assert first.hash_scheme == NEWEST
    assert first.template_hash == template_hash(volume / "base") != ""
    assert first.tokenizer_files_hash == tokenizer_hashes(volume / "base")[NEWEST]


def test_a_replacement_has_the_release_before_it_among_the_other_adapters(volume: Path, first: Golden) -> None:
    with pytest.raises(Refused, match="accepted already"):
        enrol_adapter(volume / "gapwatch.yaml", "a", EnrolOptions(), json=True)
    (model,) = yaml.safe_load((volume / "gapwatch.yaml").read_text())["models"]
    traffic_only = {"models": [model | {"replay": False}], "probes": {"golden_dir": "golden"}}
    traffic_only |= {"kafka": {"bootstrap_servers": ["a:1"], "topic": "t"}}
    (volume / "traffic-only.yaml").write_text(yaml.safe_dump(traffic_only))
    with pytest.raises(Refused, match="accepted already"):
        enrol_adapter(volume / "traffic-only.yaml", "a", EnrolOptions(), json=True)
    shutil.rmtree(volume / "a")
    tiny_adapter(volume / "a", volume / "base", seed=7)
    assert enrol_adapter(volume / "gapwatch.yaml", "a", EnrolOptions(replace=True, why="retrained"), json=True) == 0
    second = record(volume)
    stale = f"a@{short(first.adapter_hash)}"
    assert (second.previous, second.why) == (first.hash, "retrained")
    assert set(second.canaries[0].reference.others) == {"b", stale}


def test_a_chosen_pool_and_prompts_from_traffic(volume: Path, first: Golden) -> None:
    shutil.rmtree(volume / "a")
    tiny_adapter(volume / "a", volume / "base", seed=7)
    exported = volume / "exported.jsonl"
    rows = [{"adapter": name, "prompt": f"{name} asks {i}"} for i in range(40) for name in ("a", "b")]
    exported.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(Refused, match="--select"):
        enrol_adapter(volume / "gapwatch.yaml", "a", EnrolOptions(True, "x", traffic=exported), json=True)
    wish = EnrolOptions(replace=True, why="other canaries", select=True, traffic=exported)
    with console.capture() as said:
        assert enrol_adapter(volume / "gapwatch.yaml", "a", wish, json=False) == 0
    chosen = record(volume)
    assert chosen.settings["select"] is True
    assert len(chosen.pool) >= 24 and len(chosen.held_out) >= 24
    assert "not chosen: others carry more information per token" in chosen.excluded.values()
    assert any(canary.id.startswith("traffic-") for canary in chosen.canaries)
    assert not any("b asks" in canary.prompt_text for canary in chosen.canaries)
    assert {canary.split for canary in chosen.canaries} == set(CanarySplit)
    # The adapter is the one that was recorded last: it is not its own earlier release.
    assert set(chosen.canaries[0].reference.others) == {"b", f"a@{short(first.adapter_hash)}"}
    kept = ("base kept in", "hard links")
    battery = ("noise floor", "mass outside", "prefill in chunks of 16")
    for words in (*kept, *battery, "recorded to name a cause", "pin it"):
        assert words in said.get()


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Another volume: adapters a and b, and c, whose weights are no adapter's."""
    base = ends_now_and_then(tiny_base(tmp_path / "base", tied=False))
    for seed, name in enumerate("abc", start=1):
        tiny_adapter(tmp_path / name, base, seed=seed)
    (tmp_path / "c" / "adapter_model.safetensors").write_bytes(b"nothing of the kind")
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (tmp_path / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapters = [{"name": name, "path": name, "canaries": "canaries.jsonl"} for name in "abc"]
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": adapters}],
        "probes": {"golden_dir": "golden", "cache_dir": "cache", "device": "cpu", "threads": 1},
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
    }
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_an_adapter_that_is_refused_does_not_stop_the_others_and_a_second_run_goes_on(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = several.parent / "golden"
    assert enrol_adapters(several, ["a", "b", "c"], EnrolOptions(), json=True) == 2
    outcomes = json.loads(capsys.readouterr().out)
    assert [outcome["adapter"] for outcome in outcomes] == ["a", "b", "c"]
    assert [outcome["golden"] for outcome in outcomes[:2]] == [newest(folder, "a"), newest(folder, "b")]
    assert "adapter_model.safetensors" in outcomes[2]["refused"] and newest(folder, "c") is None
    assert not [file for file in (folder / "unfinished").rglob("*") if file.is_file()]

    # As if it had been interrupted before b, and c had been repaired meanwhile.
    recorded = outcomes[1]["golden"].removeprefix("sha256:")
    (folder / f"{recorded}.golden").unlink()
    shutil.rmtree(several.parent / "c")
    tiny_adapter(several.parent / "c", several.parent / "base", seed=3)
    assert enrol_adapters(several, [], EnrolOptions(), json=True) == 0
    again = json.loads(capsys.readouterr().out)
    assert again[0]["golden"] == outcomes[0]["golden"] and again[0]["before"] is True
    assert [newest(folder, name) for name in "abc"] == [outcome["golden"] for outcome in again]
    assert "before" not in again[1] and "before" not in again[2]
    assert set(load(folder, again[1]["golden"]).canaries[0].reference.others) == {"a", "c"}

    # Another release is not accepted without being asked for; with a reason it is, once.
    shutil.rmtree(several.parent / "a")
    tiny_adapter(several.parent / "a", several.parent / "base", seed=9)
    assert enrol_adapters(several, ["a", "b"], EnrolOptions(), json=True) == 2
    refused, before = json.loads(capsys.readouterr().out)
    assert "accepted already" in refused["refused"] and before["before"] is True
    wish = EnrolOptions(replace=True, why="retrained")
    assert enrol_adapters(several, ["a", "b"], wish, json=True) == 0
    replaced = json.loads(capsys.readouterr().out)
    assert load(folder, replaced[0]["golden"]).previous == outcomes[0]["golden"]
    assert enrol_adapters(several, ["a", "b"], wish, json=True) == 0
    assert [outcome["before"] for outcome in json.loads(capsys.readouterr().out)] == [True, True]


def test_an_adapter_whose_files_change_after_it_began_is_refused_alone(
    several: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_file", io.StringIO())
    config = load_config(several)
    model = config.models[0]
    outcomes = _of_base(config, model, model.adapters[:2], EnrolOptions(), alone=False)
    first = next(outcomes)  # both have begun by now
    shutil.rmtree(several.parent / "b")
    tiny_adapter(several.parent / "b", several.parent / "base", seed=9)
    second = next(outcomes)
    assert first.hash == newest(several.parent / "golden", "a") and not first.refused
    assert second.golden is None and "chang" in second.refused
    assert newest(several.parent / "golden", "b") is None
    assert list(outcomes) == []


def test_a_killed_command_goes_on_where_it_stopped(several: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed as the operating system does it, in a process of its own, once the scale curve of a is recorded."""
    unfinished = several.parent / "golden" / "unfinished"
    command = [sys.executable, "-m", "agent", "enrol", "a", "b", "--config", str(several)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(unfinished.rglob("*.curve")):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert {".pool", ".curve"} <= {file.suffix for file in unfinished.rglob("*.*")}
    assert newest(several.parent / "golden", "a") is None
    assert enrol_adapters(several, ["a"], EnrolOptions(), json=True) == 0
    resumed = load(several.parent / "golden", json.loads(capsys.readouterr().out)["golden"])
    assert not list(unfinished.rglob("*.curve"))
    (several.parent / "golden" / f"{resumed.hash.removeprefix('sha256:')}.golden").unlink()
    assert enrol_adapters(several, ["a"], EnrolOptions(), json=True) == 0
    whole = load(several.parent / "golden", json.loads(capsys.readouterr().out)["golden"])
    same_time = replace(resumed, created_at=whole.created_at)
    assert to_bytes(same_time) == to_bytes(whole)


@pytest.mark.parametrize("names", [("a", "--all"), ()])
def test_names_or_all_and_not_both_or_none(names: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "agent", "enrol", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and "--all" in done.stderr
