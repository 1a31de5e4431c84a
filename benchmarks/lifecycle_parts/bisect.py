"""Does halving name the tensors that were changed? Local changes planted into the zoo's bases, beside a bit of a tune
that moves every tensor: one tensor, one family of one layer, or of two layers in a row.

A plant that costs its adapter less than .05 of its effect is drawn again: there would be nothing to name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch

from benchmarks.figures import Figure, console, context, share
from benchmarks.zoo import broken
from benchmarks.zoo.members import Member, zoo
from benchmarks.zoo.recipes import ATTENTION, BASES, MLP
from probes.canaries.canary_file import read_canaries
from probes.compatibility.bisect import Culprits
from probes.compatibility.hybrid_base import bisect

PLANTS, QUICK, SEED = 40, 6, 11
LEAST, DRIFT, NOISE = 0.05, 0.03, 1.5
CANARIES = 16


@dataclass(frozen=True, slots=True)
class Plant:
    """tensors: that were changed; result: what halving says"""

    tensors: frozenset[str]
    result: Culprits

    @property
    def is_right(self) -> bool:
        return set(self.result.tensors) == self.tensors

    @property
    def is_in_place(self) -> bool:
        """Are all that are named among those that were changed?"""
        return bool(self.result.tensors) and set(self.result.tensors) <= self.tensors


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        plants = list(_plants(Path(scratch), QUICK if quick else PLANTS))
    replays = sum(plant.result.replays for plant in plants)
    linear = sum(plant.result.linear for plant in plants)
    return [
        share("planted changes whose tensors are named, all of them and no other", sum(p.is_right for p in plants),
              len(plants), 95),
        share("planted changes of which no wrong tensor is named", sum(p.is_in_place for p in plants), len(plants)),
        context("sets of tensors replayed for a change, in the mean", replays / len(plants), "replays"),
        context("replays that one changed tensor after the other takes, in the mean", linear / len(plants), "replays"),
    ]  # fmt: skip


def _plants(scratch: Path, count: int) -> Iterator[Plant]:
    rng, members, number, yielded = Random(SEED), zoo(), 0, 0
    while yielded < count:
        number += 1
        member = rng.choice(members)
        tensors = _drawn(member, rng)
        drift = broken.towards(member.base, scratch / f"drift-{number}", later=member.moved, share=DRIFT)
        new = broken.changed(drift, scratch / f"new-{number}", partial(_noisy, names=tensors))
        canaries = read_canaries(member.canaries).canaries[:CANARIES]
        result = bisect(member.base, new, member.folder, canaries, scratch).culprits
        if result is None or result.whole < LEAST:
            continue
        yielded += 1
        plant = Plant(tensors, result)
        if not plant.is_right:
            console.print(f"  {member.name}, {sorted(tensors)}: {result.words}")
        yield plant


def _drawn(member: Member, rng: Random) -> frozenset[str]:
    layers = next(base.layers for base in BASES if base.name == member.recipe.base)
    layer = rng.randrange(layers - 1)
    family = rng.choice([[f"self_attn.{part}" for part in ATTENTION], [f"mlp.{part}" for part in MLP]])
    kind = rng.randrange(3)
    if kind == 0:
        return frozenset((f"model.layers.{layer}.{rng.choice(family)}.weight",))
    return frozenset(f"model.layers.{n}.{part}.weight" for n in range(layer, layer + kind) for part in family)


def _noisy(tensors: dict[str, torch.Tensor], names: frozenset[str]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(5)
    changed = {
        name: tensors[name] + NOISE * tensors[name].std() * torch.randn(tensors[name].shape, generator=rng)
        for name in sorted(names)
    }
    return tensors | changed
