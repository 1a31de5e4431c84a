"""Embeddings by a sentence-transformers model on the CPU, where the golden base's own hidden states are not wanted.

Needs sentence-transformers, an optional dependency, which is imported when the embedder is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from detectors.records import Floats
from probes.errors import Unreplayable, Unsupported


@dataclass(frozen=True, slots=True)
class Config:
    """model: folder or hub id; batch: texts that go through the model at a time"""

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    batch: int = 32


class Embedder:
    """Texts in, unit vectors out. ``open`` before ``embed``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._model: Any = None

    def open(self) -> None:
        """Raises Unsupported without the package, Unreplayable where the model cannot be loaded."""
        try:
            package = import_module("sentence_transformers")
        except ImportError as error:
            raise Unsupported(self.config.model, "embeddings: sentence-transformers is not installed") from error
        try:
            self._model = package.SentenceTransformer(self.config.model, device="cpu")
        except (OSError, ValueError, RuntimeError) as error:
            raise Unreplayable(self.config.model, f"cannot be loaded ({error})") from error

    def close(self) -> None:
        self._model = None

    def embed(self, texts: Sequence[str]) -> list[Floats]:
        """(d,) float32 each, of length 1. Raises Unreplayable before ``open``."""
        if self._model is None:
            raise Unreplayable(self.config.model, "is not open")
        found = self._model.encode(
            list(texts), batch_size=self.config.batch, normalize_embeddings=True, show_progress_bar=False
        )
        return [np.asarray(row, dtype=np.float32) for row in found]
