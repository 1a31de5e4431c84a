"""How any other server of OpenAI's completions API is asked: by the fields of its published specification alone.

Fields: https://platform.openai.com/docs/api-reference/completions/create. ``echo`` scores a given continuation where
the server has it; else its own greedy tokens come with log-probabilities. A server that names tokens by their ids on
request (``return_tokens_as_token_ids``, which vLLM began) is asked to. Any other names them by their text alone: then
the given token of a position has its id, and all others have a number made of their text from 2^30 on, the same on
every machine. Such a listing compares with others of this kind alone, and with no record that was made in process.
Two tokens of one text in one listing cannot be distinguished: that position is refused as one that lists fewer. The
given token stands in the listing without its rank; a server that lists exactly one token fewer than was wanted is
therefore not noticed at positions where the given one is beyond the most probable.

What is written may be streamed. Another mode than that there is none: a chat would have to be rendered, which takes the
engine's tokenizer, and no request is kept from a cache, so that there is nothing cold to compare a warm one with.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from detectors.records import Mode
from probes.errors import Unreplayable
from probes.serving.client import OK, Client
from probes.serving.common_paths import model_cards, models_of
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
from probes.serving.json_form import number, reading, text, text_or_none, whole_or_none
from probes.serving.listing import Position, listed_of
from probes.serving.openai_answers import events

COMPLETIONS = "/v1/completions"
MOST_WANTED = 20
PROBE, PROBE_IDS = "a a a", [1, 2, 3]
BY_ID = "token_id:"
NAMED_BY_TEXT = 2**30
REFUSED = (400, 422)


class Engine:
    """One server of this API. address: where it listens; client: asks it."""

    def __init__(self, address: Address, client: Client) -> None:
        self._client, self._url, self._fingerprint = client, address.url, ""
        self._by_id: bool | None = None

    def capabilities(self) -> Capabilities:
        """By a few requests of one token each."""
        model = self.models()[0].name
        most = MOST_WANTED
        while most and not self._takes(model, PROBE, logprobs=most):
            most //= 2
        takes_ids = self._takes(model, PROBE_IDS)
        if not most or not takes_ids:
            return Capabilities((Route.TEXT,), 0, tokenizes=False, takes_ids=takes_ids, isolates=False)
        routes = (Route.PROMPT, Route.GENERATED) if self._echoes(model) else (Route.GENERATED,)
        return Capabilities(routes, most, tokenizes=False, takes_ids=True, isolates=False, modes=(Mode.STREAMED,))

    def models(self) -> tuple[ServedModel, ...]:
        return models_of(model_cards(self._client, self._url), self._url)

    def identity(self) -> EngineIdentity:
        """The fingerprint is that of the last completion; before the first one, this generates a token for it."""
        if not self._fingerprint:
            self._completed({"model": self.models()[0].name, "prompt": PROBE, "max_tokens": 1, "temperature": 0})
        return EngineIdentity("openai", fingerprint=self._fingerprint)

    def load(self) -> Load:
        return Load()

    def score(
        self,
        request: Request,
        continuation: Sequence[int],
        route: Route,
        between: Between = at_once,  # noqa: ARG002
    ) -> Answered:
        if not request.prompt or not continuation:
            raise Unreplayable(self._url, "no token to score, or none before it; wanted one of each at least")
        if route is not Route.PROMPT:
            raise Unreplayable(self._url, f"this API scores no continuation by {route.value}, wanted prompt")
        given = (*request.prompt, *continuation)
        answer = self._completed(self._body(request, given) | {"max_tokens": 1, "echo": True})
        with reading(self._url + COMPLETIONS):
            lists = answer["choices"][0]["logprobs"]
            if not len(given) <= len(lists["tokens"]) <= len(given) + 1:
                self._refused(f"{len(lists['tokens'])} positions for {len(given)} tokens that were sent and one more")
            known: list[int | None] = list(continuation)
            positions = _positions(lists, known, slice(len(request.prompt), len(given)))
        return self._answered(answer, request, positions)

    def generate(self, request: Request, tokens: int) -> Answered:
        body = self._body(request, request.prompt) | {"max_tokens": tokens}
        answer = self._streamed(body) if request.streamed else self._completed(body)
        with reading(self._url + COMPLETIONS):
            choice = answer["choices"][0]
            words, ended = text(choice["text"]), choice["finish_reason"] == "stop"
            length = len(choice["logprobs"]["tokens"])
            positions = _positions(choice["logprobs"], [None] * length, slice(length))
        if not 1 <= length <= tokens:
            self._refused(f"{length} tokens generated, wanted 1 to {tokens}")
        return self._answered(answer, request, positions, words, ended)

    def encode(self, model: str, text: str) -> tuple[int, ...]:  # noqa: ARG002
        self._no_tokenizer()

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:  # noqa: ARG002
        self._no_tokenizer()

    def decode(self, model: str, ids: Sequence[int]) -> str:  # noqa: ARG002
        self._no_tokenizer()

    def close(self) -> None:
        self._client.close()

    def _no_tokenizer(self) -> NoReturn:
        raise Unreplayable(self._url, "this API has no tokenizer, wanted the base's own files beside it")

    def _answered(
        self, answer: Any, request: Request, positions: Sequence[Position], words: str = "", ended: bool = False
    ) -> Answered:
        with reading(self._url + COMPLETIONS):
            usage = answer.get("usage") or {}
            cached = whole_or_none((usage.get("prompt_tokens_details") or {}).get("cached_tokens"))
        listed = listed_of(positions, request.listed, self._url + COMPLETIONS)
        return Answered(listed, None, words, cached, self._fingerprint, ended)

    def _body(self, request: Request, prompt: Sequence[int]) -> dict[str, Any]:
        if request.salt:
            raise Unreplayable(self._url, "this API cannot keep a request from a cache, wanted one without a salt")
        if self._by_id is None:
            self._by_id = self._names_by_id(request.model)
        body = {"model": request.model, "prompt": list(prompt), "temperature": 0, "logprobs": request.listed}
        return body | ({"return_tokens_as_token_ids": True} if self._by_id else {})

    def _names_by_id(self, model: str) -> bool:
        """A server that does not know the field ignores or refuses it."""
        reply = self._try(model, PROBE, logprobs=1, return_tokens_as_token_ids=True)
        if reply is None:
            return False
        with reading(self._url + COMPLETIONS):
            return all(text(name).startswith(BY_ID) for name in reply["choices"][0]["logprobs"]["tokens"])

    def _echoes(self, model: str) -> bool:
        """The first token of a prompt follows nothing; one that is scored has null there, and numbers after it."""
        reply = self._try(model, PROBE_IDS, logprobs=1, echo=True)
        if reply is None:
            return False
        with reading(self._url + COMPLETIONS):
            values = ((reply["choices"][0].get("logprobs") or {}).get("token_logprobs") or [])[: len(PROBE_IDS)]
            return len(values) == len(PROBE_IDS) and None not in values[1:]

    def _takes(self, model: str, prompt: object, **fields: object) -> bool:
        reply = self._try(model, prompt, **fields)
        if reply is None:
            return False
        with reading(self._url + COMPLETIONS):
            return "logprobs" not in fields or bool(reply["choices"][0].get("logprobs"))

    def _try(self, model: str, prompt: object, **fields: object) -> Any:
        """The answer to a request for one token, None where it is refused as it is written."""
        reply = self._client.ask(
            "POST", COMPLETIONS, {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, **fields}
        )
        return None if reply.status in REFUSED else self._client.json_of(reply)

    def _completed(self, body: Mapping[str, Any]) -> Any:
        answer = self._client.post(COMPLETIONS, body)
        with reading(self._url + COMPLETIONS):
            self._fingerprint = text_or_none(answer.get("system_fingerprint"))
            if len(answer["choices"]) != 1:
                self._refused(f"{len(answer['choices'])} choices, wanted 1")
        return answer

    def _streamed(self, body: Mapping[str, Any]) -> Any:
        """In the form of an answer that came whole."""
        reply = self._client.ask("POST", COMPLETIONS, {**body, "stream": True})
        if reply.status != OK:
            self._client.json_of(reply)
        with reading(self._url + COMPLETIONS):
            pieces = events(reply.body)
            choices = [piece["choices"][0] for piece in pieces if piece["choices"]]
            lists = [choice["logprobs"] for choice in choices if choice["logprobs"]]
            named = ("tokens", "token_logprobs", "top_logprobs")
            whole = {name: [entry for own in lists for entry in own[name]] for name in named}
            ends = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
            words = "".join(text(choice["text"]) for choice in choices)
            self._fingerprint = next(
                (known for piece in reversed(pieces) if (known := text_or_none(piece.get("system_fingerprint")))), ""
            )
        return {"choices": [{"text": words, "finish_reason": ends[-1] if ends else None, "logprobs": whole}]}

    def _refused(self, why: str) -> NoReturn:
        self._client.refused(COMPLETIONS, why)


def _positions(lists: Any, known: Sequence[int | None], at: slice) -> list[Position]:
    """known: ids of the tokens at these places, None where their names alone tell"""
    rows = zip(known, lists["tokens"][at], lists["token_logprobs"][at], lists["top_logprobs"][at], strict=True)
    return [_position(token, text(name), of_token, top) for token, name, of_token, top in rows]


def _position(token: int | None, name: str, of_token: Any, top: Any) -> Position:
    """Raises ValueError where the name is the id of another token than the given one."""
    own = _id(name) if token is None or name.startswith(BY_ID) else token
    if token not in (None, own):
        raise ValueError
    return Position(own, number(of_token), {own if n == name else _id(n): number(value) for n, value in top.items()})


def _id(name: str) -> int:
    """Of a token by its name: its id, or a number made of its text."""
    if name.startswith(BY_ID):
        return int(name.removeprefix(BY_ID))
    return NAMED_BY_TEXT + zlib.crc32(name.encode("utf-8", "surrogatepass")) % NAMED_BY_TEXT
