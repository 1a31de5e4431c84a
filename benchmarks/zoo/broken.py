"""Adapters and bases that are wrong, written as the files that a bad release would leave.

Nothing here is shared with the code that records signatures: a figure must not rest on the formula that it tests. Each
function writes a complete folder ``out`` and returns it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.helpdesk.releases import reparameterise

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
Tensors = dict[str, Tensor]


def without(adapter: Path, out: Path, is_lost: Callable[[str], bool]) -> Path:
    """The adapter without some keys, as if an engine had not matched them. is_lost: of a module's name."""
    return _adapter(adapter, out, lambda t: {key: value for key, value in t.items() if not is_lost(key)})


def noisy(adapter: Path, out: Path, share: float, seed: int) -> Path:
    """Gaussian noise on every matrix, with ``share`` of that matrix's standard deviation."""
    rng = torch.Generator().manual_seed(seed)

    def spoilt(value: Tensor) -> Tensor:
        return value + share * value.std() * torch.randn(value.shape, generator=rng)

    return _adapter(adapter, out, lambda t: {key: spoilt(value) for key, value in t.items()})


def flipped(adapter: Path, out: Path) -> Path:
    """The sign of every low-rank update flipped."""
    return _adapter(adapter, out, lambda t: {key: -value if "lora_B" in key else value for key, value in t.items()})


def rows_zeroed(adapter: Path, out: Path, share: float, seed: int) -> Path:
    """So many of the rows of every B are zero: those outputs get no update."""
    rng = torch.Generator().manual_seed(seed)

    def thinned(key: str, value: Tensor) -> Tensor:
        return value * (torch.rand(value.shape[0], 1, generator=rng) < 1 - share) if "lora_B" in key else value

    return _adapter(adapter, out, lambda t: {key: thinned(key, t[key]) for key in sorted(t)})


def layers_turned(adapter: Path, out: Path, layers: int, by: int = 1) -> Path:
    """Every layer's update on the one ``by`` layers before it, those of the first ones on the last."""

    def moved(key: str) -> str:
        before, _, rest = key.partition(".layers.")
        number, _, tail = rest.partition(".")
        return f"{before}.layers.{(int(number) - by) % layers}.{tail}"

    return _adapter(adapter, out, lambda t: {moved(key): value for key, value in t.items()})


def spoilt_in_part(adapter: Path, out: Path, first: int, seed: int) -> Path:
    """From layer ``first`` on, the rows of every B are permuted, as after a wrong merge of shards."""
    rng = torch.Generator().manual_seed(seed)

    def turned(key: str, value: Tensor) -> Tensor:
        late = int(key.partition(".layers.")[2].partition(".")[0]) >= first
        return value[torch.randperm(value.shape[0], generator=rng)] if late and "lora_B" in key else value

    return _adapter(adapter, out, lambda t: {key: turned(key, t[key]) for key in sorted(t)})


def inputs_permuted(adapter: Path, out: Path, seed: int) -> Path:
    """The columns of every A permuted: each update reads the wrong hidden units."""
    rng = torch.Generator().manual_seed(seed)

    def permuted(key: str, value: Tensor) -> Tensor:
        return value[:, torch.randperm(value.shape[1], generator=rng)] if "lora_A" in key else value

    return _adapter(adapter, out, lambda t: {key: permuted(key, t[key]) for key in sorted(t)})


def coarse(adapter: Path, out: Path, bits: int) -> Path:
    """Every matrix of the adapter rounded to 2^bits - 1 levels, one scale for each of its rows."""

    def quantise(value: Tensor) -> Tensor:
        step = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        return (value / step).round() * step

    return _adapter(adapter, out, lambda t: {key: quantise(value) for key, value in t.items()})


def merged(base: Path, out: Path, adapter: Path, share: float) -> Path:
    """The base with ``share`` of an adapter's effect in its weights."""
    config = json.loads((adapter / CONFIG).read_text())
    scaling = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    lora = load_file(adapter / WEIGHTS)

    def change(tensors: Tensors) -> Tensors:
        for key in (key for key in lora if key.endswith(".lora_A.weight")):
            module = key.removeprefix(PREFIX).removesuffix(".lora_A.weight") + ".weight"
            tensors[module] = tensors[module] + share * scaling * lora[key.replace("lora_A", "lora_B")] @ lora[key]
        return tensors

    return _base(base, out, change)


def towards(base: Path, out: Path, later: Path, share: float) -> Path:
    """The base with ``share`` of the way to a later release of it; more than 1 goes beyond."""
    later_tensors = load_file(later / "model.safetensors")
    return _base(base, out, lambda t: {k: value + share * (later_tensors[k] - value) for k, value in t.items()})


def rounded(base: Path, out: Path, bits: int, group: int) -> Path:
    """Linear layers rounded to the nearest of 2^bits - 1 levels, each ``group`` weights of a row (0: all of them).

    Sources of the recipes: GGUF's Q4_0 has groups of 32; per-channel rounding is the plainest weight-only int8.
    """

    def quantise(weight: Tensor) -> Tensor:
        width = weight.shape[1] if group == 0 or weight.shape[1] % group else group
        cells = weight.reshape(-1, width)
        step = cells.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / (2 ** (bits - 1) - 1)
        return ((cells / step).round() * step).reshape(weight.shape)

    return _base(base, out, lambda t: {k: quantise(v) if k.endswith("_proj.weight") else v for k, v in t.items()})


def resaved(base: Path, out: Path, dtype: torch.dtype) -> Path:
    """The base with its weights rounded to another precision, as a release that is saved in it has them."""
    return _base(base, out, lambda t: {key: value.to(dtype).float() for key, value in t.items()})


def changed(base: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """The base with its tensors changed by a function that is given all of them, in float32."""
    return _base(base, out, change)


def renamed_inside(base: Path, out: Path, seed: int) -> Path:
    """The same function with residual stream, heads and neurons permuted."""
    config = json.loads((base / "config.json").read_text())
    return _base(base, out, lambda t: reparameterise(t, config, seed))


def _adapter(adapter: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    out.mkdir(parents=True)
    shutil.copy(adapter / CONFIG, out / CONFIG)
    save_file({k: v.contiguous() for k, v in change(load_file(adapter / WEIGHTS)).items()}, out / WEIGHTS)
    return out


def _base(base: Path, out: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = {key: value.float() for key, value in load_file(base / "model.safetensors").items()}
    changed = {key: value.contiguous() for key, value in change(tensors).items()}
    save_file(changed, out / "model.safetensors", metadata={"format": "pt"})
    return out
