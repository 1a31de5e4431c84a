"""Is what the shim serves the toy language, its faults the faults that they are called, and its bad transport bad?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from detectors.records import Floats
from probes.model import toy_language as toy
from probes.runner import Replay, Target
from probes.runners.memory import Config, Runner
from tests.serving_engines import transport
from tests.serving_engines.replies import Settings
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

PROMPT = Runner(Config()).encode_chat([{"role": "user", "content": "Is the parcel lost, or only late?"}])
ANSWER = tuple(b"lost")


def asked(server: Server, model: str, prompt: Sequence[int], **more: Any) -> Any:
    body = {"model": model, "prompt": list(prompt), "max_tokens": 1, "temperature": 0, "return_token_ids": True}
    reply = httpx.post(f"{server.url}/v1/completions", json=body | more)
    assert reply.status_code == 200, reply.text
    return reply.json()


def scored(server: Server, model: str) -> list[float]:
    choice = asked(server, model, PROMPT + ANSWER, prompt_logprobs=20)["choices"][0]
    listed = choice["prompt_logprobs"][-len(ANSWER) :]
    return [listing[str(token)]["logprob"] for listing, token in zip(listed, ANSWER, strict=True)]


def generated(server: Server, model: str, **more: Any) -> list[float]:
    choice = asked(server, model, PROMPT, max_tokens=4, logprobs=1, **more)["choices"][0]
    return list(choice["logprobs"]["token_logprobs"])


def reference(adapter: str | None) -> Floats:
    runner = Runner(Config())
    runner.open()
    (replayed,) = runner.run([Replay("c", PROMPT, ANSWER, Target(adapter))], lambda: False)
    assert replayed.full is not None
    return np.asarray(replayed.full[np.arange(len(ANSWER)), list(ANSWER)])


@pytest.mark.parametrize("model", ["base-v1", "alpha", "beta"])
def test_a_scored_prompt_has_the_log_probabilities_of_the_in_memory_runner(model: str) -> None:
    with serving() as server:
        assert scored(server, model) == pytest.approx(reference(None if model == "base-v1" else model), abs=1e-5)


def test_a_listing_has_the_given_token_and_the_most_probable_with_their_ranks() -> None:
    with serving() as server:
        choice = asked(server, "alpha", PROMPT, prompt_logprobs=3)["choices"][0]
    assert choice["prompt_logprobs"][0] is None and len(choice["prompt_logprobs"]) == len(PROMPT)
    for token, listing in zip(choice["prompt_token_ids"][1:], choice["prompt_logprobs"][1:], strict=True):
        assert {1, 2, 3} <= {entry["rank"] for entry in listing.values()} and len(listing) in (3, 4)
        assert str(token) in listing and listing[str(token)]["decoded_token"] == toy.NAMES.get(token, chr(token))
        by_rank = sorted(listing.values(), key=lambda entry: entry["rank"])
        assert by_rank == sorted(listing.values(), key=lambda entry: -entry["logprob"])


def test_what_is_generated_is_what_is_scored() -> None:
    with serving() as server:
        choice = asked(server, "alpha", PROMPT, max_tokens=4, logprobs=5)["choices"][0]
        whole = asked(server, "alpha", (*PROMPT, *choice["token_ids"]), prompt_logprobs=5)["choices"][0]
    listed = whole["prompt_logprobs"][len(PROMPT) :]
    again = [listing[str(token)]["logprob"] for listing, token in zip(listed, choice["token_ids"], strict=True)]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(again, abs=1e-6)


def test_the_only_allowed_token_is_generated_with_its_log_probability_from_before_the_mask() -> None:
    with serving() as server:
        choice = asked(server, "alpha", PROMPT, logprobs=2, allowed_token_ids=[ANSWER[0]])["choices"][0]
        assert choice["token_ids"] == [ANSWER[0]]
        assert choice["logprobs"]["token_logprobs"] == [scored(server, "alpha")[0]]


@pytest.mark.parametrize(
    ("fault", "as_model"), [("not_applied", "base-v1"), ("wrong_adapter:beta", "beta"), ("scale:1.0", "alpha")]
)
def test_an_adapter_with_a_fault_answers_as_another_model(fault: str, as_model: str) -> None:
    with serving() as server:
        healthy = scored(server, as_model), generated(server, as_model)
        server.engine.faults.of_adapter["alpha"] = fault
        assert (scored(server, "alpha"), generated(server, "alpha")) == healthy


def test_half_the_strength_is_neither_the_adapter_nor_the_base() -> None:
    with serving() as server:
        both = scored(server, "alpha"), scored(server, "base-v1")
        server.engine.faults.of_adapter["alpha"] = "scale:0.5"
        assert scored(server, "alpha") not in both


def test_an_adapter_may_be_lost_in_one_phase_alone() -> None:
    with serving() as server:
        healthy, base = generated(server, "alpha"), generated(server, "base-v1")
        of_prompt = scored(server, "alpha")
        server.engine.faults.of_adapter["alpha"] = "not_in_prefill"
        assert generated(server, "alpha")[0] == base[0] != healthy[0]
        assert scored(server, "alpha") == scored(server, "base-v1")
        server.engine.faults.of_adapter["alpha"] = "not_in_decode"
        written = generated(server, "alpha")
        assert written[0] == healthy[0] and written != healthy
        assert scored(server, "alpha") == of_prompt


def test_a_fault_may_be_in_a_share_of_requests() -> None:
    with serving() as server:
        healthy, base = scored(server, "alpha"), scored(server, "base-v1")
        server.engine.faults.of_adapter["alpha"], server.engine.faults.share = "not_applied", 0.25
        answers = [scored(server, "alpha") for _ in range(200)]
        faulty = sum(answer == base for answer in answers)
        assert faulty + sum(answer == healthy for answer in answers) == 200
        assert abs(faulty / 200 - 0.25) < 4 * (0.25 * 0.75 / 200) ** 0.5


def test_the_base_name_serves_an_adapter_and_is_listed_twice() -> None:
    with serving() as server:
        server.engine.faults.base_serves = "alpha"
        assert scored(server, "base-v1") == scored(server, "alpha")
        listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [(card["root"], card["parent"]) for card in listed if card["id"] == "base-v1"] == [
        ("/models/base-v1", None),
        ("/adapters/alpha-v1", "base-v1"),
    ]


def test_an_unknown_name_fails_and_with_the_fault_the_base_answers() -> None:
    with serving() as server:
        body = {"model": "gamma", "prompt": list(PROMPT), "max_tokens": 1}
        assert httpx.post(f"{server.url}/v1/completions", json=body).status_code == 404
        server.engine.faults.unknown_is_base = True
        assert scored(server, "gamma") == scored(server, "base-v1")


def test_prompts_may_be_scored_by_the_base_while_generation_is_right() -> None:
    with serving() as server:
        healthy = generated(server, "alpha")
        server.engine.faults.scored_as_base = {"alpha"}
        assert scored(server, "alpha") == scored(server, "base-v1")
        assert generated(server, "alpha") == healthy


def test_streaming_alone_is_the_base() -> None:
    with serving() as server:
        server.engine.faults.streams_base = True
        body = {"model": "alpha", "prompt": list(PROMPT), "max_tokens": 4, "logprobs": 1}
        texts = []
        for stream in (True, False):
            reply = httpx.post(f"{server.url}/v1/completions", json=body | {"stream": stream})
            texts.append(_streamed_text(reply.text) if stream else reply.json()["choices"][0]["text"])
        base = asked(server, "base-v1", PROMPT, max_tokens=4)["choices"][0]["text"]
    assert texts[0] == base != texts[1]


def _streamed_text(events: str) -> str:
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return "".join(str(httpx.Response(200, text=line).json()["choices"][0]["text"]) for line in lines)


def test_a_stale_cache_mixes_both_versions_where_the_prefix_was_warm() -> None:
    """Fresh salt: the new version alone. Without the fault a reload empties the cache."""
    with serving() as server:
        old = generated(server, "alpha")
        assert asked(server, "alpha", PROMPT)["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}
        server.engine.faults.stale_cache = True
        server.engine.reload("alpha", "alpha-v2")
        warm, fresh = generated(server, "alpha"), generated(server, "alpha", cache_salt="fresh")
        server.engine.restart()
        assert generated(server, "alpha") == fresh
    assert warm not in (old, fresh)


def test_a_reload_without_the_fault_empties_the_cache() -> None:
    with serving() as server:
        generated(server, "alpha")
        server.engine.reload("alpha", "alpha-v2")
        assert generated(server, "alpha") == generated(server, "alpha", cache_salt="fresh")


def test_a_cut_listing_has_fewer_tokens_than_were_wanted() -> None:
    with serving(settings=Settings(cuts_listing=2)) as server:
        choice = asked(server, "alpha", PROMPT, prompt_logprobs=20, logprobs=20)["choices"][0]
    assert max(len(listing) for listing in choice["prompt_logprobs"][1:]) <= 3
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2


def test_processed_log_probabilities_leave_two_tokens() -> None:
    with serving(settings=Settings(processed=True)) as server:
        (top,) = asked(server, "alpha", PROMPT, logprobs=5)["choices"][0]["logprobs"]["top_logprobs"]
    assert np.exp(sorted(top.values())[-2:]).sum() == pytest.approx(1.0)
    assert min(top.values()) == -9999.0


def test_more_than_the_most_listed_is_refused() -> None:
    with serving() as server:
        body = {"model": "alpha", "prompt": list(PROMPT), "max_tokens": 1, "prompt_logprobs": 21}
        reply = httpx.post(f"{server.url}/v1/completions", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "BadRequestError"


def test_noise_is_another_draw_for_each_request() -> None:
    with serving(ToyEngine(noise=1e-3)) as server:
        first, second = scored(server, "alpha"), scored(server, "alpha")
    assert first != second
    assert first == pytest.approx(reference("alpha"), abs=1e-2)


def test_chats_are_rendered_as_the_runner_renders_them() -> None:
    messages = [{"role": "user", "content": "lost?"}]
    with serving() as server:
        reply = httpx.post(f"{server.url}/tokenize", json={"model": "alpha", "messages": messages}).json()
        back = httpx.post(f"{server.url}/detokenize", json={"model": "alpha", "tokens": reply["tokens"]}).json()
    assert tuple(reply["tokens"]) == Runner(Config()).encode_chat(messages)
    assert back["prompt"] == "<turn>user\nlost?<end><start>"


def test_the_token_is_wanted_where_the_engine_has_a_key() -> None:
    with serving(settings=Settings(token="s3")) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        named = {"Authorization": "Bearer s3"}
        assert httpx.get(f"{server.url}/v1/models", headers=named).status_code == 200
        assert httpx.get(f"{server.url}/version").status_code == 200


def test_bad_transport() -> None:
    with serving() as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def models(spoil: transport.Spoil, timeout: float = 60) -> httpx.Response:
            server.transport.set(spoil, only="/v1/models")
            return client.get("/v1/models", timeout=timeout)

        assert models(transport.html).headers["Content-Type"] == "text/html"
        late = models(transport.status(429, Retry_After="7"))
        assert (late.status_code, late.headers["Retry-After"]) == (429, "7")
        assert models(transport.redirect("http://127.0.0.1:1/")).is_redirect
        assert len(models(transport.huge).content) > 100_000_000
        assert "NaN" in models(transport.edited(lambda value: value.update(object=float("nan")))).text
        for spoil in (transport.broken_json, transport.empty):
            with pytest.raises(ValueError):
                models(spoil).json()
        with pytest.raises(httpx.ReadTimeout):
            models(transport.slow(600.0), timeout=0.2)
        with pytest.raises(httpx.RemoteProtocolError):
            models(transport.cut)
        assert client.get("/version").status_code == 200
