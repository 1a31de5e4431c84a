"""Releases of a zoo's base, and how much of each of its adapters is left on each of them, measured by replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import answered, compared, serving
from benchmarks.zoo.members import Member
from benchmarks.zoo.world import pool
from probes.artefacts.lora_files import read_adapter
from probes.compatibility.base_changes import base_changes
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.loss_features import LossFeatures, loss_features
from probes.golden.record import GoldenCanary
from probes.runner import Runner, Target

CANARIES = 24


@dataclass(frozen=True, slots=True)
class Measured:
    """One adapter on one release. retention: in the mean over its canaries; beyond: share of them beyond tolerance"""

    base: str
    release: str
    adapter: str
    features: LossFeatures
    coordinates: Coordinates
    retention: float


def measured(members: Sequence[Member], scratch: Path, quick: bool) -> Iterator[Measured]:
    """Every member on every release of its base."""
    chosen = members[::2] if quick else members
    with serving(members) as accepted:
        goldens = {member.name: _goldens(member, accepted) for member in chosen}
    base = members[0].base
    for name, folder in _releases(members, scratch).items():
        coordinates = base_changes(base, folder).coordinates
        with serving(members, base=folder) as runner:
            for member in chosen:
                features = loss_features(base, folder, read_adapter(member.folder))
                retention = _retention(member, runner, goldens[member.name])
                yield Measured(base.name, name, member.name, features, coordinates, retention)


def _goldens(member: Member, runner: Runner) -> list[GoldenCanary]:
    return pool(member, runner, member.canaries)[:CANARIES]


def _retention(member: Member, runner: Runner, goldens: Sequence[GoldenCanary]) -> float:
    served, live = (answered(runner, goldens, target) for target in (Target(member.name), Target(None)))
    of_canaries = [m.retention if m.finite else 0.0 for m in compared(member.name, goldens, served, live).values()]
    return float(np.mean(of_canaries))


def _releases(members: Sequence[Member], scratch: Path) -> dict[str, Path]:
    """Sixteen, from next to nothing to another base."""
    base, later = members[0].base, members[0].moved
    makers = {
        **{f"{share:g} of a tune": partial(broken.towards, base, later=later, share=share) for share in SHARES},
        **{f"{bits} bits by {group}": partial(broken.rounded, base, bits=bits, group=group) for bits, group in GRIDS},
        **{
            f"{share:g} of {members[number].name} merged": partial(
                broken.merged, base, adapter=members[number].folder, share=share
            )
            for number, share in MERGED
        },
        **{f"permuted {seed}": partial(broken.renamed_inside, base, seed=seed) for seed in (15, 16)},
        **{f"noise of {share:g}": partial(_noisy, base, share=share, only="weight") for share in (0.03, 0.15, 0.4)},
        **{f"noise of 1 on {only}": partial(_noisy, base, share=1.0, only=only) for only in ("layers.1.mlp", "v_proj")},
    }
    return {name: make(out=scratch / base.name / name.replace(" ", "-")) for name, make in makers.items()}


SHARES = (0.1, 0.4, 1.0, 2.0)
GRIDS = ((8, 0), (4, 32), (4, 0), (3, 0))
MERGED = ((0, 0.5), (3, 1.0))


def _noisy(base: Path, out: Path, share: float, only: str) -> Path:
    rng = torch.Generator().manual_seed(5)

    def spoilt(key: str, value: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(value.shape, generator=rng)
        return value + share * value.std() * noise if value.dim() == 2 and only in key else value

    return broken.changed(base, out, lambda tensors: {key: spoilt(key, tensors[key]) for key in sorted(tensors)})
