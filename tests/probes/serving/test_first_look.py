"""Before anything is accepted: what an engine answers under an adapter's name, beside its base."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from probes.serving.client import Client
from probes.serving.discovery import connect
from probes.serving.engine import Address, Route
from probes.serving.first_look import FirstLook, Look, in_words, route_to_look_by
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine(noise=0.01)) as server:
        yield server


def never() -> bool:
    return False


def looked(server: Server, adapter: str, route: Route = Route.PROMPT, late: Callable[[], bool] = never) -> Look:
    numbers = count()
    address = Address(server.url)
    with Client(address) as client:
        engine = connect(address, client=client)
        look = FirstLook(engine, server.engine.base, route, lambda: f"salt {next(numbers)}", late)
        look.open()
        return look.look(adapter)


@pytest.mark.parametrize("route", [Route.PROMPT, Route.WALK])
def test_an_adapter_that_is_applied_differs(server: Server, route: Route) -> None:
    look = looked(server, "alpha", route)
    assert look.difference.differs and look.difference.gap > 10 * look.difference.noise > 0
    assert in_words("alpha", look).startswith("differs from its base: ")


def test_a_name_that_is_answered_by_the_base_does_not_differ(server: Server) -> None:
    server.engine.faults.of_adapter["alpha"] = "not_applied"
    look = looked(server, "alpha")
    assert not look.difference.differs and look.difference.gap < 2 * look.difference.noise and look.written == 0
    assert in_words("alpha", look).startswith("no difference from its base on 8 neutral prompts")


def test_an_adapter_that_is_scored_as_the_base_and_written_as_itself_is_told_so(server: Server) -> None:
    server.engine.faults.scored_as_base.add("alpha")
    look = looked(server, "alpha")
    assert not look.difference.differs and (look.written or 0) >= 4
    assert "scored texts do not show what is served under alpha" in in_words("alpha", look)


def test_the_adapter_that_has_the_bases_name_does_not_differ_and_the_other_does(server: Server) -> None:
    server.engine.faults.base_serves = "alpha"
    assert not looked(server, "alpha").difference.differs
    assert looked(server, "beta").difference.differs


def test_an_engine_that_repeats_itself_exactly_is_no_exception(server: Server) -> None:
    server.engine.noise = 0.0
    assert looked(server, "alpha").difference.differs
    server.engine.faults.of_adapter["alpha"] = "not_applied"
    assert not looked(server, "alpha").difference.differs


@pytest.mark.parametrize("adapter", ["alpha", "beta"])
def test_token_by_token_fewer_are_asked_and_what_is_left_out_is_told(server: Server, adapter: str) -> None:
    """8 prompts, four times, 4 tokens each: a request for each token."""
    look = looked(server, adapter, Route.WALK)
    scored = [body for body in server.bodies("/v1/completions") if body["max_tokens"] == 1]
    assert look.difference.differs and 8 * 4 * 2 <= len(scored) <= 8 * 4 * (4 + 1)
    left_out = "; left out: all but 4 tokens of each text, as this engine is asked token by token"
    assert in_words(adapter, look).endswith(left_out)


def late_after(answers: int) -> Callable[[], bool]:
    """Time ends after so many texts were written or scored: it is looked at before each."""
    asked = count(1)
    return lambda: next(asked) > answers


def test_where_time_ends_the_prompts_that_were_compared_whole_are_judged(server: Server) -> None:
    look = looked(server, "alpha", late=late_after(8 + 5 * 4 + 2))
    assert look.difference.differs and (look.difference.prompts, look.left_out) == (5, 3)
    assert in_words("alpha", look).endswith("; left out: 3 prompts of 8, as the minute was over")


def test_where_time_ends_with_too_few_prompts_it_cannot_tell(server: Server) -> None:
    look = looked(server, "alpha", late=late_after(8 + 4 * 4))
    assert look.difference.needed is None and not look.difference.differs and look.written is None
    expected = "cannot tell: the answers to 4 prompts are too few; left out: 4 prompts of 8, as the minute was over"
    assert in_words("alpha", look) == expected


def test_where_time_ends_while_the_base_writes_nothing_is_compared(server: Server) -> None:
    look = looked(server, "alpha", late=late_after(3))
    assert (look.difference.prompts, look.left_out, look.difference.needed) == (0, 8, None)


def test_where_time_ends_before_its_own_words_these_are_not_told(server: Server) -> None:
    server.engine.faults.of_adapter["alpha"] = "not_applied"
    look = looked(server, "alpha", late=late_after(8 + 8 * 4))
    assert look.difference.prompts == 8 and look.written is None and look.left_out == 0
    assert in_words("alpha", look).startswith("no difference from its base on 8 neutral prompts")


def test_only_ways_of_scoring_a_given_text_serve() -> None:
    assert route_to_look_by((Route.WALK, Route.GENERATED)) is Route.WALK
    assert route_to_look_by((Route.GENERATED, Route.TEXT)) is None
