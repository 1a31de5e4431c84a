"""Which bases are run is decided by their JSON files alone, and code in the folder is never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from probes.artefacts.architecture import architecture, check_architecture, check_base, read_tokenizer
from probes.errors import Unreplayable
from probes.model.build import read_base
from tests.probes.model_code import RAN, with_code
from tests.probes.tiny import opened, tiny_base

WEIGHTS = "model.safetensors"


def config_of(folder: Path, **told: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({}, "names no model_type"),
        ({"model_type": "brandnew"}, "'brandnew' is none that transformers"),
        ({"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"], "vision_config": {}},
         "Llama4ForConditionalGeneration is a multimodal model of a kind that is not replayed: save its text model"),
        ({"model_type": "glm4v", "architectures": ["Glm4vForConditionalGeneration"]}, "is a multimodal model"),
        ({"model_type": "paligemma", "architectures": ["PaliGemmaForConditionalGeneration"]}, "is a multimodal model"),
        ({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForCausalLM"]}, "is a multimodal model"),
        ({"model_type": "mllama", "architectures": ["MllamaForConditionalGeneration"]}, "is a multimodal model"),
        ({"model_type": "qwen2_audio"}, "is a multimodal model"),
        ({"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "clip"},
         "LlavaLlamaForCausalLM is a multimodal model"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
         "T5ForConditionalGeneration is an encoder-decoder model"),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "is an encoder-decoder model"),
        ({"model_type": "whisper"}, "is an encoder-decoder model"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "BertForMaskedLM is an encoder"),
        ({"model_type": "modernbert"}, "is an encoder"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "classification or reward head"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForRewardModel"]}, "classification or reward head"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForTokenClassification"]}, "classification or reward head"),
        ({"model_type": "mistral", "architectures": ["MistralModel"]}, "MistralModel, which is not MistralForCausalLM"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}},
         "quantised by modelopt, which is not read: name a copy of the base in bfloat16"),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "a method without a name"),
        ({"model_type": "internlm2", "auto_map": {"AutoConfig": "configuration_x.X"}},
         r"custom code \(configuration_x.X\): code of a model folder is never run"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadCustomModel"],
          "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
         r"GPT2LMHeadCustomModel is custom code \(modeling_x.X\), not transformers' GPT2LMHeadModel"),
    ],
)  # fmt: skip
def test_what_cannot_be_replayed_is_refused_by_its_name(tmp_path: Path, told: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unreplayable, match=reason) as refused:
        check_architecture(config_of(tmp_path, **told))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"model_type": "llama"}, "LlamaForCausalLM"),
        ({"model_type": "llama", "architectures": ["LLaMAForCausalLM"]}, "LlamaForCausalLM"),
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
          "auto_map": {"AutoConfig": "configuration_phi3.C", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}},
         "Phi3ForCausalLM"),
        ({"model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"]}, "Qwen3_5ForCausalLM"),
        ({"model_type": "gemma3_text", "vision_config": None}, "Gemma3ForCausalLM"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
         "Gemma3ForConditionalGeneration"),
        ({"model_type": "mistral3", "vision_config": {}}, "Mistral3ForConditionalGeneration"),
        ({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]},
         "Qwen3_5ForConditionalGeneration"),
        ({"model_type": "qwen2", "architectures": ["FSDPQwen2ForCausalLM"]}, "Qwen2ForCausalLM"),
    ],
)  # fmt: skip
def test_a_model_runs_with_the_class_that_transformers_has_for_it(
    tmp_path: Path, told: dict[str, Any], kind: str
) -> None:
    """Code beside a class that transformers has itself is data."""
    assert architecture(config_of(tmp_path, **told))[1].__name__ == kind


def test_code_of_a_folder_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _="": pytest.fail("asked whether to run code"))
    base = with_code(tiny_base(tmp_path / "base"), "internlm2")
    runner = opened(base, tmp_path / "cache")
    detail = runner.refresh()[None].detail
    assert "code of a model folder is never run" in detail and "\n" not in detail
    for reads in (check_base, read_base, architecture):
        with pytest.raises(Unreplayable, match="code of a model folder is never run"):
            reads(base)
    read_tokenizer(base)  # its tokenizer.json says it all
    assert not (base / RAN).exists()


def test_code_beside_a_class_of_transformers_is_not_run_either(tmp_path: Path) -> None:
    """Nor a tokenizer's where tokenizer.json says it all, nor a generate of its own."""
    base = with_code(tiny_base(tmp_path / "base"), "llama", tokenizer_class="TokenizersBackend")
    runner = opened(base, tmp_path / "cache")
    assert not runner.refresh()[None].blocked
    assert runner.encode_chat([{"role": "user", "content": "a"}])
    assert not (base / RAN).exists()


def test_a_template_that_reaches_for_python_is_not_followed(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('touch " + RAN + "') }}"
    )
    runner = opened(base, tmp_path / "cache")
    from jinja2.exceptions import SecurityError

    with pytest.raises(SecurityError):
        runner.encode_chat([{"role": "user", "content": "a"}])
    assert not Path(RAN).exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pytorch_model.bin", "pytorch_model.bin: a pickle, which may run code and is never read"),
        ("pytorch_model-00001-of-00002.bin", "a pickle"),
        ("consolidated.00.pth", "a pickle"),
        ("model.Q4_K_M.gguf", "name that file itself"),
        ("model-00001-of-00002.safetensors", "shards without model.safetensors.index.json"),
        ("consolidated.safetensors", "in another layout"),
        ("tf_model.h5", "another library's format"),
    ],
)
def test_weights_that_are_not_read_are_named(tmp_path: Path, name: str, reason: str) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "model.safetensors").rename(base / name)
    for reads in (check_base, read_base):
        with pytest.raises(Unreplayable, match=reason):
            reads(base)


def test_an_index_that_names_other_than_safetensors_in_its_folder_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "../model.safetensors"):
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(Unreplayable, match=r"no \.safetensors file in its folder"):
            read_base(base)


def test_a_git_lfs_pointer_is_named_wherever_it_lies(tmp_path: Path) -> None:
    for name in (*(f"{of}.json" for of in ("config", "tokenizer", "tokenizer_config", "generation_config")), WEIGHTS):
        base = tiny_base(tmp_path / name)
        (base / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
        detail = opened(base, tmp_path / "cache").refresh()[None].detail
        assert f"{name}: is a Git LFS pointer" in detail and "git lfs pull" in detail


def test_a_tokenizer_in_code_of_its_own_is_refused_where_nothing_else_says_it(tmp_path: Path) -> None:
    base = with_code(tiny_base(tmp_path / "base"), "llama", tokenizer_class="OwnTokenizer")
    (base / "tokenizer.json").rename(base / "own.tiktoken")
    with pytest.raises(Unreplayable, match=r"its tokenizer is custom code \(tokenization_own.OwnTokenizer\)"):
        read_tokenizer(base)
    assert not (base / RAN).exists()
