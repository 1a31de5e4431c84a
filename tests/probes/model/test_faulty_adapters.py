"""Faulty variants of adapters, as pure functions: what remains, what is combined, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probes.artefacts.identity import NEWEST
from probes.artefacts.lora_files import LoraAdapter, LoraScaling, LowRankUpdate, ParameterUpdates, TokenRows
from probes.errors import Unreplayable, Unsupported
from probes.model.faulty_adapters import averaged, blocks, stacked, without


def adapter(
    *modules: str, saved: tuple[str, ...] = (), rank: int = 2, scaling: float = 2.0, seed: int = 0
) -> LoraAdapter:
    torch.manual_seed(seed)
    low_rank = {name: LowRankUpdate(torch.randn(rank, 5), torch.randn(3, rank), scaling) for name in modules}
    own = {name: {"weight": torch.randn(3, 5)} for name in saved}
    return LoraAdapter(f"folder-{seed}", {NEWEST: "sha256:none"}, rank, rank * scaling, low_rank, own)


def layered(*names: str, layers: int = 2, **more: object) -> LoraAdapter:
    return adapter(*(f"model.layers.{n}.{name}" for n in range(layers) for name in names), **more)  # type: ignore[arg-type]


def change(part: LowRankUpdate) -> torch.Tensor:
    return part.scaling * part.b @ part.a


LLAMA = layered("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", layers=12, saved=("lm_head",))


def test_blocks_are_module_names_then_halves_then_layers() -> None:
    names = ("q_proj", "v_proj", "down_proj", "lm_head")
    assert blocks(LLAMA) == (*names, "attention", *(f"layers.{n}" for n in range(12)))


@pytest.mark.parametrize(
    ("case", "given", "wanted"),
    [
        ("mlp is down_proj by another name", layered("self_attn.q_proj", "mlp.down_proj"), "q_proj down_proj 0 1"),
        ("mlp of two modules is a block", layered("mlp.up_proj", "mlp.down_proj", "x.q_proj"),
         "up_proj down_proj q_proj mlp 0 1"),
        ("the only module is the whole adapter", adapter("model.layers.0.self_attn.q_proj"), ""),
        ("one layer is the whole adapter", layered("self_attn.q_proj", "mlp.up_proj", layers=1), "q_proj up_proj"),
        ("other names of layers", adapter("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc"), "c_attn c_fc"),
        ("experts have a second number", adapter("l.0.mlp.experts.7.w1", "l.3.mlp.experts.0.w2"), "w1 w2"),
        ("without layers", adapter("lm_head", "score"), "lm_head score"),
        ("an adapter without parts", adapter(), ""),
    ],
)  # fmt: skip
def test_blocks_hold_neither_the_whole_nor_the_same_modules_twice(case: str, given: LoraAdapter, wanted: str) -> None:
    assert blocks(given) == tuple(f"layers.{name}" if name.isdecimal() else name for name in wanted.split()), case


@pytest.mark.parametrize(
    ("block", "left"),
    [
        ("q_proj", 24), ("attention", 12), ("mlp", 24), ("self_attn", 12),
        ("layers.1", 33), ("layers.0-9", 6), ("layers.10-99", 30), ("lm_head", 36),
    ],
)  # fmt: skip
def test_what_is_left_without_a_block_is_shared_and_untouched(block: str, left: int) -> None:
    rest = without(LLAMA, block)
    assert len(rest.low_rank) == left
    assert all(part is LLAMA.low_rank[module] for module, part in rest.low_rank.items())
    assert set(rest.saved) == (set() if block == "lm_head" else {"lm_head"})
    assert len(LLAMA.low_rank) == 36, "the adapter itself is as it was"


def test_a_module_saved_whole_in_layers_is_a_block_by_the_name_it_has_in_the_config() -> None:
    given = layered("self_attn.q_proj", saved=("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"))
    assert "up_proj" in blocks(given)
    assert without(given, "mlp").saved == {}


@pytest.mark.parametrize("block", ["k_proj", "layers.12", "layers.5-", "layers.9-3", "", "proj"])
def test_a_block_that_is_not_there_is_told_with_those_that_are(block: str) -> None:
    with pytest.raises(Unreplayable, match="known are q_proj, v_proj"):
        without(LLAMA, block)


def test_stacked_effects_add_and_averaged_ones_are_halved() -> None:
    first, second = adapter("a", "both", rank=2, scaling=0.5), adapter("both", "b", rank=3, scaling=4.0, seed=1)
    for make, share in [(stacked, 1.0), (averaged, 0.5)]:
        made = make(first, second)
        assert made.low_rank["both"].a.shape == (5, 5) and made.r == 5
        for name in ("a", "both", "b"):
            parts = [adapter.low_rank[name] for adapter in (first, second) if name in adapter.low_rank]
            wanted = share * torch.stack([change(part) for part in parts]).sum(dim=0)
            assert torch.allclose(change(made.low_rank[name]), wanted, atol=1e-6)
        assert made.low_rank["a"].a is first.low_rank["a"].a, "what only one has is shared"


def test_the_order_of_two_adapters_does_not_matter() -> None:
    first, second = adapter("m", scaling=0.5), adapter("m", seed=1)
    assert torch.allclose(change(stacked(first, second).low_rank["m"]), change(stacked(second, first).low_rank["m"]))


def test_a_module_saved_by_one_stays_and_is_half_the_way_in_an_average() -> None:
    plain, head = adapter("m"), adapter("m", saved=("lm_head",), seed=1)
    for pair in [(plain, head), (head, plain)]:
        assert stacked(*pair).saved is head.saved and stacked(*pair).saved_share == 1
        assert averaged(*pair).saved is head.saved and averaged(*pair).saved_share == 0.5


@pytest.mark.parametrize("make", [stacked, averaged])
@pytest.mark.parametrize(("other", "named"), [("lm_head", "lm_head"), ("norm", "lm_head, norm")])
def test_two_adapters_that_both_saved_modules_are_refused_by_name(make: object, other: str, named: str) -> None:
    first, second = adapter("m", saved=("lm_head",)), adapter("m", saved=(other,), seed=1)
    with pytest.raises(Unsupported, match=rf"modules_to_save \({named}\) beside those of folder-1"):
        make(first, second)  # type: ignore[operator]


EXPERTS = ParameterUpdates(((torch.ones(4, 3), torch.ones(3, 4)),), LoraScaling(2, 4.0, {}, {}, False))


def test_a_block_takes_experts_and_rows_of_tokens_with_it() -> None:
    given = replace(
        layered("self_attn.q_proj"),
        rows={"model.embed_tokens": TokenRows((1,), torch.ones(1, 5))},
        parameters={f"model.layers.{n}.mlp.experts": EXPERTS for n in range(2)},
    )
    assert {"experts", "embed_tokens", "layers.1"} <= set(blocks(given)) and "mlp" not in blocks(given)
    assert not without(given, "mlp").parameters and without(given, "mlp").rows
    assert not without(given, "embed_tokens").rows
    assert list(without(given, "layers.0").parameters) == ["model.layers.1.mlp.experts"]


@pytest.mark.parametrize("feature", ["use_dora", "target_parameters", "trainable_token_indices"])
def test_what_a_longer_a_and_b_do_not_express_is_not_combined(feature: str) -> None:
    plain = adapter("m")
    other = {
        "use_dora": replace(plain, low_rank={"m": replace(plain.low_rank["m"], magnitude=torch.ones(3))}),
        "target_parameters": replace(plain, parameters={"m.experts": EXPERTS}),
        "trainable_token_indices": replace(plain, rows={"e": TokenRows((1,), torch.ones(1, 5))}),
    }[feature]
    for pair in ((plain, other), (other, plain)):
        for combine in (stacked, averaged):
            with pytest.raises(Unsupported, match=f"{feature} beside another adapter"):
                combine(*pair)


def test_biases_of_two_adapters_add_up() -> None:
    first, second = (
        replace(own, low_rank={"m": replace(own.low_rank["m"], bias=torch.full((3,), value))})
        for own, value in ((adapter("m"), 1.0), (adapter("m", scaling=3.0, seed=1), 2.0))
    )
    part = stacked(first, second, 0.5).low_rank["m"]
    assert part.scaling == 1.0 and part.bias is not None and part.bias.tolist() == [2.0 * 1 + 0.5 * 3 * 2] * 3
