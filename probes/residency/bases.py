"""The golden and the live base in memory, loaded from their files; one model serves both while their hashes agree.

Loading only: when to load is decided in residency.py. A base that replaces another is built after the other has
been released, because two bases fit into memory where three may not. Where two do not fit either, the live base is the
one that is loaded: canaries are measured by it against the golden record, and only what needs the accepted base's
answers waits (docs/architecture.md#when-files-change).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from probes.artefacts import base_files
from probes.artefacts.architecture import check_architecture, read_tokenizer
from probes.artefacts.file_watch import FileListing, list_files
from probes.artefacts.identity import NEWEST, tokenizer_files
from probes.artefacts.safetensors_header import DigestRow, same_tensors
from probes.errors import NoMemory, ProbeError, Unreplayable
from probes.model.base_memory import Room, fitting
from probes.model.build import BaseHashes, Placement, build, hashes_with, read_base, read_hashes
from probes.model.device_memory import card_of
from probes.model.devices.card_check import check_card
from probes.model.forward import Model
from probes.model.free_memory import check_free, free_bytes, give_back
from probes.residency.known_weights import Files, KnownWeights, files_of
from probes.runner import Weights
from probes.scoring.scoring_job import AdapterVersion

Answer = TypeVar("Answer")

# Why the accepted base answers nothing while only one base fits.
ONE_FITS = (
    "the live base is another one than the accepted one, and there is no memory for both: "
    "the live one is in memory and measured"
)


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
    """A base that was read. hashes, rows: of the bytes that were loaded; tokenizer: None for a folder of weights alone

    model: None for a golden base that is known and not in memory
    """

    model: Model | None
    hashes: BaseHashes
    tokenizer: Any = None
    rows: Sequence[DigestRow] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FilesHashed:
    """What the files of a golden base hash to, which need not be read again while they are the same."""

    listing: FileListing
    hashes: BaseHashes


class Bases:
    """golden, live: None while there is none

    no_room: why the golden base is not in memory while the live one is
    without_card: why models answer on the CPU although there is a card, "" where they do not
    """

    def __init__(self, paths: ArtefactPaths, placement: Placement) -> None:
        self.golden: LoadedBase | None = None
        self.live: LoadedBase | None = None
        self.no_room: NoMemory | None = None
        self._sources = paths
        self._placement = placement
        self._golden_files: FilesHashed | None = None
        self._known = KnownWeights()
        self.without_card = ""
        self._too_large: Files = ()  # of a live base for which there was no memory although it was alone

    @property
    def golden_model(self) -> Model | None:
        return self.golden.model if self.golden else None

    @property
    def live_model(self) -> Model | None:
        return self.live.model if self.live else None

    @property
    def batch_tokens(self) -> int:
        """Padded tokens of one forward pass at most: less than configured where memory is short."""
        return min((model.batch_tokens for model in self._models), default=self._placement.batch_tokens)

    @property
    def smaller_batches(self) -> str:
        """In words, "" where they are as configured."""
        actual, wanted = self.batch_tokens, self._placement.batch_tokens
        return f"memory is short: read in batches of {actual} tokens instead of {wanted}" if actual < wanted else ""

    @property
    def are_one(self) -> bool:
        """Does one model in memory serve as both?"""
        return self.golden_model is not None and self.golden_model is self.live_model

    def load_golden(self, source: str, may_fetch: bool) -> None:
        """The base that was accepted; nothing is released for it. may_fetch: from the hub; else a local copy is needed.
        Raises Unreplayable, NoMemory."""
        self._check_card(source)
        place = source if may_fetch else str(base_files.locate(source))
        if needed := base_files.conversion_bytes(place, self._sources.cache):
            check_free(place, needed)
        folder = base_files.resolve(place, self._sources.cache)
        check_architecture(folder)
        tokenizer = read_tokenizer(folder)
        loaded = self._in_memory(folder) or self._built_golden(folder, tokenizer)
        self.golden, self.no_room = replace(loaded, tokenizer=tokenizer), None

    def fetch_live(self) -> None:
        """Downloads a live base that is named by its hub id. A failure is left to the look that follows, which needs
        the local copy."""
        if base_files.is_hub_id(self._sources.base):
            with suppress(Unreplayable):
                base_files.resolve(self._sources.base, self._sources.cache)

    def load_live(self, path: Path) -> None:
        """The base as its files are now; the first one is the golden base too where no other is configured. Raises
        Unreplayable, NoMemory, and has released the former live base by then unless the files could not be read.

        A folder of weights alone has no tokenizer of its own, and is replayed by the golden one. Where there is no
        memory for two bases, the golden one is released.
        """
        self._check_card(str(path))
        folder = self._resolved_live(path)
        check_architecture(folder)
        loaded = self._in_memory(folder)
        is_accepted = self.golden is None and self._sources.golden_base is None
        tokenizer = read_tokenizer(folder) if is_accepted or tokenizer_files(folder) else None
        if loaded is None:
            self.live = None
            loaded = self._built_live(folder)
        self.live = replace(loaded, tokenizer=tokenizer)
        if is_accepted:
            self.golden = self.live
        self._join()

    def close(self) -> None:
        self.golden = self.live = self._golden_files = None
        self.no_room, self._too_large = None, ()
        self._known = KnownWeights()

    def release_golden(self, error: NoMemory) -> None:
        """Its model only: hashes and tokenizer are small, and say what was accepted."""
        assert self.golden is not None
        self.golden = replace(self.golden, model=None)
        self._note_no_room(error)
        give_back()

    def tokenizer(self, weights: Weights) -> Any:
        """That base's tokenizer, else the other's. Raises Unreplayable where neither has one."""
        bases = [self.live, self.golden] if weights is Weights.LIVE else [self.golden, self.live]
        for base in bases:
            if base is not None and base.tokenizer is not None:
                return base.tokenizer
        raise Unreplayable(self._sources.base, "no tokenizer: neither golden nor live base is loaded")

    @property
    def _models(self) -> list[Model]:
        return [model for model in (self.golden_model, self.live_model) if model is not None]

    def _in_memory(self, folder: Path) -> LoadedBase | None:
        """The base in memory that answers as the one in this folder would; None where none does. Of files that were
        read before nothing is read again, and of others no more than is needed to see that they differ."""
        bases = [base for base in (self.golden, self.live) if base is not None and base.model is not None]
        return next((same for base in bases if (same := self._as_in(folder, base)) is not None), None)

    def _as_in(self, folder: Path, base: LoadedBase) -> LoadedBase | None:
        """That base with the hashes of this folder, None where the folder holds another base."""
        hashes, files = hashes_with(folder, base.hashes.weights, base.hashes.grid), files_of(folder)
        if hashes.base[NEWEST] != base.hashes.base[NEWEST]:  # another config.json
            return None
        known = self._known.digest(files)
        if known is None and same_tensors(folder, base.rows):
            known = hashes.weights
            self._known.note(folder, files, known)
        return replace(base, hashes=hashes) if known == hashes.weights else None

    def _golden_hashes(self, folder: Path) -> BaseHashes:
        """Of golden files that cannot be loaded, which are read for it only when they have changed."""
        listing = list_files(folder)
        if self._golden_files is None or self._golden_files.listing != listing:
            self._golden_files = FilesHashed(listing, read_hashes(folder))
        return self._golden_files.hashes

    def _resolved_live(self, path: Path) -> Path:
        """The folder with its weights, converted now where it is a .gguf file."""
        source = self._sources.base if base_files.is_hub_id(self._sources.base) else str(path)
        if needed := base_files.conversion_bytes(source, self._sources.cache):
            self.live = None
            self._with_room(lambda room: room.check(source, needed))
        folder = base_files.resolve(source, self._sources.cache)
        give_back()
        return folder

    def _built(self, folder: Path, placement: Placement) -> LoadedBase:
        files = files_of(folder)
        parts = read_base(folder, placement.held)
        self._known.note(folder, files, parts.hashes.weights)
        return LoadedBase(build(parts, placement), parts.hashes, rows=parts.rows)

    def _built_golden(self, folder: Path, tokenizer: Any) -> LoadedBase:
        """Beside the live base, for which nothing is released. What was accepted is known by its hashes also where it
        cannot be loaded."""
        give_back()
        try:
            try:
                placement = fitting(folder, self._placement, self._room())
            except NoMemory as error:
                self._note_no_room(error)
                raise
            return self._built(folder, placement)
        except ProbeError as error:
            short = error.afresh()
        # Not in the handler: its error keeps alive what was loaded.
        if self._models:
            with suppress(ProbeError):
                self.golden = LoadedBase(None, self._golden_hashes(folder), tokenizer)
        raise short

    def _built_live(self, folder: Path) -> LoadedBase:
        """Beside the golden base where both fit, else in its place."""
        files = files_of(folder)
        placement = self._with_room(partial(fitting, folder, self._placement))
        try:
            return self._built(folder, placement)
        except NoMemory as error:  # of a device whose memory is not counted beforehand, or that others have taken
            if self.golden_model is None or files == self._too_large:
                raise
            self.release_golden(error.afresh())
        # Not in the handler: its error keeps alive what was loaded.
        try:
            return self._built(folder, placement)
        except NoMemory:
            self._too_large = files
            raise

    def _check_card(self, path: str) -> None:
        check_card(path, self._placement.device, self._placement.dtype)

    def _room(self) -> Room:
        return Room(free_bytes(), card_of(self._placement.device))

    def _with_room(self, within: Callable[[Room], Answer]) -> Answer:
        """What this gives for the memory that is free. Where that is too little, and would do without the golden base,
        releases that; else nothing is released. within: raises NoMemory, as does this"""
        give_back()
        room, golden = self._room(), self.golden_model
        try:
            return within(room)
        except NoMemory as error:
            if golden is None or not _would_do(within, room.without(golden.bytes, golden.device)):
                raise
            short = error.afresh()
        del golden
        self.release_golden(short)
        return within(self._room())

    def _note_no_room(self, error: NoMemory) -> None:
        self.no_room = NoMemory(error.path, error.requested, error.free, error.device_message, ONE_FITS)

    def _join(self) -> None:
        """A live base that is the accepted one answers as the golden one too."""
        if self.live is None or self.golden is None or self.golden.model is not None:
            return
        if self.golden.hashes.base[NEWEST] == self.live.hashes.base[NEWEST]:
            self.golden, self.no_room = replace(self.golden, model=self.live.model, rows=self.live.rows), None


def _would_do(within: Callable[[Room], object], room: Room) -> bool:
    try:
        within(room)
    except NoMemory:
        return False
    return True
