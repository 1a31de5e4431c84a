"""What OpenAI-compatible engines write, whole or as a stream, at the completions and the chat endpoint: token by token.

Both endpoints answer with choices; a stream sends one choice with some tokens in each event, and the tokens of all of
them together are the answer. Tokens are named ``token_id:N`` where a request wants that (vLLM's
``return_tokens_as_token_ids``), and their ids are listed beside (``return_token_ids``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from probes.serving.json_form import number, text_or_none, wholes
from probes.serving.listing import Position

DATA, DONE = b"data:", b"[DONE]"


@dataclass(frozen=True, slots=True)
class Written:
    """positions: one for each token; prompt: ids that were read, None where the engine does not say; text: written

    ended: by itself; fingerprint: as in EngineIdentity
    """

    positions: tuple[Position, ...]
    prompt: tuple[int, ...] | None
    text: str
    ended: bool
    fingerprint: str


def events(body: bytes) -> list[Any]:
    """The JSON of each event of a stream that came whole. Raises ValueError for one that did not end, or is no JSON."""
    lines = data(body)
    if not lines or lines[-1] != DONE:
        raise ValueError("a stream that did not end")
    return [json.loads(line) for line in lines[:-1]]


def data(body: bytes) -> list[bytes]:
    """What stands in each server-sent event."""
    return [line[len(DATA) :].strip() for line in body.splitlines() if line.startswith(DATA)]


def written(answers: Sequence[Any]) -> Written:
    """From the whole answer alone, or from the events of its stream. Raises as ``json_form.reading`` wants it.

    An event without a choice holds the usage alone; a chat's first event may hold no token.
    """
    choices = [answer["choices"][0] for answer in answers if answer["choices"]]
    prompts = [ids for each in (*answers, *choices) if (ids := each.get("prompt_token_ids")) is not None]
    words = [_words(choice) for choice in choices]
    return Written(
        tuple(position for choice in choices for position in _positions(choice)),
        wholes(prompts[0]) if prompts else None,
        "".join(words),
        any(choice.get("finish_reason") == "stop" for choice in choices),
        next((text_or_none(answer.get("system_fingerprint")) for answer in reversed(answers)), ""),
    )


def _words(choice: Any) -> str:
    message = choice.get("message", choice.get("delta"))
    return text_or_none(choice.get("text") if message is None else message.get("content"))


def _positions(choice: Any) -> list[Position]:
    lists = choice.get("logprobs")
    if lists is None:
        if choice.get("token_ids"):
            raise ValueError("tokens without log-probabilities")
        return []
    if "content" in lists:
        rows = [
            (entry["token"], entry["logprob"], {top["token"]: top["logprob"] for top in entry["top_logprobs"]})
            for entry in lists["content"] or ()
        ]
    else:
        rows = list(zip(lists["tokens"], lists["token_logprobs"], lists["top_logprobs"], strict=True))
    positions = [
        Position(_id(token), number(value), {_id(name): number(top[name]) for name in top})
        for token, value, top in rows
    ]
    ids = choice.get("token_ids")
    if ids is not None and wholes(ids) != tuple(position.token for position in positions):
        raise ValueError("log-probabilities of other tokens than those that were written")
    return positions


def _id(name: str) -> int:
    prefix, _, token = name.partition(":")
    if prefix != "token_id":
        raise ValueError("a token by its text, wanted its id")
    return int(token)
