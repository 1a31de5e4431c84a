"""A serving engine without a server: the toy language, adapters by name, a cache of prefixes, and faults to switch on.

A golden record that probes/runners/memory.py makes of the same seeds is the reference of what is served here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from detectors.records import Floats
from probes.model import toy_language as toy
from probes.model.toy_language import Reals

BLOCK = 16  # tokens of a prefix are cached by whole blocks of this many


@dataclass
class Faults:
    """What is wrong with the engine. Nothing is, by default; fields may be set while it serves.

    of_adapter: name -> "not_applied", "scale:0.5", "wrong_adapter:NAME", "distorted:0.5", "not_a_number",
    "not_in_prefill" (the first token after a prompt, and whatever is scored in one, is the base's) or "not_in_decode"
    share: of requests that such a fault is in, drawn for each
    base_serves: adapter that is registered under the base's name, and is looked up first
    base_moved: moves the base by that much, adapters still take effect
    unknown_is_base: requests for unknown names are answered by the base
    scored_as_base: adapters whose prompts are scored by the base, while generation is right (lm_head adapters)
    stale_cache: a reload in place leaves the prefixes that were computed before it
    streams_base: answers are the base's where they are streamed; chats_base: where the chat endpoint gives them;
    writes_base: where they are written, and not where they are scored
    base_after: they are the base's where they are written after a prompt of more tokens than this
    """

    of_adapter: dict[str, str] = field(default_factory=dict)
    share: float = 1.0
    base_serves: str = ""
    base_moved: float = 0.0
    unknown_is_base: bool = False
    scored_as_base: set[str] = field(default_factory=set)
    stale_cache: bool = False
    streams_base: bool = False
    chats_base: bool = False
    writes_base: bool = False
    base_after: int = 10**9

    def answers_with_base(self, prompt: int, streamed: bool, at_chat: bool) -> bool:
        """Does it where an adapter's words are asked for?"""
        in_mode = (streamed and self.streams_base) or (at_chat and self.chats_base)
        return self.writes_base or in_mode or prompt > self.base_after


@dataclass(frozen=True)
class Continuation:
    """rows: (n, V) log-probabilities before each of n tokens; cached: tokens of the prompt that were not computed"""

    tokens: tuple[int, ...]
    rows: Floats
    cached: int
    ended: bool


@dataclass
class ToyEngine:
    """base: its name and its seed; adapters: name -> seed. noise: on logits, nats, another draw for every request.

    loads: requests to load an adapter since the start
    """

    base: str = "base-v1"
    adapters: dict[str, str] = field(default_factory=lambda: {"alpha": "alpha-v1", "beta": "beta-v1"})
    noise: float = 0.0
    faults: Faults = field(default_factory=Faults)
    loads: int = 0
    _requests: int = 0
    _cached: dict[tuple[str, str, tuple[int, ...]], str | None] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """That it answered with tokens."""
        return self._requests

    def knows(self, model: str) -> bool:
        return model == self.base or model in self.adapters or self.faults.unknown_is_base

    def reload(self, adapter: str, seed: str) -> None:
        """Another version in place, under the same name."""
        self.adapters[adapter] = seed
        self.loads += 1
        if not self.faults.stale_cache:
            self._cached.clear()

    def restart(self) -> None:
        self._cached.clear()
        self.loads = 0

    def scored(self, model: str, ids: Sequence[int]) -> Floats:
        """(len(ids), V) log-probabilities of the token after each, as a prompt is scored: caches are not read."""
        adapter = None if model in self.faults.scored_as_base else self._adapter(model)
        return self._log_probs(ids, adapter, 0, None)

    def generated(
        self,
        model: str,
        prompt: Sequence[int],
        most: int,
        salt: str = "",
        streamed: bool = False,
        allowed: Sequence[int] | None = None,
        at_chat: bool = False,
    ) -> Continuation:
        """Greedy tokens. The prefix of the prompt is taken from the cache of the same name and salt.

        allowed: tokens that a mask leaves, None for all; log-probabilities are those from before it
        """
        # A mask makes it a walk, which scores.
        is_base = allowed is None and self.faults.answers_with_base(len(prompt), streamed, at_chat)
        adapter = None if is_base else self._adapter(model)
        cached, computed_by = self._prefix(model, prompt, salt)
        text, rows = list(prompt), list[Floats]()
        while len(rows) < most:
            is_prefill = len(text) == len(prompt)
            rows.append(self._log_probs(text, adapter, cached, computed_by, is_prefill)[-1])
            choices = np.arange(toy.VOCABULARY) if allowed is None else np.asarray(allowed)
            text.append(int(choices[np.nan_to_num(rows[-1][choices], nan=-np.inf).argmax()]))
            if text[-1] == toy.END:
                break
        self._keep(model, prompt, salt)
        self._requests += 1
        tokens = tuple(text[len(prompt) :])
        return Continuation(tokens, np.asarray(rows, np.float32), cached, bool(tokens) and tokens[-1] == toy.END)

    def _adapter(self, model: str) -> str | None:
        """Name of the adapter that answers under this name, None for the base."""
        if model == self.base:
            return self.faults.base_serves or None
        return model if model in self.adapters else None

    def _prefix(self, model: str, prompt: Sequence[int], salt: str) -> tuple[int, str | None]:
        """How many leading tokens are in the cache, short of the last one, and the seed that computed them."""
        for length in range((len(prompt) - 1) // BLOCK * BLOCK, 0, -BLOCK):
            key = (model, salt, tuple(prompt[:length]))
            if key in self._cached:
                return length, self._cached[key]
        return 0, None

    def _keep(self, model: str, prompt: Sequence[int], salt: str) -> None:
        adapter = self._adapter(model)
        for length in range(BLOCK, len(prompt) + 1, BLOCK):
            key = (model, salt, tuple(prompt[:length]))
            self._cached.setdefault(key, adapter and self.adapters[adapter])

    def _log_probs(
        self, text: Sequence[int], adapter: str | None, cached: int, computed_by: str | None, is_prefill: bool = True
    ) -> Floats:
        """(len(text), V). cached: tokens whose memory the adapter of the seed ``computed_by`` computed"""
        base = f"{self.base}+{self.faults.base_moved}" if self.faults.base_moved else self.base
        memory = toy.states(text, base)
        added = self._shift(memory, adapter, is_prefill)
        if cached and adapter and computed_by and computed_by != self.adapters[adapter]:
            share = toy.share_of_first(cached, len(text))
            added = share * toy.low_rank(memory, computed_by) + (1 - share) * added
        logits = memory @ toy.head(base, 0) + toy.habits(text) + added
        if self.noise:
            drawn = toy.normal(f"request {self._requests} {list(text)}", len(text), toy.VOCABULARY)
            logits = logits + self.noise * drawn
        logits = logits - logits.max(axis=1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), np.float32)

    def _shift(self, memory: Reals, adapter: str | None, is_prefill: bool) -> Reals:
        """(T, V) logits that the adapter adds, with its fault."""
        if adapter is None:
            return np.zeros((len(memory), toy.VOCABULARY))
        fault = self.faults.of_adapter.get(adapter, "") if self._is_faulty() else ""
        kind, _, detail = fault.partition(":")
        own = toy.low_rank(memory, self.adapters[adapter])
        effects: dict[str, Callable[[], Reals]] = {
            "": lambda: own,
            "not_applied": lambda: own * 0.0,
            "scale": lambda: own * float(detail),
            "wrong_adapter": lambda: toy.low_rank(memory, self.adapters[detail]),
            "distorted": lambda: own + float(detail) * toy.low_rank(memory, f"off the way of {adapter}"),
            "not_a_number": lambda: own * np.nan,
            "not_in_prefill": lambda: own * (not is_prefill),
            "not_in_decode": lambda: own * is_prefill,
        }
        return effects[kind]()

    def _is_faulty(self) -> bool:
        """Drawn by the number of the request, so that all tokens of one are computed alike."""
        share = self.faults.share
        return share == 1.0 or float(np.random.default_rng([self._requests, 7]).random()) < share
