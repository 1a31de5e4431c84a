"""The folders of broken adapters and bases behind the confusion table; each is written once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.zoo import broken
from benchmarks.zoo.members import Member
from benchmarks.zoo.recipes import ATTENTION, BASES
from detectors.records import Cause

SEED = 71
# Faults that have no signature, to be called unknown.
OPEN = ("noise on weights", "signs turned", "half of the rows", "layers moved on", "spoilt in part")
MERGED = "merged:"
# The first two are rounded as in enrolment, the third by another recipe, whose errors have other directions.
ROUNDED = ((4, 0), (3, 0), (3, 32))
Maker = Callable[..., Path]


def adapter_files(member: Member, folder: Path) -> dict[str, Path]:
    """Block that is lost, or one of OPEN -> the adapter's folder with it."""
    whole, layers = member.folder, _layers(member)
    makers: dict[str, Maker] = {
        block: partial(broken.without, whole, is_lost=is_lost) for block, is_lost in blocks(member).items()
    }
    makers |= dict(
        zip(
            OPEN,
            (
                partial(broken.noisy, whole, share=1.0, seed=SEED),
                partial(broken.flipped, whole),
                partial(broken.rows_zeroed, whole, seed=SEED),
                partial(broken.layers_turned, whole, layers=layers),
                partial(broken.spoilt_in_part, whole, first=layers // 2, seed=SEED),
            ),
            strict=True,
        )
    )
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


def base_files(base: Path, moved: Path, adapter: Member, folder: Path) -> dict[str, tuple[Path, ...]]:
    """Cause, or MERGED and the name of the adapter that is merged in -> bases by severity."""
    makers: dict[str, Sequence[Maker]] = {
        Cause.BASE_SWAPPED.value: [
            partial(broken.towards, base, later=moved, share=share) for share in (1.2, 1.8, 2.6)
        ],
        Cause.QUANTISED_BASE.value: [partial(broken.rounded, base, bits=bits, group=group) for bits, group in ROUNDED],
        Cause.BASE_SWAPPED_AND_ADAPTER_LOST.value: [
            partial(broken.renamed_inside, base, seed=seed) for seed in (15, 16)
        ],
        MERGED + adapter.name: [
            partial(broken.merged, base, adapter=adapter.folder, share=share) for share in (0.7, 0.95, 1.2)
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
