"""Tiny random models of the architectures that people fine-tune, and what is known of each: docs/architectures.md.

``python -m tests.probes.architectures_page`` writes that page from this file. test_architectures.py holds both.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.probes.tiny import VOCABULARY, tiny_tokenizer, with_effect

COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.12, "eos_token_id": 2, "bos_token_id": 1,
    "pad_token_id": 2, "tie_word_embeddings": True,
}  # fmt: skip
HEADS = {"head_dim": 16}
MAMBA = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16,
    "mamba_expand": 1, "mamba_chunk_size": 8,
}  # fmt: skip
MIXTURE = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "decoder_sparse_step": 1,
}  # fmt: skip
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16,
    "num_key_value_heads": 4,
}  # fmt: skip
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
STATE = {"state_size": 16, "time_step_rank": 4, "num_attention_heads": None, "num_key_value_heads": None}
WINDOWS = {"sliding_window": 4, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
SIZES = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96}
SCALAR = {"query_pre_attn_scalar": 16}

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED = ("gate_proj", "up_proj", "down_proj")
PLAIN = (*ATTENTION, *GATED)
EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@dataclass(frozen=True)
class Architecture:
    """settings: of its config, over COMMON, None leaves one out; modules, parameters: what an adapter is put on

    one_by_one: after a cache it reads one token at a time (ModelTraits.continues)
    bypassed: modules whose parts are refused, because the model does not call them with the rows of a batch
    refused: a part of the sentence with which the base is refused, "" where it runs
    around: settings of a multimodal wrapper around a text model of these settings, None where there is no wrapper
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = PLAIN
    parameters: tuple[str, ...] = ()
    one_by_one: bool = False
    bypassed: tuple[str, ...] = ()
    refused: str = ""
    around: Mapping[str, Any] | None = None


A = Architecture
ENCODER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
QWEN_ENCODER = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 14,
    "fullatt_block_indexes": [0], "deepstack_visual_indexes": [0],
}  # fmt: skip
IMAGE = {"image_token_id": 97, "video_token_id": 96, "vision_start_token_id": 95, "vision_end_token_id": 94}
IN_GEMMA = {"image_token_index": 97, "boi_token_index": 96, "eoi_token_index": 95, "mm_tokens_per_image": 4}
BY_AXIS = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}
# model_type -> what is known of it.
KINDS: dict[str, Architecture] = {
    "llama": A(),
    "mistral": A({"sliding_window": 4}),
    "ministral3": A(HEADS),
    "qwen2": A(),
    "qwen3": A(HEADS),
    "gemma": A(HEADS),
    "gemma3_text": A(WINDOWS | SCALAR),
    "gemma4_text": A(
        WINDOWS | {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY},
        (*PLAIN, "per_layer_input_gate", "per_layer_projection")),
    "phi": A({}, ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")),
    "phi3": A({}, ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")),
    "granite": A(),
    "cohere2": A({"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "olmo2": A(),
    "glm4": A(HEADS, (*ATTENTION, "gate_up_proj", "down_proj")),
    "starcoder2": A({}, (*ATTENTION, "c_fc", "c_proj")),
    "smollm3": A(),
    "exaone4": A({"sliding_window": 4}),
    "stablelm": A(),
    "gpt_neox": A({}, ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    "falcon": A({"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
                ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    "gpt2": A(SIZES, ("c_attn", "c_proj", "c_fc")),
    "gptj": A(SIZES | {"rotary_dim": 8}, ("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out")),
    # Attention that has a cap, a slope, sinks or a window: plain attention where the quick one lacks it.
    "gemma2": A(WINDOWS | SCALAR | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "bloom": A({"n_layer": 2, "n_head": 4}, ("query_key_value", "dense", "dense_h_to_4h")),
    "gpt_oss": A(WINDOWS | LOCAL, ATTENTION, EXPERTS),
    # Layers that lay the tokens of all rows one after the other; mixtures of experts, each in one tensor.
    "opt": A({"ffn_dim": 96, "word_embed_proj_dim": 64, "init_std": 0.12}, ("q_proj", "fc1", "fc2")),
    "mixtral": A(LOCAL, ATTENTION, EXPERTS),
    "qwen2_moe": A(MIXTURE, ("q_proj", "shared_expert_gate"), EXPERTS),
    "qwen3_moe": A(MIXTURE | HEADS, ATTENTION, EXPERTS),
    "deepseek_v3": A(ROUTED | LATENT, ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", *GATED),
                     EXPERTS),
    "glm4_moe": A(ROUTED | HEADS, PLAIN, EXPERTS),
    "olmoe": A({"num_experts": 4, "num_experts_per_tok": 2}, ATTENTION, EXPERTS),
    "granitemoe": A(LOCAL, ATTENTION),
    "phimoe": A(LOCAL, ATTENTION, EXPERTS, bypassed=("router",)),
    "llama4_text": A(LOCAL | HEADS | {"intermediate_size_mlp": 96, "attention_chunk_size": 8}, PLAIN, EXPERTS,
                     bypassed=("router",)),
    # Recurrent layers, alone or beside attention.
    "qwen3_next": A(DELTA | MIXTURE, ("q_proj", "in_proj_qkvz", "shared_expert_gate"), EXPERTS),
    "qwen3_5_text": A(DELTA, ("q_proj", "in_proj_qkv", "out_proj")),
    "bamba": A(MAMBA | {"attn_layer_indices": [1]}, ("q_proj", "in_proj", "out_proj")),
    "jamba": A(
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
         "num_experts": 4, "use_mamba_kernels": False, "mamba_dt_rank": 4}, ("q_proj", "in_proj", "x_proj"),
        one_by_one=True, bypassed=("dt_proj",)),
    "mamba": A(STATE, ("in_proj", "x_proj"), one_by_one=True, bypassed=("dt_proj",)),
    "mamba2": A({"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 8}, ("in_proj",)),
    "falcon_mamba": A(STATE, ("in_proj", "x_proj"), one_by_one=True, bypassed=("dt_proj",)),
    "falcon_h1": A(MAMBA | HEADS, ("q_proj", "in_proj", "down_proj")),
    "lfm2": A({"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
              ("q_proj", "in_proj", "w2")),
    "granitemoehybrid": A(MAMBA | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 32},
                          ("q_proj", "in_proj")),
    "nemotron_h": A(
        {"layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1,
         "ssm_state_size": 16, "chunk_size": 8, "head_dim": 16, "num_hidden_layers": None}, ("q_proj", "in_proj")),
    # A text model and an encoder of images; the adapter may have parts on both.
    "gemma3": A(WINDOWS | SCALAR, around=IN_GEMMA | {"vision_config": ENCODER}),
    "gemma4": A(
        WINDOWS | {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY},
        (r".*\.language_model\..*\.(q_proj|o_proj|up_proj|per_layer_input_gate)",),  # PEFT cannot wrap its encoder
        around={"vision_config": ENCODER | {"num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16},
                "audio_config": None, "image_token_id": 97, "boi_token_id": 96, "eoi_token_id": 95,
                "audio_token_id": 94, "video_token_id": 93}),
    "mistral3": A({"model_type": "mistral"}, around={
        "vision_config": ENCODER | {"model_type": "pixtral", "head_dim": 16}, "image_token_index": 97}),
    "llava": A({"model_type": "llama"}, around={
        "vision_config": ENCODER | {"model_type": "clip_vision_model", "projection_dim": 32},
        "image_token_index": 97}),
    "llava_next": A({"model_type": "llama"}, around={
        "vision_config": ENCODER | {"model_type": "clip_vision_model", "projection_dim": 32},
        "image_token_index": 97}),
    "llava_onevision": A({"model_type": "qwen2"}, around={
        "vision_config": ENCODER | {"model_type": "siglip_vision_model"}, "image_token_index": 97,
        "video_token_index": 96}),
    "idefics3": A({"model_type": "llama"}, around={"vision_config": ENCODER, "image_token_id": 97, "scale_factor": 1}),
    "internvl": A({"model_type": "qwen2"}, around={
        "vision_config": ENCODER | {"image_size": [28, 28], "patch_size": [14, 14]}, "image_token_id": 97}),
    "smolvlm": A({"model_type": "llama"}, around={
        "vision_config": ENCODER, "image_token_id": 97, "scale_factor": 1}),
    "qwen2_vl": A(BY_AXIS, around=IMAGE | {
        "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2}}),
    "qwen2_5_vl": A(BY_AXIS, around=IMAGE | {"vision_config": QWEN_ENCODER}),
    "qwen3_vl": A(BY_AXIS | HEADS, around=IMAGE | {"vision_config": QWEN_ENCODER}),
    "qwen3_vl_moe": A(BY_AXIS | HEADS | MIXTURE, ATTENTION, EXPERTS, around=IMAGE | {"vision_config": QWEN_ENCODER}),
    "qwen3_5": A(DELTA, ("q_proj", "in_proj_qkv", "out_proj"), around=IMAGE | {"vision_config": QWEN_ENCODER}),
    # Caches of their own, or states in the modules.
    "recurrent_gemma": A(
        {"num_hidden_layers": 3, "block_types": ["recurrent", "recurrent", "attention"], "attention_window_size": 8,
         "lru_width": 64}, ("q_proj", "linear_x", "down_proj"), refused="with a cache it answers otherwise"),
    "minimax": A(LOCAL | HEADS | {"layer_types": ["linear_attention", "full_attention"], "block_size": 8}, ATTENTION,
                 refused="not compatible with `past_key_values`"),
    "rwkv": A({"attention_hidden_size": 64}, ("key",), refused="must match the size of tensor"),
    "xlstm": A({"num_heads": 4}, ("q",), refused="no attribute 'cache_params'"),
    "openai-gpt": A(SIZES, ("c_attn",), refused="Expected size for first two dimensions"),
}  # fmt: skip
RUN = [kind for kind, known in KINDS.items() if not known.refused]


def architecture_base(folder: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """A folder with such a model, and the tokenizer of tiny.py."""
    _model(kind, seed, **changes).save_pretrained(folder)
    return tiny_tokenizer(folder)


def base_and_adapter(folder: Path, kind: str) -> Any:
    """A base in ``base`` and an adapter in ``a`` under this folder, as transformers and PEFT write them, and the model
    that both were written from, as PEFT runs it."""
    from peft import LoraConfig, get_peft_model

    model, known = _model(kind), KINDS[kind]
    model.save_pretrained(folder / "base")
    tiny_tokenizer(folder / "base")
    first, *others = known.modules
    lora: dict[str, Any] = {
        "target_modules": first if not others and "*" in first else list(known.modules),
        "target_parameters": list(known.parameters) or None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **lora))
        with_effect(wrapped)
        wrapped.save_pretrained(folder / "a")
    return wrapped.eval()


def _model(kind: str, seed: int = 0, **changes: Any) -> Any:
    settings = {**COMMON, **KINDS[kind].settings, **changes}
    settings = {key: value for key, value in settings.items() if value is not None}
    around, tied = KINDS[kind].around, {"tie_word_embeddings": True}
    config = transformers.CONFIG_MAPPING[kind](
        **(settings if around is None else {**around, "text_config": settings, **tied})
    )
    torch.manual_seed(seed)
    loader = transformers.AutoModelForCausalLM if around is None else transformers.AutoModelForImageTextToText
    return loader.from_config(config, attn_implementation="eager").float()
