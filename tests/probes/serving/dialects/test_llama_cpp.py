"""Is the real server of llama.cpp asked so that it answers with PEFT's log-probabilities, and at the scale it has set?

A float32 GGUF of a random Llama; the server keeps keys and values in float16: it differs from PEFT by some 0.003 nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from transformers import AutoTokenizer

from detectors.records import Floats, Mode
from examples.engines.llama_cpp.convert import write_adapter, write_base
from examples.engines.llama_cpp.llama_server import llama_server
from examples.engines.llama_cpp.tiny_llama import byte_level_base
from probes.errors import Unreplayable
from probes.serving.client import Client, Reply
from probes.serving.dialects.llama_cpp import Engine, _joined, _tokens_in_order
from probes.serving.discovery import kind_of
from probes.serving.engine import Address, Load, Request, Route, ServedModel
from probes.serving.json_form import samples
from tests.probes.tiny import peft_log_probs, tiny_adapter

pytest.importorskip("xllamacpp", reason="the real server of llama.cpp: pip install xllamacpp")

MESSAGES = [{"role": "user", "content": "in the world"}]
PROMPT, FORCED = (1, 20, 31, 42, 7, 9), (11, 60, 61, 5, 33, 2)  # the last one ends a text
FLOAT16_KEYS = 0.02  # nats
TUNED = {"router": {}, "tone": {"use_rslora": True, "target_modules": ["q_proj", "k_proj", "o_proj", "gate_proj"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters with different scalings and modules, and a GGUF file of each."""
    whole = tmp_path_factory.mktemp("llama")
    base = byte_level_base(whole / "base")
    write_base(base, whole / "base.gguf")
    for seed, (name, settings) in enumerate(TUNED.items(), start=1):
        write_adapter(tiny_adapter(whole / name, base, seed, **settings), base, whole / f"{name}.gguf")
    return whole


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[Address]:
    with llama_server(folder / "base.gguf", [folder / f"{name}.gguf" for name in TUNED], folder / "log") as url:
        yield Address(url)


@pytest.fixture
def engine(address: Address) -> Iterator[Engine]:
    """With both adapters at scale 1, as they are after a start."""
    set_scales(address, 1.0, 1.0)
    with Client(address) as client:
        yield Engine(address, client)


def set_scales(address: Address, *scales: float) -> None:
    """As an operator does, through the engine's own interface."""
    body = [{"id": i, "scale": scale} for i, scale in enumerate(scales)]
    assert httpx.post(f"{address.url}/lora-adapters", json=body).status_code == 200


def scored(engine: Engine, model: str) -> Floats:
    return engine.score(Request(model, PROMPT, 5), FORCED, Route.WALK).listed.of_tokens


def base_name(folder: Path) -> str:
    return str(folder / "base.gguf")


@pytest.mark.parametrize("name", ["", "router", "tone"])
def test_a_walked_continuation_has_the_log_probabilities_of_peft(engine: Engine, folder: Path, name: str) -> None:
    expected = peft_log_probs(folder / "base", folder / name if name else None, PROMPT, FORCED)
    answered = engine.score(Request(name or base_name(folder), PROMPT, 5), FORCED, Route.WALK)
    listed = answered.listed
    assert listed.tokens.tolist() == list(FORCED) and answered.cached == 0
    assert np.abs(listed.of_tokens - expected[np.arange(len(FORCED)), list(FORCED)]).max() < FLOAT16_KEYS
    at = np.take_along_axis(expected, listed.ids.astype(np.int64), axis=1)
    assert listed.ids.shape == (len(FORCED), 5) and np.abs(listed.log_probs - at).max() < FLOAT16_KEYS
    fifth = np.sort(expected, axis=1)[:, -5]
    assert (listed.log_probs[:, -1] > fifth - 2 * FLOAT16_KEYS).all()


def test_the_two_adapters_and_the_base_differ_by_more_than_the_noise(engine: Engine, folder: Path) -> None:
    base, router, tone = (scored(engine, name) for name in (base_name(folder), "router", "tone"))
    for first, second in ((base, router), (base, tone), (router, tone)):
        assert np.abs(first - second).max() > 10 * FLOAT16_KEYS


def test_an_adapter_is_asked_for_at_the_scale_that_the_engine_has_set(
    engine: Engine, address: Address, folder: Path
) -> None:
    healthy, base = scored(engine, "router"), scored(engine, base_name(folder))
    set_scales(address, 0.0, 1.0)
    assert (scored(engine, "router") == base).all()
    set_scales(address, 0.5, 1.0)
    halved = scored(engine, "router")
    assert np.abs(halved - base).max() > FLOAT16_KEYS and np.abs(halved - healthy).max() > FLOAT16_KEYS
    assert (scored(engine, base_name(folder)) == base).all()
    assert engine.identity().fingerprint == "router 0.5, tone 1"


def test_a_strength_in_a_request_is_a_multiple_of_the_scale_that_is_set(engine: Engine, address: Address) -> None:
    assert engine.capabilities().strengths
    set_scales(address, 0.5, 1.0)
    halved = scored(engine, "router")
    set_scales(address, 1.0, 1.0)
    request = Request("router", PROMPT, 5, strength=0.5)
    assert (engine.score(request, FORCED, Route.WALK).listed.of_tokens == halved).all()
    third = Request("router", PROMPT, 5, strength=1 / 3)  # no number of 32 bits
    assert np.isfinite(engine.score(third, FORCED, Route.WALK).listed.of_tokens).all()


def test_a_walk_computes_its_prompt_twice_and_no_more(address: Address, engine: Engine) -> None:
    """Once at its first token and once to check the last one; every step between computes the token before it."""
    before = computed(address)
    scored(engine, "router")
    assert computed(address) - before == len(PROMPT) + (len(FORCED) - 1) + (len(PROMPT) + len(FORCED) - 1)


def computed(address: Address) -> float:
    """Tokens of prompts that were not taken from a cache, since the server started."""
    return samples(httpx.get(f"{address.url}/metrics").text)["llamacpp:prompt_tokens_total"][0]


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("at_chat", [False, True])
@pytest.mark.parametrize("model", ["router", "tone"])
def test_what_is_written_is_the_same_whole_or_streamed_at_either_endpoint(
    engine: Engine, model: str, at_chat: bool, warm: bool
) -> None:
    prompt = engine.encode_chat(model, MESSAGES)
    plain = engine.generate(Request(model, prompt, 5), 6)
    way = Request(model, prompt, 5, streamed=True, warm=warm, messages=tuple(MESSAGES) if at_chat else ())
    for each in (engine.generate(way, 6), engine.generate(replace(way, streamed=False), 6)):
        assert np.array_equal(each.listed.tokens, plain.listed.tokens)
        assert np.abs(each.listed.log_probs - plain.listed.log_probs).max() < FLOAT16_KEYS
        assert each.text == plain.text and each.ended is plain.ended and each.cached is not None


def test_a_stream_that_left_tokens_out_is_followed_up_to_the_first_character_that_may_hold_them() -> None:
    """A character of several tokens comes with its last one alone."""
    pieces = [("a", [{"id": 1}]), ("b", [{"id": 2}]), ("\u00e9", [{"id": 4}]), ("c", [{"id": 5}])]
    listed = _tokens_in_order(pieces, {"tokens_predicted": 5})["completion_probabilities"]
    assert [entry["id"] for entry in listed] == [1, 2]
    whole = _tokens_in_order(pieces, {"tokens_predicted": 4})["completion_probabilities"]
    assert [entry["id"] for entry in whole] == [1, 2, 4, 5]


def test_a_stream_that_did_not_end_is_refused() -> None:
    with pytest.raises(ValueError, match="did not end"):
        _joined([{"content": "a", "completion_probabilities": []}, {"content": "b", "completion_probabilities": []}])


def test_a_chat_that_renders_to_another_number_of_tokens_is_refused(engine: Engine) -> None:
    other = Request("router", (*engine.encode_chat("router", MESSAGES), 5), 5, messages=tuple(MESSAGES))
    with pytest.raises(Unreplayable, match="it read 8 tokens, wanted the 9 that were sent"):
        engine.generate(other, 4)


def test_what_it_writes_from_its_cache_is_what_it_writes_without_and_what_it_scores(
    engine: Engine, folder: Path
) -> None:
    """Also after the base and another adapter had the slot with the same prompt."""
    assert set(engine.capabilities().modes) == {Mode.STREAMED, Mode.CHAT, Mode.WARM}
    prompt = PROMPT * 12
    for model in (base_name(folder), "tone", "router", "router"):
        engine.generate(Request(model, prompt, 5, warm=True), 1)
    warm, cold = (engine.generate(Request("router", prompt, 5, warm=warm), 6) for warm in (True, False))
    assert (warm.cached or 0) > len(prompt) // 2 and cold.cached == 0
    assert np.array_equal(warm.listed.tokens, cold.listed.tokens)
    assert np.abs(warm.listed.of_tokens - cold.listed.of_tokens).max() < FLOAT16_KEYS
    scores = engine.score(Request("router", prompt, 5), cold.listed.tokens.tolist(), Route.WALK)
    assert np.abs(scores.listed.of_tokens - cold.listed.of_tokens).max() < FLOAT16_KEYS


def test_a_cache_that_another_adapter_computed_between_two_steps_is_not_used(
    address: Address, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with traffic in the slot: the base's request for the same tokens, then the walk goes on from the cache."""
    with Client(address) as client:
        alone = scored(Engine(address, client), "router")

        def taking_the_slot(method: str, path: str, body: dict[str, object] | None = None) -> Reply:
            if body and body.get("cache_prompt"):
                taken = {"prompt": body["prompt"], "n_predict": 1, "lora": [], "cache_prompt": True}
                httpx.post(f"{address.url}/completion", json=taken)
            return asking(method, path, body)

        asking = client.ask
        monkeypatch.setattr(client, "ask", taking_the_slot)
        assert np.abs(scored(Engine(address, client), "router") - alone).max() < FLOAT16_KEYS


def test_generated_tokens_have_the_log_probabilities_that_a_walk_over_them_has(engine: Engine) -> None:
    request = Request("router", PROMPT, 5)
    made = engine.generate(request, 8)
    assert len(made.listed.tokens) == 8 and not made.ended
    assert made.listed.tokens.tolist() == made.listed.ids[:, 0].tolist()
    walked = engine.score(request, [int(token) for token in made.listed.tokens], Route.WALK)
    assert np.abs(walked.listed.of_tokens - made.listed.of_tokens).max() < FLOAT16_KEYS
    assert walked.fingerprint == made.fingerprint == "router 1, tone 1"


def test_what_it_says_of_itself(engine: Engine, address: Address, folder: Path) -> None:
    base = base_name(folder)
    adapters = [ServedModel(name, str(folder / f"{name}.gguf"), base) for name in TUNED]
    assert engine.models() == (ServedModel(base, base), *adapters)
    can = engine.capabilities()
    assert can.routes == (Route.WALK, Route.GENERATED) and (can.context, can.vocabulary) == (2048, 105)
    assert can.most_listed == 100
    assert engine.load() == Load(running=0, waiting=0)
    with Client(address) as client:
        assert kind_of(client) == engine.identity().kind == "llama_cpp"


def test_token_ids_are_those_of_the_tokenizer(engine: Engine, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    text = "the sword in\nthe wind, 7!"
    assert engine.encode("router", text) == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    chat = engine.encode_chat("router", MESSAGES)
    rendered = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    assert chat == tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    assert engine.decode("router", chat) == rendered


def test_a_name_that_is_not_listed_is_not_asked_for(engine: Engine) -> None:
    """The server would answer an id that it does not have with the base, and status 200."""
    with pytest.raises(Unreplayable, match="0 models named gamma; it lists router, tone"):
        scored(engine, "gamma")


def test_a_prompt_is_not_scored_in_one_request(engine: Engine) -> None:
    with pytest.raises(Unreplayable, match="by prompt, wanted walk"):
        engine.score(Request("router", PROMPT), FORCED, Route.PROMPT)


def test_a_prompt_beyond_the_context_is_refused_in_words(engine: Engine) -> None:
    with pytest.raises(Unreplayable, match=r"HTTP 400 \(exceed_context_size_error\)"):
        engine.generate(Request("router", PROMPT * 500), 1)
