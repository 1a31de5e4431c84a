"""A composition's factors against what PEFT's add_weighted_adapter makes of the same adapters, and its folder."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from probes.artefacts.lora_files import read_adapter
from probes.composition.compose import Composed, compose, read_members, write
from probes.composition.recipe import Member, Method, Recipe
from probes.errors import Refused, Unsupported
from probes.runner import Target
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base

MEMBERS = (Member("a", 0.7), Member("b", -0.4), Member("c", 1.3))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), tied=False)


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three of one rank: other strengths, and other modules of the third."""
    home = tmp_path_factory.mktemp("adapters")
    own: dict[str, dict[str, Any]] = {
        "a": {"lora_alpha": 8},
        "b": {"lora_alpha": 2},
        "c": {"target_modules": ["q_proj", "o_proj"]},
    }
    return {name: tiny_adapter(home / name, base, seed, **own[name]) for seed, name in enumerate(own, start=1)}


def composed(recipe: Recipe, folders: dict[str, Path]) -> Composed:
    return compose(recipe, read_members(recipe, folders))


def peft_updates(base: Path, folders: dict[str, Path], recipe: Recipe) -> dict[str, torch.Tensor]:
    """Module -> scaling * B A of the adapter that PEFT makes."""
    parameters: dict[str, Any] = {"density": recipe.density, "majority_sign_method": recipe.majority_sign_method}
    parameters |= {"svd_rank": recipe.svd_rank, "svd_clamp": recipe.svd_clamp}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        first, *others = [member.adapter for member in recipe.members]
        model = PeftModel.from_pretrained(model, folders[first], adapter_name=first)
        for name in others:
            model.load_adapter(folders[name], adapter_name=name)
        weights = [member.weight for member in recipe.members]
        model.add_weighted_adapter([first, *others], weights, "both", recipe.method, **parameters)
    layers = dict(model.base_model.model.named_modules())
    return {
        name: layer.get_delta_weight("both").detach()
        for name, layer in layers.items()
        if "both" in getattr(layer, "lora_A", {})
    }


DETERMINISTIC: list[tuple[Method, dict[str, Any]]] = [
    ("linear", {}),
    ("cat", {}),
    ("svd", {}),
    ("svd", {"svd_rank": 3}),
    ("svd", {"svd_rank": 3, "svd_clamp": 0.99}),
    ("ties", {"density": 0.4}),
    ("ties", {"density": 0.4, "majority_sign_method": "frequency"}),
    ("ties_svd", {"density": 0.4, "svd_rank": 6}),
    ("magnitude_prune", {"density": 0.3}),
    ("magnitude_prune_svd", {"density": 0.3}),
]


@pytest.mark.parametrize(("method", "parameters"), DETERMINISTIC)
def test_every_module_gets_what_peft_gives_it(
    base: Path, folders: dict[str, Path], method: Method, parameters: dict[str, Any]
) -> None:
    recipe = Recipe(MEMBERS, method, **parameters)
    wanted, result = peft_updates(base, folders, recipe), composed(recipe, folders)
    assert set(result.factors) == set(wanted)
    for module, (a, b) in result.factors.items():
        assert len(a) == result.rank
        assert (b @ a - wanted[module]).abs().max() < 1e-5, module
    assert max(float(update.abs().max()) for update in wanted.values()) > 0.01


def test_dare_keeps_the_mean_and_repeats_itself_by_its_seed(folders: dict[str, Path]) -> None:
    recipe = Recipe(MEMBERS[:2], "dare_linear_svd", 0.5, svd_rank=64)
    first, again = composed(recipe, folders), composed(recipe, folders)
    other = composed(replace(recipe, seed=1), folders)
    assert first.identity == again.identity != other.identity
    for module, (a, b) in first.factors.items():
        assert torch.equal(b @ a, again.factors[module][1] @ again.factors[module][0])
    whole = composed(Recipe(MEMBERS[:2], "cat"), folders)
    module = min(first.factors)
    drawn = [composed(replace(recipe, seed=seed), folders).factors[module] for seed in range(60)]
    mean = torch.stack([b @ a for a, b in drawn]).mean(0)
    a, b = whole.factors[module]
    assert (mean - b @ a).norm() < 0.25 * (b @ a).norm()


def test_its_folder_answers_as_peft_does(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    recipe = Recipe(MEMBERS, "cat")
    made = write(composed(recipe, folders), folders["a"], tmp_path / "composed")
    read = read_adapter(made)
    assert read.problems == () and {part.scaling for part in read.low_rank.values()} == {1.0}
    runner = opened(base, tmp_path, {"c": made})
    answer = full(runner, [Target("c")])[Target("c"), 0]
    runner.close()
    assert runner.facts("c") == ()
    assert np.abs(answer - peft_log_probs(base, made, PROMPT, FORCED)).max() < 1e-4


def test_stacked_is_the_sum_of_all_that_an_engine_applies(folders: dict[str, Path]) -> None:
    stacked, summed = (composed(Recipe(MEMBERS, method), folders) for method in ("stacked", "cat"))
    assert all(
        torch.equal(half, summed.factors[m][i]) for m, pair in stacked.factors.items() for i, half in enumerate(pair)
    )
    assert stacked.identity != summed.identity


def test_a_switch_that_peft_carries_over_multiplies_its_result(base: Path, tmp_path: Path) -> None:
    """Of rsLoRA members PEFT applies sqrt(rank) times the sum; here the sum is applied."""
    folders = {name: tiny_adapter(tmp_path / name, base, seed, use_rslora=True) for seed, name in enumerate("ab")}
    recipe = Recipe((Member("a"), Member("b")), "linear")
    wanted = peft_updates(base, folders, recipe)
    for module, (a, b) in composed(recipe, folders).factors.items():
        assert torch.allclose(2.0 * (b @ a), wanted[module], atol=1e-5)  # rank 4


def test_what_cannot_be_composed_is_refused_by_name(base: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    larger = folders | {"b": tiny_adapter(tmp_path / "larger", base, r=8)}
    two = MEMBERS[:2]
    with pytest.raises(Refused, match="ranks of the members: saw 4, 8"):
        composed(Recipe(two, "linear"), larger)
    assert composed(Recipe(two, "cat"), larger).rank == 12
    assert composed(Recipe(two, "svd"), larger).rank == 8
    with pytest.raises(Unsupported, match="use_dora"):
        composed(Recipe(two, "cat"), folders | {"b": tiny_adapter(tmp_path / "dora", base, use_dora=True)})
    with pytest.raises(Unsupported, match="modules_to_save"):
        composed(Recipe(two), folders | {"b": tiny_adapter(tmp_path / "saved", base, modules_to_save=["lm_head"])})
    uneven = folders | {"b": tiny_adapter(tmp_path / "uneven", base, rank_pattern={"q_proj": 2})}
    with pytest.raises(Refused, match=r"ranks on model\.layers\.0"):
        composed(Recipe(two, "linear"), uneven)
