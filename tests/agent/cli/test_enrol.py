"""``gapwatch enrol`` over tiny models on disk: what is written, what is kept, how an earlier release is recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from agent.cli.console import console
from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.errors import Refused
from detectors.records import CanarySplit
from probes.artefacts.identity import NEWEST, adapter_hash, base_hash, template_hash, tokenizer_hashes
from probes.golden.archive import load, newest
from probes.golden.record import Golden, short
from probes.golden.weights import find, find_adapter
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

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
    for words in (*kept, "noise floor", "prefill in chunks of 16", "recorded to name a cause", "pin it"):
        assert words in said.get()
