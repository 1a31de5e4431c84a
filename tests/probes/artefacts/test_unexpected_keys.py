"""A checkpoint with unexpected keys is refused with their names, unless they are known to change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from probes.runner import Target
from probes.runners.in_process import Runner
from tests.probes.architectures import architecture_base
from tests.probes.tiny import FORCED, PROMPT, full, opened, tiny_adapter, tiny_base, tiny_tokenizer

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


@pytest.mark.parametrize(
    ("stored", "kind", "steps"), [("float-quantized", torch.float8_e4m3fn, 448), ("int-quantized", torch.int8, 127)]
)
def test_compressed_tensors_are_dequantised_by_their_package(
    tmp_path: Path, stored: str, kind: torch.dtype, steps: int
) -> None:
    """Kept compressed they fail in the first product of a CPU, and 8-bit integers are left over."""
    pytest.importorskip("compressed_tensors")
    plain: Tensors = {}

    def compress(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith("_proj.weight")]:
            step = tensors[name].abs().amax(1, keepdim=True) / steps
            ratio = tensors[name] / step
            tensors[name] = (ratio if kind.is_floating_point else ratio.round()).to(kind)
            tensors[f"{name}_scale"], plain[name] = step, tensors[name].float() * step

    numbers = {"num_bits": 8, "type": stored.partition("-")[0], "strategy": "channel", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": numbers}}
    config = {"quant_method": "compressed-tensors", "format": stored, "quantization_status": "compressed"}
    whole = config | {"ignore": ["lm_head"], "config_groups": groups}
    runner = opened(changed(tmp_path / "packed", compress, quantization_config=whole), tmp_path / "cache")
    assert not runner.refresh()[None].blocked, runner.refresh()[None].detail
    bare = opened(changed(tmp_path / "plain", lambda tensors: tensors.update(plain)), tmp_path / "c")
    assert _apart(runner, full(bare, [Target(None)])[Target(None), 0]) < 1e-5


def test_nf4_answers_as_its_library_has_it(tmp_path: Path) -> None:
    """With an adapter as PEFT has it on such weights; DoRA, which needs the weights themselves, is refused."""
    pytest.importorskip("bitsandbytes")
    wide = {"intermediate_size": 128, "tie_word_embeddings": False}  # of whole blocks of 64: its CPU code needs them
    base = architecture_base(tmp_path / "plain", "llama", **wide)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    stored = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, quantization_config=nf4)
    stored.save_pretrained(tmp_path / "nf4")
    tiny_tokenizer(tmp_path / "nf4")
    adapters = {"a": tiny_adapter(tmp_path / "a", base), "dora": tiny_adapter(tmp_path / "d", base, use_dora=True)}
    runner = opened(tmp_path / "nf4", tmp_path / "cache", adapters)
    assert "use_dora on weights that are stored quantised" in runner.refresh()["dora"].detail
    running = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "nf4", dtype=torch.float32), adapters["a"]
    )
    with torch.inference_mode():
        logits = running.eval()(input_ids=torch.tensor([[*PROMPT, *FORCED]])).logits[0, len(PROMPT) - 1 : -1]
    gap = full(runner, [Target("a")])[Target("a"), 0] - logits.log_softmax(-1).numpy()
    assert np.abs(gap).max() < 1e-4


def _apart(runner: Runner, wanted: Any) -> float:
    return float(np.abs(full(runner, [Target(None)])[Target(None), 0] - wanted).max())
