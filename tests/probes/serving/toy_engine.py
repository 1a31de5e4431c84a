"""A serving engine without HTTP: the contract of probes/serving/engine.py over the toy language, with faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from detectors.records import Floats
from probes.canaries.log_prob_summary import _log_sum_exp as log_sum_exp
from probes.errors import EngineAway, Unreplayable
from probes.model import toy_language as toy
from probes.runner import Replay, Target
from probes.runners.memory import Config, Runner
from probes.serving.engine import (
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
from tests.serving_engines.in_process import listing

BASE = "toy"
EVERY_ROUTE = (Route.PROMPT, Route.WALK, Route.GENERATED)


@dataclass
class ToyEngine:
    """``config``: of the models; ``noise``: on the logits of every request, nats, of its own each time.

    blind: adapters that are scored as the base in the prompt; under_base: adapter that answers under the base's name
    answers_strangers: an unknown name is answered by the base; listed_twice: a name that the list has twice
    crossing: constant nats by which every text scored in the prompt differs, alternating in sign over positions
    """

    config: Config = field(default_factory=Config)
    routes: tuple[Route, ...] = EVERY_ROUTE
    noise: float = 0.0
    blind: frozenset[str] = frozenset()
    under_base: str = ""
    answers_strangers: bool = False
    listed_twice: str = ""
    crossing: float = 0.0
    away: bool = False
    most_listed: int = 20
    requests: int = 0

    def __post_init__(self) -> None:
        self.models_behind = Runner(self.config)
        self.models_behind.open()

    def capabilities(self) -> Capabilities:
        return Capabilities(self.routes, self.most_listed, True, True, True, 512, toy.VOCABULARY)

    def models(self) -> tuple[ServedModel, ...]:
        adapters = [ServedModel(name, f"/adapters/{name}", BASE) for name in self.config.adapters]
        again = [ServedModel(self.listed_twice, "/elsewhere", BASE)] if self.listed_twice else []
        return (ServedModel(BASE, "/models/toy"), *adapters, *again)

    def identity(self) -> EngineIdentity:
        return EngineIdentity("toy", "1.0")

    def load(self) -> Load:
        return Load()

    def score(
        self,
        request: Request,
        continuation: Sequence[int],
        route: Route,
        between: Between = at_once,  # noqa: ARG002
    ) -> Answered:
        target = self._target(request.model)
        if route is Route.PROMPT and target.adapter in self.blind:
            target = Target(None)
        full = self._log_probs(target, request.prompt, tuple(continuation))
        if route is Route.PROMPT:
            full = (
                full + np.float32(self.crossing) * np.where(np.arange(len(full)) % 2, 1, -1).astype(np.float32)[:, None]
            )
        return Answered(listing(full, continuation, request.listed))

    def generate(self, request: Request, tokens: int) -> Answered:
        target = self._target(request.model)
        text = self.models_behind.generate(target, request.prompt, tokens, lambda: False)
        return Answered(listing(self._log_probs(target, request.prompt, text), text, request.listed))

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        self._target(model)
        return self.models_behind.encode(text)

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        self._target(model)
        return self.models_behind.encode_chat([dict(message) for message in messages])

    def decode(self, model: str, ids: Sequence[int]) -> str:
        self._target(model)
        return self.models_behind.decode(ids)

    def close(self) -> None:
        """Nothing is open."""

    def _target(self, model: str) -> Target:
        if self.away:
            raise EngineAway("http://toy", "503")
        if model == BASE:
            return Target(self.under_base or None)
        if model in self.config.adapters:
            return Target(model)
        if self.answers_strangers:
            return Target(None)
        raise Unreplayable(model, "404: no such model")

    def _log_probs(self, target: Target, prompt: tuple[int, ...], text: tuple[int, ...]) -> Floats:
        self.requests += 1
        (answer,) = self.models_behind.run([Replay("", prompt, text, target)], lambda: False)
        assert answer.full is not None
        rng = np.random.default_rng([self.requests, 7])
        logits = answer.full + np.float32(self.noise) * rng.standard_normal(answer.full.shape).astype(np.float32)
        return logits - log_sum_exp(logits)[:, None]
