"""Is the class of an adapter on a base right by headers alone? Adapters of one tiny Llama, as trained and spoilt, on
bases of its own and other kinds: each pair is loaded by PEFT, and what PEFT does is the truth.

The peer is the plain test: it fits where it loads. Rules were mended after pairs of ``BASES`` (204 of 215 were right
before, 94.9 %), ``SECOND_BASES`` and ``THIRD_BASES`` (203 of 208, 97.6 %) were looked at; those of ``FRESH_BASES`` were
looked at after that alone. Rules of other engines are cited and not run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file

from benchmarks.figures import Figure, at_least, at_most, console, context, share
from probes.compatibility.adapter_header import AdapterHeader
from probes.compatibility.base_network import base_network
from probes.compatibility.engine_rules import Outcome, rules_of
from probes.compatibility.structure import structure
from probes.errors import ProbeError
from tests.probes.architectures import architecture_base
from tests.probes.compatibility.peft_outcome import peft_outcome
from tests.probes.compatibility.releases import SEVENTY_BILLION, permuted
from tests.probes.compatibility.test_structure import large_adapter
from tests.probes.tiny import tiny_adapter, tiny_base

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Tensors = dict[str, torch.Tensor]
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, one layer": ("llama", {"num_hidden_layers": 1}),
    "llama, four layers": ("llama", {"num_hidden_layers": 4}),
    "llama, twice as wide": ("llama", {"hidden_size": 128}),
    "llama, one group of keys": ("llama", {"num_key_value_heads": 1}),
    "llama, all keys": ("llama", {"num_key_value_heads": 4}),
    "llama, other vocabulary": ("llama", {"vocab_size": 150}),
    "llama, other neurons": ("llama", {"intermediate_size": 160}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma": ("gemma", {}),
    "phi3, fused": ("phi3", {}),
    "gpt2": ("gpt2", {}),
    "gpt_neox": ("gpt_neox", {}),
    "llava, a wrapper": ("llava", {}),
    "gemma3, a wrapper": ("gemma3", {}),
    "qwen3_moe": ("qwen3_moe", {}),
}
SECOND_BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    "smollm3, three layers": ("smollm3", {"num_hidden_layers": 3}),
    "starcoder2": ("starcoder2", {}),
    "glm4": ("glm4", {}),
    "stablelm": ("stablelm", {}),
    "phi": ("phi", {}),
    "gemma2, wider heads": ("gemma2", {"head_dim": 32}),
    "gptj": ("gptj", {}),
    "mixtral": ("mixtral", {}),
    "mistral3, a wrapper": ("mistral3", {}),
    "qwen2_vl, a wrapper": ("qwen2_vl", {}),
    "llama, untied and one layer": ("llama", {"num_hidden_layers": 1, "tie_word_embeddings": False}),
}
THIRD_BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere2, two layers more": (
        "cohere2",
        {"num_hidden_layers": 4, "sliding_window": 4,
         "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    ),
    "exaone4": ("exaone4", {}),
    "gemma3_text": ("gemma3_text", {}),
    "ministral3": ("ministral3", {}),
    "falcon": ("falcon", {}),
    "bloom": ("bloom", {}),
    "opt": ("opt", {}),
    "olmoe": ("olmoe", {}),
    "qwen2_moe": ("qwen2_moe", {}),
    "internvl, a wrapper": ("internvl", {}),
    "qwen3_vl, a wrapper": ("qwen3_vl", {}),
    "llama, half as wide": ("llama", {"hidden_size": 32}),
    "llama, three layers and untied": ("llama", {"num_hidden_layers": 3, "tie_word_embeddings": False}),
}  # fmt: skip
FRESH_BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v3": ("deepseek_v3", {}),
    "glm4_moe": ("glm4_moe", {}),
    "granitemoe": ("granitemoe", {}),
    "phimoe": ("phimoe", {}),
    "gpt_oss": ("gpt_oss", {}),
    "qwen3_5_text": ("qwen3_5_text", {}),
    "lfm2": ("lfm2", {}),
    "falcon_h1": ("falcon_h1", {}),
    "smolvlm, a wrapper": ("smolvlm", {}),
    "qwen2_5_vl, a wrapper": ("qwen2_5_vl", {}),
    "qwen3, one layer": ("qwen3", {"num_hidden_layers": 1}),
    "mistral, other heads": ("mistral", {"num_attention_heads": 8}),
    "gemma, three layers": ("gemma", {"num_hidden_layers": 3}),
}
FRESH_TRAINED: dict[str, dict[str, Any]] = {
    "outputs alone": {"target_modules": ["o_proj", "down_proj"]},
    "alphas by pattern": {"alpha_pattern": {"v_proj": 3}, "target_modules": ["v_proj"]},
    "a bias on the MLP": {"target_modules": ["gate_proj", "down_proj"], "lora_bias": True},
    "a norm of the end": {"modules_to_save": ["model.norm"]},
}
THIRD_TRAINED: dict[str, dict[str, Any]] = {
    "gate alone": {"target_modules": ["gate_proj"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens"]},
    "DoRA on the MLP": {"target_modules": ["up_proj", "down_proj"], "use_dora": True},
    "tokens by name": {"trainable_token_indices": {"embed_tokens": [4]}},
}
SECOND_TRAINED: dict[str, dict[str, Any]] = {
    "a bias of B": {"lora_bias": True},
    "rows of tokens": {"trainable_token_indices": [5, 9]},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2}, "target_modules": ["q_proj", "k_proj"]},
    "by a regular expression": {"target_modules": r".*layers\.1\..*(up|down)_proj"},
    "norms of its own": {"modules_to_save": ["norm"]},
}
TRAINED: dict[str, dict[str, Any]] = {
    "plain": {},
    "every linear layer": {"target_modules": "all-linear"},
    "rsLoRA": {"use_rslora": True, "target_modules": ["q_proj", "o_proj"]},
    "DoRA": {"use_dora": True},
    "embedding and head": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "layer 1 alone": {"layers_to_transform": [1]},
    "a head of its own": {"modules_to_save": ["lm_head"]},
}


def measure(quick: bool) -> list[Figure]:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        own = tiny_base(folder / "own", tied=False)
        before = _scored(_pairs(folder, own, quick))
        for bases, added in ((SECOND_BASES, SECOND_TRAINED), (THIRD_BASES, SECOND_TRAINED | THIRD_TRAINED)):
            before += _scored(_crossed(folder, own, bases, added, quick))
        fresh = _scored(_crossed(folder, own, FRESH_BASES, FRESH_TRAINED, quick))
        seconds = _headers_alone(folder)
    every = [*before, *fresh]
    return [
        at_least("pairs of adapter and base", len(every), "pairs", 60),
        share("structural class right by headers, pairs looked at after all rules (truth: PEFT)", *_right(fresh), 98),
        share("structural class right by headers, pairs by which rules were mended (truth: PEFT)", *_right(before)),
        share(
            "structural class right by the plain test, does it load (peer)",
            sum(s.by_loading for s in every),
            len(every),
        ),
        context("pairs of which the class is not told", sum(s.by_header is Outcome.UNKNOWN for s in every), "pairs"),
        at_most("headers alone, a base of 70B by its index and an adapter of 12 GB, CPU time", seconds, "s", 1.0),
    ]


class Scored(NamedTuple):
    """What the headers say of one pair, and what PEFT does."""

    by_header: Outcome
    truth: Outcome

    @property
    def by_loading(self) -> bool:
        """Is the plain test right?"""
        return self.truth in (Outcome.CRASH, Outcome.FITS)


def _right(scored: list[Scored]) -> tuple[int, int]:
    return sum(pair.by_header is pair.truth for pair in scored), len(scored)


def _scored(pairs: Iterator[tuple[str, Path, Path]]) -> list[Scored]:
    scored, rules = [], rules_of("peft")
    for name, base, adapter in pairs:
        truth = peft_outcome(base, adapter)
        try:
            by_header = structure(base_network(base), AdapterHeader.read(adapter), rules).outcome
        except ProbeError as error:
            by_header = Outcome.UNKNOWN
            console.print(f"  {name}: {error}")
        scored.append(Scored(by_header, truth))
        if by_header is not truth:
            console.print(f"  wrong: {name}: {by_header}, and PEFT {truth}")
    return scored


def _made(folder: Path, recipes: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Path]:
    bases = {}
    for name, (kind, changes) in recipes.items():
        try:
            bases[name] = architecture_base(folder / name.replace(" ", "-"), kind, **changes)
        except Exception as error:  # sizes that this kind does not take are no pair
            console.print(f"  no base: {name}: {error}")
    return bases


def _pairs(folder: Path, own: Path, quick: bool) -> Iterator[tuple[str, Path, Path]]:
    adapters = {name: tiny_adapter(folder / f"a-{i}", own, **how) for i, (name, how) in enumerate(TRAINED.items())}
    bases = {"own": own, "own, permuted": permuted(own, folder / "permuted"), "own, tied": tiny_base(folder / "tied")}
    bases |= _made(folder, BASES)
    chosen = list(bases.items())[:6] if quick else list(bases.items())
    for base_name, base in chosen:
        for adapter_name, adapter in adapters.items():
            yield f"{adapter_name} on {base_name}", base, adapter
    for number, (name, spoil) in enumerate(SPOILT.items()):
        adapter = folder / f"s-{number}"
        shutil.copytree(adapters["plain"], adapter)
        spoil(adapter)
        for base_name, base in chosen[:5]:
            yield f"{name} on {base_name}", base, adapter


def _crossed(
    folder: Path, own: Path, bases: dict[str, tuple[str, dict[str, Any]]], added: dict[str, dict[str, Any]], quick: bool
) -> Iterator[tuple[str, Path, Path]]:
    recipes, place = TRAINED | added, folder / " ".join(added)[:40]
    adapters = {name: tiny_adapter(place / f"a-{i}", own, **how) for i, (name, how) in enumerate(recipes.items())}
    for base_name, base in list(_made(folder, bases).items())[: 3 if quick else None]:
        for adapter_name, adapter in adapters.items():
            yield f"{adapter_name} on {base_name}", base, adapter


def _headers_alone(folder: Path) -> float:
    base = folder / "large"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(SEVENTY_BILLION))
    parts = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
             "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")  # fmt: skip
    names = [f"model.layers.{layer}.{part}.weight" for layer in range(80) for part in parts]
    shards = {name: f"model-{number % 30:05}-of-00030.safetensors" for number, name in enumerate(names)}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    adapter = large_adapter(folder / "large-adapter")
    began = time.process_time()
    structure(base_network(base), AdapterHeader.read(adapter), rules_of("peft"))
    return time.process_time() - began


def _rewritten(change: Callable[[Tensors], Tensors]) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        tensors = {key: value.contiguous() for key, value in change(load_file(adapter / WEIGHTS)).items()}
        save_file(tensors, adapter / WEIGHTS)

    return apply


def _renamed(old: str, new: str) -> Callable[[Path], None]:
    return _rewritten(lambda tensors: {key.replace(old, new): value for key, value in tensors.items()})


def _kept(keep: Callable[[str], bool]) -> Callable[[Path], None]:
    return _rewritten(lambda tensors: {key: value for key, value in tensors.items() if keep(key)})


def _configured(**fields: Any) -> Callable[[Path], None]:
    def apply(adapter: Path) -> None:
        config = json.loads((adapter / CONFIG).read_text())
        (adapter / CONFIG).write_text(json.dumps(config | fields))

    return apply


SPOILT: dict[str, Callable[[Path], None]] = {
    "of a wrapper before 4.52": _renamed("model.layers", "language_model.model.layers"),
    "of a wrapper since 4.52": _renamed("model.layers", "model.language_model.layers"),
    "DataParallel": _renamed("base_model.model.", "base_model.model.module."),
    "torch.compile": _renamed("base_model.model.", "base_model.model._orig_mod."),
    "without PEFT's prefix": _renamed("base_model.model.", ""),
    "layers counted from 1": _rewritten(
        lambda t: {key.replace("layers.1", "layers.2").replace("layers.0", "layers.1"): own for key, own in t.items()}
    ),
    "one layer's keys lost": _kept(lambda key: "layers.0" not in key),
    "A alone": _kept(lambda key: "lora_A" in key),
    "target filter of attention": _configured(target_modules=["q_proj", "v_proj"]),
    "target filter that is disjoint": _configured(target_modules=["k_proj"]),
    "target of another architecture": _configured(target_modules=["c_attn"]),
    "layers filtered": _configured(layers_to_transform=[0]),
    "excluded": _configured(exclude_modules=["down_proj"]),
    "another rank in its config": _configured(r=16),
    "rank pattern in its config": _configured(rank_pattern={"q_proj": 2}),
}
