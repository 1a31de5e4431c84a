"""When the loop hands the saved state to the store: by the clock, and as its last act."""

from __future__ import annotations

from pathlib import Path

import orjson

from agent.alerting.judge import MAY_ADOPT_S
from agent.app import HEARTBEAT_S, SAVED_EVERY_S
from agent.records import SavedState, Watching
from tests.end_to_end.world import ADAPTERS, World


def test_a_state_is_handed_over_every_five_minutes_and_at_the_end(tmp_path: Path, goldens: Path) -> None:
    with World(tmp_path, goldens) as world:
        world.turn_round()
        world.clock.advance(SAVED_EVERY_S)
        world.app.step()
        assert world.sink.of(SavedState) == [], "it may still go on from another pod's"
        world.clock.advance(MAY_ADOPT_S)
        world.app.step()
        (first,) = world.sink.of(SavedState)
        for _ in range(3):
            world.clock.advance(HEARTBEAT_S)
            world.app.step()
        assert world.sink.of(SavedState) == [first]
        world.clock.advance(SAVED_EVERY_S)
        world.app.step()
        assert len(world.sink.of(SavedState)) == 2
    *_, last = world.sink.of(SavedState)
    assert (first.closed, last.closed) == (False, True)
    said = world.sink.of(Watching)
    assert {watching.subjects for watching in said} == {
        ("base/tiny", "base_requests/tiny", *(f"adapter/{name}" for name in ADAPTERS))
    }
    assert len(said) == 4, "in the first turn, and as often as the state"
    assert first.base == "tiny"
    assert {f"adapter/{name}" for name in ADAPTERS} <= set(last.subjects)
    state = orjson.loads(last.data)
    assert "embedding_drift" not in state["monitor"]["detectors"]
    assert state == orjson.loads((tmp_path / "monitor.json").read_bytes())["state"]
