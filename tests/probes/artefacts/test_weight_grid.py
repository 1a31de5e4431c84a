"""Which recipe a base went through, from a real model's weights in each type that files store; and what is no grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from detectors.records import NO_GRID
from probes.artefacts.base_files import packaged_gguf
from probes.artefacts.safetensors_header import RawTensor, read_folder
from probes.artefacts.weight_grid import grid_of_base
from probes.model.build import read_base
from tests.probes.artefacts.recipes import RECIPES, symmetric
from tests.probes.tiny import tiny_base

KINDS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
OF_A_LAYER = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_down")


def low_rank(weight: torch.Tensor, share: float, seed: int = 0) -> torch.Tensor:
    """What merging an adapter of rank 8 adds, as a share of the weights' own spread."""
    generator = torch.Generator().manual_seed(seed)
    b, a = (torch.randn(*shape, generator=generator) for shape in ((len(weight), 8), (8, weight.shape[1])))
    delta = b @ a
    return delta * (share * weight.std() / delta.std())


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Linear matrices of the packaged model, off its own grid by a merged adapter."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(packaged_gguf()).tensors}
    named = {f"model.layers.12.{name}.weight": f"blk.12.{name}.weight" for name in OF_A_LAYER}
    plain = {
        name: torch.from_numpy(np.array(gguf.quants.dequantize(tensors[source].data, tensors[source].tensor_type)))
        for name, source in named.items()
    }
    return {name: weight + low_rank(weight, 0.3) for name, weight in plain.items()}


def stored(weights: dict[str, torch.Tensor], kind: str) -> list[RawTensor]:
    return [
        RawTensor(
            name, kind, tuple(weight.shape), bytearray(weight.to(KINDS[kind]).view(torch.uint8).numpy().tobytes())
        )
        for name, weight in weights.items()
    ]


@pytest.mark.parametrize("recipe", RECIPES)
def test_bits_group_and_levels_of_every_recipe_are_read_from_every_storage_type(
    weights: dict[str, torch.Tensor], recipe: str
) -> None:
    quantise, words = RECIPES[recipe]
    quantised = {name: quantise(weight).contiguous() for name, weight in weights.items()}
    read = {kind: grid_of_base({}, stored(quantised, kind)) for kind in KINDS}
    assert read == dict.fromkeys(KINDS, f"{words}: {len(weights)} of {len(weights)} linear matrices")


def pruned(weight: torch.Tensor, kept: int, of: int) -> torch.Tensor:
    """The largest few of each so many, as 2:4 sparsity keeps them."""
    parts = weight.reshape(-1, of)
    mask = torch.zeros_like(parts).scatter(1, parts.abs().topk(kept, 1).indices, 1.0)
    return (parts * mask).reshape(weight.shape)


ORDINARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as trained": lambda weight: weight,
    "bfloat16 before": lambda weight: weight.bfloat16().float(),
    "float16 before": lambda weight: weight.half().float(),
    "an adapter merged into 8 bits": lambda weight: symmetric(8)(weight) + low_rank(weight, 0.05, seed=1),
    "trained on after 4 bits": lambda weight: symmetric(4, 128)(weight) * (1 + 0.02 * torch.randn_like(weight)),
    "pruned 2:4": lambda weight: pruned(weight, 2, 4),
    "pruned to a twentieth": lambda weight: pruned(weight, 1, 16),
    "nothing but zeros": torch.zeros_like,
    "one value": torch.ones_like,
    "two values": torch.sign,
    "uniform": lambda weight: torch.rand_like(weight) - 0.5,
    "heavy tails": lambda weight: torch.distributions.StudentT(2.0).sample(weight.shape) * 0.02,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_merged_trained_and_pruned_weights_lie_on_no_grid(
    weights: dict[str, torch.Tensor], name: str, kind: str
) -> None:
    torch.manual_seed(0)
    changed = {key: ORDINARY[name](weight).contiguous() for key, weight in weights.items()}
    assert grid_of_base({}, stored(changed, kind)) == NO_GRID


def test_the_share_of_matrices_is_counted_and_fewer_than_half_are_no_quantised_base(
    weights: dict[str, torch.Tensor],
) -> None:
    names = list(weights)

    def with_first(count: int) -> list[RawTensor]:
        return stored({**weights, **{name: symmetric(4, 128)(weights[name]) for name in names[:count]}}, "BF16")

    assert grid_of_base({}, with_first(3)).endswith(f": 3 of {len(names)} linear matrices")
    assert grid_of_base({}, with_first(2)) == NO_GRID


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "recipe, words",
    [
        ("FP8 E4M3", "8 bits with one scale a matrix (FP8 E4M3 levels)"),
        ("LLM.int8", "8 bits with one scale a row (evenly spaced levels)"),
        ("QLoRA NF4", "4 bits with one scale a row (NF4 levels)"),
    ],
)
def test_small_matrices_are_read_whole(weights: dict[str, torch.Tensor], recipe: str, words: str, kind: str) -> None:
    """Where a row has 64 weights, as many as share a scale."""
    small = {name: RECIPES[recipe][0](weight[:64, :64]).contiguous() for name, weight in weights.items()}
    assert grid_of_base({}, stored(small, kind)) == f"{words}: {len(small)} of {len(small)} linear matrices"


def test_embeddings_the_output_layer_and_vectors_are_not_counted(weights: dict[str, torch.Tensor]) -> None:
    some = next(iter(weights.values()))
    others = {"model.embed_tokens.weight": some, "lm_head.weight": some, "model.norm.weight": some[0].clone()}
    quantised = {name: symmetric(4, 32)(weight) for name, weight in weights.items()}
    read = grid_of_base({}, stored(quantised | others, "F32"))
    assert read.endswith(f": {len(weights)} of {len(weights)} linear matrices")
    assert grid_of_base({}, stored(others, "F32")) == "", "no linear matrix, so nothing is known"


@pytest.mark.parametrize(
    "quantisation, words",
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "4 bits in groups of 128 (gptq)"),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "4 bits in groups of 64 (awq)"),
        ({"quant_method": "gptq", "bits": 3, "group_size": -1}, "3 bits (gptq)"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "4 bits (bitsandbytes)"),
        ({"load_in_8bit": True}, "8 bits (bitsandbytes)"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "8 bits (fp8)"),
        ({"quant_method": "mxfp4"}, "4 bits (mxfp4)"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
            "8 bits (compressed-tensors)",
        ),
        ({"quant_method": "new"}, "quantised (new)"),
    ],
)
def test_a_base_that_is_stored_quantised_is_what_its_config_says(quantisation: dict[str, object], words: str) -> None:
    assert grid_of_base({"quantization_config": quantisation}, []) == f"{words}: says config.json"


def test_a_folder_is_read_with_its_grid(tmp_path: Path) -> None:
    assert read_base(tiny_base(tmp_path / "base")).hashes.grid == NO_GRID


def test_a_base_whose_linear_layers_were_rounded_and_saved_shows_it(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    tensors = {t.name: torch.frombuffer(t.data, dtype=torch.float32).reshape(t.shape) for t in read_folder(base)}
    rounded = {n: symmetric(4, 32)(w) if w.dim() == 2 and "embed" not in n else w for n, w in tensors.items()}
    save_file({n: w.contiguous().bfloat16() for n, w in rounded.items()}, base / "model.safetensors", {"format": "pt"})
    assert read_base(base).hashes.grid == "4 bits in groups of 32 (evenly spaced levels): 14 of 14 linear matrices"
