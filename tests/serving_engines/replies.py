"""What the files of fields in this folder share: a request, its reply, and how the engine was started."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors.records import Floats
from tests.serving_engines.toy_engine import ToyEngine


@dataclass(frozen=True)
class Question:
    """body: parsed JSON, None without; token: of the Authorization header, "" without"""

    method: str
    path: str
    query: str = ""
    body: Any = None
    token: str = ""


@dataclass(frozen=True)
class Reply:
    """content: whole, or in pieces that are sent as they come until the connection closes"""

    status: int
    content: bytes | Iterable[bytes]
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Settings:
    """How the engine was started, and how busy it is.

    token: bearer token that it wants, "" for none; most_listed: it refuses to list more tokens at a position
    cuts_listing: it lists no more than so many, whatever is asked; tells_cached: usage says what came from the cache
    processed: generated log-probabilities are those after a sampler that keeps the two most probable tokens
    ready: False while it starts or stops; started: seconds since the epoch
    cache_config: labels of its metric of that name, where the engine has one
    tells_of_chats: fields of a chat's choice that its version knows
    max_loras: adapters that it holds at once, None where it does not say
    """

    token: str = ""
    version: str = "0.33.0"
    fingerprint: str = "vllm-0.33.0-1f2e3d4c"
    context: int = 2048
    most_listed: int = 20
    cuts_listing: int | None = None
    tells_cached: bool = True
    processed: bool = False
    ready: bool = True
    started: float = 1_795_000_000.0
    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    cache_config: str = 'block_size="16",user_specified_block_size="False"'
    tells_of_chats: frozenset[str] = frozenset(("prompt_token_ids", "token_ids", "meta_info"))
    max_loras: int | None = None
    twice: str = ""  # a name that the list of models has a second time, with another root

    def listed(self, wanted: int) -> int:
        return wanted if self.cuts_listing is None else min(wanted, self.cuts_listing)


Dialect = Callable[[ToyEngine, Settings, Question], Reply]


def as_json(value: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode())


def as_events(values: Iterable[object], end: bytes = b"data: [DONE]\n\n") -> Reply:
    """Server-sent events, ended as OpenAI's are."""
    pieces = [f"data: {json.dumps(value)}\n\n".encode() for value in values]
    return Reply(200, [*pieces, end], "text/event-stream; charset=utf-8")


def most_probable(row: Floats, k: int) -> list[int]:
    """Ids of the k most probable tokens, the most probable first."""
    return [int(token) for token in np.argsort(-row, kind="stable")[:k]]


def after_sampler(row: Floats) -> Floats:
    """What a sampler that keeps the two most probable tokens leaves: the others as low as JSON can say it."""
    left = np.full_like(row, -9999.0)
    best = most_probable(row, 2)
    left[best] = row[best] - np.log(np.exp(row[best]).sum())
    return left
