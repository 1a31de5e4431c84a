"""A clock that is set back by a day, or a year ahead and back again: rounds, heartbeats and responses go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.app import HEARTBEAT_S
from agent.records import Heartbeat
from detectors.records import Status, Verdict
from tests.end_to_end.world import ADAPTERS, World

DAY_S, YEAR_S = 86400.0, 365 * 86400.0


@pytest.mark.parametrize("jumps", [(-DAY_S,), (YEAR_S,), (YEAR_S, -YEAR_S), (-DAY_S, DAY_S)])
def test_rounds_and_heartbeats_go_on_at_their_interval_and_nobody_is_called(
    tmp_path: Path, goldens: Path, jumps: tuple[float, ...]
) -> None:
    with World(tmp_path, goldens) as world:
        world.turn_round()
        for seconds in jumps:
            world.clock.jump(seconds)
            beats, rounds = len(world.sink.of(Heartbeat)), len(world.rounds)
            world.clock.advance(HEARTBEAT_S)
            world.app.step()
            assert len(world.sink.of(Heartbeat)) == beats + 1
            for _ in range(3):
                world.turn_round()
            assert len(world.rounds) - rounds <= 3 + 2, "one at once, and one that says that the clock made one late"
        assert {verdict.status for verdict in world.sink.of(Verdict)[-len(ADAPTERS) :]} == {Status.HEALTHY}
        assert world.sink.notices == []
