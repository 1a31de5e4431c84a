"""How the server of llama.cpp is asked (``llama-server``), with adapters loaded by ``--lora``.

Fields: the page of tools/server in llama.cpp's repository (``POST /completion``, ``/lora-adapters``, ``GET /props``).

It scores no prompt, so a continuation is walked, a request for each token: ``n_probs`` lists log-probabilities of the
raw model from before all samplers, and ``logit_bias`` makes the given token the sampled one, whose log-probability is
listed however improbable it is. ``cache_prompt`` is off at the first token, so that no prefix that another adapter
computed is used, and on after it: what this walk has computed is not computed again at each step. Traffic may take the
slot in between, and then a prefix of another adapter may come back into it (ggml-org/llama.cpp#26207), which no field
tells; so the last step is repeated without the cache, and where the two differ the whole walk is.

Adapters have no names in its list of models: they are named here by their file, without its folder and its suffix. An
adapter is asked for at the scale that the engine has set for it, and alone; the base, with all of them at 0. That is
what a request without ``lora`` gets from an engine with one adapter. An id that is not loaded would be answered by the
base without an error, so only names in the engine's list are asked for, and what was applied is read from each answer.
Another strength of an adapter is asked for as a multiple of the scale that is set.

What is written may be streamed, and had at the chat endpoint, which takes all fields of ``/completion`` besides its own
(with ``verbose`` it gives its record of the request). Of a chat the number of prompt tokens is checked and not their
ids, which it does not give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath
from typing import Any

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.serving.client import OK, Client
from probes.serving.common_paths import MODELS, model_cards, token_ids
from probes.serving.engine import (
    Address,
    Answered,
    Between,
    Capabilities,
    EngineIdentity,
    Listed,
    Load,
    Request,
    Route,
    ServedModel,
    at_once,
)
from probes.serving.json_form import number, reading, samples, text, text_or_none, total, whole_or_none
from probes.serving.listing import Position, joined, listed_of, walked

COMPLETION, CHAT, ADAPTERS, PROPS = "/completion", "/v1/chat/completions", "/lora-adapters", "/props"
MOST_WANTED = 100  # it would list its whole vocabulary; this many are 8 kB a position
FORCING = 1000.0  # nats on one token's logit: more than any two logits of a model differ by
# A probability that is 0 in float32 is listed as the least float32, and this is the log of the least one above 0.
LEAST = -103.0
# By how many nats a log-probability may differ between a prompt computed at once and one computed token after token.
# SmolLM2 in Q4_1 on a CPU: 4e-5; half precision on a GPU is coarser, and another adapter's prefix differs by more.
CACHE_NOISE = 0.1
READ = [
    *("tokens_evaluated", "truncated", "stop_type", "content", "completion_probabilities"),
    *("generation_settings/lora", "timings/cache_n", "tokens_predicted"),
]


@dataclass(frozen=True, slots=True)
class _Adapter:
    """id: of the engine, its place in the list; scale: as the engine has it set now"""

    id: int
    path: str
    scale: float

    @property
    def name(self) -> str:
        return PurePath(self.path).stem


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is asked for under a name. scales: of each adapter by its id; fingerprint: as in EngineIdentity"""

    scales: Mapping[int, float]
    fingerprint: str


class Engine:
    """One llama.cpp server. address: where it listens; client: asks it."""

    def __init__(self, address: Address, client: Client) -> None:
        self._client, self._url = client, address.url

    def capabilities(self) -> Capabilities:
        meta = self._base().get("meta")
        with reading(self._at(MODELS)):
            context, vocabulary = whole_or_none((meta or {}).get("n_ctx")), whole_or_none((meta or {}).get("n_vocab"))
        most = min(MOST_WANTED, vocabulary or MOST_WANTED)
        routes = (Route.WALK, Route.GENERATED)
        modes = (Mode.STREAMED, Mode.CHAT, Mode.WARM)
        return Capabilities(routes, most, True, True, True, context, vocabulary, modes, strengths=True)

    def models(self) -> tuple[ServedModel, ...]:
        with reading(self._at(MODELS)):
            base = text(self._base()["id"])
        adapters = tuple(ServedModel(adapter.name, adapter.path, base) for adapter in self._adapters())
        return (ServedModel(base, self._props("model_path")), *adapters)

    def identity(self) -> EngineIdentity:
        """The fingerprint is the scale of each adapter, as the engine has it set now."""
        return EngineIdentity("llama_cpp", self._props("build_info"), _settings(self._adapters()))

    def load(self) -> Load:
        """Unknown unless the server was started with --metrics."""
        reply = self._client.ask("GET", "/metrics")
        values = samples(self._client.text_of(reply)) if reply.status == OK else {}
        return Load(total(values, "llamacpp:requests_processing"), total(values, "llamacpp:requests_deferred"))

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        if not request.prompt or not continuation:
            raise Unreplayable(self._url, "no token to score, or none before it; wanted one of each at least")
        if route is not Route.WALK:
            raise Unreplayable(self._url, f"llama.cpp scores no continuation by {route.value}, wanted walk")
        subject = self._subject(request)
        steps = self._walked(request, continuation, subject, between)
        listed = joined([step.listed for step in steps])
        return Answered(listed, request.prompt, "", steps[0].cached, subject.fingerprint)

    def generate(self, request: Request, tokens: int) -> Answered:
        subject = self._subject(request)
        more: dict[str, Any] = {"cache_prompt": request.warm, "stream": request.streamed}
        if request.messages:
            chat = {"messages": [dict(message) for message in request.messages], "max_tokens": tokens}
            # What else is read stands in the whole record of the request, which it gives on demand.
            more |= chat | {"logprobs": True, "top_logprobs": request.listed, "verbose": True}
        else:
            more |= {"n_predict": tokens}
        answer = self._written(request, subject, more)
        with reading(self._at(COMPLETION)):
            words, ended = text(answer["content"]), answer["stop_type"] == "eos"
        # It goes on beyond the limit to the end of a character of several tokens.
        return self._answered(answer, request, subject, words, ended, most=tokens)

    def encode(self, model: str, text: str) -> tuple[int, ...]:  # noqa: ARG002 - one tokenizer for all
        return self._ids({"content": text, "add_special": False})

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:  # noqa: ARG002
        answer = self._client.post("/apply-template", {"messages": [dict(message) for message in messages]})
        with reading(self._at("/apply-template")):
            rendered = text(answer["prompt"])
        return self._ids({"content": rendered, "add_special": True})  # a template's own first token is taken from it

    def decode(self, model: str, ids: Sequence[int]) -> str:  # noqa: ARG002
        answer = self._client.post("/detokenize", {"tokens": list(ids)})
        with reading(self._at("/detokenize")):
            return text(answer["content"])

    def close(self) -> None:
        self._client.close()

    def _walked(
        self, request: Request, continuation: Sequence[int], subject: _Subject, between: Between
    ) -> list[Answered]:
        def step(i: int) -> Answered:
            return self._step(request, continuation, i, subject, i > 0)

        steps, last = walked(step, len(continuation), between), len(continuation) - 1
        if not last or _agree(steps[-1].listed, self._step(request, continuation, last, subject).listed):
            return steps
        return walked(lambda i: self._step(request, continuation, i, subject), len(continuation), between)

    def _step(
        self, request: Request, continuation: Sequence[int], i: int, subject: _Subject, from_cache: bool = False
    ) -> Answered:
        prompt, token = (*request.prompt, *continuation[:i]), continuation[i]
        more = {"n_predict": 1, "logit_bias": [[token, FORCING]], "cache_prompt": from_cache}
        answer = self._completed(request, prompt, subject, more)
        step = self._answered(answer, request, subject, most=1)
        if step.listed.tokens.tolist() != [token]:
            self._client.refused(COMPLETION, "another token than the one that was forced")
        return step

    def _written(self, request: Request, subject: _Subject, more: Mapping[str, Any]) -> Any:
        """In the form of a whole completion, wherever and however it was asked for."""
        body = _body(request, request.prompt, subject) | dict(more)
        path = CHAT if request.messages else COMPLETION
        if request.messages:
            del body["prompt"], body["n_probs"]
        if request.streamed:
            reply = self._client.ask("POST", path, body)
            self._client.close()  # the engine closes its side after a stream, and does not say so
            if reply.status != OK:
                self._client.json_of(reply)
            with reading(self._at(path)):
                answer = _joined(_events(reply.body))
        else:
            whole = self._client.post(path, body)
            with reading(self._at(path)):
                answer = _of_chat([whole]) if request.messages else whole
        self._check(answer, request.prompt, subject)
        return answer

    def _completed(self, request: Request, prompt: Sequence[int], subject: _Subject, more: Mapping[str, Any]) -> Any:
        """Raises as ``_check``."""
        answer = self._client.post(COMPLETION, {**_body(request, prompt, subject), **more})
        self._check(answer, prompt, subject)
        return answer

    def _check(self, answer: Any, prompt: Sequence[int], subject: _Subject) -> None:
        """Raises Unreplayable where not all of the prompt was read, or other adapters were applied than asked for."""
        with reading(self._at(COMPLETION)):
            was_read, is_cut = answer["tokens_evaluated"], answer["truncated"]
            applied = {int(entry["id"]): number(entry["scale"]) for entry in answer["generation_settings/lora"]}
        if was_read != len(prompt) or is_cut:
            self._client.refused(COMPLETION, f"it read {was_read} tokens, wanted the {len(prompt)} that were sent")
        if not _are(applied, subject.scales):
            self._client.refused(COMPLETION, "it applied other adapters than those that were asked for")

    def _answered(
        self, answer: Any, request: Request, subject: _Subject, words: str = "", ended: bool = False, most: int = 1
    ) -> Answered:
        where = self._at(COMPLETION)
        with reading(where):
            positions = [_position(entry) for entry in answer["completion_probabilities"][:most]]
            cached = whole_or_none(answer.get("timings/cache_n"))
        if not positions:
            self._client.refused(COMPLETION, "no token was generated, wanted one at least")
        listed = listed_of(positions, request.listed, where)
        return Answered(listed, request.prompt, words, cached, subject.fingerprint, ended)

    def _subject(self, request: Request) -> _Subject:
        adapters, model = self._adapters(), request.model
        named = [adapter for adapter in adapters if adapter.name == model]
        with reading(self._at(MODELS)):
            is_base = self._base()["id"] == model
        if len(named) + is_base != 1:
            known = ", ".join(sorted(adapter.name for adapter in adapters)) or "no adapter"
            raise Unreplayable(self._at(ADAPTERS), f"{len(named) + is_base} models named {model}; it lists {known}")
        scales = {adapter.id: adapter.scale * request.strength if adapter in named else 0.0 for adapter in adapters}
        return _Subject(scales, _settings(adapters))

    def _adapters(self) -> list[_Adapter]:
        answer = self._client.get(ADAPTERS)
        with reading(self._at(ADAPTERS)):
            return [_Adapter(int(entry["id"]), text(entry["path"]), number(entry["scale"])) for entry in answer]

    def _base(self) -> Any:
        return model_cards(self._client, self._url)[0]

    def _props(self, name: str) -> str:
        answer = self._client.get(PROPS)
        with reading(self._at(PROPS)):
            return text(answer[name])

    def _ids(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        return token_ids(self._client, self._url, "/tokenize", {**body, "parse_special": True})

    def _at(self, path: str) -> str:
        return self._url + path


def _body(request: Request, prompt: Sequence[int], subject: _Subject) -> dict[str, Any]:
    return {
        "prompt": list(prompt),
        "n_probs": request.listed,
        "temperature": 0,
        "samplers": ["temperature"],
        "backend_sampling": False,
        "post_sampling_probs": False,
        "cache_prompt": False,
        "lora": [{"id": i, "scale": scale} for i, scale in subject.scales.items()],
        "response_fields": READ,
    }


def _events(body: bytes) -> list[Any]:
    """The JSON of each event of a stream that came whole; a chat's is ended by a line of its own."""
    lines = [line.removeprefix(b"data:").strip() for line in body.splitlines() if line.startswith(b"data:")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def _joined(events: Sequence[Any]) -> Any:
    """One answer of a stream, whose last event holds what there is once. Raises as ``reading`` wants it."""
    if "choices" in events[0]:
        return _of_chat(events)
    *pieces, last = events
    if "stop_type" not in last:
        raise ValueError("a stream that did not end")
    return last | _tokens_in_order([(text(e["content"]), e["completion_probabilities"]) for e in pieces], last)


def _of_chat(answers: Sequence[Any]) -> Any:
    """A chat's answer, whole or in pieces, in the form of a completion."""
    last = answers[-1]["__verbose"]
    pieces = []
    for choice in (answer["choices"][0] for answer in answers):
        words = text_or_none(choice.get("message", choice.get("delta")).get("content"))
        pieces.append((words, (choice.get("logprobs") or {}).get("content") or []))
    return last | _tokens_in_order(pieces, last)


def _tokens_in_order(pieces: Sequence[tuple[str, Sequence[Any]]], last: Mapping[str, Any]) -> dict[str, Any]:
    """Words and tokens of all pieces. A stream leaves out tokens within a character of several, so where some are
    missing it is followed up to the first character that may be one of these."""
    entries = [entry for _, piece in pieces for entry in piece]
    if len(entries) != int(last["tokens_predicted"]):
        plain = takewhile(lambda piece: piece[0].isascii() and len(piece[1]) <= 1, pieces)
        entries = [entry for _, piece in plain for entry in piece]
    return {"content": "".join(words for words, _ in pieces), "completion_probabilities": entries}


def _are(applied: Mapping[int, float], wanted: Mapping[int, float]) -> bool:
    """The engine holds scales in 32 bits."""
    return applied.keys() == wanted.keys() and all(math.isclose(applied[i], wanted[i], rel_tol=1e-6) for i in wanted)


def _agree(first: Listed, second: Listed) -> bool:
    """Of one position: its token, and the most probable ones that both list."""
    values = dict(zip(second.ids[0].tolist(), second.log_probs[0].tolist(), strict=True))
    pairs = zip(first.ids[0].tolist(), first.log_probs[0].tolist(), strict=True)
    differences = [abs(value - values[token]) for token, value in pairs if token in values]
    return max(*differences, abs(float(first.of_tokens[0] - second.of_tokens[0])), 0.0) < CACHE_NOISE


def _position(entry: Any) -> Position:
    listed = {int(top["id"]): max(number(top["logprob"]), LEAST) for top in entry["top_logprobs"]}
    return Position(int(entry["id"]), max(number(entry["logprob"]), LEAST), listed)


def _settings(adapters: Sequence[_Adapter]) -> str:
    return ", ".join(f"{adapter.name} {adapter.scale:g}" for adapter in adapters)
