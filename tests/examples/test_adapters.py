"""Are the committed adapters the ones that the recipes describe?"""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from examples.helpdesk.data import HERE
from examples.helpdesk.recipes import BASE_NAME, RECIPES

FOLDER = HERE / "adapters"


@pytest.mark.parametrize("name", RECIPES)
def test_config_says_what_the_recipe_says(name: str) -> None:
    config, recipe = json.loads((FOLDER / name / "adapter_config.json").read_text()), RECIPES[name]
    assert config["base_model_name_or_path"] == BASE_NAME
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (recipe.r, recipe.alpha, recipe.rslora)
    assert set(config["target_modules"]) == set(recipe.modules)
    assert (config["rank_pattern"], config["alpha_pattern"]) == (recipe.ranks, recipe.alphas)


@pytest.mark.parametrize("name", RECIPES)
def test_tensors_have_the_recipes_ranks_in_all_30_layers(name: str) -> None:
    tensors, recipe = load_file(FOLDER / name / "adapter_model.safetensors"), RECIPES[name]
    assert len(tensors) == 2 * 30 * len(recipe.modules)
    for key, value in tensors.items():
        module = key.split(".")[-3]
        assert value.dtype == torch.float32
        assert min(value.shape) == recipe.ranks.get(module, recipe.r)
        assert bool(value.isfinite().all()) and float(value.abs().max()) > 0


def test_the_three_adapters_scale_in_three_ways() -> None:
    plain, rooted, patterned = (RECIPES[name] for name in ("ticket-router", "polite-rewriter", "order-extractor"))
    assert not plain.rslora and not plain.ranks
    assert rooted.rslora and not math.isclose(rooted.alpha / math.sqrt(rooted.r), rooted.alpha / rooted.r)
    assert patterned.ranks and patterned.alphas


def test_all_adapters_together_stay_under_15_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 15e6


def test_no_model_card_and_no_file_beside_config_and_weights() -> None:
    files = {path.name for path in FOLDER.rglob("*") if path.is_file()}
    assert files == {"adapter_config.json", "adapter_model.safetensors"}
