"""How the tensors of several adapters become those of a composition, by the rules of PEFT 0.21's merging methods.

Sources: task arithmetic, Ilharco et al. 2023 (ICLR); ties, Yadav et al. 2023 (NeurIPS); dare, Yu et al. 2024 (ICML).
What is PEFT's own choice: a tie between signs counts as positive, the sign is elected before weighting, and ties
divides by the number of members that have the elected sign, not by their weights. tests/probes/composition/
test_arithmetic.py holds it to PEFT's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from probes.composition.recipe import Recipe


def combined(
    tensors: Sequence[torch.Tensor], weights: Sequence[float], recipe: Recipe, draw: torch.Generator
) -> torch.Tensor:
    """Tensors of one shape, one a member, as one. weights: of the members; draw: what dare drops is taken from it"""
    kept = torch.stack([_pruned(tensor, recipe, draw) for tensor in tensors])
    weighted = kept * torch.tensor(list(weights), dtype=kept.dtype).view(-1, *(1 for _ in kept.shape[1:]))
    if not recipe.elects_sign:
        return weighted.sum(0)
    agrees = _has_elected_sign(kept, recipe)
    return (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1.0)


def _pruned(tensor: torch.Tensor, recipe: Recipe, draw: torch.Generator) -> torch.Tensor:
    """Dare drops values at random and scales up what is left; the others keep the largest."""
    if not recipe.prunes or recipe.density is None or recipe.density >= 1:
        return tensor
    if recipe.draws:
        return tensor * torch.bernoulli(torch.full_like(tensor, recipe.density), generator=draw) / recipe.density
    kept = torch.zeros(tensor.numel(), dtype=tensor.dtype)
    kept[tensor.abs().flatten().topk(int(recipe.density * tensor.numel())).indices] = 1
    return tensor * kept.view(tensor.shape)


def _has_elected_sign(kept: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(members, ...) booleans. kept: (members, ...) after pruning"""
    votes = kept if recipe.majority_sign_method == "total" else kept.sign()
    return kept.sign() == torch.where(votes.sum(0) >= 0, 1, -1)
