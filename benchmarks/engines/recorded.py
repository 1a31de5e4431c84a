"""An engine of which each question is asked once and its answer kept, by the configuration that it was asked in."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from detectors.records import Floats
from probes.serving.engine import (
    Answered,
    Between,
    Capabilities,
    Engine,
    EngineIdentity,
    Load,
    Request,
    Route,
    ServedModel,
    at_once,
)

T = TypeVar("T")


class Recorded:
    """Keeps the protocol ``Engine``. configuration: in which it answers; salts are not distinguished."""

    def __init__(self) -> None:
        self.configuration = ""
        self._engines: dict[str, Engine] = {}
        self._answers: dict[tuple[str, Any], object] = {}

    def add(self, configuration: str, engine: Engine) -> None:
        """engine: answers what was not asked in this configuration yet, for as long as it is asked"""
        self.configuration, self._engines[configuration] = configuration, engine

    def apart(self) -> float:
        """The largest distance between what two configurations say of one token that both scored, in nats."""
        scored: dict[Hashable, list[Floats]] = {}
        for (_, key), answer in self._answers.items():
            if isinstance(answer, Answered) and key[0] == "score":
                scored.setdefault(key, []).append(answer.listed.of_tokens)
        return max((float(np.ptp(np.stack(same), axis=0).max()) for same in scored.values()), default=0.0)

    def capabilities(self) -> Capabilities:
        return self._once("capabilities", lambda engine: engine.capabilities())

    def models(self) -> tuple[ServedModel, ...]:
        return self._once("models", lambda engine: engine.models())

    def identity(self) -> EngineIdentity:
        return self._once("identity", lambda engine: engine.identity())

    def load(self) -> Load:
        return Load()

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        key = ("score", _unsalted(request), tuple(continuation), route)
        return self._once(key, lambda engine: engine.score(request, continuation, route, between))

    def generate(self, request: Request, tokens: int) -> Answered:
        return self._once(("generate", _unsalted(request), tokens), lambda engine: engine.generate(request, tokens))

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        return self._once(("encode", text), lambda engine: engine.encode(model, text))

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        key = ("encode_chat", *(tuple(sorted(message.items())) for message in messages))
        return self._once(key, lambda engine: engine.encode_chat(model, messages))

    def decode(self, model: str, ids: Sequence[int]) -> str:
        return self._once(("decode", tuple(ids)), lambda engine: engine.decode(model, ids))

    def close(self) -> None:
        """The engine's own connection stays with whoever opened it."""

    def _once(self, key: Hashable, ask: Callable[[Engine], T]) -> T:
        whole = (self.configuration, key)
        if whole not in self._answers:
            self._answers[whole] = ask(self._engines[self.configuration])
        answer: T = self._answers[whole]  # type: ignore[assignment]
        return answer


def _unsalted(request: Request) -> Hashable:
    bare = replace(request, salt="", messages=())
    return bare, bool(request.messages)
