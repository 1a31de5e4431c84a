"""Are TGI and LoRAX asked by text so that the tokens are those that were meant, and is another tokenisation refused?"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from probes.errors import Unreplayable
from probes.serving.client import Client
from probes.serving.dialects.tgi import Engine
from probes.serving.engine import Address, Request, Route
from tests.serving_engines import transport
from tests.serving_engines.replies import Reply, as_events, as_json
from tests.serving_engines.shim import Server, serving

MESSAGES = [{"role": "user", "content": "Is the parcel lost, or only late?"}]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(fields="tgi") as running:
        yield running


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    with Client(Address(server.url)) as client:
        yield Engine(Address(server.url), client)


def test_the_base_has_no_adapter_id(server: Server, engine: Engine) -> None:
    prompt = engine.encode_chat("alpha", MESSAGES)
    for name in (engine.models()[0].name, "alpha"):
        engine.generate(Request(name, prompt, 3), 1)
    sent = [body["parameters"].get("adapter_id") for body in server.bodies("/generate")]
    assert sent == [None, "alpha"]


def test_a_prompt_whose_text_it_has_not_told_cannot_be_asked(engine: Engine) -> None:
    with pytest.raises(Unreplayable, match="encode it first"):
        engine.generate(Request("alpha", (3, 117, 2, 1), 3), 1)


def test_a_continuation_is_written_by_the_names_of_its_tokens(engine: Engine) -> None:
    """Generated tokens are named in the answer, so that what was generated may be walked."""
    prompt = engine.encode_chat("alpha", MESSAGES)
    generated = engine.generate(Request("alpha", prompt, 3), 3).listed
    walked = engine.score(Request("alpha", prompt, 3), tuple(map(int, generated.tokens)), Route.WALK).listed
    assert walked.of_tokens == pytest.approx(generated.of_tokens, abs=1e-6)


def test_a_stream_of_another_prompt_or_of_fewer_tokens_is_refused(server: Server, engine: Engine) -> None:
    prompt = engine.encode_chat("alpha", MESSAGES)
    for name, words in (("input_length", "it read 3 tokens"), ("generated_tokens", "4 tokens in a stream of 3")):
        server.transport.set(partial(_with_detail, name), only="/generate_stream")
        with pytest.raises(Unreplayable, match=words):
            engine.generate(Request("alpha", prompt, 3, streamed=True), 4)


def _with_detail(name: str, reply: Reply, ended: threading.Event) -> Reply:
    *pieces, last = [json.loads(piece[len(b"data:") :]) for piece in reply.content if piece]  # type: ignore[index]
    last["details"][name] = 3
    return as_events([*pieces, last], end=b"")


def test_special_tokens_around_a_text_are_none_of_it(server: Server, engine: Engine) -> None:
    start = {"id": 1, "text": "", "start": 0, "stop": 0}
    server.transport.set(lambda reply, _ended: _with(reply, start), only="/tokenize")
    assert engine.encode("alpha", "lost") == tuple(b"lost")


def _with(reply: Reply, entry: dict[str, Any]) -> Reply:
    assert isinstance(reply.content, bytes)
    return as_json([entry, *json.loads(reply.content)])


def test_another_tokenisation_is_refused(server: Server, engine: Engine) -> None:
    """As where the server puts a second start token before a rendered chat."""
    prompt = engine.encode_chat("alpha", MESSAGES)

    def more(value: dict[str, Any]) -> None:
        value["details"]["prefill"].insert(0, {"id": 1, "text": "<start>", "logprob": None})

    server.transport.set(transport.edited(more), only="/generate")
    with pytest.raises(Unreplayable, match="other tokens of this text"):
        engine.generate(Request("alpha", prompt, 3), 1)


def test_without_log_probabilities_of_prompts_it_generates_only(server: Server, engine: Engine) -> None:
    """TGI from version 3 on, without --enable-prefill-logprobs."""
    prompt = engine.encode_chat("alpha", MESSAGES)
    engine.encode("alpha", "lost")
    server.transport.set(transport.edited(lambda value: value["details"].update(prefill=[])), only="/generate")
    assert engine.capabilities().routes == (Route.GENERATED,)
    assert engine.generate(Request("alpha", prompt, 3), 1).prompt is None
    with pytest.raises(Unreplayable, match="enable-prefill-logprobs"):
        engine.score(Request("alpha", prompt, 3), tuple(b"lost"), Route.WALK)


def test_lorax_lists_alternatives_of_each_token(server: Server, engine: Engine) -> None:
    prompt = engine.encode_chat("alpha", MESSAGES)
    by_tgi = engine.generate(Request("alpha", prompt, 3), 2).listed
    server.transport.set(transport.edited(lambda value: value["details"].pop("top_tokens")), only="/generate")
    by_lorax = engine.generate(Request("alpha", prompt, 3), 2).listed
    assert (by_lorax.ids == by_tgi.ids).all() and (by_lorax.log_probs == by_tgi.log_probs).all()


def test_what_max_top_n_tokens_allows_is_found_by_halving(engine: Engine) -> None:
    can = engine.capabilities()
    assert (can.most_listed, can.takes_ids, can.context) == (5, False, 2048)
