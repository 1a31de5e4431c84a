"""The golden and the live base in memory, loaded from their files; one model serves both while their hashes agree.

Loading only: when to load is decided in loaded_models.py. A base that replaces another is built after the other has
been released, because two bases fit into memory where three may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probes.artefacts import base_files
from probes.artefacts.architecture import read_tokenizer
from probes.errors import Unreplayable
from probes.model.build import BaseHashes, BaseParts, Placement, build, read_base
from probes.model.forward import Model
from probes.runner import Weights
from probes.scoring.scoring_job import AdapterVersion


@dataclass(frozen=True, slots=True)
class ArtefactPaths:
    """Where the artefacts are. See ``in_process.Config``; cache: folder of converted copies."""

    base: str
    adapters: Mapping[str, str]
    golden_base: str | None
    cache: Path
    golden_adapters: Mapping[AdapterVersion, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedBase:
    """A base in memory. hashes: of the bytes that were loaded; tokenizer: None for a folder of weights alone"""

    model: Model
    hashes: BaseHashes
    tokenizer: Any


class Bases:
    """golden, live: None while there is none in memory."""

    def __init__(self, paths: ArtefactPaths, placement: Placement) -> None:
        self.golden: LoadedBase | None = None
        self.live: LoadedBase | None = None
        self._sources = paths
        self._placement = placement

    @property
    def golden_model(self) -> Model | None:
        return self.golden.model if self.golden else None

    @property
    def live_model(self) -> Model | None:
        return self.live.model if self.live else None

    @property
    def are_one(self) -> bool:
        """Does one model in memory serve as both?"""
        return self.golden_model is not None and self.golden_model is self.live_model

    def load_golden(self, source: str, may_fetch: bool) -> None:
        """The base that was accepted. may_fetch: from the hub; else a local copy is needed. Raises Unreplayable,
        NoMemory."""
        place = source if may_fetch else str(base_files.locate(source))
        parts = read_base(base_files.resolve(place, self._sources.cache))
        self.golden = self._loaded(parts, read_tokenizer(parts.folder))

    def fetch_live(self) -> None:
        """Downloads a live base that is named by its hub id. A failure is left to the look that follows, which needs
        the local copy."""
        if base_files.is_hub_id(self._sources.base):
            with suppress(Unreplayable):
                base_files.resolve(self._sources.base, self._sources.cache)

    def load_live(self, path: Path) -> None:
        """The base as its files are now; the first one is the golden base too where no other is configured. Raises
        Unreplayable, NoMemory, and has released the former live base by then unless the files could not be read.

        A folder of weights alone has no tokenizer of its own, and is replayed by the golden one.
        """
        source = self._sources.base if base_files.is_hub_id(self._sources.base) else str(path)
        parts = read_base(base_files.resolve(source, self._sources.cache))
        is_accepted = self.golden is None and self._sources.golden_base is None
        has_tokenizer = is_accepted or parts.hashes.has_tokenizer
        tokenizer = read_tokenizer(parts.folder) if has_tokenizer else None
        if self.live is not None and self.live.model.hash != parts.hash:
            self.live = None
        self.live = self._loaded(parts, tokenizer)
        if is_accepted:
            self.golden = self.live

    def close(self) -> None:
        self.golden = self.live = None

    def tokenizer(self, weights: Weights) -> Any:
        """That base's tokenizer, else the other's. Raises Unreplayable where neither has one."""
        bases = [self.live, self.golden] if weights is Weights.LIVE else [self.golden, self.live]
        for base in bases:
            if base is not None and base.tokenizer is not None:
                return base.tokenizer
        raise Unreplayable(self._sources.base, "no tokenizer: neither golden nor live base is loaded")

    def _loaded(self, parts: BaseParts, tokenizer: Any) -> LoadedBase:
        """With the model in memory that has the same hash, else with one that is built now."""
        models = [base.model for base in (self.golden, self.live) if base is not None]
        same = next((model for model in models if model.hash == parts.hash), None)
        return LoadedBase(same or build(parts, self._placement), parts.hashes, tokenizer)
