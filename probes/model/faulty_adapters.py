"""Faulty variants of an adapter, whose answers are signatures of faults: parts left out, two adapters combined.

Pure: a ``LoraAdapter`` goes in, a ``LoraAdapter`` comes out, and the tensors that remain are shared, not copied.
A *block* is a part that an engine may lose as a whole. Golden records store the names of blocks, so these stay:

- a module's last name ("q_proj", "lm_head"), which also matches modules below one of that name;
- "attention" and "mlp", whatever an architecture calls them;
- "layers.5", or "layers.0-9" for a range with both ends, whatever the model calls its list of layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import torch

from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate
from probes.errors import Unreplayable, Unsupported

LAYERS = re.compile(r"layers\.(\d+)(?:-(\d+))?")
# What the sum of two updates has as each of them does.
ADD_UP = ("lora_bias", "LoRA on an embedding")
# What architectures call the two halves of a layer, and their modules where a half has no name of its own.
HALVES = {
    "attention": {
        "self_attn", "self_attention", "attention", "attn", "cross_attn", "linear_attn",
        "q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "c_attn", "query_key_value",
    },
    "mlp": {
        "mlp", "feed_forward", "ffn", "block_sparse_moe", "experts",
        "gate_proj", "up_proj", "down_proj", "gate_up_proj", "c_fc", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h",
    },
}  # fmt: skip


def blocks(adapter: LoraAdapter) -> tuple[str, ...]:
    """The single blocks that can be left out: module names, then attention and mlp, then every layer.

    Without a block that is the whole adapter (that is *not applied*), or that leaves out the same modules as an earlier
    one.
    """
    modules = adapter.modules
    names = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
    layers = sorted({layer for module in modules if (layer := _layer(module)) is not None})
    covered: set[frozenset[str]] = {frozenset(modules)}
    separable = []
    for block in (*names, *HALVES, *(f"layers.{layer}" for layer in layers)):
        members = frozenset(_members(modules, block))
        if members and members not in covered:
            separable.append(block)
            covered.add(members)
    return tuple(separable)


def without(adapter: LoraAdapter, block: str) -> LoraAdapter:
    """The adapter as if this block had not been loaded. Raises Unreplayable when it has no such block."""
    left_out = set(_members(adapter.modules, block))
    if not left_out:
        raise Unreplayable(adapter.path, f"has no block {block!r}; known are {', '.join(blocks(adapter)) or 'none'}")
    return replace(
        adapter,
        low_rank={module: part for module, part in adapter.low_rank.items() if module not in left_out},
        saved={module: own for module, own in adapter.saved.items() if module not in left_out},
        rows={module: own for module, own in adapter.rows.items() if module not in left_out},
        parameters={module: own for module, own in adapter.parameters.items() if module not in left_out},
    )


def stacked(first: LoraAdapter, second: LoraAdapter, part: float = 1.0) -> LoraAdapter:
    """Both at once, the second at ``part`` of its strength: their ranks are concatenated. Raises Unsupported, see
    ``_combined``."""
    return _combined(first, second, (1.0, part))


def taken_away(first: LoraAdapter, second: LoraAdapter, part: float = 1.0) -> LoraAdapter:
    """A sum of adapters without this much of one of its members. Raises Unsupported likewise."""
    return _combined(first, second, (1.0, -part))


def averaged(first: LoraAdapter, second: LoraAdapter, part: float = 0.5) -> LoraAdapter:
    """``part`` of the second one's effect on every module and the rest of the first's, as weighted merging does.
    Raises Unsupported likewise.

    Not the average of A and of B, whose product is another matrix.
    """
    return _combined(first, second, (1.0 - part, part))


def _combined(first: LoraAdapter, second: LoraAdapter, shares: tuple[float, float]) -> LoraAdapter:
    """A share of each. Raises Unsupported when both saved whole modules: one module cannot be replaced by two; and for
    what a longer A and B do not express (``LoraAdapter.beyond_low_rank``)."""
    for adapter in (first, second):
        if (feature := adapter.beyond_low_rank) and feature not in ADD_UP:
            raise Unsupported(adapter.path, f"{feature} beside another adapter")
    if first.saved and second.saved:
        named = sorted({*first.saved} & {*second.saved}) or sorted({*first.saved, *second.saved})
        raise Unsupported(first.path, f"modules_to_save ({', '.join(named)}) beside those of {second.path}")
    parts: dict[str, list[LowRankUpdate]] = {}
    for adapter, share in zip((first, second), shares, strict=True):
        for module, part in adapter.low_rank.items():
            parts.setdefault(module, []).append(replace(part, scaling=share * part.scaling))
    return replace(
        first,
        path=f"{first.path} and {second.path}",
        r=first.r + second.r,
        low_rank={module: _side_by_side(both) for module, both in parts.items()},
        saved=first.saved or second.saved,
        saved_share=shares[0] * first.saved_share if first.saved else shares[1] * second.saved_share,
    )


def _side_by_side(parts: list[LowRankUpdate]) -> LowRankUpdate:
    if len(parts) == 1:
        return parts[0]
    kind = torch.promote_types(parts[0].b.dtype, parts[1].b.dtype)
    a = torch.cat([part.a.to(kind) for part in parts])
    b = torch.cat([part.b.to(kind) * part.scaling for part in parts], dim=1)
    biases = [part.bias.to(kind) * part.scaling for part in parts if part.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return LowRankUpdate(a, b, 1.0, bias, on_embedding=parts[0].on_embedding)


def _members(modules: Iterable[str], block: str) -> list[str]:
    """Which of these modules lie in the block."""
    if stretch := LAYERS.fullmatch(block):
        layers = range(int(stretch[1]), int(stretch[2] or stretch[1]) + 1)
        return [module for module in modules if _layer(module) in layers]
    names = HALVES.get(block, {block})
    return [module for module in modules if not names.isdisjoint(module.split("."))]


def _layer(module: str) -> int | None:
    """The first number in its name; experts of a mixture have a second one."""
    return next((int(part) for part in module.split(".") if part.isdecimal()), None)
