"""Weights in two bytes, answers as in float32: products, whole models, and adapters of every flavour on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from probes.model.precision.kernels import SPLIT, SPLIT_TYPES
from probes.model.precision.split_products import (
    RoundedBefore,
    SplitEmbedding,
    SplitLinear,
    is_available,
    is_split,
    product_of,
    split_layers,
)
from probes.runner import Target
from tests.probes.architectures import KINDS, architecture_base
from tests.probes.tiny import full, in_bfloat16, opened, tiny_adapter, tiny_base

TEXTS = [((1, 20, 31, 42, 7, 9), (11, 60, 61, 5, 33)), ((50, 51), (7, 30, 31))]
# Against float32; in bfloat16 the same answers are off by hundredths.
NEAR = 2e-3


def test_a_product_keeps_what_one_product_in_bfloat16_loses() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 96), torch.randn(40, 96).to(torch.bfloat16)
    wanted = functional.linear(x.double(), weight.double())
    rounded = functional.linear(x.to(torch.bfloat16), weight).double()
    split = product_of(x, weight)
    assert split.dtype is torch.float32 and split.shape == (3, 5, 40)
    scale = wanted.abs().mean()
    assert (split - wanted).abs().max() < 5e-5 * scale < 0.01 * (rounded - wanted).abs().max()
    assert torch.equal(product_of(x, weight.float()), functional.linear(x, weight.float()))


def test_numbers_that_were_rounded_before_raise_and_are_not_answered() -> None:
    with pytest.raises(RoundedBefore, match="given bfloat16 numbers"):
        product_of(torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(3, 4, dtype=torch.bfloat16))


def test_layers_that_other_modules_hold_too_stay_in_float32() -> None:
    class Scaled(nn.Embedding):
        pass

    plain, tied = nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
    scaled = Scaled(6, 4)
    tied.weight = scaled.weight
    network = nn.ModuleList([nn.Embedding(6, 4), plain, scaled, tied, nn.LayerNorm(4)])
    split_layers(network)
    assert [is_split(module) for module in network] == [True, True, False, False, False]
    assert (type(network[0]), type(network[1])) == (SplitEmbedding, SplitLinear)
    assert plain.bias.dtype is scaled.weight.dtype is torch.float32
    assert network[0](torch.tensor([1, 2])).dtype is torch.float32


def test_a_cpu_multiplies_so() -> None:
    assert is_available(torch.device("cpu"))


@pytest.mark.parametrize("kind", sorted(SPLIT_TYPES & KINDS.keys()))
def test_a_model_answers_as_in_float32_with_its_matrices_in_two_bytes(kind: str, tmp_path: Path) -> None:
    base = in_bfloat16(architecture_base(tmp_path / "base", kind))
    answers = {}
    for dtype in ("float32", SPLIT):
        runner = opened(base, tmp_path, dtype=dtype)
        live = runner.loaded.live
        assert live is not None, runner.refresh()[None].detail
        assert live.kernel == dtype
        answers[dtype] = full(runner, [Target(None)], TEXTS)
        if dtype == SPLIT:
            held = {str(parameter.dtype) for parameter in live.network.parameters() if parameter.dim() < 2}
            assert held <= {"torch.float32"} and any(map(is_split, live.network.modules()))
        runner.close()
    for key, wanted in answers["float32"].items():
        assert np.abs(answers[SPLIT][key] - wanted).max() < NEAR


@pytest.mark.parametrize(
    "flavour",
    [
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [20, 31]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_an_adapter_loses_nothing_on_it(flavour: dict[str, Any], stored: torch.dtype, tmp_path: Path) -> None:
    base = in_bfloat16(tiny_base(tmp_path / "base", tied=False))
    adapter = tiny_adapter(tmp_path / "a", base, **flavour)
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    targets, answers = [Target("a"), Target("a", scale=0.5), Target(None)], {}
    for dtype in ("float32", SPLIT):
        runner = opened(base, tmp_path / "cache", {"a": adapter}, dtype=dtype)
        assert runner.facts("a") == ()
        answers[dtype] = full(runner, targets, TEXTS)
        runner.close()
    for key, wanted in answers["float32"].items():
        assert np.abs(answers[SPLIT][key] - wanted).max() < NEAR, key
    assert np.abs(answers[SPLIT][targets[0], 0] - answers[SPLIT][targets[2], 0]).max() > 0.05


def test_a_base_that_is_stored_otherwise_is_refused_where_it_was_asked_for_by_name(tmp_path: Path) -> None:
    base = in_bfloat16(tiny_base(tmp_path / "base"), but="norm.weight")
    runner = opened(base, tmp_path, dtype=SPLIT)
    assert "split_bfloat16 on weights that are stored in BF16, F32" in runner.refresh()[None].detail
    runner.close()


def test_greedy_texts_are_those_of_float32(tmp_path: Path) -> None:
    base, written = in_bfloat16(tiny_base(tmp_path / "base")), []
    for dtype in ("float32", SPLIT):
        runner = opened(base, tmp_path, dtype=dtype)
        written.append(runner.generate(Target(None), TEXTS[0][0], 8, lambda: False))
        runner.close()
    assert written[0] == written[1] and len(written[0]) > 2
