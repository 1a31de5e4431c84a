"""What of one base and its adapters is in memory, and whether it is still what lies in their files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detectors.records import Identity
from probes.artefacts import base_files
from probes.artefacts.architecture import read_tokenizer
from probes.artefacts.identity import NEWEST, HashByScheme
from probes.artefacts.lora_files import LoraAdapter
from probes.errors import NoMemory, ProbeError, Unreplayable
from probes.model.adapter_loading import put_on, read_whole
from probes.model.build import BaseHashes, BaseParts, Placement, build, read_base
from probes.model.forward import Model
from probes.model.watched_artefact import LOOKS_TO_WAIT, Subject
from probes.runner import Readiness, Target, Weights

GOLDEN = "the golden base"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where things lie. See ``in_process.Config``; cache: folder of converted copies."""

    base: str
    adapters: Mapping[str, str]
    golden_base: str | None
    cache: Path
    golden_adapters: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Shortage:
    """What there was no memory for, and how many looks it waits."""

    error: ProbeError
    looks: int = LOOKS_TO_WAIT


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
        self._read: dict[str, LoraAdapter] = {}
        self._first_hashes: dict[str, HashByScheme] = {}
        self._kept: dict[str, LoraAdapter] = {}
        self._rounded: tuple[Model, int, int, Model] | None = None
        # Of what scores traffic, by GOLDEN, the name on the golden base's switchboard, or the copy in few bits.
        self._short: dict[str, Shortage] = {}
        self._tokenizer: Any = None
        self._no_golden: ProbeError | None = None
        self._golden_told = BaseHashes()
        self._live_tokenizer: Any = None
        self._live_told = BaseHashes()

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
        self._short.clear()
        self._no_golden = None
        for subject in (self.base, *self._adapters.values()):
            subject.forget()

    def look(self) -> dict[str | None, Readiness]:
        """Load what came to rest. An adapter is ready when its own and the base's entries are."""
        self._wait()
        if self.golden is None and GOLDEN not in self._short:
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
        self._check_memory(GOLDEN)
        if self.golden is None:
            error = self._no_golden or self.base.error
            why = f" ({error})" if error else ""
            raise Unreplayable(self.sources.golden_base or self.sources.base, f"the golden base is not loaded{why}")
        return self.golden

    def golden_name(self, adapter: str) -> str:
        """The name under which the accepted adapter answers on the golden base: its own while its files are those that
        were accepted, else that of the copy kept since. Raises Unreplayable, Unsupported where there is none, and where
        the copy does not fit the golden base whole: a part of an adapter is nobody's law."""
        golden = self.golden_model()
        if adapter not in self.sources.golden_adapters:
            self.model(Weights.GOLDEN, adapter)
            return adapter
        name = _as_accepted(adapter)
        self._check_memory(name)
        with self._noted(name):
            kept, own = self._kept.get(adapter), golden.adapters.fitted.get(adapter)
            kept = kept or read_whole(Path(self.sources.golden_adapters[adapter]))
            is_own = own is not None and own.adapter.hash == kept.hash
            if not is_own and name not in golden.adapters.fitted:
                put_on(golden, name, kept)
                self._rounded = None  # a copy in few bits was made without it
        self._kept[adapter] = kept
        if is_own:
            return adapter
        if facts := golden.adapters.fitted[name].facts:
            raise Unreplayable(self.sources.golden_adapters[adapter], "; ".join(facts))
        return name

    @property
    def scorers(self) -> list[str]:
        """Names that ``golden_name`` may know: registered adapters, then the versions before them that are kept."""
        return list(dict.fromkeys((*self.sources.adapters, *self.sources.golden_adapters)))

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        """Of the golden base, and of the adapter that ``golden_name`` names. Raises as that does."""
        golden, name = self.golden_model(), self.golden_name(adapter)
        return self._golden_told.base[scheme], golden.adapters.fitted[name].adapter.hashes[scheme]

    def accept_adapter(self, adapter: str, folder: str | None) -> None:
        """Another copy is the accepted one, None for none; the former is taken off the golden base."""
        others = {name: kept for name, kept in self.sources.golden_adapters.items() if name != adapter}
        kept = others if folder is None else {**others, adapter: folder}
        self.sources = replace(self.sources, golden_adapters=kept)
        self._kept.pop(adapter, None)
        self._short.pop(_as_accepted(adapter), None)
        if self.golden is not None:
            self.golden.adapters.remove(_as_accepted(adapter))
        self._rounded = None
        self._left_memory()

    def give_up(self, adapter: str, error: NoMemory) -> None:
        """There was no memory to run it: it is let go, and is blind until it is tried again."""
        self._take_off(adapter)
        self.subject(adapter).fail(
            NoMemory(self.subject(adapter).source, error.requested, error.free, error.device_message)
        )

    def rounded(self, model: Model, bits: int, group: int = 0) -> Model:
        """A copy of a loaded model in so many bits. One is kept at a time, until other bits are asked for or files
        change."""
        if self._rounded is None or self._rounded[0] is not model or self._rounded[1:3] != (bits, group):
            self._rounded = None  # before the next one is built: two models fit where three may not
            name = f"{bits} bits by {group}"
            self._check_memory(name)
            with self._noted(name):
                self._rounded = model, bits, group, model.rounded(bits, group)
        return self._rounded[3]

    def adapter(self, name: str) -> LoraAdapter:
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

    def identity(self, adapter: str | None, scheme: int) -> Identity:
        """Golden means as first loaded here; after a restart only a golden record knows what was accepted."""
        golden = self._golden_told if self.golden else BaseHashes()
        live = self._live_told if self.live else BaseHashes()
        first, read = self._first_hashes.get(adapter or ""), self._read.get(adapter or "")
        return Identity(
            golden_base=golden.base[scheme],
            live_base=live.base[scheme],
            golden_adapter=first[scheme] if first else "",
            live_adapter=read.hashes[scheme] if read else "",
            golden_tokenizer=golden.tokenizer[scheme],
            live_tokenizer=live.tokenizer[scheme],
            golden_template=golden.template,
            live_template=live.template,
            scheme=scheme,
        )

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, and why it could not be read."""
        subject = self.subject(adapter)
        told = [str(subject.error)] if subject.error else []
        if self.live and (fitted := self.live.adapters.fitted.get(adapter)):
            told += fitted.facts
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
        if weights is Weights.GOLDEN:
            self._check_memory(name)
            if self._read[name].hash != self._first_hashes[name][NEWEST]:
                raise Unreplayable(subject.source, "changed since it was first loaded, and no golden copy is kept")

    def _check_memory(self, name: str) -> None:
        if name in self._short:
            raise self._short[name].error.afresh()

    @contextlib.contextmanager
    def _noted(self, name: str) -> Iterator[None]:
        """What there is no memory for in here is not tried at each question."""
        try:
            yield
        except NoMemory as error:
            self._short[name] = Shortage(error.afresh())
            raise

    def _wait(self) -> None:
        """One look nearer to the next try of what there was no memory for."""
        for shortage in self._short.values():
            shortage.looks -= 1
        over = [name for name, shortage in self._short.items() if shortage.looks < 0]
        for name in over:
            del self._short[name]
        for name in self._read:
            if name in over:
                self._changed()
                self._fit_golden(name)

    def _left_memory(self, but: str | None = None) -> None:
        """What there was no memory for may be tried at the next look; ``but`` is what has left."""
        for subject in (self.base, *(it for name, it in self._adapters.items() if name != but)):
            subject.hurry()
        for shortage in self._short.values():
            shortage.looks = 0

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
        except NoMemory as error:
            self._short[GOLDEN] = Shortage(error.afresh())
            return
        except Unreplayable as error:
            self._no_golden = error.afresh()  # told by whoever asks for it; tried again at each refresh
            return
        self._no_golden = None
        self._fit_all()

    def _accept(self, model: Model, parts: BaseParts) -> None:
        """The model and the words of these parts; the model may be one that was built from another folder."""
        self._tokenizer = read_tokenizer(parts.folder)
        self.golden, self._golden_told = model, parts.told

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
        self._live_tokenizer = read_tokenizer(parts.folder) if parts.told.has_tokenizer else None
        known = [model for model in (self.golden, self.live) if model and model.hash == parts.hash]
        # Before the new one is built: two bases fit where three may not.
        self.live = known[0] if known else None
        self.live = self.live or build(parts, self._placement)
        self._live_told = parts.told
        if self.golden is None and self.sources.golden_base is None:
            self._accept(self.live, parts)
        self._left_memory()
        self._fit_all()

    def _adapter_loader(self, name: str) -> Callable[[Path], None]:
        def load(path: Path) -> None:
            self._take_off(name)
            read = read_whole(path)
            self._changed()
            self._read[name] = read
            self._first_hashes.setdefault(name, read.hashes)
            self._fit(name)

        return load

    def _take_off(self, name: str) -> None:
        """Nothing of the adapter answers any more on the live base, and what it took is free."""
        if self._read.pop(name, None) is None:
            return
        self._changed()
        if self.live is not None:
            self.live.adapters.remove(name)
        self._left_memory(but=name)

    def _fit_all(self) -> None:
        """On a base that has just come. An adapter that cannot be put on it is blind, and nobody beside it."""
        for name in list(self._read):
            try:
                self._fit(name)
            except ProbeError as error:
                self._adapters[name].fail(error)

    def _fit(self, name: str) -> None:
        """Put the adapter on the live base, and on the golden one beside it while it is what was first loaded. Raises
        ProbeError where it does not go on the live one, and has let go of it then."""
        if self.live is not None:
            try:
                put_on(self.live, name, self._read[name])
            except ProbeError:
                del self._read[name]
                raise
        self._fit_golden(name)

    def _fit_golden(self, name: str) -> None:
        """Without memory for it there, canaries are replayed all the same, and responses are told why not scored."""
        adapter, golden = self._read[name], self.golden
        self._short.pop(name, None)
        if golden is None or golden is self.live:
            return
        if adapter.hash != self._first_hashes[name][NEWEST]:
            golden.adapters.remove(name)
        elif name not in golden.adapters.fitted:
            try:
                put_on(golden, name, adapter)
            except ProbeError as error:
                self._short[name] = Shortage(error.afresh())


def _as_accepted(adapter: str) -> str:
    """Its name on the golden base where another copy has its own; a tab can be in no configured name."""
    return f"{adapter}\tas accepted"
