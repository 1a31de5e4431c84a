"""What of one base and its adapters is in memory, and whether it is still what lies in their files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detectors.records import Identity
from probes.artefacts import base_files
from probes.artefacts.lora_files import Adapter, read_adapter
from probes.errors import ProbeError, Unreplayable
from probes.model.architecture import read_tokenizer
from probes.model.build import BaseParts, Placement, build, read_base
from probes.model.forward import Model
from probes.model.watched_artefact import Subject
from probes.runner import Readiness, Target, Weights


@dataclass(frozen=True, slots=True)
class Sources:
    """Where things lie. See ``in_process.Config``; cache: folder of converted copies."""

    base: str
    adapters: Mapping[str, str]
    golden_base: str | None
    cache: Path
    golden_adapters: Mapping[str, str] = field(default_factory=dict)


class Loaded:
    """Golden and live base with the adapters on them, loaded from files that are looked at again and again.

    golden, live: None while there is none; loads: counts what was loaded, so that one can see that something was
    """

    def __init__(self, sources: Sources, placement: Placement) -> None:
        self.sources = sources
        self.golden: Model | None = None
        self.live: Model | None = None
        self.base = Subject(sources.base)
        self.loads = 0
        self._placement = placement
        self._adapters = {name: Subject(path) for name, path in sources.adapters.items()}
        self._read: dict[str, Adapter] = {}
        self._first_hashes: dict[str, str] = {}
        self._kept: dict[str, Adapter] = {}
        self._rounded: tuple[Model, int, int, Model] | None = None
        self._tokenizer: Any = None
        self._golden_tokenizer_hash = ""
        self._live_tokenizer: Any = None
        self._live_tokenizer_hash = ""

    def open(self) -> None:
        """Load what can be loaded. One look is trusted here if the files are unchanged after loading."""
        self._load_golden(opening=True)
        self._fetch_base()
        self.base.look(self._load_base, opening=True)
        for name, subject in self._adapters.items():
            subject.look(self._adapter_loader(name), opening=True)

    def close(self) -> None:
        """Let go of the models; what is closed may be opened again."""
        self._changed()
        self.golden = self.live = self._tokenizer = self._live_tokenizer = None
        self._read.clear()
        self._kept.clear()
        for subject in (self.base, *self._adapters.values()):
            subject.forget()

    def look(self) -> dict[str | None, Readiness]:
        """Load what came to rest. An adapter is ready when its own and the base's entries are."""
        if self.golden is None:
            self._load_golden()
        self.base.look(self._load_base)
        for name, subject in self._adapters.items():
            subject.look(self._adapter_loader(name))
        return {None: self.base.readiness} | {name: it.readiness for name, it in self._adapters.items()}

    def model(self, weights: Weights, adapter: str | None) -> Model:
        """The model that answers under this name. Raises Unreplayable, or Unsupported as found while loading."""
        if adapter is not None:
            self._check_adapter(weights, adapter)
        if weights is Weights.GOLDEN:
            return self.golden_model()
        self.base.check_ready()
        if self.live is None:
            raise Unreplayable(self.base.source, "not loaded")
        return self.live

    def golden_model(self) -> Model:
        if self.golden is None:
            raise Unreplayable(self.sources.golden_base or self.sources.base, "the golden base is not loaded")
        return self.golden

    def golden_name(self, adapter: str) -> str:
        """The name under which the accepted adapter answers on the golden base: its own while its files are those that
        were accepted, else that of the copy kept since. Raises Unreplayable, Unsupported where there is none, and where
        the copy does not fit the golden base whole: a part of an adapter is nobody's law."""
        golden = self.golden_model()
        if adapter not in self.sources.golden_adapters:
            self.model(Weights.GOLDEN, adapter)
            return adapter
        if adapter not in self._kept:
            self._kept[adapter] = read_adapter(Path(self.sources.golden_adapters[adapter]))
        kept, own = self._kept[adapter], golden.adapters.fitted.get(adapter)
        if own is not None and own.adapter.hash == kept.hash:
            return adapter
        name = f"{adapter} as accepted"
        if name not in golden.adapters.fitted:
            golden.adapters.fit(name, kept)
            self._rounded = None  # a copy in few bits was made without it
        if facts := golden.adapters.fitted[name].facts:
            raise Unreplayable(self.sources.golden_adapters[adapter], "; ".join(facts))
        return name

    @property
    def scorers(self) -> list[str]:
        """Names that ``golden_name`` may know: registered adapters, then the versions before them that are kept."""
        return list(dict.fromkeys((*self.sources.adapters, *self.sources.golden_adapters)))

    def golden_hashes(self, adapter: str) -> tuple[str, str]:
        """Of the golden base, and of the adapter that ``golden_name`` names. Raises as that does."""
        golden, name = self.golden_model(), self.golden_name(adapter)
        return golden.hash, golden.adapters.fitted[name].adapter.hash

    def accept_adapter(self, adapter: str, folder: str | None) -> None:
        """Another copy is the accepted one, None for none; the former is taken off the golden base."""
        others = {name: kept for name, kept in self.sources.golden_adapters.items() if name != adapter}
        kept = others if folder is None else {**others, adapter: folder}
        self.sources = replace(self.sources, golden_adapters=kept)
        self._kept.pop(adapter, None)
        if self.golden is not None:
            self.golden.adapters.remove(f"{adapter} as accepted")
        self._rounded = None

    def rounded(self, model: Model, bits: int, group: int = 0) -> Model:
        """A copy of a loaded model in so many bits. One is kept at a time, until other bits are asked for or files
        change."""
        if self._rounded is None or self._rounded[0] is not model or self._rounded[1:3] != (bits, group):
            self._rounded = None  # before the next one is built: two models fit where three may not
            self._rounded = model, bits, group, model.rounded(bits, group)
        return self._rounded[3]

    def adapter(self, name: str) -> Adapter:
        """As read from its files. Raises why it cannot be replayed."""
        self.subject(name).check_ready()
        return self._read[name]

    def subject(self, adapter: str) -> Subject:
        if adapter not in self._adapters:
            raise Unreplayable(adapter, f"no such adapter; known are {', '.join(self._adapters) or 'none'}")
        return self._adapters[adapter]

    def check_unmoved(self, targets: Sequence[Target]) -> None:
        """Was the round of one piece? Its answers are of the loaded files, which may no longer be what lies there."""
        live = {target.adapter for target in targets if target.weights is Weights.LIVE}
        if live:
            self.base.check_unmoved()
        for name in sorted(live - {None}, key=str):
            self.subject(str(name)).check_unmoved()

    def identity(self, adapter: str | None) -> Identity:
        """Golden means as first loaded here; after a restart only a golden record knows what was accepted."""
        golden = self.golden.hash if self.golden else ""
        live = self.live.hash if self.live else ""
        if adapter is None:
            return Identity(golden, live)
        read = self._read.get(adapter)
        return Identity(golden, live, self._first_hashes.get(adapter, ""), read.hash if read else "")

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, why it could not be read, and a tokenizer that moved."""
        subject = self.subject(adapter)
        told = [str(subject.error)] if subject.error else []
        if self.live and (fitted := self.live.adapters.fitted.get(adapter)):
            told += fitted.facts
        if self.golden and self._live_tokenizer_hash not in ("", self._golden_tokenizer_hash):
            told.append("tokenizer or chat template differ from the golden base's")
        return tuple(told)

    def words(self, weights: Weights = Weights.LIVE) -> Any:
        """That base's tokenizer, else the other's: a folder of weights alone has none. Raises Unreplayable without."""
        choice = [self._live_tokenizer, self._tokenizer]
        for words in choice if weights is Weights.LIVE else reversed(choice):
            if words is not None:
                return words
        raise Unreplayable(self.base.source, "no tokenizer: neither golden nor live base is loaded")

    def _check_adapter(self, weights: Weights, name: str) -> None:
        subject = self.subject(name)
        subject.check_ready()
        if weights is Weights.GOLDEN and self._read[name].hash != self._first_hashes[name]:
            raise Unreplayable(subject.source, "changed since it was first loaded, and no golden copy is kept")

    def _changed(self) -> None:
        self.loads += 1
        self._rounded = None

    def _load_golden(self, opening: bool = False) -> None:
        """Load the configured golden base if it can be had; without it the live base is still watched.

        The hub is asked only while opening; later tries take what has come to lie here.
        """
        if self.sources.golden_base is None:
            return
        try:
            source = self.sources.golden_base if opening else str(base_files.locate(self.sources.golden_base))
            parts = read_base(base_files.resolve(source, self.sources.cache))
            same = self.live if self.live and self.live.hash == parts.hash else None
            self._accept(same or build(parts, self._placement), parts)
        except Unreplayable:
            return  # told by embed and by an empty golden hash; tried again at each refresh
        self._fit_again()

    def _accept(self, model: Model, parts: BaseParts) -> None:
        """The model and the words of these parts; the model may be one that was built from another folder."""
        self._tokenizer = read_tokenizer(parts.folder)
        self.golden, self._golden_tokenizer_hash = model, parts.tokenizer

    def _fetch_base(self) -> None:
        """A base on the hub is fetched here; later looks take what has come to lie here."""
        if base_files.is_hub_id(self.sources.base):
            with contextlib.suppress(Unreplayable):  # the look that follows tells it
                base_files.resolve(self.sources.base, self.sources.cache)

    def _load_base(self, path: Path) -> None:
        """Read what lies there; the same hash as a model in memory is that model, and a third one is let go."""
        self._changed()
        source = self.sources.base if base_files.is_hub_id(self.sources.base) else str(path)
        parts = read_base(base_files.resolve(source, self.sources.cache))
        self._live_tokenizer = read_tokenizer(parts.folder) if parts.tokenizer else None
        self._live_tokenizer_hash = parts.tokenizer
        known = [model for model in (self.golden, self.live) if model and model.hash == parts.hash]
        # Before the new one is built: two bases fit where three may not.
        self.live = known[0] if known else None
        self.live = self.live or build(parts, self._placement)
        if self.golden is None and self.sources.golden_base is None:
            self._accept(self.live, parts)
        self._fit_again()

    def _adapter_loader(self, name: str) -> Callable[[Path], None]:
        def load(path: Path) -> None:
            self._changed()
            self._read.pop(name, None)
            if self.live is not None:
                self.live.adapters.remove(name)
            self._read[name] = read_adapter(path)
            self._first_hashes.setdefault(name, self._read[name].hash)
            self._fit(name)

        return load

    def _fit_again(self) -> None:
        """Another base is there. An adapter that cannot be put on it is blocked; the others and the base are not."""
        for name in self._read:
            try:
                self._fit(name)
            except ProbeError as error:
                self._adapters[name].failed(error)

    def _fit(self, name: str) -> None:
        """Put the adapter on the live base, and on the golden one beside it while it is what was first loaded."""
        adapter = self._read[name]
        if self.live is not None:
            self.live.adapters.fit(name, adapter)
        if self.golden is not None and self.golden is not self.live:
            if adapter.hash == self._first_hashes[name]:
                self.golden.adapters.fit(name, adapter)
            else:
                self.golden.adapters.remove(name)
