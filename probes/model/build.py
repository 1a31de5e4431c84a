"""From a base's files to a model in memory: read, hashed, built, and tried once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from probes.artefacts.identity import NEWEST, SCHEMES, Hashes, base_hashes, template_hash, tokenizer_hashes
from probes.artefacts.lora_files import to_torch
from probes.artefacts.safetensors_header import RawTensor, digest, read_folder
from probes.errors import Unreplayable
from probes.model.forward import Model, own_head
from probes.model.lora import Switchboard
from probes.model.memory import failures, no_memory


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model runs. attention: transformers' name of the backend."""

    device: torch.device
    dtype: torch.dtype
    attention: str


@dataclass(frozen=True, slots=True)
class Told:
    """Hashes of a base, its tokenizer's files and its chat template ("" without); "" by every scheme for what is not
    there."""

    base: Hashes = field(default_factory=lambda: dict.fromkeys(SCHEMES, ""))
    tokenizer: Hashes = field(default_factory=lambda: dict.fromkeys(SCHEMES, ""))
    template: str = ""

    @property
    def has_tokenizer(self) -> bool:
        """A folder of weights alone has none, and is replayed by the golden one."""
        return any(self.tokenizer.values())


@dataclass(frozen=True, slots=True, eq=False)
class BaseParts:
    """A base read from its folder but not yet built. told: of exactly the bytes in ``tensors``"""

    folder: Path
    tensors: list[RawTensor]
    told: Told

    @property
    def hash(self) -> str:
        """By the newest scheme: two bases with the same one answer alike."""
        return self.told.base[NEWEST]


def read_base(folder: Path) -> BaseParts:
    """Read and hash a model folder. What is hashed is what is run: the files may change between two reads."""
    with failures(str(folder)):
        tensors = list(read_folder(folder))
    base = base_hashes(folder, digest(tensors))
    try:
        return BaseParts(folder, tensors, Told(base, tokenizer_hashes(folder), template_hash(folder)))
    except Unreplayable:
        return BaseParts(folder, tensors, Told(base))


def build(parts: BaseParts, placement: Placement) -> Model:
    """The model of these parts. Raises Unreplayable when tensors are missing, have other shapes; NoMemory."""
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(parts.folder, local_files_only=True)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        network, told = kind.from_pretrained(
            None,
            config=config,
            state_dict={item.name: to_torch(item) for item in parts.tensors},
            dtype=placement.dtype,
            attn_implementation=placement.attention,
            output_loading_info=True,
        )
    except Exception as error:  # a foreign config or torn tensors make the library raise almost anything
        folder = str(parts.folder)
        raise no_memory(folder, error) or Unreplayable(folder, f"cannot be loaded: {error}") from error
    if lacking := sorted(told["missing_keys"]):
        raise Unreplayable(str(parts.folder), f"{len(lacking)} tensors are missing, first {lacking[0]}")
    try:
        network = network.to(placement.device).eval().requires_grad_(False)
        ends, plain = _ends(parts.folder, network), head_is_plain(network)
    except Exception as error:  # likewise: this is the first time that the model runs
        folder = str(parts.folder)
        raise no_memory(folder, error) or Unreplayable(folder, f"cannot be run: {error}") from error
    return Model(parts.hash, parts.folder, network, Switchboard(network), ends, plain)


def head_is_plain(network: Any) -> bool:
    """Are its logits the output layer's and nothing more? Models that cap or scale them have to use their own head.

    Tried once on a few tokens, which also shows that the model runs at all. Raises RuntimeError where neither gives
    what the whole network does: its responses and canaries would be scored by another law.
    """
    with torch.inference_mode():
        ids = torch.arange(min(4, network.config.vocab_size), device=network.device)[None]
        places = torch.arange(ids.shape[1], device=network.device)[None]
        states = network.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
        whole = network(input_ids=ids, position_ids=places, use_cache=False).logits
        plain = torch.allclose(network.get_output_embeddings()(states), whole, rtol=1e-3, atol=1e-3)
        if not plain and not torch.allclose(own_head(network, states[0]), whole[0], rtol=1e-3, atol=1e-3):
            raise RuntimeError("its head cannot be applied apart from its body")
        return plain


def _ends(folder: Path, network: Any) -> frozenset[int]:
    """Token ids that end a text: of generation_config.json where there is one, else of the config."""
    told = network.config.eos_token_id
    if (folder / "generation_config.json").is_file():
        told = transformers.GenerationConfig.from_pretrained(folder).eos_token_id or told
    return frozenset(told if isinstance(told, list) else [] if told is None else [told])
