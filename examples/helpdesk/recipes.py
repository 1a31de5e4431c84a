"""How each helpdesk adapter is built: its LoRA and its training, as values."""

from dataclasses import dataclass, field

BASE_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One adapter's LoRA and training.

    r, alpha, modules: as peft's `LoraConfig`; ranks and alphas: exceptions by module name
    rslora: scale by alpha / sqrt(r) in place of alpha / r
    steps: optimiser steps of `batch` examples; rate: peak learning rate of Adam, linear down to 0 after `warmup` steps
    """

    r: int
    alpha: int
    modules: tuple[str, ...]
    rslora: bool = False
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, int] = field(default_factory=dict)
    steps: int = 90
    batch: int = 8
    rate: float = 1.5e-3
    warmup: int = 6
    seed: int = 7


RECIPES: dict[str, Recipe] = {
    "ticket-router": Recipe(r=8, alpha=16, modules=("q_proj", "v_proj", "gate_proj", "down_proj"), steps=130),
    "polite-rewriter": Recipe(r=16, alpha=8, modules=("q_proj", "v_proj", "o_proj"), rslora=True),
    "order-extractor": Recipe(
        r=4, alpha=16, modules=("q_proj", "v_proj", "down_proj"), ranks={"down_proj": 6}, alphas={"down_proj": 12}
    ),
    "upstream-tune": Recipe(r=2, alpha=4, modules=("v_proj", "o_proj"), steps=40, rate=1e-3),
}
