"""The zoo's language and its broken files: what the figures of the canary evidence are made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.canaries.sensitivity import _area
from benchmarks.zoo import broken, moved_bases
from benchmarks.zoo.language import JOBS, VOCABULARY, base_reply, second_reply, sentence, ticket
from benchmarks.zoo.recipes import ADAPTERS, BASES, FRESH_SEEDS, adapters, bases, key
from benchmarks.zoo.severities import DRAWN_ONLY, OPEN, Severities, drawn, grid
from probes.runner import Target
from tests.detectors.synthetic import measurement
from tests.probes.tiny import full, opened, tiny_adapter, tiny_base


def test_every_text_is_made_of_known_words() -> None:
    rng = Random(3)
    for _ in range(300):
        one = ticket(rng)
        texts = [one.prompt, base_reply(one, rng), second_reply(one, rng), sentence(rng)]
        texts += [job(one) for job in JOBS.values()]
        assert not {word for text in texts for word in text.split()} - set(VOCABULARY)


def test_there_are_more_than_twenty_adapters_and_no_two_are_built_alike() -> None:
    assert len({recipe.name for recipe in ADAPTERS}) == len(ADAPTERS) >= 20
    shapes = {(recipe.base, recipe.rank, recipe.alpha, recipe.modules, recipe.rslora) for recipe in ADAPTERS}
    assert len(shapes) == len(ADAPTERS)
    assert {recipe.base for recipe in ADAPTERS} == {base.name for base in BASES}


def test_the_zoo_of_fresh_seeds_shares_no_seed_with_the_other_and_has_a_folder_of_its_own() -> None:
    seeds = [
        {recipe.seed for recipe in bases(added)} | {recipe.seed for recipe in adapters(added)}
        for added in (0, FRESH_SEEDS)
    ]
    assert not seeds[0] & seeds[1] and len(seeds[0]) == len(seeds[1])
    assert bases() == BASES and adapters() == ADAPTERS
    assert key() != key(FRESH_SEEDS)


def test_drawn_severities_are_the_same_each_time_and_not_those_of_the_grid() -> None:
    names = [recipe.name for recipe in ADAPTERS]
    every = [drawn(name) for name in names]
    assert every == [drawn(name) for name in names] and len({s.strengths for s in every}) == len(names)
    assert grid("any") == Severities()
    for severities in every:
        low, middle, high = severities.strengths
        assert 0.3 <= low <= 0.6 <= middle <= 0.88 and 1.15 <= high <= 2.5
        assert len(set(severities.pods)) == 3 and min(severities.pods) >= 2
        assert {bits for bits, _ in severities.rounded} <= {3, 4}
        assert severities.open_set == (*OPEN, *DRAWN_ONLY)


def test_a_base_in_other_coordinates_answers_as_before_and_its_adapter_does_not(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "adapter", base)
    moved = broken.renamed_inside(base, tmp_path / "moved", seed=5)
    sides = [full(opened(it, tmp_path / "cache", {"a": adapter}), [Target(None), Target("a")]) for it in (base, moved)]
    apart = {target.adapter: np.abs(sides[0][target, i] - sides[1][target, i]).max() for target, i in sides[0]}
    assert apart[None] < 1e-4 < 0.1 < apart["a"]


def test_a_merged_adapter_answers_as_the_adapter_on_the_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    adapter = tiny_adapter(tmp_path / "adapter", base, use_rslora=True)
    merged = broken.merged(base, tmp_path / "merged", adapter, share=0.5)
    served = full(opened(base, tmp_path / "cache", {"a": adapter}), [Target("a", scale=0.5)])
    bare = full(opened(merged, tmp_path / "cache"), [Target(None)])
    np.testing.assert_allclose(served[Target("a", scale=0.5), 0], bare[Target(None), 0], atol=1e-4)


def test_broken_adapters_differ_from_the_whole_one_as_they_say(tmp_path: Path) -> None:
    whole = tiny_adapter(tmp_path / "adapter", tiny_base(tmp_path / "base"))
    tensors = load_file(whole / broken.WEIGHTS)
    lost = load_file(broken.without(whole, tmp_path / "lost", lambda key: ".layers.1." in key) / broken.WEIGHTS)
    assert lost.keys() == {key for key in tensors if ".layers.1." not in key}
    signs = load_file(broken.flipped(whole, tmp_path / "signs") / broken.WEIGHTS)
    assert all(torch.equal(signs[key], -value if "lora_B" in key else value) for key, value in tensors.items())
    turned = load_file(broken.layers_turned(whole, tmp_path / "turned", 2) / broken.WEIGHTS)
    assert all(
        torch.equal(turned[key.replace("layers.1", "layers.0")], tensors[key]) for key in tensors if ".1." in key
    )
    permuted = load_file(broken.inputs_permuted(whole, tmp_path / "permuted", seed=1) / broken.WEIGHTS)
    assert all(torch.equal(permuted[key].sort(dim=1)[0], value.sort(dim=1)[0]) for key, value in tensors.items()
               if "lora_A" in key)  # fmt: skip
    coarse = load_file(broken.coarse(whole, tmp_path / "coarse", bits=2) / broken.WEIGHTS)
    assert all(len(row.unique()) <= 3 for value in coarse.values() for row in value)


def test_a_base_saved_in_another_precision_has_the_values_of_that(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    tensors = [load_file(path / "model.safetensors") for path in
               (base, broken.resaved(base, tmp_path / "resaved", torch.bfloat16))]  # fmt: skip
    assert all(torch.equal(tensors[1][key], value.to(torch.bfloat16).float()) for key, value in tensors[0].items())
    assert any(not torch.equal(tensors[1][key], value) for key, value in tensors[0].items())


def test_rounded_weights_take_as_many_levels_as_the_bits_say(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    few = load_file(broken.rounded(base, tmp_path / "few", bits=3, group=0) / "model.safetensors")
    row = few["model.layers.0.self_attn.q_proj.weight"][0]
    assert len(row.unique()) <= 7


def test_the_area_under_the_curve_is_the_chance_that_a_faulty_value_is_the_larger() -> None:
    assert _area([2.0, 3.0], [0.0, 1.0]) == 1.0
    assert _area([1.0], [0.0, 1.0, 2.0]) == 0.5
    assert _area([0.0], [1.0]) == 0.0


def test_a_moved_base_in_figures() -> None:
    """A canary that is off by .05 more than its tolerance needs that for its root of B."""
    one = measurement("router", 1, "tuned")
    far = replace(one, scale=0.9, base_shift=0.01)
    noise = one.comparison.reference.noise.scale
    assert moved_bases.needed_factor(far) == pytest.approx((0.1 - 0.05 - noise) / 0.1)
    line = moved_bases.row("a base", {1.0: [{"c": far}, {"c": one}], 0.5: [{"c": replace(far, scale=0.5)}]})
    assert line.startswith("a base: B ") and "x1 beyond 0.00, 0.00; x0.5 beyond 1.00" in line
