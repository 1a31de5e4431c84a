"""From a base's files to a model in memory: read, hashed, built, and tried once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from probes.artefacts.base_files import base_hash, tokenizer_files, tokenizer_hash
from probes.artefacts.lora_files import to_torch
from probes.artefacts.missing_package import told
from probes.artefacts.safetensors_header import RawTensor, digest, read_folder, read_json
from probes.errors import Unreplayable
from probes.model.architecture import architecture, check_architecture, quantisation
from probes.model.forward import Model
from probes.model.lora import Switchboard
from probes.model.trial import tried
from probes.model.unused_tensors import left_over, why_left_over

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs. attention: transformers' name of the backend, or AUTO for what the class supports."""

    device: torch.device
    dtype: torch.dtype
    attention: str


@dataclass(frozen=True, slots=True, eq=False)
class BaseParts:
    """A base read from its folder but not yet built. hash: base_hash of exactly the bytes in ``tensors``."""

    folder: Path
    tensors: list[RawTensor]
    hash: str
    tokenizer: str


def read_base(folder: Path) -> BaseParts:
    """Read and hash a model folder. What is hashed is what is run: the files may change between two reads.

    A model that is none to run is refused before its weights are read.
    """
    check_architecture(folder)
    tensors = list(read_folder(folder))
    return BaseParts(folder, tensors, base_hash(folder, digest(tensors)), _tokenizer_hash(folder))


def _tokenizer_hash(folder: Path) -> str:
    """ "" for a folder of weights alone: it can be replayed by the golden tokenizer."""
    return tokenizer_hash(folder) if tokenizer_files(folder) else ""


def build(parts: BaseParts, placement: Placement) -> Model:
    """The model of these parts. Raises Unreplayable when it is none that is run here (architecture.py), tensors are
    missing, left over or of other shapes, memory is short, or its answers depend on how it is asked (trial.py)."""
    folder = parts.folder
    # What it would warn of is told as an error here, in one line.
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    network = _loaded(parts, placement)
    try:
        network = network.to(placement.device).eval().requires_grad_(False)
        found = tried(network)
    except Exception as error:  # this is the first time that the model runs
        raise Unreplayable(str(folder), told(error, "cannot be run")) from error
    board = Switchboard(network, rowwise=found.rowwise)
    ends = _ends(folder, network)
    return Model(parts.hash, parts.tokenizer, folder, network, board, ends, found.plain_head, found.continues)


def _loaded(parts: BaseParts, placement: Placement) -> Any:
    config, kind = architecture(parts.folder)
    try:
        network, seen = kind.from_pretrained(
            None,
            config=config,
            state_dict={item.name: to_torch(item) for item in parts.tensors},
            dtype=placement.dtype,
            attn_implementation=_attention(kind, placement.attention),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign config or torn tensors make the library raise almost anything
        raise Unreplayable(str(parts.folder), told(error, "cannot be loaded")) from error
    if names := left_over(parts.tensors, seen["unexpected_keys"], config):
        raise Unreplayable(str(parts.folder), why_left_over(names, len(parts.tensors), quantisation(parts.folder)))
    if lacking := sorted(seen["missing_keys"]):
        raise Unreplayable(str(parts.folder), f"{len(lacking)} tensors are missing, first {lacking[0]}")
    return network


def _attention(kind: Any, wanted: str) -> str:
    """transformers' word for the backend. AUTO: the quicker one, where the class computes all of its attention by it:
    caps, sinks and some biases are in none but the plain one."""
    if wanted != AUTO:
        return wanted
    return "sdpa" if kind._supports_sdpa else "eager"


def _ends(folder: Path, network: Any) -> frozenset[int]:
    """Token ids that end a text: of generation_config.json where there is one, else of the config."""
    ends = network.config.eos_token_id
    if (file := folder / "generation_config.json").is_file():
        ends = read_json(file).get("eos_token_id") or ends
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
