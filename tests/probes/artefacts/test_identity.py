"""What changes a hash and what does not, by each scheme: everything that changes an answer, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.artefacts.identity import (
    NEWEST,
    SCHEMES,
    adapter_hash,
    base_hash,
    template_hash,
    tokenizer_files,
    tokenizer_hashes,
)
from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable
from tests.probes.tiny import TEMPLATE, tiny_adapter, tiny_base

# Written down: a scheme never changes. Of ``written`` below.
FIRST = {
    "base": "sha256:5e2a6b1a2776208aa5fee6b598085d87be7b7b1747d19c1a4329c9fac2786f14",
    "adapter": "sha256:ea402844c7c2f2fd186d56126b919f422ff55c07d965ac5ed2c897db9d703541",
    "tokenizer": "sha256:b6e7f46e4567fd8ae1463bdd9901a827dbe8cb5c68241b4f7591c7db6159eb91",
}
SECOND = {
    "base": "sha256:c181fb3957ef219ca89837ac7576cc07f3dec94a9722667a636f76750a1f98d5",
    "adapter": "sha256:98dd1933b45d703f4cebff42451aac39ac1a423a34ee04a254c7872aeeb9d0d3",
    "tokenizer": "sha256:723f2e928567b040ac8a8502932d571cd3602618f6679feb755e6ddd9c731f4e",
}
BASE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0, "rope_scaling": None, "eos_token_id": 2, "torch_dtype": "bfloat16", "use_cache": True,
    "attention_dropout": 0.0, "sliding_window": None, "transformers_version": "4.40.0",
}  # fmt: skip
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["v_proj", "q_proj"],
    "lora_dropout": 0.05, "bias": "none", "use_rslora": False, "rank_pattern": {}, "modules_to_save": None,
    "base_model_name_or_path": "somewhere", "inference_mode": True, "init_lora_weights": True, "peft_version": "0.10.0",
}  # fmt: skip


def write(file: Path, value: object) -> None:
    file.write_text(json.dumps(value))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write(folder / "config.json", BASE)
    save_file({"model.norm.weight": torch.arange(4.0)}, folder / "model.safetensors")
    write(folder / "tokenizer.json", {"truncation": None, "padding": None, "model": {"vocab": {"a": 0}}})
    write(folder / "tokenizer_config.json", {"eos_token": "</s>", "chat_template": TEMPLATE, "name_or_path": "x"})
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder / "adapter_config.json", LORA)
    save_file({"base_model.model.q_proj.lora_A.weight": torch.ones(4, 8)}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(("scheme", "written"), [(1, FIRST), (2, SECOND)])
def test_a_scheme_never_changes(base: Path, adapter: Path, scheme: int, written: dict[str, str]) -> None:
    """Otherwise accepted artefacts would look replaced. A better scheme gets the next number."""
    assert base_hash(base, scheme) == written["base"]
    assert adapter_hash(adapter, scheme) == written["adapter"]
    assert tokenizer_hashes(base)[scheme] == written["tokenizer"]
    assert max(SCHEMES) == NEWEST


OF_NO_ANSWER: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"lora_dropout": 0.0},
    {"inference_mode": False},
    {"task_type": None},
    {"revision": "main"},
    {"base_model_name_or_path": "elsewhere", "peft_version": "9", "auto_mapping": {"parent_library": "x"}},
    {"modules_to_save": [], "exclude_modules": None, "layers_pattern": None},
    {"alpha_pattern": {}, "eva_config": None, "loftq_config": {}, "corda_config": None},
    {"use_dora": False, "lora_bias": False, "ensure_weight_tying": False, "qalora_group_size": 16},
    {"megatron_core": "megatron.core", "a_key_of_peft_9": None, "use_what_comes": False},
    {"init_lora_weights": "gaussian"},
    {"lora_alpha": 8.0},
]


@pytest.mark.parametrize("changes", OF_NO_ANSWER, ids=str)
def test_what_changes_no_answer_of_an_adapter_does_not_move_its_hash(adapter: Path, changes: dict[str, Any]) -> None:
    before = adapter_hash(adapter)
    write(adapter / "adapter_config.json", dict(reversed((LORA | changes).items())))
    assert adapter_hash(adapter) == before
    write(adapter / "adapter_config.json", {key: value for key, value in LORA.items() if key not in changes} | changes)
    assert adapter_hash(adapter) == before


def test_an_absent_field_hashes_as_its_default(adapter: Path) -> None:
    before = adapter_hash(adapter)
    said = ("peft_type", "r", "lora_alpha", "target_modules")
    write(adapter / "adapter_config.json", {key: LORA[key] for key in said})
    assert adapter_hash(adapter) == before


OF_ANSWERS: list[dict[str, Any]] = [
    {"r": 8},
    {"lora_alpha": 16},
    {"use_rslora": True},
    {"use_dora": True},
    {"target_modules": ["q_proj"]},
    {"target_modules": "all-linear"},
    {"exclude_modules": ["v_proj"]},
    {"modules_to_save": ["lm_head"]},
    {"layers_to_transform": [0]},
    {"rank_pattern": {"q_proj": 2}},
    {"alpha_pattern": {"q_proj": 2, "v_proj": 3}},
    {"alpha_pattern": {"v_proj": 3, "q_proj": 2}},
    {"bias": "all"},
    {"init_lora_weights": "pissa"},
    {"fan_in_fan_out": True},
    {"a_key_of_peft_9": 3},
]


def test_each_thing_that_changes_an_answer_makes_another_adapter(adapter: Path) -> None:
    hashes = {adapter_hash(adapter)}
    for changes in OF_ANSWERS:
        write(adapter / "adapter_config.json", LORA | changes)
        hashes.add(adapter_hash(adapter))
    write(adapter / "adapter_config.json", LORA)
    save_file({"base_model.model.q_proj.lora_A.weight": torch.zeros(4, 8)}, adapter / "adapter_model.safetensors")
    hashes.add(adapter_hash(adapter))
    assert len(hashes) == len(OF_ANSWERS) + 2


def test_what_peft_saves_twice_is_one_adapter(tmp_path: Path) -> None:
    """PEFT writes target_modules from a set, whose order differs from process to process."""
    base = tiny_base(tmp_path / "base")
    one = tiny_adapter(tmp_path / "one", base, target_modules=["q_proj", "v_proj", "down_proj"])
    two = tiny_adapter(tmp_path / "two", base, target_modules=["down_proj", "v_proj", "q_proj"], lora_dropout=0.1)
    config = json.loads((two / "adapter_config.json").read_text())
    write(two / "adapter_config.json", config | {"target_modules": sorted(config["target_modules"], reverse=True)})
    save_file(load_file(one / "adapter_model.safetensors"), two / "adapter_model.safetensors")
    assert adapter_hash(one) == adapter_hash(two) == read_adapter(two).hash
    assert adapter_hash(one, 1) != adapter_hash(two, 1) == read_adapter(two).hashes[1]


BASE_OF_NO_ANSWER: list[dict[str, Any]] = [
    {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0},
    {"use_cache": False, "torch_dtype": "float16", "dtype": "float32", "architectures": None},
    {"_name_or_path": "elsewhere", "transformers_version": "9", "unsloth_version": "1"},
    {"attention_dropout": 0.1, "resid_pdrop": 0.1, "initializer_range": 0.5},
    {"temperature": 0.6, "max_length": 20, "output_attentions": True, "id2label": {"0": "a"}},
    {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}, "rope_theta": None},
]


@pytest.mark.parametrize("changes", BASE_OF_NO_ANSWER, ids=str)
def test_what_changes_no_answer_of_a_base_does_not_move_its_hash(base: Path, changes: dict[str, Any]) -> None:
    before = base_hash(base)
    write(base / "config.json", BASE | changes)
    assert base_hash(base) == before
    inner = BASE | {"text_config": BASE}
    write(base / "config.json", inner)
    nested = base_hash(base)
    write(base / "config.json", inner | {"text_config": BASE | changes})
    assert base_hash(base) == nested != before


BASE_OF_ANSWERS: list[dict[str, Any]] = [
    {"rope_theta": 500000.0},
    {"rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {"rms_norm_eps": 1e-05},
    {"sliding_window": 4096},
    {"max_position_embeddings": 4096},
    {"tie_word_embeddings": True},
    {"hidden_act": "gelu"},
    {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    {"image_token_id": 7},
    {"text_config": {"rms_norm_eps": 1e-05}},
]


def test_each_thing_that_changes_an_answer_makes_another_base(base: Path) -> None:
    hashes = {base_hash(base)}
    for changes in BASE_OF_ANSWERS:
        write(base / "config.json", BASE | changes)
        hashes.add(base_hash(base))
    write(base / "config.json", {key: value for key, value in BASE.items() if key != "sliding_window"})
    hashes.add(base_hash(base))  # a class may have a window by default: null is not nothing
    assert len(hashes) == len(BASE_OF_ANSWERS) + 2


def test_linear_rope_scaling_hashes_alike_in_every_notation(base: Path) -> None:
    write(base / "config.json", BASE | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    before = base_hash(base)
    rope = {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2}
    others = {key: value for key, value in BASE.items() if not key.startswith("rope")}
    write(base / "config.json", others | {"rope_parameters": rope})
    assert base_hash(base) == before


def test_the_chat_template_has_a_hash_of_its_own_from_the_second_scheme_on(base: Path) -> None:
    tokenizers, template = tokenizer_hashes(base), template_hash(base)
    write(base / "tokenizer_config.json", {"eos_token": "</s>", "chat_template": TEMPLATE + " "})
    assert tokenizer_hashes(base)[1] != tokenizers[1]
    assert tokenizer_hashes(base)[2] == tokenizers[2]
    assert template_hash(base) not in (template, "")


def test_the_chat_template_hashes_alike_in_every_place(base: Path) -> None:
    inside = template_hash(base)
    (base / "chat_template.jinja").write_text(TEMPLATE)
    assert template_hash(base) == inside
    write(base / "tokenizer_config.json", {"chat_template": "not this one: the file counts"})
    assert template_hash(base) == inside
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    several = template_hash(base)
    assert several != inside
    for file in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        (base / file).unlink()
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "tools"}]
    write(base / "tokenizer_config.json", {"chat_template": named})
    assert template_hash(base) == several
    write(base / "tokenizer_config.json", {"eos_token": "</s>"})
    assert template_hash(base) == ""


def test_a_tokenizers_saved_state_does_not_change_its_hash(base: Path) -> None:
    before = tokenizer_hashes(base)[NEWEST]
    file = base / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding": {"length": 5}, "truncation": {}}, indent=3))
    write(base / "tokenizer_config.json", {"eos_token": "</s>", "pad_token": "<p>", "padding_side": "left"})
    assert tokenizer_hashes(base)[NEWEST] == before
    seen = {before}
    write(file, {"model": {"vocab": {"b": 0}}})
    seen.add(tokenizer_hashes(base)[NEWEST])
    write(base / "tokenizer_config.json", {"eos_token": "<end>"})
    seen.add(tokenizer_hashes(base)[NEWEST])
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["tekken.json", "spiece.model", "qwen.tiktoken", "sentencepiece.bpe.model"])
def test_every_tokenizer_file_counts_in_the_second_scheme(base: Path, name: str) -> None:
    before = tokenizer_hashes(base)
    (base / name).write_bytes(b"words")
    one = tokenizer_hashes(base)
    (base / name).write_bytes(b"other words")
    assert len({before[2], one[2], tokenizer_hashes(base)[2]}) == 3
    assert before[1] == tokenizer_hashes(base)[1], "a scheme keeps its list"


def test_a_folder_without_a_tokenizer_says_so(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (base / name).unlink()
    with pytest.raises(Unreplayable, match="holds no tokenizer files"):
        tokenizer_hashes(base)
    assert template_hash(base) == ""


def test_a_tokenizer_of_files_that_only_the_later_scheme_knows_has_no_hash_by_the_first(base: Path) -> None:
    for file in tokenizer_files(base):
        file.unlink()
    (base / "chat_template.jinja").unlink(missing_ok=True)
    (base / "tekken.json").write_text('{"vocab": []}')
    told = tokenizer_hashes(base)
    assert told[1] == "" and told[2].startswith("sha256:")
