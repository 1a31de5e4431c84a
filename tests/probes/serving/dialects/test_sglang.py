"""Is SGLang asked for the base without an adapter's name, and for every other name by it?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.runners.memory import Config, Runner
from probes.serving.client import Client
from probes.serving.dialects.sglang import Engine
from probes.serving.engine import Address, Load, Request, Route
from probes.serving.openai_answers import events
from tests.serving_engines import transport
from tests.serving_engines.replies import Reply, as_events
from tests.serving_engines.shim import Server, serving

PROMPT = Runner(Config()).encode_chat([{"role": "user", "content": "Is the parcel lost, or only late?"}])
ANSWER = tuple(b"lost")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(fields="sglang") as running:
        yield running


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    with Client(Address(server.url)) as client:
        yield Engine(Address(server.url), client)


@pytest.mark.parametrize(("model", "sent"), [("base-v1", None), ("alpha", "alpha")])
def test_the_base_has_no_adapter_path(server: Server, engine: Engine, model: str, sent: str | None) -> None:
    engine.score(Request(model, PROMPT, 3), ANSWER, Route.PROMPT)
    (body,) = server.bodies("/generate")
    assert body.get("lora_path") == sent
    assert (body["logprob_start_len"], body["sampling_params"]["max_new_tokens"]) == (0, 0)


def test_another_name_of_the_base_is_no_adapter(server: Server, engine: Engine) -> None:
    """--served-model-name gives names that have no parent."""

    def rename(value: dict[str, Any]) -> None:
        value["data"].insert(1, {**value["data"][0], "id": "base-by-another-name"})

    server.transport.set(transport.edited(rename), only="/v1/models")
    engine.generate(Request("base-by-another-name", PROMPT), 1)
    assert "lora_path" not in server.bodies("/generate")[0]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda meta: meta["input_token_logprobs"].pop(), "other positions"),
        (lambda meta: meta["input_token_logprobs"][1].__setitem__(1, 9), "read other tokens"),
        (lambda meta: meta["input_top_logprobs"].pop(), "other positions"),
        (lambda meta: meta.pop("input_top_logprobs"), "another form"),
        (lambda meta: meta["input_token_logprobs"][-1].__setitem__(0, 3.0), "above 0|listed one"),
        (lambda meta: meta["input_token_logprobs"][-1].__setitem__(0, None), "another form"),
    ],
)
def test_an_answer_of_other_tokens_or_another_form(
    server: Server, engine: Engine, edit: Callable[[dict[str, Any]], Any], words: str
) -> None:
    server.transport.set(transport.edited(lambda value: edit(value["meta_info"])), only="/generate")
    with pytest.raises(Unreplayable, match=words):
        engine.score(Request("alpha", PROMPT, 3), ANSWER, Route.PROMPT)


def test_the_walk_reads_the_named_token_and_no_other(server: Server, engine: Engine) -> None:
    def rename(value: dict[str, Any]) -> None:
        value["meta_info"]["output_token_ids_logprobs"][0][0][1] = 9

    server.transport.set(transport.edited(rename), only="/generate")
    with pytest.raises(Unreplayable, match="another token than the one that was named"):
        engine.score(Request("alpha", PROMPT, 3), ANSWER, Route.WALK)


def test_generated_tokens_and_their_log_probabilities_are_as_many(server: Server, engine: Engine) -> None:
    server.transport.set(transport.edited(lambda value: value["output_ids"].pop()), only="/generate")
    with pytest.raises(Unreplayable, match="log-probabilities of"):
        engine.generate(Request("alpha", PROMPT, 3), 3)


def test_its_weights_have_a_version(engine: Engine) -> None:
    assert engine.identity().weights == "default"


def test_without_enable_metrics_it_does_not_say_how_busy_it_is(server: Server, engine: Engine) -> None:
    server.settings.cache_usage = 0.25
    assert engine.load() == Load(0, 0, 0.25)
    server.transport.set(transport.status(404), only="/metrics")
    assert engine.load() == Load()


def test_how_many_adapters_it_holds_is_a_setting_that_it_names(server: Server, engine: Engine) -> None:
    assert engine.adapter_slots() is None
    server.settings.max_loras = 8
    assert engine.adapter_slots() == 8


@pytest.mark.parametrize("is_incremental", [False, True])
def test_what_is_streamed_is_what_comes_whole(server: Server, engine: Engine, is_incremental: bool) -> None:
    """Also from a server that was started to send each token once."""
    assert set(engine.capabilities().modes) == {Mode.STREAMED, Mode.CHAT, Mode.WARM}
    whole = engine.generate(Request("alpha", PROMPT, 3), 4)
    if is_incremental:
        server.transport.set(_each_token_once, only="/generate")
    streamed = engine.generate(Request("alpha", PROMPT, 3, streamed=True), 4)
    assert len(whole.listed.tokens) == 4 and streamed.text == whole.text and streamed.ended == whole.ended
    for name in ("ids", "log_probs", "tokens", "of_tokens"):
        assert np.array_equal(getattr(streamed.listed, name), getattr(whole.listed, name)), name


def test_a_version_that_tells_no_ids_of_chats_is_not_compared_there(server: Server, engine: Engine) -> None:
    server.settings.tells_of_chats = frozenset(("token_ids",))
    assert set(engine.capabilities().modes) == {Mode.STREAMED, Mode.WARM}


def test_a_chat_is_the_one_that_was_rendered_and_is_never_streamed(server: Server, engine: Engine) -> None:
    messages = ({"role": "user", "content": "Is the parcel lost, or only late?"},)
    prompt = engine.encode_chat("alpha", messages)
    request = Request("alpha", prompt, 3, salt="cold", messages=messages)
    assert engine.generate(request, 2).prompt == prompt
    (body,) = server.bodies("/v1/chat/completions")
    assert (body["lora_path"], body["extra_key"], body["temperature"]) == ("alpha", "cold", 0)
    with pytest.raises(Unreplayable, match="other tokens"):
        engine.generate(replace(request, prompt=(*prompt, 1)), 2)
    with pytest.raises(Unreplayable, match="in a stream"):
        engine.generate(replace(request, streamed=True), 2)


def _each_token_once(reply: Reply, ended: threading.Event) -> Reply:
    content = reply.content if isinstance(reply.content, bytes) else b"".join(reply.content)
    pieces, before = events(content), 0
    for piece in pieces:
        meta, text = piece["meta_info"], piece["text"]
        for name in ("output_token_logprobs", "output_top_logprobs"):
            meta[name] = meta[name][-1:]
        piece["text"], before = text[before:], len(text)
    return as_events(pieces)


def test_a_stream_that_breaks_off_is_refused(server: Server, engine: Engine) -> None:
    def cut(reply: Reply, ended: threading.Event) -> Reply:
        content = reply.content if isinstance(reply.content, bytes) else b"".join(reply.content)
        return replace(reply, content=content.replace(b"data: [DONE]", b""))

    server.transport.set(cut, only="/generate")
    with pytest.raises(Unreplayable, match="another form"):
        engine.generate(Request("alpha", PROMPT, 3, streamed=True), 4)


def test_a_warm_request_finds_the_prefix_of_the_one_before(engine: Engine) -> None:
    prompt = PROMPT * 2
    assert [engine.generate(Request("alpha", prompt, 3, warm=True), 2).cached for _ in range(2)] == [
        0,
        (len(prompt) - 1) // 16 * 16,
    ]
    assert engine.generate(Request("alpha", prompt, 3, salt="other"), 2).cached == 0
