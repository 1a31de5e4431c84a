"""Will this adapter do on this base what it does on its own? Structure, what moved, and what that costs.

The verdict never says more than was looked at: an adapter that fits by its headers is "cannot tell" until the base it
was accepted on is compared, and one on a base that moved is called safe only by a measurement whose whole interval is
within its tolerance. A prediction may warn, and never clears.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from detectors.canaries.tolerance import Tolerances
from detectors.records import Interval
from probes.artefacts.lora_files import LoraAdapter, read_adapter
from probes.canaries.canary_file import Canary
from probes.compatibility.adapter_header import AdapterHeader
from probes.compatibility.base_changes import BaseChanges, base_changes
from probes.compatibility.base_network import base_network
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.engine_rules import EngineRules, Outcome, note_of_version
from probes.compatibility.loss_features import loss_features
from probes.compatibility.named_cause import AcceptedFiles, named_cause, round_of
from probes.compatibility.predicted_loss import LossModel
from probes.compatibility.scratch_replay import (
    NAME,
    MeasuredLoss,
    measurements,
    reference,
    scratch_runner,
    summed_up,
)
from probes.compatibility.structure import Structure, structure
from probes.errors import Unsupported
from probes.runner import Stop

FITS, WILL_LOSE, CANNOT_TELL = 0, 1, 2
LOST = (Outcome.CRASH, Outcome.IGNORED, Outcome.PARTLY)
# An adapter file up to here is read to see which part of a change it touches.
MOST_READ_BYTES = 4_000_000_000
BY_STRUCTURE = {
    Outcome.CRASH: "the engine will refuse it or fail",
    Outcome.IGNORED: "the engine will answer as the base does, without a word",
    Outcome.PARTLY: "only a part of it will be applied as it was trained",
    Outcome.UNKNOWN: "no rule of this engine says what becomes of it",
}


@dataclass(frozen=True, slots=True)
class Pair:
    """What is checked. base: folder of the new release; adapter: PEFT folder; old: folder of the base that the adapter
    was accepted on, None where it is not at hand; version, settings: of the engine; tolerances: of the adapter"""

    base: Path
    adapter: Path
    old: Path | None = None
    version: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    tolerances: Tolerances = field(default_factory=Tolerances)


@dataclass(frozen=True, slots=True)
class Checked:
    """structure: from headers; changes: of the base, None without an old one; notes: what limits the answer

    predicted: retention by the weights with its interval, None where it is not predicted; measured: by replay, None
    without one; tolerances: of the adapter
    """

    structure: Structure
    changes: BaseChanges | None
    notes: tuple[str, ...]
    predicted: Interval | None = None
    measured: MeasuredLoss | None = None
    tolerances: Tolerances = field(default_factory=Tolerances)

    @property
    def has_moved(self) -> bool:
        """Does the base have other coordinates?"""
        return self.changes is not None and self.changes.coordinates is not Coordinates.SAME

    @property
    def verdict(self) -> int:
        """FITS, WILL_LOSE or CANNOT_TELL. A measurement goes before what the weights say."""
        if self.structure.outcome in LOST:
            return WILL_LOSE
        if self.structure.outcome is Outcome.UNKNOWN:
            return CANNOT_TELL
        if self.measured is not None:
            is_lost = self.measured.is_lost(self.tolerances)
            return CANNOT_TELL if is_lost is None else WILL_LOSE if is_lost else FITS
        if self.changes is None:
            return CANNOT_TELL
        if self.changes.is_same:
            return FITS
        return WILL_LOSE if self.has_moved else self._by_prediction

    @property
    def _by_prediction(self) -> int:
        """A prediction rests on other releases than this one: it says that an adapter will lose, never that it fits."""
        is_below = self.predicted is not None and self.predicted.high < 1.0 - self.tolerances.scale
        return WILL_LOSE if is_below else CANNOT_TELL

    @property
    def words(self) -> str:
        """Why, in a sentence."""
        if self.structure.outcome is not Outcome.FITS:
            return BY_STRUCTURE[self.structure.outcome]
        if self.measured is not None:
            kept = self.measured.retention
            return f"replayed on both bases, it keeps {kept.mean:.2f} of its effect ({kept.low:.2f} to {kept.high:.2f})"
        if self.changes is None:
            return "it fits by its structure; whether it still does its task takes the base it was accepted on (--from)"
        if self.changes.is_same:
            return "it fits, and the base is the one that it was accepted on"
        if self.has_moved:
            return (
                f"it fits by every shape and will be lost: the base has its hidden units {self.changes.coordinates}, "
                "and the adapter reads and writes the former ones"
            )
        if self.predicted is None:
            return "it fits by its structure, and the base has changed: --replay measures what is left"
        expected = f"{self.predicted.mean:.2f} of its effect ({self.predicted.low:.2f} to {self.predicted.high:.2f})"
        return f"it fits by its structure; by what moved it should keep {expected}, which --replay measures"


def check(pair: Pair, rules: EngineRules) -> Checked:
    """Headers and configs first; the weights of both bases only where it fits and an old one is given.

    Raises Unreplayable for files that are damaged or of other formats, Unsupported for what is no LoRA.
    """
    header = AdapterHeader.read(pair.adapter)
    by_header = structure(base_network(pair.base), header, rules, pair.settings)
    notes = [*by_header.notes, note_of_version(rules, pair.version)]
    if not rules.is_run:
        notes.append(f"the rules of {rules.engine} are cited from its source and threads, and were not run here")
    checked = Checked(by_header, None, tuple(filter(None, notes)), tolerances=pair.tolerances)
    if pair.old is None or by_header.outcome in LOST:
        return checked
    adapter = _small_adapter(header)
    changes = base_changes(pair.old, pair.base, adapter)
    moved = not changes.is_same and not changes.gone and not changes.added
    predicted = _predicted(pair.old, pair.base, adapter) if adapter is not None and moved else None
    return replace(checked, changes=changes, predicted=predicted)


def replayed(checked: Checked, pair: Pair, canaries: Sequence[Canary], cache_dir: Path, stop: Stop) -> Checked:
    """With what a replay of the canaries on both bases measures, where the structure lets the adapter be applied; and
    with the cause of a loss, for which faults are replayed until ``stop()``.

    Raises Unreplayable without an old base, where a base cannot be loaded, and across tokenizers.
    """
    if pair.old is None or checked.structure.outcome in LOST:
        return checked
    with scratch_runner(pair.old, pair.adapter, cache_dir) as runner:
        accepted, before = reference(runner, canaries), runner.identity(NAME)
    with scratch_runner(pair.base, pair.adapter, cache_dir) as runner:
        rows = measurements(runner, accepted)
        measured = summed_up(rows, pair.tolerances, runner.facts(NAME))
        lost = round_of(rows, before, runner.identity(NAME))
    if measured.is_lost(pair.tolerances) is not False:
        files = AcceptedFiles(pair.old, pair.adapter, cache_dir)
        measured = replace(measured, cause=named_cause(lost, accepted, files, pair.tolerances, stop))
    return replace(checked, measured=measured)


def _predicted(old: Path, new: Path, adapter: LoraAdapter) -> Interval | None:
    """None where the modules have names, or the adapter parts, that the prediction was not learnt on."""
    if (model := LossModel.read()) is None:
        return None
    features = loss_features(old, new, adapter)
    is_known = features.is_whole and all(map(math.isfinite, features.vector))
    return model.interval(features) if is_known else None


def _small_adapter(header: AdapterHeader) -> LoraAdapter | None:
    """Its numbers, unless they are many, or of a kind that is not read here."""
    if sum(entry.size for entry in header.entries) > MOST_READ_BYTES:
        return None
    try:
        return read_adapter(header.folder)
    except Unsupported:
        return None
