"""Single tensors of a base's folder, each read when it is asked for: two bases are compared module by module, and
neither is ever in memory whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from probes.artefacts.safetensors_header import read_entries, weight_files
from probes.errors import Unreplayable

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")


class BaseTensors:
    """The tensors of one folder by name, in float32. Raises Unreplayable for headers that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {entry.name: file for file in weight_files(folder) for entry in read_entries(file)}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise Unreplayable(str(self.folder), f"has no tensor {name}")
        try:
            with safe_open(self._files[name], framework="pt") as opened:  # type: ignore[no-untyped-call]
                tensor: torch.Tensor = opened.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise Unreplayable(str(self._files[name]), f"cannot be read ({error})") from error
        return tensor.float()

    def embeddings(self) -> torch.Tensor:
        """(V, H) of the token embeddings. Raises Unreplayable where none has a known name."""
        return self[self.ending_with(EMBEDDINGS)]

    def ending_with(self, endings: Iterable[str]) -> str:
        for ending in endings:
            names = [name for name in self._files if name.endswith(ending)]
            if names:
                return min(names, key=len)
        raise Unreplayable(str(self.folder), "has no token embeddings under a known name")
