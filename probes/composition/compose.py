"""A composition made from its members' files: factors A and B of every module, and a folder of these in PEFT's layout.

Equal to PEFT 0.21's ``add_weighted_adapter`` but for one thing: where the first member has ``use_rslora``, PEFT writes
alpha = rank and keeps the switch, so that what it applies is sqrt(rank) times what its own arithmetic gave. Here the
result has that arithmetic's strength. A module that only some members change is composed of these.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from probes.artefacts.adapter_keys import PREFIX
from probes.artefacts.identity import ADAPTER_CONFIG
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate, read_adapter
from probes.artefacts.safetensors_header import read_json
from probes.composition.arithmetic import combined
from probes.composition.recipe import WHOLE_SUMS, Recipe
from probes.errors import Refused, Unsupported
from probes.rebuild.candidates import write_adapter

Factors = tuple[torch.Tensor, torch.Tensor]
"""A, (r, in), and B, (out, r), of one module; its update is B A."""


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """identity: hash of the recipe over its members' files; rank: of every module; factors: module -> A and B"""

    recipe: Recipe
    identity: str
    rank: int
    factors: Mapping[str, Factors]


def read_members(recipe: Recipe, folders: Mapping[str, Path]) -> list[LoraAdapter]:
    """In the order of the recipe. Raises as ``read_adapter`` does."""
    return [read_adapter(folders[member.adapter]) for member in recipe.members]


def compose(recipe: Recipe, adapters: Sequence[LoraAdapter]) -> Composed:
    """adapters: of the members, in their order

    Raises Unsupported, by name, for what A and B of linear modules do not express, and Refused for ranks that the
    method cannot combine.
    """
    for adapter in adapters:
        if feature := adapter.beyond_low_rank or ("modules_to_save" if adapter.saved else ""):
            raise Unsupported(adapter.path, f"{feature} in a composition")
    rank = _rank(recipe, adapters)
    modules = dict.fromkeys(module for adapter in adapters for module in adapter.low_rank)
    factors = {module: _padded(_module(recipe, adapters, module, rank), rank) for module in modules}
    return Composed(recipe, recipe.identity([adapter.hash for adapter in adapters]), rank, factors)


def write(composed: Composed, first: Path, target: Path, beside: Mapping[str, str] | None = None) -> Path:
    """As a folder in PEFT's layout, in place of what was there.

    first: folder of a member, whose config names the base; beside: further files of the folder, name -> text
    """
    config = read_json(first / ADAPTER_CONFIG)
    kept = {name: config.get(name) for name in ("base_model_name_or_path", "revision", "task_type")}
    own = {
        "peft_type": "LORA",
        "r": composed.rank,
        "lora_alpha": composed.rank,
        "target_modules": sorted(composed.factors),
        "inference_mode": True,
    }
    tensors = {
        f"{PREFIX}{module}.{name}.weight": half
        for module, pair in composed.factors.items()
        for name, half in zip(("lora_A", "lora_B"), pair, strict=True)
    }
    return write_adapter(target, kept | own, tensors, beside)


def _rank(recipe: Recipe, adapters: Sequence[LoraAdapter]) -> int:
    ranks = [max(adapter.r, *(len(part.a) for part in adapter.low_rank.values())) for adapter in adapters]
    if recipe.method in WHOLE_SUMS:
        return sum(ranks)
    if recipe.factorises:
        return recipe.svd_rank or max(ranks)
    if len(set(ranks)) > 1:
        wanted = f"members of one rank, or the method cat, or svd, in place of {recipe.method}"
        raise Refused("ranks of the members", ", ".join(map(str, ranks)), wanted)
    return ranks[0]


def _module(recipe: Recipe, adapters: Sequence[LoraAdapter], module: str, rank: int) -> Factors:
    parts = [
        (adapter.low_rank[module], member.weight)
        for adapter, member in zip(adapters, recipe.members, strict=True)
        if module in adapter.low_rank
    ]
    if recipe.method in WHOLE_SUMS:
        return _side_by_side(parts)
    if recipe.factorises:
        return _factorised(recipe, parts, rank, _draw(recipe, module))
    ranks = {len(part.a) for part, _ in parts}
    if len(ranks) > 1:
        raise Refused(f"ranks on {module}", ", ".join(map(str, sorted(ranks))), "one rank, or the method cat, or svd")
    return _by_factor(recipe, parts, _draw(recipe, module))


def _side_by_side(parts: Sequence[tuple[LowRankUpdate, float]]) -> Factors:
    """The sum of the updates: their factors one behind the other."""
    a = torch.cat([part.a.float() * weight * part.scaling for part, weight in parts])
    return a, torch.cat([part.b.float() for part, _ in parts], dim=1)


def _by_factor(recipe: Recipe, parts: Sequence[tuple[LowRankUpdate, float]], draw: torch.Generator) -> Factors:
    """A and B each combined by itself, weighted by the root. Their product has cross terms, B of one member times A of
    another, which no member has."""
    roots = [math.sqrt(abs(weight * part.scaling)) for part, weight in parts]
    signed = [math.copysign(root, weight) for root, (_, weight) in zip(roots, parts, strict=True)]
    a = combined([part.a.float() for part, _ in parts], signed, recipe, draw)
    return a, combined([part.b.float() for part, _ in parts], roots, recipe, draw)


def _factorised(
    recipe: Recipe, parts: Sequence[tuple[LowRankUpdate, float]], rank: int, draw: torch.Generator
) -> Factors:
    """Whole updates combined, and the nearest product of that rank; one module is whole in memory at a time."""
    if recipe.method == "svd" and recipe.svd_clamp is None:
        return _truncated(*_side_by_side(parts), rank)
    whole = [part.b.float() @ part.a.float() * part.scaling for part, _ in parts]
    result = combined(whole, [weight for _, weight in parts], recipe, draw)
    u, sizes, v = torch.linalg.svd(result, full_matrices=False)
    a, b = v[:rank], u[:, :rank] * sizes[:rank]
    if recipe.svd_clamp is None:
        return a, b
    most = float(torch.quantile(torch.cat([b.flatten(), a.flatten()]), recipe.svd_clamp))
    return a.clamp(-most, most), b.clamp(-most, most)


def _truncated(a: torch.Tensor, b: torch.Tensor, rank: int) -> Factors:
    """The nearest product of that rank to B A, without ever forming it."""
    outputs, of_b = torch.linalg.qr(b)
    inputs, of_a = torch.linalg.qr(a.T)
    u, sizes, v = torch.linalg.svd(of_b @ of_a.T, full_matrices=False)
    return v[:rank] @ inputs.T, outputs @ (u[:, :rank] * sizes[:rank])


def _padded(pair: Factors, rank: int) -> Factors:
    """With zeros up to that rank, so that one number holds for all modules."""
    a, b = pair
    missing = rank - len(a)
    return torch.nn.functional.pad(a, (0, 0, 0, missing)), torch.nn.functional.pad(b, (0, missing))


def _draw(recipe: Recipe, module: str) -> torch.Generator:
    """Of each module its own, so that what is dropped there depends on no other module and on no order."""
    seed = int.from_bytes(hashlib.sha256(f"{recipe.seed} {module}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(seed)
