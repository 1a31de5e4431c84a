"""One pod, from its start until it was watched long enough, and what the sidecar cost it."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.node import timeline
from benchmarks.node.sidecar_pod import BROKER_PORT, ROOT, Inputs
from benchmarks.node.single_node import Node
from benchmarks.node.timeline import Look

# A healthy pod is up in a few seconds; the startup probe gives up after five minutes.
START_PATIENCE_S = 45.0
END_PATIENCE_S = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the sidecar cost the pod. None stands for "never".

    start_s: from the manifest's arrival to a pod that is Ready
    unready_s: seconds not Ready after that, silent_s: seconds in which the engine did not answer after it had begun to
    restarts: of the sidecar's container; ended: how it ended last, "" for never
    unwell: each part that is not ok before the mend -> its words; in_metrics: those that the metrics name so
    statuses: subject -> 0 healthy to 3 unmonitorable, as said last; log: the sidecar's last lines
    mended_s: from the mend of the fault until each of these parts was ok, nan where nothing was mended
    """

    start_s: float | None
    unready_s: float
    silent_s: float
    restarts: int
    ended: str
    unwell: dict[str, str] = field(default_factory=dict)
    in_metrics: frozenset[str] = frozenset()
    statuses: dict[str, int] = field(default_factory=dict)
    log: str = ""
    mended_s: float | None = math.nan


class Trial:
    """A pod that runs. ``looks`` grows by itself, ten times a second."""

    def __init__(self, node: Node, inputs: Inputs, record: Path) -> None:
        self.node, self.inputs, self._record = node, inputs, record
        self.began = time.time()

    @property
    def looks(self) -> list[Look]:
        lines = self._record.read_text().split("\n")[:-1]
        return [timeline.read_look(line, self.inputs.name) for line in lines]

    @property
    def last(self) -> Look:
        looks = self.looks
        return looks[-1] if looks else Look(0.0)

    def wait(self, holds: Callable[[Look], bool], patience_s: float) -> bool:
        """Wait until it holds for a look; False where it did not within that time."""
        give_up = time.monotonic() + patience_s
        while not holds(self.last):
            if time.monotonic() > give_up:
                return False
            time.sleep(0.1)
        return True

    def kill_sidecar(self) -> None:
        self.node.kill(self.main_process())

    def main_process(self) -> int:
        return self.node.main_process(self.last.sidecar_id)

    def volume(self, name: str) -> Path:
        """The folder of one of the pod's emptyDir volumes, in the node."""
        return self.node.folder / f"kubelet/pods/{self.last.uid}/volumes/kubernetes.io~empty-dir/{name}"

    def outcome(self) -> Outcome:
        looks, ready = self.looks, timeline.first_ready(self.looks)
        return Outcome(
            start_s=None if ready is None else ready - self.began,
            unready_s=timeline.seconds_unready(looks),
            silent_s=timeline.seconds_silent(looks),
            restarts=max((look.sidecar_restarts for look in looks), default=0),
            ended=timeline.last_end(looks),
            unwell=timeline.unwell(looks),
            in_metrics=timeline.unwell_in_metrics(looks),
            statuses=timeline.last_statuses(looks),
            log=self._log_end(),
        )

    def _log_end(self) -> str:
        logs = sorted(self.node.folder.glob(f"logs/default_{self.inputs.name}-*/gapwatch/*.log"))
        return logs[-1].read_text(errors="replace")[-3000:] if logs else ""


@contextmanager
def trial(node: Node, inputs: Inputs) -> Iterator[Trial]:
    """Start the pod and watch it; on the way out it is ended, and waited for."""
    record = inputs.folder / "looks.jsonl"
    with record.open("wb") as written, beside(node, "benchmarks.node.watcher", stdout=written):
        running = Trial(node, inputs, record)
        node.apply(inputs.pod())
        try:
            yield running
        finally:
            node.remove(inputs.name)
            _wait_until_ended(node)


def _wait_until_ended(node: Node) -> None:
    """Until no container runs in the node; the kubelet forgets a removed pod before its processes have ended."""
    give_up = time.monotonic() + END_PATIENCE_S
    while len(node.ctr("tasks", "list").splitlines()) > 1:
        if time.monotonic() > give_up:
            raise TimeoutError(f"containers still run {END_PATIENCE_S:.0f} s after their pod was removed")
        time.sleep(0.3)


@contextmanager
def beside(node: Node, module: str, *words: str, stdout: Any = subprocess.DEVNULL) -> Iterator[None]:
    """A module of this checkout that runs in the node meanwhile."""
    command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", module, *words]
    found_here = os.environ | {"PYTHONPATH": str(ROOT)}  # entering a mount namespace leaves the folder
    process = subprocess.Popen(node.inside(command), env=found_here, stdout=stdout)
    try:
        yield
    finally:
        process.kill()  # nsenter; what it started has its death signal from it
        process.wait()


@contextmanager
def broker(node: Node) -> Iterator[None]:
    with beside(node, "benchmarks.node.neighbour", "broker", str(BROKER_PORT)):
        yield
