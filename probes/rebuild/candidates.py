"""Candidates for a successor that need no training: the adapter as it is, and the adapter in the new coordinates.

Each is a folder in PEFT's layout, written whole or not at all. Tensors keep their names and types.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from probes.artefacts.adapter_keys import PREFIX, parse_lora_key
from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from probes.artefacts.lora_files import read_adapter
from probes.artefacts.safetensors_header import read_json
from probes.errors import Unsupported
from probes.rebuild.coordinates import Coordinates

# Fields of adapter_config.json that name the base it belongs to.
NAMES_THE_BASE = ("base_model_name_or_path", "revision")


def plain_copy(adapter: Path, target: Path, base: str, revision: str = "") -> Path:
    """The adapter as it is, under the name of the new base."""
    config = _named(read_json(adapter / ADAPTER_CONFIG), base, revision)
    return write_adapter(target, config, load_file(adapter / ADAPTER_WEIGHTS))


def re_expressed(adapter: Path, target: Path, move: Coordinates, base: str, revision: str = "") -> Path:
    """The adapter in the new base's coordinates.

    Raises Unsupported, by name, for what a permutation of A and B does not move: saved modules, rows of tokens, DoRA on
    a rotated output.
    """
    read = read_adapter(adapter)
    if read.beyond_low_rank or read.saved:
        raise Unsupported(str(adapter), read.beyond_low_rank or "modules_to_save")
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    moved = {name: _moved(name, tensor, move) for name, tensor in tensors.items()}
    return write_adapter(target, _named(read_json(adapter / ADAPTER_CONFIG), base, revision), moved)


def write_adapter(
    target: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    beside: Mapping[str, str] | None = None,
) -> Path:
    """A folder in PEFT's layout, in place of what was there. beside: further files, name -> text"""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, fresh / ADAPTER_WEIGHTS)
    (fresh / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name, text in (beside or {}).items():
        (fresh / name).write_text(text)
    fresh.chmod(0o755)
    (fresh / ADAPTER_WEIGHTS).chmod(0o644)  # safetensors leaves it readable by its writer alone
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    return target


def _named(config: Mapping[str, Any], base: str, revision: str) -> dict[str, Any]:
    return {**config, "base_model_name_or_path": base, "revision": revision or None}


def _moved(name: str, tensor: torch.Tensor, move: Coordinates) -> torch.Tensor:
    key = parse_lora_key(name.removeprefix(PREFIX))
    if key is None or key.module not in move.modules:
        return tensor
    own = move.modules[key.module]
    moved = own.moved_a(tensor.float()) if key.matrix == "lora_A" else own.moved_b(tensor.float())
    return moved.to(tensor.dtype)
