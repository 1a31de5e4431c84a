"""The part "desired state": it says what differs, asks again only when that is old, and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.clock import HandClock
from agent.config import Model
from agent.desired_state.kserve import Service, Source
from agent.desired_state.watch import DesiredState
from agent.errors import Retryable

MODEL = Model.model_validate({"name": "m", "served": {"url": "http://localhost:8000"}, "adapters": [{"name": "a"}]})


def test_the_part_says_so_and_asks_again_only_when_that_is_old(tmp_path: Path) -> None:
    answers: list[Callable[[], Service]] = [
        lambda: Service("m", ("a", "b"), True),
        lambda: Service("m", ("a",), True),
        lambda: (_ for _ in ()).throw(Retryable("LLMInferenceService n/s", "403")),
    ]
    asked: list[Source] = []

    def read(of: Source) -> Service:
        asked.append(of)
        return answers[len(asked) - 1]()

    clock = HandClock(0.0)
    state = DesiredState([(MODEL, Source("http://none", "n/s", tmp_path))], 300.0, clock, read)
    assert after_its_look(state) == (False, "n/s: desired and not watched: b")
    assert state.status[0] is False and len(asked) == 1
    clock.advance(300.0)
    assert after_its_look(state) == (True, "as watched: n/s")
    clock.advance(300.0)
    assert after_its_look(state) == (False, "LLMInferenceService n/s: 403")


def after_its_look(state: DesiredState) -> tuple[bool, str]:
    assert state.status is not None
    if state._thread is not None:
        state._thread.join()
    return state.status
