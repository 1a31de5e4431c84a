"""An adapter by its config and the header of its file; its numbers stay unread, however many gigabytes they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probes.artefacts.adapter_folder import check_layout, check_not_empty, check_origin
from probes.artefacts.adapter_keys import PREFIX
from probes.artefacts.adapter_tensors import AdapterTensors, sorted_tensors
from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS, JsonConfig
from probes.artefacts.lora_files import LoraScaling
from probes.artefacts.safetensors_header import TensorEntry, read_entries, read_json
from probes.artefacts.target_modules import TargetModules
from probes.errors import Unsupported


@dataclass(frozen=True, slots=True, eq=False)
class AdapterHeader:
    """config: adapter_config.json; entries: of the file; targets, scaling: as the config has them"""

    folder: Path
    config: JsonConfig
    entries: tuple[TensorEntry, ...]
    targets: TargetModules
    scaling: LoraScaling

    @classmethod
    def read(cls, folder: Path) -> AdapterHeader:
        """Raises Unreplayable for damaged files, pickles and other libraries' layouts, Unsupported for what is no LoRA
        and for a config without targets."""
        check_layout(folder)
        config = read_json(folder / ADAPTER_CONFIG)
        check_origin(folder, config)
        if config.get("peft_type") != "LORA":
            raise Unsupported(str(folder), f"peft_type {config.get('peft_type')!r}")
        entries = tuple(read_entries(folder / ADAPTER_WEIGHTS))
        check_not_empty(folder, entries)
        targets = TargetModules.read(folder / ADAPTER_CONFIG, config)
        return cls(folder, config, entries, targets, LoraScaling.read(folder, config))

    def parts(self, any_prefix: bool) -> AdapterTensors:
        """Its tensors by what they are part of, on the device "meta": shapes without numbers.

        any_prefix: take keys without PEFT's prefix, and with several, for keys with it. Raises Unsupported for keys of
        another kind.
        """
        return sorted_tensors(
            str(self.folder),
            {_key(entry.name, any_prefix): torch.empty(entry.shape, device="meta") for entry in self.entries},
            self.config,
            self.targets,
        )

    def is_on(self, switch: str) -> bool:
        value: Any = self.config.get(switch)
        return bool(value)


def _key(name: str, any_prefix: bool) -> str:
    return PREFIX + name.replace(PREFIX, "") if any_prefix else name
