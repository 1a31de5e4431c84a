"""Seconds in which a real kubelet's pod was out of service through its sidecar, for each fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, console, context, exactly
from benchmarks.node.faults import FAULTS, HEALTHY_POD, KILLED, Fault, is_told, measure_fault, replaced_pod
from benchmarks.node.sidecar_pod import lay_models
from benchmarks.node.single_node import Node, single_node
from benchmarks.node.trial import START_PATIENCE_S, Outcome, broker


def measure(folder: Path, quick: bool) -> list[Figure]:
    """quick: without the faults that need a base."""
    faults = [fault for fault in FAULTS if not (quick and fault.models)]
    with single_node(folder / "node") as node, broker(node):
        runs = _Runs(node, folder)
        figures = [_start(runs.outcome(HEALTHY_POD)), *(f for fault in faults for f in _costs(fault, runs))]
        killed = runs.outcome(KILLED)
        rollout = replaced_pod(node, folder / "rollout")
    return [
        *figures,
        context("sidecar's main process killed with -9: seconds not Ready", killed.unready_s, "s"),
        exactly("sidecar's main process killed with -9: engine without an answer", killed.silent_s, "s", 0),
        context("rollout: from the order to the end of every process", rollout.end_s, "s"),
    ]


@dataclass(slots=True)
class _Runs:
    """The pods of one node, each in a folder of its own; the models volume is written when it is first needed."""

    node: Node
    folder: Path
    volume: Path | None = None
    n: int = 0

    def outcome(self, fault: Fault) -> Outcome:
        console.print(f"  {fault.name} ...")
        if fault.models and self.volume is None:
            self.volume = self.folder / "volume"
            lay_models(self.volume)
        self.n += 1
        return measure_fault(self.node, fault, self.folder / f"pod-{self.n}", self.volume)


def _start(healthy: Outcome) -> Figure:
    return context("a healthy sidecar: pod Ready after", healthy.start_s or float("inf"), "s")


def _costs(fault: Fault, runs: _Runs) -> list[Figure]:
    """A pod that never became Ready was out of service for as long as it was waited for."""
    try:
        outcome = runs.outcome(fault)
    except LookupError as error:
        console.print(f"  not measured: {fault.name}: {error}")
        return []
    out_s = outcome.unready_s if outcome.start_s is not None else START_PATIENCE_S
    figures = [exactly(f"{fault.name}: seconds out of service", out_s, "s", 0)]
    if fault.told_by or fault.status is not None:
        figures.append(exactly(f"{fault.name}: told by /readyz and metrics", float(is_told(outcome, fault)), "", 1))
    if fault.mend is not None:
        mended = float(outcome.start_s is not None and outcome.mended_s is not None)
        figures.append(exactly(f"{fault.name}: mended without a restart", mended, "", 1))
    return figures
