"""Is an engine with users left alone where it has to be, and asked no more than it may be?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.clock import HandClock
from probes.errors import EngineAway, Unreplayable
from probes.serving.discovery import connect
from probes.serving.engine import Address, Answered, Between, Load, Request, Route, at_once
from probes.serving.limited_engine import LimitedEngine, LoadGuard, Stopped
from probes.serving.load_limits import LoadLimits, cost_of
from tests.serving_engines.in_process import Engine
from tests.serving_engines.shim import serving
from tests.serving_engines.toy_engine import ToyEngine

WHERE = "http://toy"
BOTH = (Route.PROMPT, Route.WALK)
PROMPT, CONTINUATION = (1, 2, 3, 4, 5, 6), (7, 8, 9, 10)
# Of one position of the toy language and one listed token.
ROW = cost_of(1, 1, 1, Route.WALK, 128).logit_bytes


class Busy(Engine):
    """loads: what it says of its load, one after the other, the last one on and on; refusal: of the next request"""

    def __init__(self, *loads: Load, routes: tuple[Route, ...] = BOTH) -> None:
        super().__init__(ToyEngine(), routes=routes)
        self.loads = list(loads) or [Load()]
        self.refusal: EngineAway | None = None

    def load(self) -> Load:
        return self.loads.pop(0) if len(self.loads) > 1 else self.loads[0]

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        if self.refusal:
            raise self.refusal
        return super().score(request, continuation, route, between)


class Asked:
    """One engine behind its guard, by a clock that is moved by waiting."""

    def __init__(self, behind: Busy, limits: LoadLimits | None = None, pause_file: str = "") -> None:
        self.behind, self.clock = behind, HandClock()
        self.guard = LoadGuard(WHERE, limits, pause_file, self.clock)
        self.engine = LimitedEngine(behind, replace(behind.capabilities(), vocabulary=128), self.guard)
        self.began = self.clock.steady()

    @property
    def waited_s(self) -> float:
        return self.clock.steady() - self.began

    def score(self, prompt: Sequence[int] = PROMPT, route: Route = Route.PROMPT) -> Answered:
        return self.engine.score(Request(self.behind.toy.base, tuple(prompt)), CONTINUATION, route)

    @property
    def routes(self) -> list[Route]:
        return [route for _, route in self.behind.requests]


def test_what_holds_too_many_logits_as_a_prompt_is_walked_to_the_token() -> None:
    asked = Asked(Busy(), LoadLimits(most_logit_bytes=10 * ROW))
    asked.score()
    asked.score((*PROMPT, 7))
    assert asked.routes == [Route.PROMPT, Route.WALK]


def test_what_cannot_be_walked_is_refused_in_words_and_never_sent() -> None:
    asked = Asked(Busy(routes=(Route.PROMPT,)), LoadLimits(most_logit_bytes=10 * ROW))
    with pytest.raises(Unreplayable, match="MB of logits in one request, wanted 0 at most: a shorter"):
        asked.score((*PROMPT, 7))
    assert asked.behind.requests == []


def test_a_text_that_is_too_long_is_refused_by_either_route() -> None:
    asked = Asked(Busy(), LoadLimits(most_tokens=9))
    for route in BOTH:
        with pytest.raises(Unreplayable, match="10 tokens to read, wanted 9 at most"):
            asked.score(route=route)
    with pytest.raises(Unreplayable, match="10 tokens to read"):
        asked.engine.generate(Request(asked.behind.toy.base, PROMPT), 4)


def test_a_vocabulary_that_is_not_told_is_taken_as_a_large_one() -> None:
    """127 positions of 262,144 tokens are below 200 MB, and 128 are not."""
    behind = Busy()
    guard = LoadGuard(WHERE, clock=HandClock())
    engine = LimitedEngine(behind, replace(behind.capabilities(), vocabulary=None), guard)
    for length in (127, 128):
        engine.score(Request(behind.toy.base, (1,) * (length - 4)), CONTINUATION, Route.PROMPT)
    assert [route for _, route in behind.requests] == [Route.PROMPT, Route.WALK]


def test_no_minute_has_more_than_its_budget_and_one_call() -> None:
    asked, sent = Asked(Busy(), LoadLimits(tokens_a_minute=110)), list[float]()
    for _ in range(100):
        asked.score()
        sent.append(asked.waited_s)
    worst = max(sum(11 for at in sent if start <= at < start + 60.0) for start in sent)
    assert worst == 110 and sent[9] == 0.0
    assert asked.waited_s == pytest.approx(9 * 60.0, abs=9.0)


def test_a_walk_is_counted_as_all_its_requests() -> None:
    asked = Asked(Busy(), LoadLimits(requests_a_minute=8))
    for _ in range(3):
        asked.score(route=Route.WALK)
    assert asked.waited_s == pytest.approx(60.0)


@pytest.mark.parametrize("busy", [Load(50, 1, 0.1), Load(50, 0, 0.95)])
def test_an_engine_that_is_busy_is_asked_once_it_is_not(busy: Load) -> None:
    asked = Asked(Busy(*[busy] * 4, Load(1, 0, 0.1)))
    asked.score()
    assert asked.waited_s == 4.0 and len(asked.routes) == 1


def test_an_engine_that_stays_busy_is_away_with_what_it_is_busy_with() -> None:
    asked = Asked(Busy(Load(50, 3, 0.95)))
    with pytest.raises(EngineAway, match="busy for 30 s: 3 requests wait, the key-value cache is 95% full"):
        asked.score()
    assert asked.waited_s == 30.0 and asked.behind.requests == []


def test_requests_of_its_own_that_queue_are_not_waited_for() -> None:
    asked = Asked(Busy(Load(1, 2, 0.1)))
    with asked.guard.until(lambda: False, beside=2):
        asked.score()
    assert asked.waited_s == 0.0


def test_after_a_refusal_nothing_is_asked_for_as_long_as_the_engine_wishes() -> None:
    asked = Asked(Busy())
    asked.behind.refusal = EngineAway(WHERE, "HTTP 429", 40.0)
    with pytest.raises(EngineAway, match="429"):
        asked.score()
    asked.behind.refusal = None
    with pytest.raises(EngineAway, match="asked again in 40 s") as left:
        asked.score()
    assert left.value.again_in_s == 40.0 and asked.waited_s == 0.0 and asked.behind.requests == []
    asked.clock.advance(40.0)
    asked.score()
    assert len(asked.routes) == 1


def test_refusals_in_a_row_double_the_time_until_the_next_request() -> None:
    asked, left = Asked(Busy()), list[float]()
    asked.behind.refusal = EngineAway(WHERE, "HTTP 503")
    for _ in range(3):
        with pytest.raises(EngineAway, match="503"):
            asked.score()
        with pytest.raises(EngineAway, match="asked again") as held:
            asked.score()
        left.append(held.value.again_in_s or 0.0)
        asked.clock.advance(left[-1])
    assert left == [5.0, 10.0, 20.0]


def test_a_wait_ends_at_a_stop_and_the_request_is_not_sent() -> None:
    asked = Asked(Busy(), LoadLimits(tokens_a_minute=11))
    asked.score()
    with pytest.raises(Stopped), asked.guard.until(lambda: asked.waited_s >= 3.0):
        asked.score()
    assert asked.waited_s == 3.0 and len(asked.routes) == 1
    asked.clock.advance(60.0)
    asked.score()


def test_a_stop_ends_a_walk_between_two_tokens() -> None:
    asked, calls = Asked(Busy()), list[int]()

    def is_stopped() -> bool:
        calls.append(1)
        return len(calls) > 2

    with pytest.raises(Stopped, match="between two requests"), asked.guard.until(is_stopped):
        asked.score(route=Route.WALK)
    assert len(calls) == 3, "before each of three tokens after the first"


def test_a_walk_waits_between_two_tokens_while_others_queue_and_no_longer_than_its_patience() -> None:
    idle, busy = Load(0, 0, 0.0), Load(9, 1, 0.5)
    asked = Asked(Busy(idle, idle, busy, busy, idle))

    def second_passes() -> bool:  # so that the load is read before each token
        asked.clock.advance(1.0)
        return False

    with asked.guard.until(second_passes):
        asked.score(route=Route.WALK)
    assert asked.waited_s == 3.0 + 2 * (1.0 + 1.0), "of the second token two waits, in each of which a second passes"
    assert len(asked.routes) == 1
    asked = Asked(Busy(idle, busy))
    with pytest.raises(EngineAway, match="busy for 30 s: 1 requests wait"), asked.guard.until(second_passes):
        asked.score(route=Route.WALK)


def test_an_enrolment_goes_by_the_load_of_an_engine_that_tells_it_and_else_by_the_minute() -> None:
    """11 tokens a call of 20 a minute: the third waits for a minute, or for nothing."""
    limits = LoadLimits(tokens_a_minute=20, by_load=True)
    for load, waited_s in ((Load(1, 0, 0.1), 0.0), (Load(1, None, 0.1), 60.0)):
        asked = Asked(Busy(load), limits)
        for _ in range(3):
            asked.score()
        assert asked.waited_s == pytest.approx(waited_s)
    asked = Asked(Busy(Load(9, 1, 0.1), Load(9, 0, 0.1)), limits)
    asked.score()
    assert asked.waited_s == 1.0, "an engine with a queue is left alone however much of the minute is left"


def test_while_the_pause_file_exists_nothing_at_all_is_asked(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    with serving(ToyEngine()) as server:
        found = connect(Address(server.url))
        capabilities = found.capabilities()
        engine = LimitedEngine(found, capabilities, LoadGuard(server.url, pause_file=str(pause)))
        request = Request(server.engine.base, PROMPT)
        engine.score(request, CONTINUATION, Route.PROMPT)
        before = len(server.questions)
        pause.touch()
        for ask in (
            lambda: engine.score(request, CONTINUATION, Route.PROMPT),
            lambda: engine.generate(request, 1),
            engine.models,
            engine.identity,
            engine.load,
            lambda: engine.encode("base", "text"),
            lambda: engine.encode_chat("base", []),
            lambda: engine.decode("base", [1]),
        ):
            with pytest.raises(EngineAway, match="pause exists; remove it to go on"):
                ask()
        assert len(server.questions) == before
        pause.unlink()
        engine.score(request, CONTINUATION, Route.PROMPT)
        assert len(server.questions) > before


def test_a_pause_ends_a_wait(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    asked = Asked(Busy(), LoadLimits(tokens_a_minute=11), str(pause))
    asked.score()

    def paused_meanwhile() -> bool:
        if asked.waited_s >= 2.0:
            pause.touch()
        return False

    with pytest.raises(EngineAway, match="pause exists"), asked.guard.until(paused_meanwhile):
        asked.score()
    assert asked.waited_s == 3.0 and len(asked.routes) == 1


def test_a_load_that_cannot_be_read_holds_up_nothing() -> None:
    asked = Asked(Busy())

    def unreadable() -> Load:
        raise Unreplayable(WHERE, "HTML")

    asked.behind.load = unreadable  # type: ignore[method-assign]
    asked.score()
    assert len(asked.routes) == 1
