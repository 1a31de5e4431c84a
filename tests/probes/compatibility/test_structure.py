"""What becomes of an adapter, by headers alone: held against PEFT itself, and against the cited rules of engines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.compatibility.adapter_header import AdapterHeader
from probes.compatibility.base_network import base_network
from probes.compatibility.engine_rules import Outcome, engines, note_of_version, rules_of
from probes.compatibility.structure import structure
from probes.errors import Refused, Unreplayable
from tests.probes.architectures import architecture_base
from tests.probes.compatibility.peft_outcome import peft_outcome
from tests.probes.compatibility.releases import SEVENTY_BILLION
from tests.probes.tiny import tiny_adapter, tiny_base

FITS, PARTLY, IGNORED, CRASH = Outcome.FITS, Outcome.PARTLY, Outcome.IGNORED, Outcome.CRASH
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def outcome(base: Path, adapter: Path, engine: str = "peft", **settings: str) -> Outcome:
    return structure(base_network(base), AdapterHeader.read(adapter), rules_of(engine), settings).outcome


def rewritten(adapter: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    tensors = {key: value.contiguous() for key, value in change(load_file(adapter / WEIGHTS)).items()}
    save_file(tensors, adapter / WEIGHTS)
    return adapter


def reconfigured(adapter: Path, **fields: Any) -> Path:
    file = adapter / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return adapter


def renamed(old: str, new: str) -> Callable[[Path], Path]:
    return lambda adapter: rewritten(adapter, lambda t: {key.replace(old, new): v for key, v in t.items()})


def transposed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Factors stored the other way round, under each other's name."""
    swap = {"lora_A": "lora_B", "lora_B": "lora_A"}
    other = {key: re.sub("lora_[AB]", lambda match: swap[match[0]], key) for key in tensors}
    return {key: tensors[other[key]].T for key in tensors}


CASES: dict[str, tuple[dict[str, Any], Callable[[Path], Path], Outcome]] = {
    "as trained": ({}, lambda a: a, FITS),
    "one layer less": ({"num_hidden_layers": 1}, lambda a: a, PARTLY),
    "one layer more": ({"num_hidden_layers": 3}, lambda a: a, FITS),
    "other width": ({"hidden_size": 32}, lambda a: a, CRASH),
    "other heads": ({"num_key_value_heads": 4}, lambda a: a, CRASH),
    "other vocabulary": ({"vocab_size": 120}, lambda a: a, FITS),
    "a prefix lost": ({}, renamed("base_model.model.model.", "model."), IGNORED),
    "a prefix twice": ({}, renamed("base_model.model.", "base_model.model.base_model.model."), IGNORED),
    "of a wrapper": ({}, renamed("model.layers", "model.language_model.layers"), IGNORED),
    "another name": ({}, renamed(".lora_A.", ".lora_A.mine."), IGNORED),
    "renamed projections": ({}, renamed("q_proj", "query"), PARTLY),
    "no target here": ({}, lambda a: reconfigured(a, target_modules=["c_attn"]), CRASH),
    "a target less": ({}, lambda a: reconfigured(a, target_modules=["q_proj", "v_proj"]), PARTLY),
    "rank of another run": ({}, lambda a: reconfigured(a, r=8), CRASH),
    "factors transposed": ({}, lambda a: rewritten(a, transposed), CRASH),
    "halves lost": (
        {}, lambda a: rewritten(a, lambda t: {k: v for k, v in t.items() if "v_proj.lora_B" not in k}), PARTLY
    ),
    "a norm targeted": ({}, lambda a: reconfigured(a, target_modules=["q_proj", "norm"]), CRASH),
}  # fmt: skip
SHARDLESS = "80 of 80 shards are not there (80 tensors by the index): shapes are those of its config.json"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_peft_does_what_the_headers_say(tmp_path: Path, case: str) -> None:
    changes, spoil, wanted = CASES[case]
    adapter = spoil(tiny_adapter(tmp_path / "a", tiny_base(tmp_path / "old")))
    base = architecture_base(tmp_path / "new", "llama", **changes)
    assert outcome(base, adapter) is wanted
    assert peft_outcome(base, adapter) is wanted


@pytest.mark.parametrize(
    ("engine", "spoil", "settings", "wanted"),
    [
        ("vllm", lambda a: a, {}, FITS),
        ("vllm", renamed("base_model.model.model.", "model."), {}, FITS),
        ("vllm", renamed("q_proj", "query"), {}, CRASH),
        ("vllm", renamed("model.layers", "model.decoder.layers"), {}, IGNORED),
        ("vllm", lambda a: reconfigured(a, target_modules=["c_attn"]), {}, FITS),
        ("vllm", lambda a: reconfigured(a, use_dora=True), {}, CRASH),
        ("vllm", lambda a: a, {"max_lora_rank": "2"}, CRASH),
        ("vllm", lambda a: a, {"lora_target_modules": "o_proj"}, IGNORED),
        ("vllm", lambda a: a, {"lora_target_modules": "k_proj, o_proj"}, PARTLY),
        ("sglang", lambda a: reconfigured(a, use_rslora=True), {}, PARTLY),
        ("sglang", renamed("model.layers", "model.decoder.layers"), {}, Outcome.UNKNOWN),
        ("llama_cpp", renamed("model.layers", "model.decoder.layers"), {}, CRASH),
        ("tgi", lambda a: rewritten(a, lambda t: {k: v for k, v in t.items() if "layers.1.mlp" not in k}), {}, PARTLY),
    ],
)
def test_engines_by_their_rules(
    tmp_path: Path, engine: str, spoil: Callable[[Path], Path], settings: dict[str, str], wanted: Outcome
) -> None:
    base = tiny_base(tmp_path / "base")
    assert outcome(base, spoil(tiny_adapter(tmp_path / "a", base)), engine, **settings) is wanted


def test_vllm_fills_a_part_of_its_buffer_with_factors_that_are_too_small(tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "a", tiny_base(tmp_path / "old"))
    assert outcome(architecture_base(tmp_path / "larger", "llama", num_key_value_heads=4), adapter, "vllm") is PARTLY
    assert outcome(architecture_base(tmp_path / "smaller", "llama", num_key_value_heads=1), adapter, "vllm") is CRASH


def test_every_file_of_rules_is_read_and_says_what_it_was_read_from() -> None:
    for engine in engines():
        rules = rules_of(engine)
        assert rules.read_from and rules.since and rules.engine == engine
        assert note_of_version(rules, "") and "older" in note_of_version(rules, "0.0.1")
    with pytest.raises(Refused, match="one of: llama_cpp"):
        rules_of("ollama")


def test_pickles_and_foreign_configs_are_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base)
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(Unreplayable, match="pickle"):
        AdapterHeader.read(adapter)
    config = base / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_size": 128}))
    with pytest.raises(Unreplayable, match="another model than its weights"):
        base_network(base)
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(Unreplayable, match="pickle"):
        base_network(base)


def test_a_base_of_seventy_billion_is_told_from_its_index_alone(tmp_path: Path) -> None:
    """No shard is there, and the adapter's file says forty gigabytes without holding them."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(SEVENTY_BILLION))
    shards = {f"model.layers.{n}.mlp.up_proj.weight": f"model-{n:05}-of-00080.safetensors" for n in range(80)}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    adapter = large_adapter(tmp_path / "a")
    network = base_network(base)
    result = structure(network, AdapterHeader.read(adapter), rules_of("peft"))
    assert result.outcome is FITS
    assert network.facts == (SHARDLESS,)


def large_adapter(folder: Path, layers: int = 80, rank: int = 1024) -> Path:
    """Its tensors are a hole in the file."""
    folder.mkdir()
    entries, end = {}, 0
    for layer in range(layers):
        for part, shape in (("A", (rank, 8192)), ("B", (28672, rank))):
            size = 4 * shape[0] * shape[1]
            name = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_{part}.weight"
            entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
    header = json.dumps(entries).encode()
    with (folder / WEIGHTS).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["up_proj"]}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder
