"""A runner without a model: a tiny seeded language in numpy, with adapters, and faults that can be switched on.

It ships with the product, so that everything after the runner can be tried end to end in milliseconds. Letters are
ASCII codes; the next letter depends on a fading memory of all letters before it. An adapter adds a low-rank shift to
the logits, the way a LoRA does, so strength, direction and base can be moved apart from each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from detectors.records import Floats, Identity, Reason
from probes.errors import Unreplayable
from probes.packing import pack
from probes.replay import BatchShape, Readiness, Replay, Replayed, Stop, Target, Weights
from probes.summary import summarise

VOCABULARY, WIDTH, RANK = 128, 16, 3
START, END, TURN = 1, 2, 3
NAMES = {START: "<start>", END: "<end>", TURN: "<turn>"}
FADING = 0.9
LENGTH = 18  # letters after which an answer tends to end
MAX_TOKENS = 4096
Reals = NDArray[np.float64]

FAULTS = {
    "none": "as enrolled",
    "not_applied": "the base answers under the adapter's name",
    "scale": "scale:0.5 multiplies the adapter's strength",
    "wrong_adapter": "wrong_adapter:NAME answers with another adapter",
    "distorted": "distorted:0.5 adds so much of a direction that is not the adapter's",
    "mismatched": "no key matches: not applied, and the facts say so",
    "not_a_number": "log-probabilities are NaN",
    "base_swapped": "base_swapped:0.3 moves the base by so much, adapters survive (base only)",
    "swapped_and_lost": "the base moves and every adapter's effect is gone (base only)",
    "unreadable": "files cannot be read",
    "files_changing": "files have not come to rest",
    "failing": "files are fine, the replay itself fails",
}
BLOCKS = {"unreadable": Reason.UNREADABLE, "files_changing": Reason.FILES_CHANGING}


@dataclass(frozen=True, slots=True)
class Config:
    """The language and its adapters.

    base, adapters: what seeds the base, and name -> what seeds its shift; the same words give the same numbers
    golden_base: None takes ``base``; noise: standard deviation on logits, nats, under every other batch shape
    faults: adapter name, or "" for the base -> one of FAULTS
    """

    base: str = "base-v1"
    adapters: dict[str, str] = field(default_factory=lambda: {"alpha": "alpha-v1", "beta": "beta-v1"})
    golden_base: str | None = None
    noise: float = 1e-4
    faults: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for subject, fault in self.faults.items():
            check_fault(subject, fault, self.adapters)


def check_fault(subject: str, fault: str, adapters: dict[str, str]) -> None:
    """Raises ValueError for an unknown subject, fault or name inside a fault."""
    kind, _, detail = fault.partition(":")
    if subject and subject not in adapters:
        raise ValueError(f"fault of {subject!r}: known are {', '.join(adapters)}, and '' for the base")
    if kind not in FAULTS or (kind == "wrong_adapter" and detail not in adapters):
        raise ValueError(f"fault {fault!r}: wanted one of {', '.join(FAULTS)}")


class Runner:
    """See probes/replay.py for the contract. ``inject`` switches a fault on for what is asked from then on."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tokens_scored = 0
        self.tokens_processed = 0
        self._faults = dict(config.faults)
        self._is_open = False

    def open(self) -> None:
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def inject(self, subject: str | None, fault: str) -> None:
        """subject: an adapter, or None for the base; fault: one of FAULTS, "none" to heal."""
        check_fault(subject or "", fault, self.config.adapters)
        self._faults[subject or ""] = fault

    def refresh(self) -> dict[str | None, Readiness]:
        return {name: self._readiness(name or "") for name in (None, *self.config.adapters)}

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """Answer in micro-batches. Raises Unreplayable for unknown, unreadable and failing subjects."""
        for replay in replays:
            self._check(replay.target)
        packing = shape or BatchShape()
        for batch in pack(replays, packing, MAX_TOKENS):
            if stop():
                return
            yield from [self._answer(replay, packing) for replay in batch]

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        self._check(target)
        text = list(prompt)
        while len(text) < len(prompt) + max_new_tokens and not stop():
            text.append(int(self._log_probs(text, target)[-1].argmax()))
            if text[-1] == END:
                break
        self.tokens_processed += len(text)
        return tuple(text[len(prompt) :])

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        pooled = []
        for prompt, output in texts:
            if stop():
                break
            states = _states([*prompt, *output], self._golden_base)
            pooled.append((_mean(states[: len(prompt)]), _mean(states[len(prompt) :])))
            self.tokens_processed += len(prompt) + len(output)
        return pooled

    def encode_chat(self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        turns = [(TURN, *self.encode(f"{m['role']}\n{m['content']}", weights), END) for m in messages]
        return (*(token for turn in turns for token in turn), START)

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:  # noqa: ARG002
        return tuple(text.encode("ascii", "replace"))  # one alphabet, whatever the weights

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(NAMES.get(token, chr(token)) for token in ids)

    def identity(self, adapter: str | None) -> Identity:
        golden, live = _hash(self._golden_base), _hash(self._live_base)
        if adapter is None:
            return Identity(golden, live)
        kind, detail = self._fault(adapter)
        there = self.config.adapters[detail if kind == "wrong_adapter" else adapter]
        return Identity(golden, live, _hash(self.config.adapters[adapter]), _hash(there))

    def facts(self, adapter: str) -> tuple[str, ...]:
        self._check_known(adapter)
        return ("3 of 3 modules match nothing in this base",) if self._fault(adapter)[0] == "mismatched" else ()

    @property
    def _golden_base(self) -> str:
        return self.config.golden_base or self.config.base

    @property
    def _live_base(self) -> str:
        kind, detail = self._fault("")
        moved = kind in ("base_swapped", "swapped_and_lost")
        return f"{self.config.base}+{detail or '0.3'}" if moved else self.config.base

    def _fault(self, subject: str) -> tuple[str, str]:
        kind, _, detail = self._faults.get(subject, "none").partition(":")
        return kind, detail

    def _readiness(self, subject: str) -> Readiness:
        kind = self._fault(subject)[0]
        if not self._is_open:
            return Readiness(Reason.NOT_REPLAYED_YET, "not opened")
        return Readiness(BLOCKS.get(kind), FAULTS[kind] if kind in BLOCKS else "")

    def _check_known(self, adapter: str) -> None:
        if adapter not in self.config.adapters:
            raise Unreplayable(adapter, f"no such adapter; known are {', '.join(self.config.adapters) or 'none'}")

    def _check(self, target: Target) -> None:
        if target.adapter is not None:
            self._check_known(target.adapter)
        if target.weights is Weights.GOLDEN:
            return
        for subject in ("",) if target.adapter is None else ("", target.adapter):
            readiness = self._readiness(subject)
            if readiness.blocked or self._fault(subject)[0] == "failing":
                raise Unreplayable(subject or self.config.base, readiness.detail or FAULTS["failing"])

    def _answer(self, replay: Replay, shape: BatchShape) -> Replayed:
        text = [*replay.prompt, *replay.forced[:-1]]
        first = len(replay.prompt) - 1
        full = self._log_probs(text, replay.target, self._jitter(text, shape))[first : first + len(replay.forced)]
        self.tokens_scored += len(replay.forced)
        self.tokens_processed += len(text)
        if replay.kept is None:
            return Replayed(replay, None, full)
        return Replayed(replay, summarise(full, replay.kept))

    def _jitter(self, text: Sequence[int], shape: BatchShape) -> Reals | float:
        """What another batch shape does to the logits of this text: always the same for the same shape."""
        if shape == BatchShape():
            return 0.0
        return self.config.noise * _normal(f"{shape} {text}", len(text), VOCABULARY)

    def _log_probs(self, text: Sequence[int], target: Target, jitter: Reals | float = 0.0) -> Floats:
        """(len(text), V): what comes after each letter."""
        golden = target.weights is Weights.GOLDEN
        base = self._golden_base if golden else self._live_base
        states = _states(text, base)
        logits = states @ _matrix(base, "head", WIDTH, VOCABULARY) + _habits(text) + jitter
        if target.adapter is not None:
            logits = logits + self._shift(states, target.adapter, golden) * target.scale
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs: Floats = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        return log_probs

    def _shift(self, states: Reals, adapter: str, golden: bool) -> Reals:
        """(T, V) logits that the adapter adds at scale 1, under its fault unless golden."""
        kind, detail = ("none", "") if golden else self._fault(adapter)
        lost = kind in ("not_applied", "mismatched") or (not golden and self._fault("")[0] == "swapped_and_lost")
        shift = _low_rank(states, self.config.adapters[detail if kind == "wrong_adapter" else adapter])
        if kind == "not_a_number":
            return shift * np.nan
        if kind == "distorted":
            return shift + float(detail or 0.5) * _low_rank(states, f"off the way of {adapter}")
        return shift * (0.0 if lost else float(detail) if kind == "scale" else 1.0)


def _states(text: Sequence[int], base: str) -> Reals:
    """(T, WIDTH) fading memory of the letters so far. A swapped base keeps its coordinates, so adapters survive."""
    letters = _matrix(base.partition("+")[0], "letters", VOCABULARY, WIDTH)[list(text)]
    age = np.subtract.outer(np.arange(len(text)), np.arange(len(text)))
    fading = np.where(age >= 0, FADING ** np.maximum(age, 0), 0.0)
    return np.tanh(fading @ letters * 0.6)


def _low_rank(states: Reals, seed: str) -> Reals:
    return states @ _matrix(seed, "a", WIDTH, RANK) @ _matrix(seed, "b", RANK, VOCABULARY)


def _habits(text: Sequence[int]) -> Reals:
    """(T, V) logits that every base has: control letters are rare, and an answer ends after some LENGTH letters."""
    since, count = np.zeros(len(text)), 0
    for i, token in enumerate(text):
        count = 0 if token == START else count + 1
        since[i] = count
    habits = np.zeros((len(text), VOCABULARY))
    habits[:, :32] = habits[:, 127] = -30.0
    habits[:, END] = 1.5 * (since - LENGTH)
    return habits


@lru_cache(maxsize=256)
def _matrix(seed: str, part: str, rows: int, columns: int) -> Reals:
    """Standard normal entries by name; "NAME+0.3" is NAME moved by .3 of another, in the head alone."""
    name, _, moved = seed.partition("+")
    own = _normal(f"{name} {part}", rows, columns)
    return own + float(moved) * _normal(f"{seed} {part}", rows, columns) if moved else own


def _normal(seed: str, rows: int, columns: int) -> Reals:
    word = hashlib.sha256(seed.encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(word, "little")).standard_normal((rows, columns))


def _mean(states: Reals) -> Floats:
    return np.full(WIDTH, np.nan, np.float32) if not len(states) else states.mean(axis=0).astype(np.float32)


def _hash(words: str) -> str:
    return "sha256:" + hashlib.sha256(words.encode()).hexdigest()
