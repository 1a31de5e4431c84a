"""Is any server of OpenAI's completions API asked for as much as it has, and are names without ids kept apart?"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from probes.errors import Unreplayable
from probes.runners.memory import Config, Runner
from probes.serving.client import Client
from probes.serving.dialects.openai import NAMED_BY_TEXT, Engine
from probes.serving.engine import Address, Request, Route
from tests.serving_engines import transport
from tests.serving_engines.shim import Server, serving

PROMPT = Runner(Config()).encode_chat([{"role": "user", "content": "Is the parcel lost, or only late?"}])
ANSWER = tuple(b"lost")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(fields="openai") as running:
        yield running


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    with Client(Address(server.url)) as client:
        yield Engine(Address(server.url), client)


def test_what_is_found_by_asking(engine: Engine) -> None:
    can = engine.capabilities()
    assert can.routes == (Route.PROMPT, Route.GENERATED)
    assert (can.most_listed, can.takes_ids, can.tokenizes, can.isolates) == (5, True, False, False)


def echoes_nothing(value: dict[str, Any]) -> None:
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        lists = value["choices"][0]["logprobs"]
        if lists:
            lists[name] = lists[name][-1:]


def test_a_server_that_ignores_echo_generates_only(server: Server, engine: Engine) -> None:
    server.transport.set(transport.edited(echoes_nothing), only="/v1/completions")
    assert engine.capabilities().routes == (Route.GENERATED,)
    with pytest.raises(Unreplayable, match="1 positions for"):
        engine.score(Request("alpha", PROMPT, 3), ANSWER, Route.PROMPT)


def test_a_server_without_log_probabilities_gives_text(server: Server, engine: Engine) -> None:
    silent = transport.edited(lambda value: value["choices"][0].update(logprobs=None))
    server.transport.set(silent, only="/v1/completions")
    can = engine.capabilities()
    assert (can.routes, can.most_listed) == ((Route.TEXT,), 0)


def test_tokens_that_are_named_by_text_have_numbers_of_their_own(engine: Engine) -> None:
    """The given token of a position has its id, so that no other one is taken for it; all else is beyond any id."""
    listed = engine.score(Request("alpha", PROMPT, 5), tuple(b"5ppp"), Route.PROMPT).listed
    for row, token in zip(listed.ids, listed.tokens, strict=True):
        assert {int(i) for i in row if i < NAMED_BY_TEXT} <= {int(token)}
    assert (listed.ids == listed.tokens[:, None]).any(), "a given token is among the most probable here"


def test_the_number_of_a_text_is_fixed(engine: Engine) -> None:
    """They are stored in golden records: the checksum of RFC 1952, section 8, of the text in UTF-8."""
    listed = engine.generate(Request("alpha", PROMPT, 2), 1).listed
    assert set(map(int, listed.ids[0])) <= {NAMED_BY_TEXT + zlib.crc32(bytes([i])) % NAMED_BY_TEXT for i in range(128)}
    assert zlib.crc32(b"a") == 0xE8B7BE43


def test_a_server_that_names_ids_is_asked_for_them() -> None:
    """As servers with vLLM's fields behind another name."""
    with serving() as server, Client(Address(server.url)) as client:
        engine = Engine(Address(server.url), client)
        can = engine.capabilities()
        assert Route.GENERATED in can.routes and can.most_listed == 20
        listed = engine.generate(Request("alpha", PROMPT, 5), 3).listed
    assert (listed.ids < 128).all()
    assert np.array_equal(listed.ids[:, 0], listed.tokens)


def test_the_fingerprint_is_its_identity(engine: Engine) -> None:
    assert engine.identity().fingerprint.startswith("vllm-0.33.0")
