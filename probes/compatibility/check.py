"""Will this adapter do on this base what it does on its own? Structure, then what moved, each as far as files tell.

The verdict never says more than was looked at: an adapter that fits by its headers is "cannot tell" until the base it
was accepted on is compared or replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from probes.artefacts.lora_files import LoraAdapter, read_adapter
from probes.compatibility.adapter_header import AdapterHeader
from probes.compatibility.base_changes import BaseChanges, base_changes
from probes.compatibility.base_network import base_network
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.engine_rules import EngineRules, Outcome, note_of_version
from probes.compatibility.structure import Structure, structure
from probes.errors import Unsupported

FITS, WILL_LOSE, CANNOT_TELL = 0, 1, 2
LOST = (Outcome.CRASH, Outcome.IGNORED, Outcome.PARTLY)
# An adapter file up to here is read to see which part of a change it touches.
MOST_READ_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class Pair:
    """What is checked. base: folder of the new release; adapter: PEFT folder; old: folder of the base that the adapter
    was accepted on, None where it is not at hand; version, settings: of the engine"""

    base: Path
    adapter: Path
    old: Path | None = None
    version: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checked:
    """structure: from headers; changes: of the base, None without an old one; notes: what limits the answer"""

    structure: Structure
    changes: BaseChanges | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> int:
        """From files alone."""
        if self.structure.outcome in LOST:
            return WILL_LOSE
        if self.structure.outcome is Outcome.UNKNOWN or self.changes is None:
            return CANNOT_TELL
        if self.changes.is_same:
            return FITS
        return WILL_LOSE if self.changes.coordinates is not Coordinates.SAME else CANNOT_TELL

    @property
    def words(self) -> str:
        """Why, in a sentence."""
        if self.structure.outcome in LOST:
            return {
                Outcome.CRASH: "the engine will refuse it or fail",
                Outcome.IGNORED: "the engine will answer as the base does, without a word",
                Outcome.PARTLY: "only a part of it will be applied as it was trained",
            }[self.structure.outcome]
        if self.structure.outcome is Outcome.UNKNOWN:
            return "no rule of this engine says what becomes of it"
        if self.changes is None:
            return "it fits by its structure; whether it still does its task takes the base it was accepted on"
        if self.changes.is_same:
            return "it fits, and the base is the one that it was accepted on"
        if self.changes.coordinates is not Coordinates.SAME:
            return (
                f"it fits by every shape and will be lost: the base has its hidden units {self.changes.coordinates}, "
                "and the adapter reads and writes the former ones"
            )
        return "it fits by its structure, and the base has changed: replay its canaries to see what is left"


def check(pair: Pair, rules: EngineRules) -> Checked:
    """Headers and configs first; the weights of both bases only where it fits and an old one is given.

    Raises Unreplayable for files that are damaged or of other formats, Unsupported for what is no LoRA.
    """
    header = AdapterHeader.read(pair.adapter)
    by_header = structure(base_network(pair.base), header, rules, pair.settings)
    notes = [*by_header.notes, note_of_version(rules, pair.version)]
    if not rules.is_run:
        notes.append(f"the rules of {rules.engine} are cited from its source and threads, and were not run here")
    changes = None
    if pair.old is not None and by_header.outcome not in LOST:
        changes = base_changes(pair.old, pair.base, _small_adapter(header))
    return Checked(by_header, changes, tuple(filter(None, notes)))


def _small_adapter(header: AdapterHeader) -> LoraAdapter | None:
    """Its numbers, unless they are many, or of a kind that is not read here."""
    if sum(entry.size for entry in header.entries) > MOST_READ_BYTES:
        return None
    try:
        return read_adapter(header.folder)
    except Unsupported:
        return None
