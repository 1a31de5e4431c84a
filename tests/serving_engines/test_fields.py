"""Do all engines of the shim give the same numbers, each in its own fields?"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from probes.runners.memory import Config, Runner
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.toy_tokens import chat_ids, ids_of, text_of

MESSAGES = [{"role": "user", "content": "Is it late?"}]
PROMPT = chat_ids(MESSAGES)
ANSWER = list(b"late")
WHOLE = [*PROMPT, *ANSWER]
MODELS = ["base-v1", "alpha"]


def post(server: Server, path: str, body: dict[str, Any], status: int = 200) -> Any:
    reply = httpx.post(server.url + path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


def expected(model: str) -> list[float]:
    rows = ToyEngine().scored(model, WHOLE)
    return [float(rows[len(PROMPT) - 1 + i][token]) for i, token in enumerate(ANSWER)]


def best(model: str) -> tuple[int, float]:
    """The next token of the prompt and its log-probability."""
    row = ToyEngine().scored(model, PROMPT)[-1]
    return int(row.argmax()), float(row.max())


@pytest.mark.parametrize("model", MODELS)
def test_vllm(model: str) -> None:
    body = {"model": model, "prompt": WHOLE, "max_tokens": 1, "prompt_logprobs": 2}
    with serving(fields="vllm") as server:
        choice = post(server, "/v1/completions", body)["choices"][0]
    listed = choice["prompt_logprobs"][len(PROMPT) :]
    values = [listing[str(token)]["logprob"] for listing, token in zip(listed, ANSWER, strict=True)]
    assert values == pytest.approx(expected(model))


@pytest.mark.parametrize("model", MODELS)
def test_sglang(model: str) -> None:
    body = {
        "input_ids": WHOLE,
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
    } | ({"lora_path": model} if model != "base-v1" else {})
    with serving(fields="sglang") as server:
        meta = post(server, "/generate", body)["meta_info"]
        more = {"input_ids": PROMPT, "logprob_start_len": -1, "sampling_params": {"max_new_tokens": 1}}
        made = post(server, "/generate", body | more)
    assert meta["input_token_logprobs"][0] == [None, WHOLE[0], None] and meta["input_top_logprobs"][0] is None
    assert [entry[1] for entry in meta["input_token_logprobs"]] == WHOLE
    assert [entry[0] for entry in meta["input_token_logprobs"][len(PROMPT) :]] == pytest.approx(expected(model))
    assert made["meta_info"]["input_token_logprobs"] == []
    token, value = best(model)
    assert made["meta_info"]["output_token_logprobs"] == [[pytest.approx(value), token, None]]
    assert made["output_ids"] == [token]


@pytest.mark.parametrize("model", MODELS)
def test_tgi(model: str) -> None:
    parameters = {"details": True, "decoder_input_details": True, "top_n_tokens": 2, "max_new_tokens": 1}
    named = parameters | ({"adapter_id": model} if model != "base-v1" else {})
    with serving(fields="tgi") as server:
        details = post(server, "/generate", {"inputs": text_of(WHOLE, special=True), "parameters": named})["details"]
        again = {"inputs": text_of(PROMPT, special=True), "parameters": named | {"return_k_alternatives": 3}}
        made = post(server, "/generate", again)["details"]
        chat = post(server, "/chat_tokenize", {"messages": MESSAGES})
    assert [token["id"] for token in details["prefill"]] == WHOLE and details["prefill"][0]["logprob"] is None
    scored = [token["logprob"] for token in details["prefill"][len(PROMPT) :]]
    assert scored == pytest.approx(expected(model))
    token, value = best(model)
    assert (made["tokens"][0]["id"], made["tokens"][0]["logprob"]) == (token, pytest.approx(value))
    assert made["top_tokens"][0][0]["id"] == made["tokens"][0]["alternative_tokens"][0]["id"] == token
    assert [piece["id"] for piece in chat["tokenize_response"]] == ids_of(chat["templated_text"]) == PROMPT


@pytest.mark.parametrize("model", MODELS)
def test_openai(model: str) -> None:
    body = {"model": model, "prompt": text_of(WHOLE, special=True), "max_tokens": 0, "echo": True, "logprobs": 2}
    with serving(fields="openai") as server:
        logprobs = post(server, "/v1/completions", body)["choices"][0]["logprobs"]
        refused = post(server, "/v1/completions", body | {"prompt_logprobs": 2}, status=400)
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert logprobs["token_logprobs"][len(PROMPT) :] == pytest.approx(expected(model))
    assert refused["error"]["message"] == "Unrecognized request argument supplied: prompt_logprobs"


@pytest.mark.parametrize("fields", ["vllm", "sglang", "tgi", "openai"])
def test_an_unknown_name_fails_unless_the_base_answers_it(fields: str) -> None:
    bodies: dict[str, tuple[str, dict[str, Any], int]] = {
        "vllm": ("/v1/completions", {"model": "gamma", "prompt": PROMPT, "max_tokens": 1}, 404),
        "sglang": ("/generate", {"lora_path": "gamma", "input_ids": PROMPT}, 400),
        "tgi": ("/generate", {"inputs": "late?", "parameters": {"adapter_id": "gamma"}}, 422),
        "openai": ("/v1/completions", {"model": "gamma", "prompt": "late?"}, 404),
    }
    path, body, status = bodies[fields]
    with serving(fields=fields) as server:
        post(server, path, body, status)
        server.engine.faults.unknown_is_base = True
        post(server, path, body)


def test_names_of_special_tokens_in_a_text_are_these_tokens() -> None:
    assert ids_of(text_of(PROMPT, special=True)) == PROMPT == list(Runner(Config()).encode_chat(MESSAGES))
