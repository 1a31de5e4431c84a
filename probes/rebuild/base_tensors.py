"""Single tensors of a base's folder, each read when it is asked for: two bases are compared module by module, and
neither is ever in memory whole. The token embeddings, which may be gigabytes, are read in parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from probes.artefacts.safetensors_header import read_entries, weight_files
from probes.errors import Unreplayable

EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "tok_embeddings.weight", "embed_in.weight")
# Of one part of the embeddings: 16 MB in float32.
PART_NUMBERS = 1 << 22


class BaseTensors:
    """The tensors of one folder by name, in float32. Raises Unreplayable for headers that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = [(entry, file) for file in weight_files(folder) for entry in read_entries(file)]
        self._files = {entry.name: file for entry, file in entries}
        self._shapes = {entry.name: entry.shape for entry, _ in entries}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise Unreplayable(str(self.folder), f"has no tensor {name}")
        with self._opened(name) as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor.float()

    @property
    def embeddings_shape(self) -> tuple[int, ...]:
        """(V, H) of the token embeddings. Raises Unreplayable where none has a known name."""
        return self._shapes[self.ending_with(EMBEDDINGS)]

    def embeddings(self) -> Iterator[torch.Tensor]:
        """(n, H) rows of the token embeddings in their order, in parts of at most PART_NUMBERS numbers, a row at least.

        Raises Unreplayable where none has a known name, or the file cannot be read.
        """
        name = self.ending_with(EMBEDDINGS)
        count, width = self.embeddings_shape
        rows = max(1, PART_NUMBERS // width)
        with self._opened(name) as opened:
            table = opened.get_slice(name)
            for first in range(0, count, rows):
                part: torch.Tensor = table[first : first + rows]
                yield part.float()

    def ending_with(self, endings: Iterable[str]) -> str:
        for ending in endings:
            names = [name for name in self._files if name.endswith(ending)]
            if names:
                return min(names, key=len)
        raise Unreplayable(str(self.folder), "has no token embeddings under a known name")

    @contextmanager
    def _opened(self, name: str) -> Iterator[Any]:
        """The file that holds it."""
        try:
            with safe_open(self._files[name], framework="pt") as opened:  # type: ignore[no-untyped-call]
                yield opened
        except (OSError, SafetensorError) as error:
            raise Unreplayable(str(self._files[name]), f"cannot be read ({error})") from error
