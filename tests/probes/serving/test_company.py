from __future__ import annotations

from threading import Event

import pytest

from probes.errors import EngineAway
from probes.serving.company import company
from probes.serving.engine import Answered, Request
from tests.probes.serving.toy_engine import BASE, ToyEngine

REQUEST = Request(BASE, (65, 66, 67))


class Telling(ToyEngine):
    """Says when it has answered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.answered = Event()

    def generate(self, request: Request, tokens: int) -> Answered:
        answer = super().generate(request, tokens)
        self.answered.set()
        return answer


def test_each_request_has_an_engine_of_its_own_and_ends_with_the_block() -> None:
    engines = [Telling(), Telling()]
    waiting = list(engines)
    with company(lambda _: waiting.pop(), REQUEST, 2):
        assert all(engine.answered.wait(30) for engine in engines)
    counts = [engine.requests for engine in engines]
    assert min(counts) >= 1 and [engine.requests for engine in engines] == counts


def test_an_engine_that_is_away_is_no_company_and_disturbs_nothing() -> None:
    with company(lambda _: ToyEngine(away=True), REQUEST, 1):
        pass


def test_what_fails_inside_the_block_is_raised_and_the_requests_end() -> None:
    with pytest.raises(EngineAway), company(lambda _: ToyEngine(), REQUEST, 1):
        raise EngineAway("http://toy", "503")
