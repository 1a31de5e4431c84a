"""Before anything is accepted: what an engine answers under an adapter's name, beside its base."""

from __future__ import annotations

from collections.abc import Iterator
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


def looked(server: Server, adapter: str, route: Route = Route.PROMPT) -> Look:
    numbers = count()
    address = Address(server.url)
    with Client(address) as client:
        engine = connect(address, client=client)
        look = FirstLook(engine, server.engine.base, route, lambda: f"salt {next(numbers)}")
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


def test_only_ways_of_scoring_a_given_text_serve() -> None:
    assert route_to_look_by((Route.WALK, Route.GENERATED)) is Route.WALK
    assert route_to_look_by((Route.GENERATED, Route.TEXT)) is None
