"""The modules of a base with their shapes, from its config and the headers of its files: no weight is read.

The class that transformers has for it is built on the device "meta", where tensors have shapes and no numbers, so that
names are those under which adapters are applied, whatever names the files have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from probes.artefacts.architecture import architecture, quantisation
from probes.artefacts.needed_memory import EMBEDDING
from probes.artefacts.safetensors_header import INDEX, TensorEntry, read_entries, read_json, weight_files
from probes.errors import Unreplayable
from probes.model.adapter_parts.low_rank import linear_shape


@dataclass(frozen=True, slots=True, eq=False)
class BaseNetwork:
    """kind: model_type; modules: name -> module on the device "meta"; is_wrapper: a text model among others

    embedding: name of the input embedding; tied: its and the output layer's where they are one tensor, none where two
    facts: in words, what of the base could not be looked at
    """

    kind: str
    modules: Mapping[str, nn.Module]
    is_wrapper: bool = False
    embedding: str = ""
    tied: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()

    def linear(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names and (outputs, inputs) of its linear modules."""
        for name, module in self.modules.items():
            if (shape := linear_shape(module)) is not None:
                yield name, shape


def base_network(folder: Path) -> BaseNetwork:
    """Raises Unreplayable for weights other than safetensors, a class that transformers lacks, a config that is not
    that of the weights, and for damaged files."""
    entries, facts = _entries(folder)
    if folder.suffix == ".gguf":
        raise Unreplayable(str(folder), "a .gguf file: name the folder of safetensors that it was made from")
    config, kind = architecture(folder)
    with torch.device("meta"):
        network: nn.Module = kind._from_config(config)
    _check_shape(folder, network, entries)
    is_wrapper, modules = config.get_text_config() is not config, dict(network.named_modules())
    embedding = _embedding(network, modules)
    tied = _tied(config, network, modules)
    return BaseNetwork(str(config.model_type), modules, is_wrapper, embedding, tied, facts)


def _embedding(network: Any, modules: Mapping[str, nn.Module]) -> str:
    own = network.get_input_embeddings()
    return next((name for name, module in modules.items() if module is own), "")


def _tied(config: Any, network: Any, modules: Mapping[str, nn.Module]) -> tuple[str, ...]:
    ends = network.get_input_embeddings(), network.get_output_embeddings()
    if not getattr(config.get_text_config(), "tie_word_embeddings", False) or ends[1] is None:
        return ()
    return tuple(name for name, module in modules.items() if module is ends[0] or module is ends[1])


def _entries(folder: Path) -> tuple[list[TensorEntry], tuple[str, ...]]:
    """What the headers say, and what is to be said of shards that are not there."""
    if folder.suffix == ".gguf":
        return [], ()
    files = weight_files(folder)
    present = [file for file in files if file.is_file()]
    entries = [entry for file in present for entry in read_entries(file)]
    if len(present) == len(files):
        return entries, ()
    named = len(read_json(folder / INDEX).get("weight_map") or {})
    missing = f"{len(files) - len(present)} of {len(files)} shards are not there ({named} tensors by the index)"
    return entries, (f"{missing}: shapes are those of its config.json",)


def _check_shape(folder: Path, network: Any, entries: Sequence[TensorEntry]) -> None:
    """Raises Unreplayable where config and weights are of two models. Packed weights have other shapes."""
    if quantisation(folder):
        return
    shapes = {entry.shape for entry in entries if EMBEDDING.search(entry.name) and len(entry.shape) == 2}
    embedding = network.get_input_embeddings()
    wanted = tuple(embedding.weight.shape)
    if shapes and wanted not in shapes:
        stored = " x ".join(map(str, max(shapes)))
        raise Unreplayable(
            str(folder),
            f"its config.json describes another model than its weights: an embedding of {wanted[0]} x {wanted[1]}, "
            f"where the files have {stored}",
        )
