"""What of one base and its adapters is in memory: the events that change it, and what follows for all the others.

States: an artefact with live files is a ``WatchedArtefact`` (watched_artefact.py); what failed on the golden side waits
in ``FailedLoads`` (failed_loads.py); all else is in memory or None. Files are read in bases.py, adapter_loading.py and
accepted_adapters.py; what may answer is said in loaded_models.py.

Order matters here: a release comes before what may take its place, and after each release everything that was short of
memory may be tried again. Held by tests/probes/residency/ and tests/probes/runners/cases_without_memory.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from probes.artefacts.identity import NEWEST, HashByScheme
from probes.artefacts.lora_files import LoraAdapter
from probes.errors import NoMemory, ProbeError
from probes.model.build import Placement
from probes.model.forward import Model
from probes.model.free_memory import give_back
from probes.residency.accepted_adapters import AcceptedAdapters
from probes.residency.adapter_loading import put_on, read_whole
from probes.residency.bases import ArtefactPaths, Bases
from probes.residency.failed_loads import FailedLoads, Load
from probes.residency.watched_artefact import WatchedArtefact
from probes.runner import Readiness
from probes.scoring.scoring_job import AdapterVersion

GOLDEN_BASE = Load.GOLDEN_BASE, ""


@dataclass(slots=True)
class LiveAdapter:
    """in_memory: as read from its files, None while it is not; first_hashes: of the first version loaded here, which
    stands for the accepted one where no copy of that is kept"""

    files: WatchedArtefact
    in_memory: LoraAdapter | None = None
    first_hashes: HashByScheme | None = None

    @property
    def has_changed(self) -> bool:
        return bool(self.in_memory and self.first_hashes and self.in_memory.hash != self.first_hashes[NEWEST])


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedCopy:
    """``original`` with its weights in so many bits. group: see quantise.py"""

    original: Model
    bits: int
    group: int
    model: Model


class Residency:
    """loads: counts what was loaded or released, so that a run under way can tell that something was

    quantised: the one quantised copy in memory; another replaces it
    """

    def __init__(self, paths: ArtefactPaths, placement: Placement) -> None:
        self.paths = paths
        self.base = WatchedArtefact(paths.base)
        self.bases = Bases(paths, placement)
        self.adapters = {name: LiveAdapter(WatchedArtefact(path)) for name, path in paths.adapters.items()}
        self.failed = FailedLoads()
        self.accepted = AcceptedAdapters(paths.golden_adapters, self.failed)
        self.quantised: QuantisedCopy | None = None
        self.loads = 0

    def open(self) -> None:
        """Load what can be loaded, the live base first: it is the one that is measured where one only fits. One look is
        trusted here if the files are unchanged after loading."""
        self.bases.fetch_live()
        self._look_at_files(opening=True)
        self._load_golden_base(may_fetch=True)

    def look(self) -> dict[str | None, Readiness]:
        """Load what has settled or may be tried again. An adapter is ready when its own and the base's entries are."""
        for load, name in self.failed.look():
            if load is Load.ON_GOLDEN_BASE:
                self._put_on_golden(name)
        self._look_at_files()
        if self.bases.golden_model is None and GOLDEN_BASE not in self.failed:
            self._load_golden_base(may_fetch=False)
        return {None: self.base.readiness} | {name: adapter.files.readiness for name, adapter in self.adapters.items()}

    def close(self) -> None:
        """Release the models; what is closed may be opened again."""
        self._changed()
        self.bases.close()
        self.accepted.close()
        self.failed.clear()
        self.base.forget()
        for adapter in self.adapters.values():
            adapter.in_memory = None
            adapter.files.forget()

    def accept_adapter(self, version: AdapterVersion, folder: str | None) -> None:
        """The files in this folder are this version, None for no copy."""
        self.accepted.accept(version, folder, self.bases.golden_model)
        self.quantised = None
        self._memory_freed()

    def give_up(self, adapter: str, error: NoMemory) -> None:
        """There was no memory to run this adapter: it is released, and not ready until it is tried again."""
        self._release(adapter)
        files = self.adapters[adapter].files
        files.fail(NoMemory(files.source, error.requested, error.free, error.device_message))

    def make_room(self, answering: Model, error: NoMemory) -> bool:
        """There was no memory for a single pass of this model: another one that can be done without is released, a
        quantised copy first, then the golden base where the live one answers. False where there is none."""
        if self.quantised is not None and self.quantised.model is not answering:
            self._changed()
            give_back()
            return True
        if self.bases.golden_model is None or self.bases.are_one or self.bases.live_model is not answering:
            return False
        self._changed()
        self.bases.release_golden(error)
        if source := self.paths.golden_base:
            with suppress(ProbeError), self.failed.attempt(GOLDEN_BASE, source):  # not to be loaded again at once
                raise error.afresh()
        return True

    def put_accepted_on(self, golden: Model, version: AdapterVersion) -> str:
        """The name under which this version answers on the golden base; its copy is put there when it is first
        wanted. Raises as ``AcceptedAdapters.name_on``."""
        before = set(golden.adapters.applied)
        name = self.accepted.name_on(golden, version)
        if name not in before:
            self.quantised = None  # it was made without this adapter
        return name

    def rounded(self, model: Model, bits: int, group: int = 0) -> Model:
        """A copy of a loaded model in so many bits. One is kept at a time, until other bits are wanted or files
        change. Raises NoMemory; it is then not tried again at each question."""
        copy, key = self.quantised, (Load.QUANTISED_COPY, f"{model.hash} in {bits} bits by {group}")
        if copy is None or copy.original is not model or (copy.bits, copy.group) != (bits, group):
            copy = self.quantised = None  # before the next one is built: two models fit where three may not
            self.failed.check(key)
            with self.failed.attempt(key):
                copy = self.quantised = QuantisedCopy(model, bits, group, model.rounded(bits, group))
        return copy.model

    def _look_at_files(self, opening: bool = False) -> None:
        self.base.look(self._base_arrives, opening)
        for name, adapter in self.adapters.items():
            adapter.files.look(self._adapter_arrives(name), opening)

    def _load_golden_base(self, may_fetch: bool) -> None:
        """Without the configured golden base the live one is watched all the same; questions to it say why it is away.
        The hub is asked only while opening; later tries take a local copy."""
        source = self.paths.golden_base
        if source is None:
            return
        with suppress(ProbeError), self.failed.attempt(GOLDEN_BASE, source):
            self.bases.load_golden(source, may_fetch)
        if self.bases.golden_model is not None:
            for name in self.adapters:
                self._put_on_golden(name)

    def _base_arrives(self, path: Path) -> None:
        self._changed()
        self.bases.load_live(path)
        self._memory_freed()
        self._put_all_on()

    def _adapter_arrives(self, name: str) -> Callable[[Path], None]:
        def load(path: Path) -> None:
            adapter = self.adapters[name]
            self._release(name)
            in_memory = read_whole(path)
            self._changed()
            adapter.in_memory = in_memory
            adapter.first_hashes = adapter.first_hashes or in_memory.hashes
            self._put_on(name)

        return load

    def _release(self, name: str) -> None:
        """Take the adapter off the live base and free its memory."""
        if self.adapters[name].in_memory is None:
            return
        self.adapters[name].in_memory = None
        self._changed()
        if live := self.bases.live_model:
            live.adapters.remove(name)
        self._memory_freed(by=name)

    def _memory_freed(self, by: str | None = None) -> None:
        """What there was no memory for may be tried at the next look; not what has just been released itself."""
        self.failed.memory_freed()
        for files in (self.base, *(adapter.files for name, adapter in self.adapters.items() if name != by)):
            files.retry_at_next_look()

    def _changed(self) -> None:
        """What answers is not what it was; a quantised copy of it is released with it."""
        self.loads += 1
        self.quantised = None

    def _put_all_on(self) -> None:
        """After a base arrived. An adapter that cannot be put on it is not ready, and holds up no other."""
        for name, adapter in self.adapters.items():
            if adapter.in_memory is not None:
                try:
                    self._put_on(name)
                except ProbeError as error:
                    adapter.files.fail(error)

    def _put_on(self, name: str) -> None:
        """On the live base, and on the golden one. Raises ProbeError, with the adapter released, where it does not go
        on the live one."""
        adapter, live = self.adapters[name], self.bases.live_model
        if live is not None and adapter.in_memory is not None:
            try:
                put_on(live, name, adapter.in_memory)
            except ProbeError:
                adapter.in_memory = None
                raise
        self._put_on_golden(name)

    def _put_on_golden(self, name: str) -> None:
        """While it is what was first loaded. Where that fails canaries are replayed all the same, by the live base, and
        the answers to responses say why they are not scored."""
        adapter, golden, key = self.adapters[name], self.bases.golden_model, (Load.ON_GOLDEN_BASE, name)
        self.failed.forget(key)
        if golden is None or adapter.in_memory is None or self.bases.are_one:
            return
        if adapter.has_changed:
            golden.adapters.remove(name)
        elif name not in golden.adapters.applied:
            with suppress(ProbeError), self.failed.attempt(key):
                put_on(golden, name, adapter.in_memory)
                self._changed()
