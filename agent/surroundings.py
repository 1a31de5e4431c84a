"""What is every sink given beside its own settings: the agent's name, a folder, metrics page, clock and page policy.

A field that is added here is given to all sinks; assemble.py fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.alerting.policy import Policy
from agent.clock import Clock
from agent.delivery.disk import Disk
from agent.status_page.board import Board
from agent.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Surroundings:
    """cluster, pod: where this agent runs; state_dir: a folder that survives a restart of the container
    telemetry: the metrics page, shared with the parts that report figures of their own
    consumer_group: of Kafka, by which this agent reads, "" without one
    board: what the status page shows
    policy: how urgent an incident is, and whose it is
    disk: what writes files in order, at once where it is not open
    """

    cluster: str = ""
    pod: str = ""
    state_dir: Path = Path()
    telemetry: Telemetry = field(default_factory=Telemetry)
    clock: Clock = field(default_factory=Clock)
    consumer_group: str = ""
    board: Board = field(default_factory=Board)
    policy: Policy = field(default_factory=Policy)
    disk: Disk = field(default_factory=Disk)
