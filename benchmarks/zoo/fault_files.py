"""The folders of broken adapters and bases behind the confusion table; each is written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.zoo import broken
from benchmarks.zoo.members import Member
from benchmarks.zoo.recipes import ATTENTION, BASES
from benchmarks.zoo.severities import DRAWN_ONLY, OPEN, Severities
from detectors.records import Cause

SEED = 71
MERGED = "merged:"
Maker = Callable[..., Path]


def adapter_files(member: Member, folder: Path, severities: Severities) -> dict[str, Path]:
    """Block that is lost, or fault of the open set -> the adapter's folder with it."""
    whole, layers = member.folder, _layers(member)
    makers: dict[str, Maker] = {
        block: partial(broken.without, whole, is_lost=is_lost) for block, is_lost in blocks(member).items()
    }
    without_signature: dict[str, Maker] = dict(
        zip(
            (*OPEN, *DRAWN_ONLY),
            (
                partial(broken.noisy, whole, share=severities.noise, seed=SEED),
                partial(broken.flipped, whole),
                partial(broken.rows_zeroed, whole, share=severities.rows, seed=SEED),
                partial(broken.layers_turned, whole, layers=layers, by=severities.turned),
                partial(broken.spoilt_in_part, whole, first=int(layers * severities.spoilt), seed=SEED),
                partial(broken.inputs_permuted, whole, seed=SEED),
                partial(broken.coarse, whole, bits=2),
            ),
            strict=True,
        )
    )
    makers |= {name: without_signature[name] for name in severities.open_set}
    return {name: _once(folder / member.name / name, make) for name, make in makers.items()}


def blocks(member: Member) -> dict[str, Callable[[str], bool]]:
    """Every single layer and module, and attention and mlp where both have more than one module: is a key lost?"""
    modules = member.recipe.modules
    parts = {f"layers.{number}": f".layers.{number}." for number in range(_layers(member))}
    parts |= {module: f".{module}." for module in modules if len(modules) > 1}
    attention = [module for module in modules if module in ATTENTION]
    if min(len(attention), len(modules) - len(attention)) > 1:
        parts |= {"attention": ".self_attn.", "mlp": ".mlp."}
    return {block: partial(_holds, text) for block, text in parts.items()}


def base_files(adapter: Member, folder: Path, severities: Severities) -> dict[str, tuple[Path, ...]]:
    """Cause, or MERGED and the name of the adapter that is merged in -> bases by severity."""
    base, moved = adapter.base, adapter.moved
    makers: dict[str, Sequence[Maker]] = {
        Cause.BASE_SWAPPED.value: [
            partial(broken.towards, base, later=moved, share=share) for share in severities.towards
        ],
        Cause.QUANTISED_BASE.value: [
            partial(broken.rounded, base, bits=bits, group=group) for bits, group in severities.rounded
        ],
        Cause.BASE_SWAPPED_AND_ADAPTER_LOST.value: [
            partial(broken.renamed_inside, base, seed=seed) for seed in severities.reparameterised
        ],
        MERGED + adapter.name: [
            partial(broken.merged, base, adapter=adapter.folder, share=share) for share in severities.merged
        ],
    }
    return {
        kind: tuple(_once(folder / f"{kind}-{severity}", make) for severity, make in enumerate(by_severity))
        for kind, by_severity in makers.items()
    }


def _once(out: Path, make: Maker) -> Path:
    return out if out.is_dir() else make(out=out)


def _holds(text: str, key: str) -> bool:
    return text in key


def _layers(member: Member) -> int:
    return next(base.layers for base in BASES if base.name == member.recipe.base)
