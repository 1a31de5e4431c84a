"""An engine of which each question is asked once and its answer kept, by the configuration that it was asked in.

Answers of a real engine take minutes of a CPU: they lie in a file for each configuration, so that a run which was ended
goes on where it was.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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
Key = tuple[Any, ...]
SAVED_EVERY = 16
ASKING = ("score", "generate")


class Recorded:
    """Keeps the protocol ``Engine``. configuration: in which it answers; salts are not distinguished."""

    def __init__(self) -> None:
        self.configuration = ""
        self._engines: dict[str, Engine] = {}
        self._answers: dict[str, dict[Key, object]] = {}
        self._files: dict[str, Path] = {}

    def add(self, configuration: str, engine: Engine, file: Path) -> None:
        """engine: answers what was not asked in this configuration yet; file: of its answers, which may be there"""
        self.configuration, self._engines[configuration], self._files[configuration] = configuration, engine, file
        self._answers[configuration] = pickle.loads(file.read_bytes()) if file.exists() else {}

    def borrow(self, other: str, model: str) -> None:
        """What this model answered in the other configuration holds in this one, as nothing in it is another."""
        own, others = self._answers[self.configuration], self._answers[other]
        own |= {key: answer for key, answer in others.items() if key[0] in ASKING and key[1][0].model == model}

    def apart(self, configuration: str, other: str) -> float:
        """The largest distance between what two configurations say of one token that both scored, in nats."""
        own, others = self._scored(configuration), self._scored(other)
        distances = [float(np.abs(own[key] - others[key]).max()) for key in own.keys() & others.keys()]
        return max(distances, default=0.0)

    def save(self) -> None:
        for configuration, file in self._files.items():
            file.with_suffix(".new").write_bytes(pickle.dumps(self._answers[configuration]))
            file.with_suffix(".new").rename(file)

    def _scored(self, configuration: str) -> dict[Key, Floats]:
        answers = self._answers[configuration].items()
        return {key: own.listed.of_tokens for key, own in answers if key[0] == "score" and isinstance(own, Answered)}

    def capabilities(self) -> Capabilities:
        return self._once(("capabilities",), lambda engine: engine.capabilities())

    def models(self) -> tuple[ServedModel, ...]:
        return self._once(("models",), lambda engine: engine.models())

    def identity(self) -> EngineIdentity:
        return self._once(("identity",), lambda engine: engine.identity())

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

    def _once(self, key: Key, ask: Callable[[Engine], T]) -> T:
        answers = self._answers[self.configuration]
        if key not in answers:
            answers[key] = ask(self._engines[self.configuration])
            if len(answers) % SAVED_EVERY == 0:
                self.save()
        answer: T = answers[key]  # type: ignore[assignment]
        return answer


def _unsalted(request: Request) -> Hashable:
    bare = replace(request, salt="", messages=())
    return bare, bool(request.messages)
