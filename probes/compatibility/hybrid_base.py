"""The old base in memory with some tensors of the new one, and what that costs an adapter on a few canaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detectors.canaries.tolerance import Tolerances
from probes.canaries.canary_file import Canary
from probes.compatibility.base_changes import BaseChanges, base_changes
from probes.compatibility.bisect import Culprits, culprits
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.scratch_replay import Reference, measured_loss, measurements, reference, scratch_runner
from probes.compatibility.stored_tensors import StoredTensors
from probes.errors import Unreplayable
from probes.runners.in_process import Runner

# Canaries of each replay: a loss that matters shows on a few, and there are many replays.
FEW = 8


@dataclass(frozen=True, slots=True)
class Divided:
    """changes: of the base; culprits: None where it only has other coordinates, and nothing was halved"""

    changes: BaseChanges
    culprits: Culprits | None

    @property
    def words(self) -> str:
        if self.culprits is None:
            moved = f"the base has its hidden units {self.changes.coordinates}"
            return f"{moved}: all its tensors together, and no half of them works without the other"
        return self.culprits.words


def bisect(old: Path, new: Path, adapter: Path, canaries: Sequence[Canary], cache_dir: Path) -> Divided:
    """Which tensors of the new base cost the adapter its effect?

    Raises Unreplayable where the two bases do not have the same tensors, or one cannot be loaded.
    """
    changes = base_changes(old, new)
    if changes.coordinates is not Coordinates.SAME:
        return Divided(changes, None)
    if changes.gone or changes.added or any(tensor.reshaped for tensor in changes.tensors):
        raise Unreplayable(str(new), "has other tensors or shapes than the old base: its parts cannot be put into it")
    stored = StoredTensors.open(new)
    with scratch_runner(old, adapter, cache_dir) as runner:
        accepted = reference(runner, canaries, FEW)
        hybrid = HybridBase(runner, stored, accepted)
        moved = {tensor.name: tensor.change for tensor in changes.changed}
        return Divided(changes, culprits(moved, hybrid.loss))


def loss_between(old: Path, new: Path, adapter: Path, canaries: Sequence[Canary], cache_dir: Path) -> bool:
    """Does the new base cost the adapter more than its tolerance, on a few canaries? Raises Unreplayable."""
    with scratch_runner(old, adapter, cache_dir) as runner:
        accepted = reference(runner, canaries, FEW)
    with scratch_runner(new, adapter, cache_dir) as runner:
        return measured_loss(runner, accepted).retention.mean < 1 - Tolerances().scale


class HybridBase:
    """The runner's live base, into which tensors of another are put and taken out again."""

    def __init__(self, runner: Runner, new: StoredTensors, accepted: Reference) -> None:
        self._runner, self._new, self._accepted = runner, new, accepted
        live = runner.loaded.live
        assert live is not None, "an open runner whose base is ready has it in memory"
        # With both names of a tied weight.
        self._parameters = dict(live.network.named_parameters(remove_duplicate=False))

    def loss(self, tensors: frozenset[str]) -> float:
        """1 - retention in the mean, with these tensors of the new base in the old one; at least 0, and at most 1.

        Raises Unreplayable for a tensor under a name that the model in memory does not have.
        """
        before = {name: self._parameter(name).detach().clone() for name in tensors}
        try:
            for name in tensors:
                self._parameter(name).data.copy_(self._new.stored(name))
            measured = measurements(self._runner, self._accepted)
        finally:
            for name, value in before.items():
                self._parameter(name).data.copy_(value)
        finite = [m.retention if m.finite else 0.0 for m in measured]
        return min(1.0, max(0.0, 1.0 - sum(finite) / len(finite)))

    def _parameter(self, name: str) -> torch.nn.Parameter:
        module, _, leaf = name.rpartition(".")
        wrapped = f"{module}.inner.{leaf}"  # of a module that the adapter changes
        own = self._parameters.get(name, self._parameters.get(wrapped))
        if own is None:
            raise Unreplayable(name, "has another name in the model in memory: its base cannot be divided")
        return own
