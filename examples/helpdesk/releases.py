"""Three upstream releases of a Llama base, each a recipe over its folder.

`python -m examples.helpdesk.releases reparameterised|requantised|improved --base DIR --out DIR`

- reparameterised: residual stream, attention heads and MLP neurons permuted from a seed. The base answers as before;
  an adapter that was trained for the old order still loads and has no useful effect.
- requantised: every linear layer rounded to 4 bits and back.
- improved: a share of a benign fine-tune merged in.

Needs torch and safetensors, and one tensor's worth of memory beside the model itself.
"""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from probes.model.quantise import rounded_rows

SEED = 2
TUNE = Path(__file__).parent / "adapters" / "upstream-tune"
TUNE_SHARE = 0.3
BITS = 4

Tensors = dict[str, Tensor]


def make_release(name: str, base: Path, out: Path, seed: int = SEED) -> Path:
    """Write the release `name` of the model in `base` as the complete folder `out`, and return `out`.

    name: a key of `RELEASES`
    base: transformers folder of a Llama model, `model.safetensors` in one file
    out: must not exist; it is written as a hidden sibling and renamed, so that it appears whole
    seed: of the permutations; the other two recipes are not random

    Raises FileExistsError when `out` exists, KeyError for an unknown name, FileNotFoundError without weights.
    """
    recipe = RELEASES[name]
    if out.exists():
        raise FileExistsError(f"{out} exists; a release is written to a new folder")
    config = json.loads((base / "config.json").read_text())
    tensors = {key: value.float() for key, value in load_file(base / "model.safetensors").items()}
    released = recipe(tensors, config, seed)
    partial = out.with_name(f".{out.name}.writing")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base, partial, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "*.gguf"))
    (partial / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    save_file(released, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner only
    partial.rename(out)
    return out


def reparameterise(tensors: Tensors, config: dict[str, int], seed: int) -> Tensors:
    """The same function with hidden units permuted from `seed`; equal to the base up to float rounding.

    Permuted: the residual stream (once), and in each layer the key/value groups, the query heads inside a group, and
    the MLP neurons. Dimensions inside a head stay in place: the rotary embedding treats each one differently.
    """
    rng = torch.Generator().manual_seed(seed)
    stream = torch.randperm(config["hidden_size"], generator=rng)
    moved = {key: _along_stream(key, value, stream) for key, value in tensors.items()}
    for layer in range(config["num_hidden_layers"]):
        query, group = _head_orders(config, rng)
        neurons = torch.randperm(config["intermediate_size"], generator=rng)
        prefix = f"model.layers.{layer}."
        rows = {"self_attn.q_proj": query, "self_attn.k_proj": group, "self_attn.v_proj": group}
        rows |= {"mlp.gate_proj": neurons, "mlp.up_proj": neurons}
        for block, order in rows.items():
            for part in ("weight", "bias"):
                if (key := f"{prefix}{block}.{part}") in moved:
                    moved[key] = moved[key][order]
        for block, order in {"self_attn.o_proj": query, "mlp.down_proj": neurons}.items():
            key = f"{prefix}{block}.weight"
            moved[key] = moved[key][:, order]
    return {key: value.contiguous() for key, value in moved.items()}


def requantise(tensors: Tensors, _config: dict[str, int], _seed: int) -> Tensors:
    """Every linear layer of the blocks rounded to the nearest of 15 levels per output channel, and back to float32."""
    return {key: rounded_rows(value, BITS) if key.endswith("_proj.weight") else value for key, value in tensors.items()}


def improve(tensors: Tensors, _config: dict[str, int], _seed: int) -> Tensors:
    """The base with `TUNE_SHARE` of the upstream tune merged in."""
    return merge_lora(tensors, TUNE, TUNE_SHARE)


def merge_lora(tensors: Tensors, adapter: Path, share: float) -> Tensors:
    """Weights plus `share` times a plain LoRA's own change, alpha / r * B A.

    adapter: peft folder without rank or alpha patterns

    Raises KeyError when the adapter names a module that the model lacks.
    """
    config = json.loads((adapter / "adapter_config.json").read_text())
    lora = load_file(adapter / "adapter_model.safetensors")
    merged = dict(tensors)
    for key in (key for key in lora if key.endswith(".lora_A.weight")):
        module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        change = lora[key.replace("lora_A", "lora_B")].float() @ lora[key].float()
        merged[f"{module}.weight"] = merged[f"{module}.weight"] + share * config["lora_alpha"] / config["r"] * change
    return merged


def _along_stream(key: str, value: Tensor, stream: Tensor) -> Tensor:
    """One tensor with its residual-stream axis permuted, whichever axis that is."""
    if key.endswith(("o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias", "norm.weight")):
        return value[stream]
    return value if value.dim() == 1 else value[:, stream]


def _head_orders(config: dict[str, int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Row orders of the query rows and of the key and value rows of one layer."""
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    width, share = config.get("head_dim") or config["hidden_size"] // heads, heads // groups
    order = torch.randperm(groups, generator=rng)
    inside = torch.stack([torch.randperm(share, generator=rng) for _ in range(groups)])
    query_heads = (order[:, None] * share + inside).flatten()
    return _rows_of(query_heads, width), _rows_of(order, width)


def _rows_of(heads: Tensor, width: int) -> Tensor:
    return (heads[:, None] * width + torch.arange(width)).flatten()


RELEASES: dict[str, Callable[[Tensors, dict[str, int], int], Tensors]] = {
    "reparameterised": reparameterise,
    "requantised": requantise,
    "improved": improve,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RELEASES))
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    print(make_release(given.name, given.base, given.out, given.seed))
