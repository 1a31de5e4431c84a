"""What an adapter adds to the answers of a Llama to random short texts, computed layer by layer from the files: one
layer is in memory at a time, and neither a canary nor a tokenizer is needed.

It is the model's arithmetic on texts that nobody wrote: close enough to see whether two bases take the adapter alike,
and no measurement of what it does on its own prompts. Held against transformers in its test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.artefacts.needed_memory import EMBEDDING
from probes.artefacts.safetensors_header import read_json
from probes.compatibility.coordinates import layer_prefixes
from probes.compatibility.stored_tensors import StoredTensors

TEXTS, TOKENS, SEED = 24, 12, 3
PARTS = (
    *("input_layernorm", "post_attention_layernorm"),
    *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
HEAD, LAST_NORM = "lm_head.weight", "model.norm.weight"
ROPE_THETA = 10_000.0
Angles = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Of the attention, from config.json. theta: of the rotary embedding; epsilon: of the norms"""

    heads: int
    groups: int
    width: int
    theta: float
    epsilon: float


def random_texts(vocabulary: int) -> torch.Tensor:
    """(TEXTS, TOKENS) token ids, the same for each base of this vocabulary."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(vocabulary, (TEXTS, TOKENS), generator=generator)


def vocabulary(stored: StoredTensors) -> int:
    """Rows of the token embedding, 0 where it has another name."""
    return next((entry.shape[0] for name, entry in stored.entries.items() if EMBEDDING.search(name)), 0)


def answers(stored: StoredTensors, adapter: LoraAdapter, ids: torch.Tensor) -> torch.Tensor | None:
    """(2, N, T, V) log-probabilities of the base, and of the adapter on it; None where it is no plain Llama, or the
    adapter has parts that are none of its linear layers'. ids: (N, T)"""
    shape, embedding = _shape(stored), next((name for name in stored.entries if EMBEDDING.search(name)), None)
    prefixes = sorted(layer_prefixes(stored), key=lambda prefix: [int(n) for n in prefix.split(".") if n.isdigit()])
    known = {f"{prefix}{part}" for prefix in prefixes for part in PARTS}
    # Anything beside these parts would be left out in silence.
    inside = {name.removesuffix(".weight") for name in stored.entries if any(map(name.startswith, prefixes))}
    if shape is None or embedding is None or inside != known or not set(adapter.low_rank) <= known:
        return None
    table = stored.read(embedding)
    states = table[ids].repeat(2, 1, 1)
    angles = _angles(ids.shape[1], shape)
    for prefix in prefixes:
        states = _layer(_Layer(stored, prefix, adapter.low_rank), states, shape, angles)
    head = stored.read(HEAD) if HEAD in stored else table
    normed = _normed(states, stored.read(LAST_NORM), shape.epsilon)
    return (normed @ head.T).log_softmax(dim=-1).unflatten(0, (2, -1))


def kept_share(old: torch.Tensor, new: torch.Tensor) -> float:
    """Share of what the adapter adds on the old base that it adds on the new one, along it and weighted by how likely
    the old one finds each token: 1 all of it, 0 none. old, new: as ``answers`` gives them"""
    before, after = old[1] - old[0], new[1] - new[0]
    weights = old[1].exp()
    size = float((weights * before.square()).sum())
    return float((weights * before * after).sum()) / size if size > 0 else math.nan


@dataclass(frozen=True, slots=True)
class _Layer:
    """Modules of one layer, read when they are called. The second half of the rows has the adapter."""

    stored: StoredTensors
    prefix: str
    updates: Mapping[str, LowRankUpdate]

    def weight(self, part: str) -> torch.Tensor:
        return self.stored.read(f"{self.prefix}{part}.weight")

    def linear(self, part: str, x: torch.Tensor) -> torch.Tensor:
        y = x @ self.weight(part).T
        update = self.updates.get(f"{self.prefix}{part}")
        if update is not None:
            half = len(x) // 2
            y[half:] += update.scaling * ((x[half:] @ update.a.float().T) @ update.b.float().T)
        return y


def _layer(layer: _Layer, states: torch.Tensor, shape: _Shape, angles: Angles) -> torch.Tensor:
    normed = _normed(states, layer.weight("input_layernorm"), shape.epsilon)
    q, k, v = (
        layer.linear(f"self_attn.{part}_proj", normed).unflatten(-1, (-1, shape.width)).transpose(1, 2)
        for part in "qkv"
    )
    several = shape.heads // shape.groups
    k, v = (side.repeat_interleave(several, dim=1) for side in (_turned(k, angles), v))
    mixed = functional.scaled_dot_product_attention(_turned(q, angles), k, v, is_causal=True)
    states = states + layer.linear("self_attn.o_proj", mixed.transpose(1, 2).flatten(2))
    normed = _normed(states, layer.weight("post_attention_layernorm"), shape.epsilon)
    inner = functional.silu(layer.linear("mlp.gate_proj", normed)) * layer.linear("mlp.up_proj", normed)
    return states + layer.linear("mlp.down_proj", inner)


def _normed(states: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    return gain * states * torch.rsqrt(states.square().mean(dim=-1, keepdim=True) + epsilon)


def _angles(tokens: int, shape: _Shape) -> Angles:
    """(T, width) cosines and sines of the rotary embedding, both halves of a head alike."""
    frequencies = shape.theta ** (-torch.arange(0, shape.width, 2).float() / shape.width)
    turns = torch.outer(torch.arange(tokens).float(), frequencies).repeat(1, 2)
    return turns.cos(), turns.sin()


def _turned(x: torch.Tensor, angles: Angles) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * angles[0] + torch.cat((-second, first), dim=-1) * angles[1]


def _shape(stored: StoredTensors) -> _Shape | None:
    """None for another type, another activation, and for a rotary embedding that is stretched."""
    config: Mapping[str, Any] = read_json(stored.folder / "config.json")
    heads = int(config.get("num_attention_heads") or 0)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    is_plain = rope.get("rope_type", rope.get("type", "default")) == "default"
    if config.get("model_type") != "llama" or config.get("hidden_act", "silu") != "silu" or not heads or not is_plain:
        return None
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or ROPE_THETA)
    groups = int(config.get("num_key_value_heads") or heads)
    return _Shape(heads, groups, width, theta, float(config.get("rms_norm_eps") or 1e-6))
