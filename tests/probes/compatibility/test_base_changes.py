"""What moved between two bases, and in which words."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from examples.helpdesk.releases import requantise
from probes.artefacts.lora_files import read_adapter
from probes.compatibility.base_changes import base_changes
from probes.compatibility.check import CANNOT_TELL, FITS, WILL_LOSE, Pair, check
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.engine_rules import rules_of
from probes.compatibility.loss_features import loss_features
from tests.probes.compatibility.releases import noisy, permuted, release, rotated
from tests.probes.tiny import peft_log_probs, tiny_adapter, tiny_base

PROMPT, FORCED = (1, 20, 31, 42), (11, 60, 61)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base", tied=False)


def test_the_same_base_is_the_same(base: Path, tmp_path: Path) -> None:
    changes = base_changes(base, release(base, tmp_path / "new", dict))
    assert changes.is_same
    assert changes.lines() == ["weights: equal"]


@pytest.mark.parametrize("recipe", [permuted, rotated])
def test_other_coordinates_are_recognised_from_the_weights(base: Path, tmp_path: Path, recipe: object) -> None:
    new = permuted(base, tmp_path / "new") if recipe is permuted else rotated(base, tmp_path / "new")
    before, after = (peft_log_probs(place, None, PROMPT, FORCED) for place in (base, new))
    assert abs(before - after).max() < 1e-3, "the same answers"
    changes = base_changes(base, new)
    assert changes.coordinates is (Coordinates.PERMUTED if recipe is permuted else Coordinates.ROTATED)
    assert f"hidden units {changes.coordinates}" in changes.lines()[0]
    adapter = tiny_adapter(tmp_path / "a", base)
    checked = check(Pair(new, adapter, base), rules_of("peft"))
    assert checked.verdict == WILL_LOSE and "will be lost" in checked.words


@pytest.mark.parametrize("share", [0.05, 0.5, 2.0])
def test_another_base_is_not_taken_for_other_coordinates(base: Path, tmp_path: Path, share: float) -> None:
    new = noisy(base, tmp_path / "new", share)
    assert base_changes(base, new).coordinates is Coordinates.SAME
    assert base_changes(base, tiny_base(tmp_path / "other", seed=9, tied=False)).coordinates is Coordinates.SAME


def test_a_local_change_is_summed_up_by_family_layer_and_what_the_adapter_reads(base: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "a", base)
    changes = base_changes(base, noisy(base, tmp_path / "new", 0.2, "layers.1.mlp"), read_adapter(adapter))
    assert {tensor.name for tensor in changes.changed} == {
        f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")
    }
    (line,) = [line for line in changes.lines() if line.startswith("mlp:")]
    assert line.startswith("mlp: 3 of 6 changed (layer 1), by 20")
    assert "of what the adapter reads by" in line
    down = next(tensor for tensor in changes.changed if "down" in tensor.name)
    assert 0.1 < down.read < 0.4 and 0.1 < down.written < 0.4
    assert math.isnan(next(tensor for tensor in changes.changed if "gate" in tensor.name).read)


def test_a_change_across_what_the_adapter_reads_is_seen_as_none(base: Path, tmp_path: Path) -> None:
    adapter = read_adapter(tiny_adapter(tmp_path / "a", base))
    name = "model.layers.0.self_attn.q_proj"
    reads = torch.linalg.qr(adapter.low_rank[name].a.float().T)[0]

    def across(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        noise = torch.randn(tensors[f"{name}.weight"].shape, generator=torch.Generator().manual_seed(1))
        return tensors | {f"{name}.weight": tensors[f"{name}.weight"] + noise - noise @ reads @ reads.T}

    (tensor,) = base_changes(base, release(base, tmp_path / "new", across), adapter).changed
    assert tensor.change > 1 and tensor.read < 1e-5


def test_quantisation_shapes_config_tokenizer_and_template_are_named(base: Path, tmp_path: Path) -> None:
    new = release(base, tmp_path / "new", lambda tensors: requantise(tensors, {}, 0))
    config = new / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 1e-3}))
    (new / "chat_template.jinja").write_text("{{ messages }}")
    (new / "tokenizer.json").write_text((new / "tokenizer.json").read_text().replace('"q"', '"Q "'))
    generation = new / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"temperature": 0.2}))
    lines = base_changes(base, new).lines()
    assert any(line.startswith("quantisation: 4 bits with one scale a row") for line in lines)
    assert any(line.startswith("config: rms_norm_eps 1e-06 -> 0.001") for line in lines)
    assert "tokenizer: its files differ" in lines and "chat template: differs" in lines
    assert any(line.startswith("generation config: ") and "temperature" in line for line in lines)
    assert len(lines) <= 10
    tensors = {"model.norm.weight": torch.zeros(8), "model.extra.weight": torch.zeros(2)}
    save_file(tensors, new / "model.safetensors")
    changes = base_changes(base, new)
    assert changes.added == ("model.extra.weight",) and changes.gone and math.isinf(changes.changed[0].change)
    assert any(line.startswith("names: ") for line in changes.lines())


def test_the_verdict_never_says_more_than_was_looked_at(base: Path, tmp_path: Path) -> None:
    adapter, rules = tiny_adapter(tmp_path / "a", base), rules_of("peft")
    assert check(Pair(base, adapter), rules).verdict == CANNOT_TELL
    assert check(Pair(base, adapter, base), rules).verdict == FITS
    assert check(Pair(noisy(base, tmp_path / "new", 0.1), adapter, base), rules).verdict == CANNOT_TELL


def test_features_of_a_loss_are_zero_where_nothing_moved_and_large_in_other_coordinates(
    base: Path, tmp_path: Path
) -> None:
    adapter = read_adapter(tiny_adapter(tmp_path / "a", base, target_modules="all-linear"))
    same = loss_features(base, base, adapter)
    assert same.is_whole and max(same.vector) < 1e-5
    moved = loss_features(base, permuted(base, tmp_path / "p"), adapter)
    assert moved.reads > 0.5 and moved.writes > 0.5 and moved.change > 1
    little = loss_features(base, noisy(base, tmp_path / "n", 0.05), adapter)
    assert 0 < little.reads < 0.1 and 0.02 < little.read_change < 0.1


@pytest.mark.parametrize("where", ["new", "old"])
def test_numbers_that_are_not_finite_are_a_change(tmp_path: Path, where: str) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    name = "model.layers.1.mlp.up_proj.weight"

    def spoilt(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = tensors[name].clone()
        own[0, 0] = float("nan")
        return tensors | {name: own}

    broken = release(base, tmp_path / "broken", spoilt)
    changes = base_changes(base, broken) if where == "new" else base_changes(broken, base)
    assert [tensor.name for tensor in changes.changed] == [name] and not changes.is_same
    assert any("1 with numbers that are not finite" in line for line in changes.lines())


def test_a_tensor_that_was_all_zero_is_of_the_same_shape(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    name = "model.layers.0.self_attn.q_proj.weight"
    nothing = release(base, tmp_path / "nothing", lambda tensors: tensors | {name: torch.zeros_like(tensors[name])})
    (change,) = base_changes(nothing, base).changed
    assert math.isinf(change.change) and not change.reshaped
    assert any("1 that were all 0 before" in line for line in base_changes(nothing, base).lines())
