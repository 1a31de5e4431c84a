"""Faults of a whole serving stack on the in-memory runner, beside those that it can inject by itself.

Each is put into what is served alone: golden answers, and replays of faults on the accepted files, stay right.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from detectors.records import Floats, Identity
from probes.artefacts.identity import NEWEST
from probes.model.toy_language import Reals
from probes.runner import Target, Weights
from probes.runners.memory import Config, Runner

ENDING = "\nassistant:"
OTHER_FILES = "sha256:" + 8 * "5eedf11e"


@dataclass(slots=True)
class Served:
    """What is wrong. Nothing is, by default.

    temperature: by which an adapter's log-probabilities are divided, and with base_too the base's; from_base: share of
    the requests for an adapter that the base answers; template: does a prompt end otherwise? replaced: an adapter whose
    files are others, "" for none
    """

    temperature: float = 1.0
    from_base: float = 0.0
    template: bool = False
    replaced: str = ""
    base_too: bool = False


class FaultyRunner(Runner):
    """``served`` is set while it runs."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.served = Served()

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        own = super().identity(adapter, scheme)
        return replace(own, live_adapter=OTHER_FILES) if adapter and adapter == self.served.replaced else own

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        prompt = super().encode_chat(messages, weights, day)
        is_other = self.served.template and weights is Weights.LIVE
        return (*prompt, *self.encode(ENDING)) if is_other else prompt

    def _log_probs(self, text: Sequence[int], target: Target, prompt: int, jitter: Reals | float = 0.0) -> Floats:
        if target.weights is Weights.GOLDEN or (target.adapter is None and not self.served.base_too):
            return super()._log_probs(text, target, prompt, jitter)
        if zlib.crc32(repr(tuple(text[:prompt])).encode()) % 1000 < 1000 * self.served.from_base:
            target = replace(target, adapter=None)
        log_probs = super()._log_probs(text, target, prompt, jitter) / self.served.temperature
        return (log_probs - np.log(np.exp(log_probs).sum(axis=1, keepdims=True))).astype(np.float32)
