"""A base swap in a container whose limit fits one base: the model process measures the live one, and a verdict comes.

The limit is the sum of what is counted: the agent, the model libraries, and the base by the headers of its files.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from agent.worker import memory_ceiling
from agent.worker.memory_ceiling import ADAPTER_BYTES, AGENT_BYTES
from benchmarks.node.faults import LIBRARIES_BYTES, ON_CPU
from detectors.records import Reason, Status
from probes.golden.archive import save
from probes.model.base_memory import base_memory
from tests.end_to_end.assembled import Assembled
from tests.probes.runners.cases_one_base import Volume, volume

__all__ = ["volume"]

PATIENCE_S = 200.0
NAME = "a"


class Agent(Assembled):
    """In a container of this limit."""

    def __init__(self, folder: Path, volume: Volume, limit: int, opened: ExitStack) -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(memory_ceiling, "container_limit", lambda: limit)
            super().__init__(written(folder, volume), opened, PATIENCE_S)

    def blocked_from(self, number: int) -> list[Reason | None]:
        return [made.members[0].blocked for made in self.rounds if made.number >= number]


def written(folder: Path, volume: Volume) -> Path:
    (folder / "live").symlink_to(volume.accepted)
    save(volume.golden, folder / "golden")
    adapter = {"name": NAME, "path": str(volume.adapter)}
    settings = {
        "models": [{"name": "wide", "path": str(folder / "live"), "adapters": [adapter]}],
        "probes": {
            "every": "1s",
            "device": "cpu",
            "golden_dir": str(folder / "golden"),
            "cache_dir": str(folder / "cache"),
        },
        "state_dir": str(folder / "state"),
        # Away: the one by default may hold what an earlier run here has judged, and this pod would go on from that.
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
    }
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def limit_for(models: int) -> int:
    return AGENT_BYTES + ADAPTER_BYTES + LIBRARIES_BYTES + models


@pytest.mark.timeout(450)
def test_a_swap_under_a_limit_for_one_base_has_a_verdict_in_the_second_round(volume: Volume, tmp_path: Path) -> None:
    need = base_memory(volume.accepted, ON_CPU)
    with ExitStack() as opened:
        agent = Agent(tmp_path, volume, limit_for(need.needed), opened)
        agent.until(lambda: bool(agent.sink.verdicts))
        assert agent.sink.verdicts[-1].status is Status.HEALTHY, agent.sink.verdicts[-1].explanation
        fresh = tmp_path / "next"
        fresh.symlink_to(volume.other)
        after = len(agent.rounds) + 1
        fresh.rename(tmp_path / "live")
        agent.until(lambda: len(agent.rounds) >= after + 3)
        assert None in agent.blocked_from(after)[:3], agent.rounds[-1]
        assert Reason.NO_MEMORY not in agent.blocked_from(after)
        agent.until(lambda: agent.sink.verdicts[-1].status in (Status.SUSPECT, Status.DEGRADED))
        assert agent.models.restarts == 0


@pytest.mark.timeout(450)
def test_a_limit_below_what_the_smallest_batch_needs_says_how_much_is_missing(volume: Volume, tmp_path: Path) -> None:
    need = base_memory(volume.accepted, ON_CPU)
    with ExitStack() as opened:
        agent = Agent(tmp_path, volume, limit_for(need.held // 2), opened)
        agent.until(lambda: bool(agent.rounds))
        member = agent.rounds[0].members[0]
        assert member.blocked is Reason.NO_MEMORY
        assert " requested, " in member.detail and " more needed" in member.detail
