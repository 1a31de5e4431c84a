"""Which name on the golden base answers as the accepted version of an adapter.

An adapter whose files are still those that were accepted answers under its own name. Otherwise the copy that enrolment
kept is read when it is first needed, and put on the golden base under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from probes.artefacts.lora_files import LoraAdapter
from probes.errors import Unreplayable
from probes.model.forward import Model
from probes.residency.adapter_loading import put_on, read_whole
from probes.residency.failed_loads import FailedLoads, Load
from probes.scoring.scoring_job import AdapterVersion


class AcceptedAdapters:
    """folders: version of an adapter -> the folder with its copy"""

    def __init__(self, folders: Mapping[AdapterVersion, str], failed: FailedLoads) -> None:
        self.folders = dict(folders)
        self._failed = failed
        self._read: dict[AdapterVersion, LoraAdapter] = {}
        self._hashes: dict[AdapterVersion, str] = {}

    def name_on(self, golden: Model, version: AdapterVersion) -> str:
        """The name under which this version answers, put on this golden base now where it has to be.

        Raises Unreplayable or Unsupported where the copy cannot be used, and where it does not fit the golden base
        whole: an adapter that is applied in part defines no reference distribution. NoMemory.
        """
        folder, name = self.folders[version], _name_of_copy(version)
        key = Load.ACCEPTED_ADAPTER, name
        self._failed.check(key)
        live = None if version.previous else golden.adapters.applied.get(version.name)
        if live is not None and live.adapter.hash == self._hashes.get(version):
            return version.name
        with self._failed.attempt(key, folder):
            copy = self._read.get(version) or read_whole(Path(folder))
            is_live = live is not None and live.adapter.hash == copy.hash
            if not is_live and name not in golden.adapters.applied:
                put_on(golden, name, copy)
        self._hashes[version] = copy.hash
        if is_live:
            return version.name  # which is in memory already
        self._read[version] = copy  # not before: a copy that there is no memory to apply takes none
        if facts := golden.adapters.applied[name].facts:
            raise Unreplayable(folder, "; ".join(facts))
        return name

    def accept(self, version: AdapterVersion, folder: str | None, golden: Model | None) -> None:
        """Another copy is the accepted one, None for no copy; the former is released and taken off the golden base."""
        self.folders.pop(version, None)
        if folder is not None:
            self.folders[version] = folder
        self._read.pop(version, None)
        self._hashes.pop(version, None)
        self._failed.forget((Load.ACCEPTED_ADAPTER, _name_of_copy(version)))
        if golden is not None:
            golden.adapters.remove(_name_of_copy(version))

    def close(self) -> None:
        self._read.clear()
        self._hashes.clear()


def _name_of_copy(version: AdapterVersion) -> str:
    """The copy's name on the golden base beside the adapter's own; a tab can be in no configured name."""
    return f"{version.name}\tas accepted{' before' if version.previous else ''}"
