"""The tensors of an adapter file, sorted by the kind of part that each belongs to; by PEFT 0.21's keys.

Beside A and B of a linear module PEFT stores: ``lora_B.bias`` (lora_bias), ``lora_magnitude_vector`` (DoRA),
``lora_embedding_A`` and ``_B`` (LoRA on an embedding), ``token_adapter.trainable_tokens_delta`` (rows of an embedding),
and, of ``target_parameters``, A and B of each parameter under its module's name, all but the last one under as many
``base_layer`` as parameters follow it. tests/probes/model/test_lora.py holds them to PEFT's own numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from probes.artefacts.adapter_keys import LOADED_AS, PREFIX, explain_missing_prefix, parse_lora_key
from probes.artefacts.target_modules import TargetModules
from probes.errors import Unreplayable, Unsupported

WRAPPED = ".base_layer"
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"
# What a key holds -> the switch without which PEFT ignores it.
SWITCHES = {"bias": "lora_bias", "magnitude": "use_dora"}
EMBEDDING = {"lora_embedding_A": "lora_A", "lora_embedding_B": "lora_B"}

TensorsByModule = dict[str, dict[str, torch.Tensor]]
"""Module name -> "lora_A", "lora_B", "bias", "magnitude", or a parameter's name -> tensor."""


@dataclass(slots=True)
class AdapterTensors:
    """Of one file. Raises nothing by itself: see ``sorted_tensors``.

    pairs: module -> its matrices; embeddings: which of those modules have them in an embedding's form
    parameters: module -> A and B of each parameter, the first of the module's parameters first
    saved: module -> whole parameters; rows: module -> rows of its weight
    ignored: keys that PEFT would ignore, by their reason
    """

    pairs: TensorsByModule = field(default_factory=dict)
    embeddings: set[str] = field(default_factory=set)
    parameters: dict[str, list[dict[str, torch.Tensor]]] = field(default_factory=dict)
    saved: TensorsByModule = field(default_factory=dict)
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    ignored: dict[str, list[str]] = field(default_factory=dict)


def sorted_tensors(
    folder: str, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], targets: TargetModules
) -> AdapterTensors:
    """Every tensor under what it is part of.

    Raises Unsupported for keys of another kind, Unreplayable for a matrix that is there twice.
    """
    read = AdapterTensors()
    if bare := [key for key in tensors if not key.startswith(PREFIX)]:
        read.ignored[explain_missing_prefix(bare)] = bare
    for full_key, tensor in tensors.items():
        if full_key.startswith(PREFIX):
            _add(read, folder, full_key, tensor, config)
    _part_parameters(read, targets)
    return read


def _add(read: AdapterTensors, folder: str, full_key: str, tensor: torch.Tensor, config: Mapping[str, Any]) -> None:
    key = full_key.removeprefix(PREFIX)
    if key.endswith(TOKEN_ROWS) and config.get("trainable_token_indices"):
        read.rows[key.removesuffix(TOKEN_ROWS)] = tensor
        return
    module, _, parameter = key.rpartition(".")
    if "lora_" not in key:
        _check_saved(folder, key)
        # "base_layer": an embedding saved because its vocabulary grew keeps the name of PEFT's wrapper.
        read.saved.setdefault(module.removesuffix(WRAPPED), {})[parameter] = tensor
        return
    lora_key = parse_lora_key(key)
    if lora_key is None or tensor.dim() != (1 if lora_key.matrix in SWITCHES else 2):
        raise Unsupported(folder, f"the tensor {key} {tuple(tensor.shape)}")
    matrix, switch = EMBEDDING.get(lora_key.matrix, lora_key.matrix), SWITCHES.get(lora_key.matrix)
    if switch and not config.get(switch):
        read.ignored.setdefault(f"keys are of {switch}, which its config does not switch on", []).append(full_key)
    elif lora_key.name not in ("", LOADED_AS):
        reason = (
            f"keys carry the adapter's name {lora_key.name!r}, and PEFT loads only keys with no name or {LOADED_AS}"
        )
        read.ignored.setdefault(reason, []).append(full_key)
    elif matrix in (present := read.pairs.setdefault(lora_key.module, {})):
        twice = f"{lora_key.module} has {matrix} twice, with and without {LOADED_AS}"
        raise Unreplayable(folder, twice)
    else:
        present[matrix] = tensor
        if lora_key.matrix in EMBEDDING:
            read.embeddings.add(lora_key.module)


def _part_parameters(read: AdapterTensors, targets: TargetModules) -> None:
    """Move what belongs to ``target_parameters`` from the pairs to the parameters.

    PEFT targets a module or its parameters, never both. Wrappers lie around each other in the order of the module's
    parameters, so the innermost one, with the most ``base_layer`` in its name, is of the first parameter.
    """
    owners = tuple(filter(None, (name.rpartition(".")[0] for name in targets.parameters)))
    for name in sorted(read.pairs, key=lambda name: -name.count(WRAPPED)) if targets.parameters else ():
        module = re.sub(rf"({re.escape(WRAPPED)})+$", "", name)
        owned = any(module == owner or module.endswith(f".{owner}") for owner in owners)
        if owned or name != module or not targets.takes(module):
            read.parameters.setdefault(module, []).append(read.pairs.pop(name))


def _check_saved(folder: str, key: str) -> None:
    """Raises Unreplayable for a saved module named as inside a running model, which PEFT does not load either."""
    if ".modules_to_save." in f".{key}" or ".original_module." in f".{key}":
        raise Unreplayable(folder, f"{key} is a name inside a running model: save the adapter with save_pretrained")
    if key.endswith(TOKEN_ROWS):
        raise Unsupported(folder, f"the tensor {key} without trainable_token_indices in its config")
