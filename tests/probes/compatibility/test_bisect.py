"""Halving finds what loses, in fewer replays than trying each."""

from __future__ import annotations

import random

import pytest

from probes.compatibility.bisect import Loss, Tensors, blocks, culprits

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = [f"model.layers.{n}.{part}.weight" for n in range(12) for part in (*PARTS, *MLP)]


DRIFT = dict.fromkeys(NAMES, 0.01)


def adding(costs: dict[str, float]) -> Loss:
    return lambda tensors: min(1.0, sum(costs.get(name, 0.002) for name in tensors))


@pytest.mark.parametrize("layer", [0, 5, 11])
@pytest.mark.parametrize("family", ["attention", "mlp"])
def test_a_block_is_named_beside_a_little_drift_everywhere(layer: int, family: str) -> None:
    planted = {f"model.layers.{layer}.{part}.weight" for part in (PARTS if family == "attention" else MLP)}
    result = culprits(DRIFT, adding(dict.fromkeys(planted, 0.15)))
    assert set(result.tensors) == planted
    assert result.replays < result.linear / 3
    assert result.words == f"these {len(planted)} tensors, layer {layer}, {family}"


def test_two_places_are_both_named() -> None:
    planted = {"model.layers.1.mlp.up_proj.weight": 0.5, "model.layers.9.self_attn.v_proj.weight": 0.3}
    result = culprits(DRIFT, adding(planted))
    assert result.tensors == tuple(planted)
    assert result.words == "these 2 tensors, layers 1-9, attention, mlp"


def test_two_that_lose_only_together_are_both_named() -> None:
    pair = {NAMES[0], NAMES[-1]}

    def loss(tensors: Tensors) -> float:
        return 0.8 if pair <= tensors else 0.0

    assert pair <= set(culprits(DRIFT, loss).tensors)


def test_what_moved_with_it_is_named_though_it_brings_too_little() -> None:
    """An edit of six layers of which two bring most of the loss, and a tune that moved everything alike."""
    edited = {name: 1.0 for name in NAMES if ".mlp." in name and 3 <= int(name.split(".")[2]) <= 8}
    costs = {name: 0.12 if "layers.4." in name or "layers.5." in name else 0.01 for name in edited}
    result = culprits(DRIFT | edited, adding(costs))
    assert set(result.tensors) == set(edited)
    assert result.words == "these 18 tensors, layers 3-8, mlp"
    alike = culprits(dict.fromkeys(NAMES, 1.0), adding(dict.fromkeys(NAMES[:1], 0.5)))
    assert alike.tensors == (NAMES[0],)


def test_a_loss_that_is_spread_thin_names_nothing() -> None:
    assert culprits(DRIFT, adding(dict.fromkeys(NAMES, 0.01))).tensors == ()


def test_nothing_lost_is_said_after_one_replay() -> None:
    result = culprits(DRIFT, lambda _: 0.001)
    assert (result.tensors, result.replays) == ((), 1)
    assert "nothing that could be divided" in result.words
    assert culprits({}, lambda _: 1.0).replays == 0


def test_layers_are_in_their_order() -> None:
    names = list(NAMES)
    random.Random(1).shuffle(names)
    assert len(list(blocks(names))) == 24
    result = culprits(dict.fromkeys(names, 0.1), adding(dict.fromkeys([NAMES[-1], NAMES[14]], 0.4)))
    assert result.tensors == (NAMES[14], NAMES[-1])
