"""How Text Generation Inference and LoRAX are asked.

Fields: TGI's OpenAPI document, https://huggingface.github.io/text-generation-inference/ (GenerateParameters, Details,
PrefillToken, TokenizeResponse, ChatTokenizeResponse); LoRAX, its fork, names what is listed of a position
``alternative_tokens`` (https://loraexchange.ai/reference/rest_api/). Each ignores the other's field, so both are sent.

A prompt is text here and never token ids. So a prompt can be asked that this engine has tokenised itself, or whose
tokens it has all named since the agent started: ``encode`` and ``encode_chat`` of the texts come first. What the engine
made of a text it tells beside each answer, and another tokenisation than the given one is refused. It lists only what
follows a text, and of the text's own tokens their log-probability alone (from version 3 on with
--enable-prefill-logprobs): a continuation is walked, and one request more gives the log-probability of each given
token, however improbable. Adapters are in no list and named by ``adapter_id``.

What is written may be streamed (StreamResponse, StreamDetails): an event a token, and the last one has the details. It
tells how many tokens of the prompt it read and not which, and refuses to list them. Its chat endpoint names tokens by
their text alone, so that what it writes there is not compared; nor is what comes from its cache of prefixes, from which
no request is kept, so that there is nothing cold to compare it with.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.serving.client import OK, Client
from probes.serving.common_paths import metric_samples
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
from probes.serving.json_form import greatest, number, reading, text, text_or_none, total, whole, whole_or_none
from probes.serving.listing import Position, listed_of, walked
from probes.serving.openai_answers import data

GENERATE, TOKENIZE, CHAT_TOKENIZE, INFO = "/generate", "/tokenize", "/chat_tokenize", "/info"
STREAM = "/generate_stream"
MOST_WANTED = 20
MOST_PROMPTS = 4096  # texts that are remembered by their tokens
REFUSED = (400, 422)
ENDS = ("eos_token", "stop_sequence")


class Engine:
    """One TGI or LoRAX server. address: where it listens; client: asks it."""

    def __init__(self, address: Address, client: Client) -> None:
        self._client, self._url, self._base = client, address.url, ""
        self._prompts: OrderedDict[tuple[int, ...], str] = OrderedDict()
        self._names: dict[int, str] = {}

    def capabilities(self) -> Capabilities:
        info = self._client.get(INFO)
        with reading(self._url + INFO):
            context = whole_or_none(info.get("max_total_tokens"))
        most = MOST_WANTED
        while most and not self._lists(most):
            most //= 2
        generated = (Route.GENERATED,) if most else (Route.TEXT,)
        routes = (Route.WALK, *generated) if most and self._tells_prompts() else generated
        tokenizes = self._client.ask("POST", TOKENIZE, {"inputs": "a"}).status == OK
        modes = (Mode.STREAMED,) if most else ()
        return Capabilities(routes, most, tokenizes, takes_ids=False, isolates=False, context=context, modes=modes)

    def models(self) -> tuple[ServedModel, ...]:
        """The base alone."""
        info = self._client.get(INFO)
        with reading(self._url + INFO):
            self._base = text(info["model_id"])
        return (ServedModel(self._base, self._base),)

    def identity(self) -> EngineIdentity:
        info = self._client.get(INFO)
        with reading(self._url + INFO):
            version, weights = text_or_none(info.get("version")), text_or_none(info.get("model_sha"))
        started = greatest(metric_samples(self._client), "process_start_time_seconds")
        return EngineIdentity("tgi", version, weights=weights, started=started)

    def load(self) -> Load:
        values = metric_samples(self._client)
        running = total(values, "tgi_batch_current_size"), total(values, "lorax_batch_current_size")
        waiting = total(values, "tgi_queue_size"), total(values, "lorax_queue_size")
        return Load(*(next((count for count in pair if count is not None), None) for pair in (running, waiting)))

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        if not request.prompt or not continuation:
            raise Unreplayable(self._url, "no token to score, or none before it; wanted one of each at least")
        if route is not Route.WALK:
            raise Unreplayable(self._url, f"TGI scores no continuation by {route.value}, wanted walk")
        given = (*request.prompt, *continuation)
        of_tokens = self._of_given(request, given)[len(request.prompt) :]
        steps = walked(partial(self._next, request, given), len(continuation), between)
        rows = zip(continuation, of_tokens, steps, strict=True)
        positions = [_given(token, value, step.listed) for token, value, step in rows]
        return Answered(listed_of(positions, request.listed, self._url + GENERATE), request.prompt)

    def generate(self, request: Request, tokens: int) -> Answered:
        answer = (
            self._streamed(request, tokens) if request.streamed else self._generated(request, request.prompt, tokens)
        )
        with reading(self._url + GENERATE):
            words, details = text(answer["generated_text"]), answer["details"]
            positions, ended = _positions(details), details["finish_reason"] in ENDS
        if not 1 <= len(positions) <= tokens:
            self._refused(f"{len(positions)} tokens generated, wanted 1 to {tokens}")
        listed = listed_of(positions, request.listed, self._url + GENERATE)
        return Answered(listed, request.prompt if details["prefill"] else None, words, ended=ended)

    def encode(self, model: str, text: str) -> tuple[int, ...]:  # noqa: ARG002 - one tokenizer for all
        answer = self._client.post(TOKENIZE, {"inputs": text})
        return self._remembered(answer, text, TOKENIZE)

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        answer = self._client.post(CHAT_TOKENIZE, {"model": model, "messages": [dict(message) for message in messages]})
        with reading(self._url + CHAT_TOKENIZE):
            return self._remembered(answer["tokenize_response"], text(answer["templated_text"]), CHAT_TOKENIZE)

    def decode(self, model: str, ids: Sequence[int]) -> str:  # noqa: ARG002
        return self._text_of(ids)

    def close(self) -> None:
        self._client.close()

    def _of_given(self, request: Request, given: Sequence[int]) -> list[float]:
        """The log-probability of each given token but the first, which follows nothing and has 0 here."""
        answer = self._generated(request, given, 1)
        with reading(self._url + GENERATE):
            if not answer["details"]["prefill"]:
                self._refused("log-probabilities of no given token; wanted them: is --enable-prefill-logprobs set?")
            return [0.0, *(number(entry["logprob"]) for entry in answer["details"]["prefill"][1:])]

    def _next(self, request: Request, given: Sequence[int], i: int) -> Position:
        """The most probable tokens after the prompt and ``i`` more of the given tokens."""
        answer = self._generated(request, given[: len(request.prompt) + i], 1)
        with reading(self._url + GENERATE):
            (position,) = _positions(answer["details"])
        return position

    def _generated(self, request: Request, prompt: Sequence[int], tokens: int) -> Any:
        """Greedy tokens, once it is known that the engine read the given ones. Names of tokens are remembered."""
        body = self._body(request, prompt, tokens)
        body["parameters"]["decoder_input_details"] = True
        answer = self._client.post(GENERATE, body)
        with reading(self._url + GENERATE):
            details = answer["details"]
            was_read = tuple(whole(entry["id"]) for entry in details["prefill"])
            for entry in details["tokens"]:
                self._names.setdefault(whole(entry["id"]), text(entry["text"]))
        if was_read not in ((), tuple(prompt)):
            self._refused("its tokenizer makes other tokens of this text than those that were given")
        return answer

    def _streamed(self, request: Request, most: int) -> Any:
        """In the form of an answer that came whole, without the prompt's tokens."""
        reply = self._client.ask("POST", STREAM, self._body(request, request.prompt, most))
        if reply.status != OK:
            self._client.json_of(reply)
        with reading(self._url + STREAM):
            pieces = [json.loads(piece) for piece in data(reply.body)]
            details = pieces[-1]["details"]  # without one the stream did not end
            was_read, count = details.get("input_length"), whole(details["generated_tokens"])
            ended, tokens = details["finish_reason"], [own["token"] for own in pieces]
            tops = [own["top_tokens"] for own in pieces if own.get("top_tokens")]
            words = text(pieces[-1]["generated_text"])
        if count != len(pieces):
            self._client.refused(STREAM, f"{len(pieces)} tokens in a stream of {count}")
        if was_read not in (None, len(request.prompt)):
            self._client.refused(STREAM, f"it read {was_read} tokens, wanted the {len(request.prompt)} that were sent")
        made = {"finish_reason": ended, "prefill": [], "tokens": tokens, "top_tokens": tops}
        return {"generated_text": words, "details": made}

    def _body(self, request: Request, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
        if request.salt:
            raise Unreplayable(self._url, "this engine cannot keep a request from a cache, wanted one without a salt")
        parameters: dict[str, Any] = {
            "max_new_tokens": tokens,
            "do_sample": False,
            "repetition_penalty": 1.0,
            "details": True,
            "top_n_tokens": request.listed,
            "return_k_alternatives": request.listed,
        }
        parameters |= {} if request.model == self._base_name() else {"adapter_id": request.model}
        return {"inputs": self._text_of(prompt), "parameters": parameters}

    def _remembered(self, entries: Any, words: str, path: str) -> tuple[int, ...]:
        """Ids of a tokenised text. Special tokens that the tokenizer put around it have no place in it."""
        with reading(self._url + path):
            tokens = [entry for entry in entries if whole(entry["stop"]) > whole(entry["start"])]
            ids = tuple(whole(entry["id"]) for entry in tokens)
            self._names |= {token: text(entry["text"]) for token, entry in zip(ids, tokens, strict=True)}
        self._prompts[ids] = words
        self._prompts.move_to_end(ids)
        while len(self._prompts) > MOST_PROMPTS:
            self._prompts.popitem(last=False)
        return ids

    def _text_of(self, ids: Sequence[int]) -> str:
        """As it was tokenised, or the names of its tokens in a row after the longest text that was."""
        start = next((n for n in range(len(ids), 0, -1) if tuple(ids[:n]) in self._prompts), 0)
        rest = [self._names.get(token) for token in ids[start:]]
        if None in rest:
            raise Unreplayable(self._url, "token ids whose text it has not told: it takes text alone, encode it first")
        return self._prompts.get(tuple(ids[:start]), "") + "".join(name or "" for name in rest)

    def _base_name(self) -> str:
        return self._base or self.models()[0].name

    def _lists(self, most: int) -> bool:
        parameters = {"max_new_tokens": 1, "details": True, "top_n_tokens": most, "return_k_alternatives": most}
        reply = self._client.ask("POST", GENERATE, {"inputs": "a", "parameters": parameters})
        if reply.status in REFUSED:
            return False
        with reading(self._url + GENERATE):
            (position,) = _positions(self._client.json_of(reply)["details"])
        return len(position.listed) >= most

    def _tells_prompts(self) -> bool:
        parameters = {"max_new_tokens": 1, "details": True, "decoder_input_details": True}
        reply = self._client.ask("POST", GENERATE, {"inputs": "a a a", "parameters": parameters})
        if reply.status in REFUSED:
            return False
        with reading(self._url + GENERATE):
            entries = self._client.json_of(reply)["details"]["prefill"]
            return bool(entries) and all(entry["logprob"] is not None for entry in entries[1:])

    def _refused(self, why: str) -> NoReturn:
        self._client.refused(GENERATE, why)


def _given(token: int, of_prompt: float, listed: Mapping[int, float]) -> Position:
    """The listed value where the token is listed. Else that of the prompt, which another pass computed: by rounding it
    may come out above the last listed one, and is no more than that."""
    return Position(token, listed.get(token, min(of_prompt, *listed.values())), listed)


def _positions(details: Any) -> list[Position]:
    """Of the tokens generated: TGI lists the most probable ones beside them, LoRAX with each."""
    tokens = details["tokens"]
    tops = details.get("top_tokens") or [entry["alternative_tokens"] for entry in tokens]
    return [
        Position(
            whole(entry["id"]),
            number(entry["logprob"]),
            {whole(other["id"]): number(other["logprob"]) for other in top},
        )
        for entry, top in zip(tokens, tops, strict=True)
    ]
