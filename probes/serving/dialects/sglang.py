"""How SGLang is asked: its native server, version 0.5.

Fields: https://docs.sglang.io/basic_usage/sampling_params.html and https://docs.sglang.io/basic_usage/native_api.html;
in SGLang's repository the modules sglang.srt.managers.io_struct (GenerateReqInput) and
sglang.srt.entrypoints.http_server. A log-probability is written [value, token id, text or null].

An adapter is named by ``lora_path``; without it the base answers, so the base's own name is left out and every other
one is sent, known or not. ``logprob_start_len: 0`` scores the whole prompt; the cache of prefixes is not read for it.
What is written may be streamed, each event with all tokens so far.

Its chat endpoint lists tokens by their text alone, but gives the record of its native answer beside it
(``return_meta_info``, ``return_prompt_token_ids``: ChatCompletionRequest of sglang.srt.entrypoints.openai.protocol),
which names their ids; of a stream it refuses to. So what it writes there is compared where its version has these
fields, and never streamed. The model's defaults for sampling hold there for what a request leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.serving.client import OK, Client
from probes.serving.common_paths import MODELS, metric_samples, model_cards, models_of, token_ids
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
    number,
    reading,
    text,
    text_or_none,
    total,
    whole,
    whole_or_none,
    wholes,
)
from probes.serving.listing import Position, joined, listed_of, walked
from probes.serving.openai_answers import events

GENERATE, TOKENIZE, DETOKENIZE, CHAT = "/generate", "/tokenize", "/detokenize", "/v1/chat/completions"
MOST_LISTED = 20  # there is no limit of its own
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


class Engine:
    """One SGLang server. address: where it listens; client: asks it."""

    def __init__(self, address: Address, client: Client) -> None:
        self._client, self._url = client, address.url
        self._bases: frozenset[str] = frozenset()

    def capabilities(self) -> Capabilities:
        with reading(self._at(MODELS)):
            context = whole_or_none(model_cards(self._client, self._url)[0].get("max_model_len"))
        tokenizes = self._client.ask("POST", TOKENIZE, {"prompt": "a"}).status == OK
        routes = (Route.PROMPT, Route.WALK, Route.GENERATED)
        modes = (Mode.STREAMED, *((Mode.CHAT,) if tokenizes and self._tells_of_chats() else ()), Mode.WARM)
        return Capabilities(routes, MOST_LISTED, tokenizes, True, True, context, modes=modes, streams_chats=False)

    def models(self) -> tuple[ServedModel, ...]:
        return models_of(model_cards(self._client, self._url), self._url)

    def identity(self) -> EngineIdentity:
        server, model = self._client.get("/server_info"), self._client.get("/model_info")
        with reading(self._at("/server_info")):
            version, weights = text_or_none(server.get("version")), text_or_none(model.get("weight_version"))
        started = greatest(metric_samples(self._client), "process_start_time_seconds")
        return EngineIdentity("sglang", version, weights=weights, started=started)

    def load(self) -> Load:
        """Metrics are there with --enable-metrics alone."""
        values = metric_samples(self._client)
        usage = greatest(values, "sglang:token_usage")
        return Load(total(values, "sglang:num_running_reqs"), total(values, "sglang:num_queue_reqs"), usage)

    def adapter_slots(self) -> int | None:
        """Of --max-loras-per-batch, of which the base may take one."""
        server = self._client.get("/server_info")
        with reading(self._at("/server_info")):
            return whole_or_none(server.get("max_loras_per_batch")) or None

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        if not request.prompt or not continuation:
            raise Unreplayable(self._url, "no token to score, or none before it; wanted one of each at least")
        if route is Route.PROMPT:
            return self._scored(request, continuation)
        if route is Route.WALK:
            steps = walked(partial(self._step, request, continuation), len(continuation), between)
            return Answered(joined([step.listed for step in steps]), None, cached=steps[0].cached)
        raise Unreplayable(self._url, f"SGLang scores no continuation by {route.value}, wanted prompt or walk")

    def generate(self, request: Request, tokens: int) -> Answered:
        if request.messages:
            return self._chatted(request, tokens)
        body = self._body(request, request.prompt, tokens)
        answer = self._streamed(body) if request.streamed else self._client.post(GENERATE, body)
        with reading(self._at(GENERATE)):
            words, ended = text(answer["text"]), _has_ended(answer["meta_info"])
            positions = _positions(answer["meta_info"], "output")
            ids = wholes(answer["output_ids"])
        if ids != tuple(position.token for position in positions) or not 1 <= len(ids) <= tokens:
            self._client.refused(GENERATE, f"{len(positions)} log-probabilities of {len(ids)} tokens, wanted {tokens}")
        return self._answered(answer, request, positions, None, words, ended)

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        return self._ids({"model": model, "prompt": text, "add_special_tokens": False})

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        return self._ids({"model": model, "messages": [dict(message) for message in messages]})

    def decode(self, model: str, ids: Sequence[int]) -> str:
        body = {"model": model, "tokens": list(ids), "skip_special_tokens": False}
        answer = self._client.post(DETOKENIZE, body)
        with reading(self._at(DETOKENIZE)):
            return text(answer["text"])

    def close(self) -> None:
        self._client.close()

    def _chatted(self, request: Request, tokens: int) -> Answered:
        if request.streamed:
            raise Unreplayable(self._url, "its chat endpoint gives no ids of tokens in a stream, wanted it whole")
        answer = self._client.post(CHAT, self._chat(request, tokens))
        with reading(self._at(CHAT)):
            (choice,) = answer["choices"]
            was_read, meta = wholes(choice["prompt_token_ids"]), choice["meta_info"]
            positions, words = _positions(meta, "output"), text_or_none(choice["message"].get("content"))
        if was_read != request.prompt:
            self._client.refused(CHAT, "it read other tokens than those that were sent")
        if not 1 <= len(positions) <= tokens:
            self._client.refused(CHAT, f"{len(positions)} tokens generated, wanted 1 to {tokens}")
        return self._answered(choice, request, positions, was_read, words, _has_ended(meta))

    def _chat(self, request: Request, tokens: int) -> dict[str, Any]:
        """Temperature and penalties are fields of the request itself here."""
        body: dict[str, Any] = {
            "model": next(iter(self._base_names())),
            "messages": [dict(message) for message in request.messages],
            "max_completion_tokens": tokens,
            "logprobs": True,
            "top_logprobs": request.listed,
            "return_meta_info": True,
            "return_prompt_token_ids": True,
        }
        return body | GREEDY | self._whose(request)

    def _tells_of_chats(self) -> bool:
        """A version that does not know the fields ignores them."""
        request = Request(next(iter(self._base_names())), (), 1, messages=({"role": "user", "content": "a"},))
        reply = self._client.ask("POST", CHAT, self._chat(request, 1))
        if reply.status != OK:
            return False
        with reading(self._at(CHAT)):
            choice = self._client.json_of(reply)["choices"][0]
            return bool(choice.get("prompt_token_ids") and (choice.get("meta_info") or {}).get("output_top_logprobs"))

    def _streamed(self, body: Mapping[str, Any]) -> Any:
        """The last event of a stream holds all tokens, unless the server was started to send each once; then they are
        those of all events together."""
        reply = self._client.ask("POST", GENERATE, {**body, "stream": True})
        if reply.status != OK:
            self._client.json_of(reply)
        with reading(self._at(GENERATE)):
            pieces = events(reply.body)
            last = pieces[-1]
            if len(last["meta_info"]["output_token_logprobs"]) == last["meta_info"]["completion_tokens"]:
                return last | {"output_ids": [entry[1] for entry in last["meta_info"]["output_token_logprobs"]]}
            lists = ("output_token_logprobs", "output_top_logprobs")
            whole = {name: [entry for piece in pieces for entry in piece["meta_info"][name]] for name in lists}
            ids = [token for piece in pieces for token in piece["output_ids"]]
            words = "".join(piece["text"] for piece in pieces)
            return last | {"text": words, "output_ids": ids, "meta_info": last["meta_info"] | whole}

    def _scored(self, request: Request, continuation: Sequence[int]) -> Answered:
        given = (*request.prompt, *continuation)
        answer = self._client.post(GENERATE, self._body(request, given, 0) | {"logprob_start_len": 0})
        with reading(self._at(GENERATE)):
            meta = answer["meta_info"]
            was_read = tuple(whole(entry[1]) for entry in meta["input_token_logprobs"])
            lists = {name: meta[name] for name in ("input_token_logprobs", "input_top_logprobs")}
            if any(len(entries) != len(given) for entries in lists.values()):
                self._client.refused(GENERATE, f"log-probabilities of other positions than the {len(given)} given")
            meta = {name: entries[len(request.prompt) :] for name, entries in lists.items()}
            positions = _positions(meta, "input")
        if was_read != given:
            self._client.refused(GENERATE, "it read other tokens than those that were sent")
        return self._answered(answer, request, positions, request.prompt)

    def _step(self, request: Request, continuation: Sequence[int], i: int) -> Answered:
        """``token_ids_logprob`` names the given token, which need not be the one that is generated."""
        prompt, token = (*request.prompt, *continuation[:i]), continuation[i]
        answer = self._client.post(GENERATE, self._body(request, prompt, 1) | {"token_ids_logprob": [token]})
        with reading(self._at(GENERATE)):
            meta = answer["meta_info"]
            ((of_token, named),) = ((entry[0], entry[1]) for entry in meta["output_token_ids_logprobs"][0])
            (generated,) = _positions(meta, "output")
            position = Position(token, number(of_token), generated.listed)
        if named != token:
            self._client.refused(GENERATE, "the log-probability of another token than the one that was named")
        return self._answered(answer, request, [position], None)

    def _answered(
        self,
        answer: Any,
        request: Request,
        positions: Sequence[Position],
        was_read: tuple[int, ...] | None,
        words: str = "",
        ended: bool = False,
    ) -> Answered:
        with reading(self._at(GENERATE)):
            cached = whole_or_none(answer["meta_info"].get("cached_tokens"))
        listed = listed_of(positions, request.listed, self._at(GENERATE))
        return Answered(listed, was_read, words, cached, ended=ended)

    def _body(self, request: Request, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "input_ids": list(prompt),
            "sampling_params": {"max_new_tokens": tokens, **GREEDY},
            "return_logprob": True,
            "top_logprobs_num": request.listed,
        }
        return body | self._whose(request)

    def _whose(self, request: Request) -> dict[str, Any]:
        salt = {"extra_key": request.salt} if request.salt else {}
        return salt | ({} if request.model in self._base_names() else {"lora_path": request.model})

    def _base_names(self) -> frozenset[str]:
        """One server may have several names for its base."""
        if not self._bases:
            self._bases = frozenset(model.name for model in self.models() if not model.parent)
        return self._bases

    def _ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        return token_ids(self._client, self._url, TOKENIZE, body)

    def _at(self, path: str) -> str:
        return self._url + path


def _has_ended(meta: Any) -> bool:
    is_end: bool = meta["finish_reason"]["type"] == "stop"
    return is_end


def _positions(meta: Any, side: str) -> list[Position]:
    """side: ``input`` for the prompt's tokens, ``output`` for those generated"""
    rows = zip(meta[f"{side}_token_logprobs"], meta[f"{side}_top_logprobs"], strict=True)
    return [
        Position(whole(entry[1]), number(entry[0]), {whole(other[1]): number(other[0]) for other in top})
        for entry, top in rows
    ]
