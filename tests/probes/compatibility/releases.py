"""Releases of a tiny base, each a recipe over its folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from examples.helpdesk.releases import reparameterise

Tensors = dict[str, torch.Tensor]
# config.json of a base whose weights are not on this machine.
SEVENTY_BILLION = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
}  # fmt: skip


def release(base: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """The base with its tensors changed."""
    shutil.copytree(base, out)
    tensors = {key: value.contiguous() for key, value in change(load_file(base / "model.safetensors")).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def permuted(base: Path, out: Path, seed: int = 3) -> Path:
    """The same answers, with residual stream, heads and neurons permuted."""
    config = json.loads((base / "config.json").read_text())
    return release(base, out, lambda tensors: reparameterise(tensors, config, seed))


def rotated(base: Path, out: Path, seed: int = 3) -> Path:
    """The same answers with the residual stream rotated; the norms' weights go into the matrices behind them."""
    return release(base, out, lambda tensors: _rotated(tensors, seed))


def noisy(base: Path, out: Path, share: float, only: str = "", seed: int = 5) -> Path:
    """Gaussian noise on the matrices whose name holds ``only``, of this share of their size."""
    rng = torch.Generator().manual_seed(seed)

    def spoilt(key: str, value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=rng)
        return value + share * value.std() * noise if value.dim() == 2 and only in key else value

    return release(base, out, lambda tensors: {key: spoilt(key, tensors[key]) for key in sorted(tensors)})


def _rotated(tensors: Tensors, seed: int) -> Tensors:
    """Of an untied Llama. W diag(g) R for readers, R^T W for writers, with every g then 1."""
    width = tensors["model.norm.weight"].shape[0]
    r = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[0]
    read_after = {
        "q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm",
        "gate_proj": "post_attention_layernorm", "up_proj": "post_attention_layernorm",
    }  # fmt: skip
    out: Tensors = {}
    for key, value in tensors.items():
        w, parts = value.double(), key.split(".")
        if key == "lm_head.weight":
            w = w * tensors["model.norm.weight"].double() @ r
        elif key.endswith("norm.weight"):
            w = torch.ones_like(w)
        elif key.endswith("embed_tokens.weight"):
            w = w @ r
        elif parts[-2] in read_after:
            w = w * tensors[".".join([*parts[:3], read_after[parts[-2]], "weight"])].double() @ r
        else:
            w = r.T @ w
        out[key] = w.float()
    return out
