"""Is SGLang asked for the base without an adapter's name, and for every other name by it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from probes.errors import Unreplayable
from probes.runners.memory import Config, Runner
from probes.serving.client import Client
from probes.serving.dialects.sglang import Engine
from probes.serving.engine import Address, Load, Request, Route
from tests.serving_engines import transport
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
