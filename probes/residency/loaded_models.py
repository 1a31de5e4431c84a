"""Which model in memory may answer under which name, and what it was loaded from; or the reason why none may.

Questions only: what is loaded and released is decided in residency.py. An adapter whose files moved, or whose base did,
answers nothing: an error here makes its subject unmonitorable, never degraded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectors.records import Identity
from probes.artefacts.lora_files import LoraAdapter
from probes.errors import NoMemory, Unreplayable
from probes.model.build import BaseHashes
from probes.model.forward import Model
from probes.residency.failed_loads import Load
from probes.residency.residency import GOLDEN_BASE, Residency
from probes.residency.watched_artefact import WatchedArtefact
from probes.runner import Target, Weights
from probes.scoring.scoring_job import AdapterVersion


class LoadedModels:
    """golden, live: the bases with the adapters on them, None while there is none"""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency

    @property
    def golden(self) -> Model | None:
        return self._residency.bases.golden_model

    @property
    def live(self) -> Model | None:
        return self._residency.bases.live_model

    def model(self, weights: Weights, adapter: str | None) -> Model:
        """The model that answers under this name. Raises Unreplayable, or Unsupported as raised while loading."""
        if adapter is not None:
            self.subject(adapter).check_ready()
            if weights is Weights.GOLDEN:
                self._check_golden(adapter)
        if weights is Weights.GOLDEN:
            return self.golden_model()
        self._residency.base.check_ready()
        if self.live is None:
            raise Unreplayable(self._residency.base.source, "not loaded")
        return self.live

    def answering(self, weights: Weights, adapter: str | None) -> tuple[Model, str | None]:
        """The model that answers, and the name under which the adapter does: on the golden side that of the accepted
        version, whatever lies in its folder now. Raises as ``model`` and ``golden_name`` do."""
        if weights is Weights.GOLDEN and adapter is not None:
            return self.golden_model(), self.golden_name(AdapterVersion(adapter))
        return self.model(weights, adapter), adapter

    def golden_model(self) -> Model:
        """Raises NoMemory, or Unreplayable with the reason why the golden base is not loaded."""
        if self.golden is None:
            if (no_room := self._residency.bases.no_room) and self.live is not None:
                raise no_room.afresh()
            error = self._residency.failed.error(GOLDEN_BASE)
            if isinstance(error, NoMemory):
                raise error.afresh()
            error = error or self._residency.base.error
            why = f" ({error})" if error else ""
            source = self._residency.paths.golden_base or self._residency.paths.base
            raise Unreplayable(source, f"the golden base is not loaded{why}")
        return self.golden

    def golden_name(self, version: AdapterVersion) -> str:
        """The name under which that version answers on the golden base: the adapter's own while its files are those
        that were accepted, else that of the copy that enrolment kept. Raises Unreplayable or Unsupported where there is
        none, and see ``AcceptedAdapters.name_on``."""
        golden = self.golden_model()
        if version in self._residency.accepted.folders:
            return self._residency.put_accepted_on(golden, version)
        if version.previous:
            raise Unreplayable(version.name, "no copy of the version accepted before is kept")
        self.model(Weights.GOLDEN, version.name)
        return version.name

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        """Of the golden base, and of the adapter that ``golden_name`` names. Raises as that does."""
        golden, name = self.golden_model(), self.golden_name(AdapterVersion(adapter))
        return self._hashes(Weights.GOLDEN).base[scheme], golden.adapters.applied[name].adapter.hashes[scheme]

    @property
    def scorers(self) -> list[AdapterVersion]:
        """Versions that ``golden_name`` may have: registered adapters, then previous ones that a copy is kept of."""
        present = map(AdapterVersion, self._residency.adapters)
        return list(dict.fromkeys((*present, *self._residency.accepted.folders)))

    def adapter(self, name: str) -> LoraAdapter:
        """As read from its files. Raises why it cannot be replayed."""
        self.subject(name).check_ready()
        in_memory = self._residency.adapters[name].in_memory
        assert in_memory is not None, "an adapter whose files are ready was read"
        return in_memory

    def subject(self, adapter: str) -> WatchedArtefact:
        """The adapter's files. Raises Unreplayable for a name that is not registered."""
        if adapter not in self._residency.adapters:
            raise Unreplayable(adapter, f"no such adapter; known are {', '.join(self._residency.adapters) or 'none'}")
        return self._residency.adapters[adapter].files

    def check_unmoved(self, targets: Sequence[Target]) -> None:
        """After a round: raises Unreplayable where the files that these answers came from have changed meanwhile."""
        live = {target.adapter for target in targets if target.weights is Weights.LIVE}
        if live:
            self._residency.base.check_unmoved()
        for name in sorted(live - {None}, key=str):
            self.subject(str(name)).check_unmoved()

    def identity(self, adapter: str | None, scheme: int) -> Identity:
        """Golden means as first loaded here; after a restart only a golden record knows what was accepted."""
        golden, live = self._hashes(Weights.GOLDEN), self._hashes(Weights.LIVE)
        loaded = self._residency.adapters.get(adapter or "")
        first, present = (loaded.first_hashes, loaded.in_memory) if loaded else (None, None)
        return Identity(
            golden_base=golden.base[scheme],
            live_base=live.base[scheme],
            golden_adapter=first[scheme] if first else "",
            live_adapter=present.hashes[scheme] if present else "",
            golden_tokenizer=golden.tokenizer[scheme],
            live_tokenizer=live.tokenizer[scheme],
            golden_template=golden.template,
            live_template=live.template,
            scheme=scheme,
            golden_grid=golden.grid,
            live_grid=live.grid,
        )

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, why it could not be read, what memory was short for, and why
        a card is not used."""
        error = self.subject(adapter).error
        applied = self.live.adapters.applied.get(adapter) if self.live else None
        of_files = (*((str(error),) if error else ()), *(applied.facts if applied else ()))
        bases = self._residency.bases
        return (*of_files, *filter(None, [bases.smaller_batches, bases.without_card]))

    def tokenizer(self, weights: Weights = Weights.LIVE) -> Any:
        """That base's tokenizer, else the other's: a folder of weights alone has none. Raises Unreplayable without."""
        return self._residency.bases.tokenizer(weights)

    def _hashes(self, weights: Weights) -> BaseHashes:
        base = self._residency.bases.golden if weights is Weights.GOLDEN else self._residency.bases.live
        return base.hashes if base else BaseHashes()

    def _check_golden(self, adapter: str) -> None:
        self._residency.failed.check((Load.ON_GOLDEN_BASE, adapter))
        if self._residency.adapters[adapter].has_changed:
            source = self.subject(adapter).source
            raise Unreplayable(source, "changed since it was first loaded, and no golden copy is kept")
