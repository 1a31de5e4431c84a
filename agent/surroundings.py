"""What a sink is given beside its own settings; one record for all of them, so that none is a special case."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.clock import Clock
from agent.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Surroundings:
    """cluster, pod: where this agent runs; state_dir: a folder that survives a restart of the container
    telemetry: the metrics page, shared with the parts that report figures of their own
    """

    cluster: str = ""
    pod: str = ""
    state_dir: Path = Path()
    telemetry: Telemetry = field(default_factory=Telemetry)
    clock: Clock = field(default_factory=Clock)
