"""The tensors of a model folder by name, read one at a time, from whichever file holds them.

Through the library's memory map: a base is compared once, while nobody writes it. What watches files that others
overwrite uses plain reads (probes/artefacts/safetensors_header.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from probes.artefacts.safetensors_header import TensorEntry, read_entries, weight_files
from probes.errors import Unreplayable


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensors:
    """entries: name -> what its header says; files: name -> the open file that holds it"""

    folder: Path
    entries: Mapping[str, TensorEntry]
    files: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> StoredTensors:
        """Raises Unreplayable for damaged files and other formats."""
        entries: dict[str, TensorEntry] = {}
        files: dict[str, Any] = {}
        for path in weight_files(folder):
            listed = read_entries(path)
            try:
                opened = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise Unreplayable(str(path), str(error)) from error
            entries |= {entry.name: entry for entry in listed}
            files |= dict.fromkeys((entry.name for entry in listed), opened)
        return cls(folder, entries, files)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def stored(self, name: str) -> torch.Tensor:
        """In the type of its file."""
        tensor: torch.Tensor = self.files[name].get_tensor(name)
        return tensor

    def read(self, name: str) -> torch.Tensor:
        """In float32."""
        return self.stored(name).to(torch.float32)
