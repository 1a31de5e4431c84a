"""Tiny random models of the architectures that people fine-tune, beside the Llama of tiny.py."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.probes.tiny import VOCABULARY, tiny_base

COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.12, "eos_token_id": 2, "bos_token_id": 1,
    "pad_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
MAMBA = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_expand": 1, "mamba_chunk_size": 8,
}  # fmt: skip
MIXTURE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
}  # fmt: skip
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
STATE = {"state_size": 16, "time_step_rank": 4, "num_attention_heads": None, "num_key_value_heads": None}
WINDOWS = {"sliding_window": 4, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}

# model_type -> what its config has beside, and the modules that an adapter is put on.
KINDS: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    # Recurrent layers, alone or beside attention.
    "qwen3_next": (DELTA | MIXTURE, ["q_proj", "in_proj_qkvz", "shared_expert_gate"]),
    "qwen3_5_text": (DELTA, ["q_proj", "in_proj_qkv", "out_proj"]),
    "bamba": (MAMBA | {"attn_layer_indices": [1]}, ["q_proj", "in_proj", "out_proj"]),
    "jamba": (
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
         "num_experts": 4, "use_mamba_kernels": False, "mamba_dt_rank": 4}, ["q_proj", "in_proj", "x_proj"]),
    "mamba": (STATE, ["in_proj", "x_proj"]),
    "mamba2": ({"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 8}, ["in_proj"]),
    "falcon_mamba": (STATE, ["in_proj", "x_proj"]),
    "falcon_h1": (MAMBA | {"head_dim": 16}, ["q_proj", "in_proj", "down_proj"]),
    "lfm2": (
        {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}, ["q_proj", "in_proj", "w2"]),
    "granitemoehybrid": (
        MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32}, ["q_proj", "in_proj"]),
    "recurrent_gemma": (
        {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": 8,
         "lru_width": 64}, ["q_proj", "linear_x", "down_proj"]),
    "nemotron_h": (
        {"layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1,
         "ssm_state_size": 16, "chunk_size": 8, "head_dim": 16, "num_hidden_layers": None}, ["q_proj", "in_proj"]),
    # Attention that has a cap, a slope, sinks or a window.
    "gemma2": (WINDOWS | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
               ["q_proj", "down_proj"]),
    "bloom": ({"n_layer": 2, "n_head": 4}, ["query_key_value", "dense"]),
    "gpt_oss": (WINDOWS | {"num_local_experts": 4, "num_experts_per_tok": 2}, ["q_proj", "o_proj"]),
    "gemma3_text": (WINDOWS | {"query_pre_attn_scalar": 16}, ["q_proj", "down_proj"]),
    # Layers that lay the tokens of all rows one after the other.
    "opt": ({"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.12}, ["q_proj", "fc1", "fc2"]),
    "qwen2_moe": (MIXTURE, ["q_proj", "shared_expert_gate"]),
}  # fmt: skip


def architecture_base(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """A folder with such a model, and the tokenizer of tiny.py."""
    tiny_base(folder)
    (folder / "model.safetensors").unlink()
    settings = {**COMMON, **KINDS[kind][0], **changes}
    config = transformers.CONFIG_MAPPING[kind](**{key: it for key, it in settings.items() if it is not None})
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return folder


def plain_model(base: Path, adapter: Path | None) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, attn_implementation="eager"
        )
        return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def copied(base: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base, folder))
