"""A checkpoint with unexpected keys is refused with their names, unless they are known to change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.runner import Target
from probes.runners.in_process import Runner
from tests.probes.tiny import full, opened, tiny_base

Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.0.mlp.down_proj"


def changed(folder: Path, change: Callable[[Tensors], object], **config: Any) -> Path:
    base = tiny_base(folder, tied=False)
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps(json.loads((base / "config.json").read_text()) | config))
    return base


def in_eight_bits(scale: str, of: str) -> Callable[[Tensors], None]:
    """One weight as FP8 with its scale beside it. scale: the scale's shape, "scalar" or "block"; of: its name"""

    def change(tensors: Tensors) -> None:
        weight = tensors[f"{DOWN}.weight"]
        step = weight.abs().max() / 448
        tensors[f"{DOWN}.weight"] = (weight / step).to(torch.float8_e4m3fn)
        tensors[f"{DOWN}.{of}"] = step if scale == "scalar" else step.reshape(1, 1)

    return change


def in_four_bits(tensors: Tensors) -> None:
    """As GPTQ and AWQ store it; the numbers do not matter."""
    del tensors[f"{DOWN}.weight"]
    tensors[f"{DOWN}.qweight"] = torch.zeros(12, 64, dtype=torch.int32)
    tensors[f"{DOWN}.qzeros"] = torch.zeros(1, 8, dtype=torch.int32)
    tensors[f"{DOWN}.scales"] = torch.ones(1, 64)


def further_layer(tensors: Tensors) -> None:
    for name in [name for name in tensors if "layers.1." in name]:
        tensors[name.replace("layers.1.", "layers.2.")] = tensors[name].clone()


def added(name: str, tensor: torch.Tensor) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensor})


def why(base: Path, folder: Path) -> str:
    return opened(base, folder / "cache").refresh()[None].detail


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_eight_bits("scalar", "weight_scale"), (f"{DOWN}.weight_scale", "quantised", "bfloat16")),
        (in_eight_bits("block", "weight_scale_inv"), (f"{DOWN}.weight_scale_inv", "quantised", "bfloat16")),
        (in_four_bits, (f"3 of 23 tensors are used by nothing: {DOWN}.qweight", "quantised", "bfloat16")),
        (added(f"{DOWN}.input_scale", torch.ones(())), ("input_scale", "quantised")),
        (added("score.weight", torch.ones(1, 64)), ("score.weight", "another model than its weights")),
        (added("v_head.summary.weight", torch.ones(1, 64)), ("v_head.summary.weight", "another model")),
        (added("model.layers.0.self_attn.q_norm.weight", torch.ones(16)), ("q_norm.weight", "another model")),
        (added("model.layers.0.self_attn.bias", torch.ones(64)), ("self_attn.bias", "another model")),
        (further_layer, ("9 of 30 tensors are used by nothing: model.layers.2.", "another model")),
    ],
)
def test_unexpected_keys_are_named(tmp_path: Path, change: Callable[[Tensors], None], words: tuple[str, ...]) -> None:
    seen = why(changed(tmp_path / "base", change), tmp_path)
    assert all(word in seen for word in words) and "\n" not in seen, seen


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "quantised by modelopt, which is not read"),
        ({"quant_method": "brandnew"}, "quantised by brandnew, which is not read"),
        ({"quant_method": "gptq", "bits": 4}, "pip install optimum"),
        ({"quant_method": "awq", "bits": 4}, "pip install gptqmodel"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "pip install compressed-tensors"),
    ],
)  # fmt: skip
def test_a_quantisation_that_cannot_be_undone_is_named(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    assert words in why(changed(tmp_path / "base", in_four_bits, quantization_config=config), tmp_path)


@pytest.mark.parametrize(
    ("change", "config"),
    [
        (added("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8)), {}),
        (added("model.rotary_emb.original_inv_freq", torch.ones(8)), {}),
        (added("model.embeddings.position_ids", torch.arange(8)), {}),
        (added("model.layers.0.self_attn.masked_bias", torch.tensor(-1e4)), {}),
        (added("model.layers.0.self_attn.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)), {}),
        (added("model.mtp.0.proj.weight", torch.ones(4, 4)), {}),
        (further_layer, {"num_nextn_predict_layers": 1}),
    ],
)  # fmt: skip
def test_unexpected_keys_that_change_nothing_are_allowed(
    tmp_path: Path, change: Callable[[Tensors], None], config: dict[str, Any]
) -> None:
    plain = full(opened(tiny_base(tmp_path / "plain", tied=False), tmp_path / "c"), [Target(None)])
    runner = opened(changed(tmp_path / "base", change, **config), tmp_path / "cache")
    assert not runner.refresh()[None].blocked
    assert np.array_equal(full(runner, [Target(None)])[Target(None), 0], plain[Target(None), 0])


def test_fp8_blocks_are_dequantised_by_their_scales(tmp_path: Path) -> None:
    """As DeepSeek and Qwen publish them: the same as the weights that their bytes and scales stand for."""
    kept = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "layers.1", "lm_head"]
    stored = {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": kept}
    packed = changed(tmp_path / "packed", in_eight_bits("block", "weight_scale_inv"), quantization_config=stored)

    def put_back(tensors: Tensors) -> None:
        in_eight_bits("block", "scale")(tensors)
        tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"].float() * tensors.pop(f"{DOWN}.scale")

    runner = opened(packed, tmp_path / "cache")
    assert not runner.refresh()[None].blocked, runner.refresh()[None].detail
    wanted = full(opened(changed(tmp_path / "plain", put_back), tmp_path / "c"), [Target(None)])[Target(None), 0]
    assert _apart(runner, wanted) < 5e-3, "they are put back into bfloat16"
    wrong = full(opened(tiny_base(tmp_path / "other", seed=1), tmp_path / "d"), [Target(None)])[Target(None), 0]
    assert _apart(runner, wrong) > 0.1


def _apart(runner: Runner, wanted: Any) -> float:
    return float(np.abs(full(runner, [Target(None)])[Target(None), 0] - wanted).max())
