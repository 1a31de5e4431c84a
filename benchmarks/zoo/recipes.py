"""The recipes of the zoo: three small Llama models with eight LoRA adapters each.

The folder of the trained zoo is named by ``key()``: a change here, or of any statement in language.py or train.py,
trains it again. A second zoo, of the same shapes and jobs from other seeds, is for figures that must not rest on the
models that were looked at in development.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
# What is added to every seed: nothing for the zoo, this for the one of fresh seeds.
FRESH_SEEDS = 5000


@dataclass(frozen=True, slots=True)
class BaseRecipe:
    """One base. hidden, layers, heads, groups, inner: of the Llama config; tied: is the head the embedding?

    steps: of 32 texts each; tune_steps: further steps, on a later release's answers, that give the moved base
    """

    name: str
    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int
    tied: bool
    seed: int
    steps: int
    tune_steps: int = 40


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """One LoRA. job: of language.JOBS; modules: PEFT's target modules; keeps: share of everyday texts in its training.

    steps: of 16 texts each; the adapter after half of them is saved as an earlier version
    """

    base: str
    job: str
    rank: int
    alpha: float
    modules: tuple[str, ...]
    rslora: bool = False
    keeps: float = 0.0
    steps: int = 80
    rate: float = 6e-3
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.base}-{self.job}"


BASES = (
    BaseRecipe("ant", hidden=64, layers=4, heads=4, groups=2, inner=160, tied=True, seed=101, steps=700),
    BaseRecipe("bee", hidden=96, layers=6, heads=6, groups=3, inner=256, tied=False, seed=102, steps=600),
    BaseRecipe("cow", hidden=96, layers=8, heads=4, groups=4, inner=224, tied=True, seed=103, steps=500),
)


def _eight(base: str, first_seed: int, order: tuple[int, ...]) -> tuple[AdapterRecipe, ...]:
    """The same eight LoRA shapes on every base, each time for other jobs."""
    jobs = ("router", "extractor", "rewriter", "translator", "reverser", "summariser", "steps", "refuser")
    shapes: tuple[tuple[int, float, tuple[str, ...], bool, float], ...] = (
        (8, 16, ("q_proj", "v_proj", "gate_proj", "down_proj"), False, 0.0),
        (4, 8, ("q_proj", "v_proj", "down_proj"), False, 0.25),
        (16, 8, (*ATTENTION,), True, 0.0),
        (2, 8, (*ATTENTION, *MLP), False, 0.25),
        (16, 16, (*MLP,), False, 0.0),
        (4, 16, ("v_proj", "o_proj", "up_proj", "down_proj"), False, 0.25),
        (8, 8, (*ATTENTION, *MLP), True, 0.0),
        (6, 12, ("q_proj", "o_proj", "gate_proj", "down_proj"), False, 0.25),
    )
    return tuple(
        AdapterRecipe(base, jobs[order[i]], r, alpha, modules, rslora, keeps, seed=first_seed + i)
        for i, (r, alpha, modules, rslora, keeps) in enumerate(shapes)
    )


ADAPTERS = (
    *_eight("ant", 1100, (0, 1, 2, 3, 4, 5, 6, 7)),
    *_eight("bee", 1200, (3, 4, 5, 6, 7, 0, 1, 2)),
    *_eight("cow", 1300, (6, 7, 0, 1, 2, 3, 4, 5)),
)


def bases(added_seed: int = 0) -> tuple[BaseRecipe, ...]:
    return tuple(replace(recipe, seed=recipe.seed + added_seed) for recipe in BASES)


def adapters(added_seed: int = 0) -> tuple[AdapterRecipe, ...]:
    return tuple(replace(recipe, seed=recipe.seed + added_seed) for recipe in ADAPTERS)


def key(added_seed: int = 0) -> str:
    """A short hash of all that decides the zoo's weights: recipes, and the syntax trees of language.py and train.py."""
    folder = Path(__file__).parent
    recipes = json.dumps(
        [[asdict(recipe) for recipe in bases(added_seed)], [asdict(recipe) for recipe in adapters(added_seed)]],
        sort_keys=True,
    )
    code = [ast.dump(ast.parse((folder / name).read_text())) for name in ("language.py", "train.py")]
    return hashlib.sha256("\n".join([recipes, *code]).encode()).hexdigest()[:12]
