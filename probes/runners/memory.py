"""The in-memory runner: a toy language model in numpy, with adapters, and faults that can be switched on.

It is part of the product, so that everything behind a runner can be tested end to end in milliseconds. Letters are
ASCII codes; the next letter depends on an exponentially decaying memory of all letters before it. An adapter adds a
low-rank update to the logits, as a LoRA does, so strength, direction and base can be varied independently.

It answers every kind of ``Target.fault``. The decaying memory stands for the key-value cache: on a prompt cache
computed by another adapter, that adapter's share of the update is the share of that memory which it read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np

from detectors.diagnosis.name_encoding import part_of
from detectors.records import Fault, FaultKind, Floats, Identity, Reason
from probes.artefacts.identity import NEWEST
from probes.canaries.log_prob_summary import summarise
from probes.errors import Unreplayable
from probes.model import toy_language as toy
from probes.model.packing import FOREIGN_CACHE, pack
from probes.model.toy_language import Reals
from probes.runner import BatchShape, Readiness, Replay, Replayed, Stop, Target, Weights, bits, group, other_adapter
from probes.scoring.scoring_job import (
    AdapterVersion,
    ScoringAnswer,
    ScoringJob,
    ScoringOptions,
    token_scores,
    why_not,
    why_unreadable,
)

MAX_TOKENS = 4096
PARTS = tuple(f"part.{number}" for number in range(toy.RANK))  # the blocks of every adapter

FAULTS = {
    "none": "as enrolled",
    "not_applied": "the base answers under the adapter's name",
    "scale": "scale:0.5 multiplies the adapter's strength",
    "wrong_adapter": "wrong_adapter:NAME answers with another adapter",
    "without": "without:part.0 leaves out that part of the adapter",
    "with": "with:NAME applies another adapter on top",
    "distorted": "distorted:0.5 adds an update of that size in a direction that is not the adapter's",
    "mismatched": "no key matches: not applied, and the facts report it",
    "not_a_number": "log-probabilities are NaN",
    "base_swapped": "base_swapped:0.3 moves the base by that much, adapters still take effect (base only)",
    "swapped_and_lost": "the base moves and every adapter's effect is gone (base only)",
    "unreadable": "files cannot be read",
    "files_changing": "files have not settled",
    "failing": "files are readable, the replay itself fails",
    "device_lost": "every replay fails until the process is started again (base only)",
}
FAILING = ("failing", "device_lost")
BLOCKS = {"unreadable": Reason.UNREADABLE, "files_changing": Reason.FILES_CHANGING}


@dataclass(frozen=True, slots=True)
class Config:
    """The language and its adapters.

    base, adapters: the base's seed, and adapter -> seed of its update; the same text gives the same numbers
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


def golden_name(version: AdapterVersion) -> str:
    """The adapter name by which targets mean this version; a tab can be in no configured name."""
    return f"{version.name}\tprevious" if version.previous else version.name


def check_fault(subject: str, fault: str, adapters: dict[str, str]) -> None:
    """Raises ValueError for an unknown subject, fault or name inside a fault."""
    kind, _, detail = fault.partition(":")
    if subject and subject not in adapters:
        raise ValueError(f"fault of {subject!r}: known are {', '.join(adapters)}, and '' for the base")
    known = {"wrong_adapter": adapters, "with": adapters, "without": PARTS}
    if kind not in FAULTS or detail not in known.get(kind, (detail,)):
        raise ValueError(f"fault {fault!r}: wanted one of {', '.join(FAULTS)}")


class Runner:
    """See probes/runner.py for the contract. ``inject`` switches a fault on for all later answers."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._faults = dict(config.faults)
        self._seeds = dict(config.adapters)
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
            text.append(int(self._log_probs(text, target, len(prompt))[-1].argmax()))
            if text[-1] == toy.END:
                break
        return tuple(text[len(prompt) :])

    def generate_many(
        self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Stop
    ) -> list[tuple[int, ...]]:
        return [self.generate(target, prompt, max_new_tokens, stop) for prompt in prompts]

    def blocks(self, adapter: str, weights: Weights = Weights.LIVE) -> tuple[str, ...]:  # noqa: ARG002 - all have them
        self._check_known(adapter)
        return PARTS

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        pooled = []
        for prompt, output in texts:
            if stop():
                break
            memory = toy.states([*prompt, *output], self._golden_base)
            pooled.append((_mean(memory[: len(prompt)]), _mean(memory[len(prompt) :])))
        return pooled

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        """By the golden base and adapters, one by one."""
        scored: list[ScoringAnswer] = []
        for job in jobs:
            if stop():
                break
            scored.append(self._scored(job, asking or ScoringOptions()))
        return scored

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:  # noqa: ARG002
        self._check_known(adapter)
        return _hash(self._golden_base), _hash(self._seeds[adapter])

    def end_of_answer(self) -> int | None:
        return toy.END

    def accept_adapter(self, version: AdapterVersion, folder: str | None) -> None:
        """Nothing for a registered adapter: its seed in the config is the accepted one. For a previous version the
        folder is taken as that version's seed."""
        if version.previous:
            self._seeds.pop(golden_name(version), None)
            self._seeds |= {} if folder is None else {golden_name(version): folder}

    def encode_chat(
        self,
        messages: Sequence[dict[str, str]],
        weights: Weights = Weights.LIVE,
        day: date | None = None,  # noqa: ARG002 - its template writes no date
    ) -> tuple[int, ...]:
        turns = [(toy.TURN, *self.encode(f"{m['role']}\n{m['content']}", weights), toy.END) for m in messages]
        return (*(token for turn in turns for token in turn), toy.START)

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:  # noqa: ARG002
        return tuple(text.encode("ascii", "replace"))  # one alphabet, whatever the weights

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str:  # noqa: ARG002
        return "".join(toy.NAMES.get(token, chr(token)) for token in ids)

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        golden, live = _hash(self._golden_base), _hash(self._live_base)
        if adapter is None:
            return Identity(golden, live, scheme=scheme)
        kind, detail = self._fault(adapter)
        live_seed = self.config.adapters[detail if kind == "wrong_adapter" else adapter]
        return Identity(golden, live, _hash(self.config.adapters[adapter]), _hash(live_seed), scheme=scheme)

    def facts(self, adapter: str) -> tuple[str, ...]:
        self._check_known(adapter)
        return ("3 of 3 modules match nothing in this base",) if self._fault(adapter)[0] == "mismatched" else ()

    def lost_device(self) -> str:
        return FAULTS["device_lost"] if self._fault("")[0] == "device_lost" else ""

    def _scored(self, job: ScoringJob, asking: ScoringOptions) -> ScoringAnswer:
        known = job.of_base or job.adapter in self.config.adapters
        detail = why_not(job, asking, toy.VOCABULARY) or ("" if known else f"no adapter {job.adapter} is known")
        readable = not why_unreadable(job, asking, toy.VOCABULARY)
        ((prompt, output),) = self.embed([(job.prompt, job.output) if readable else ((), ())], lambda: False)
        if detail:
            return ScoringAnswer(job, None, prompt, output, detail)
        text, before = [*job.prompt, *job.output[:-1]], len(job.prompt)
        return ScoringAnswer(
            job,
            token_scores(job, lambda target: self._log_probs(text, target, before)[before - 1 :], self._names, asking),
            prompt,
            output,
        )

    @property
    def _names(self) -> dict[AdapterVersion, str]:
        """Of each version with a golden copy the name that targets have for it."""
        versions = [AdapterVersion(name, previous) for previous in (False, True) for name in self.config.adapters]
        return {version: name for version in versions if (name := golden_name(version)) in self._seeds}

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
        if adapter not in self._seeds:
            raise Unreplayable(adapter, f"no such adapter; known are {', '.join(self.config.adapters) or 'none'}")

    def _check(self, target: Target) -> None:
        names = [name for name in (target.adapter, other_adapter(target.fault)) if name is not None]
        for name in names:
            self._check_known(name)
        if target.fault:
            _check_answerable(target.adapter, target.fault)
        if target.weights is Weights.GOLDEN:
            return
        for subject in ("", *names):
            readiness = self._readiness(subject)
            if readiness.blocked or self._fault(subject)[0] in FAILING:
                raise Unreplayable(subject or self.config.base, readiness.detail or FAULTS[self._fault(subject)[0]])

    def _answer(self, replay: Replay, shape: BatchShape) -> Replayed:
        text = [*replay.prompt, *replay.forced[:-1]]
        prompt, jitter = len(replay.prompt), self._jitter(text, shape)
        full = self._log_probs(text, replay.target, prompt, jitter)[prompt - 1 : prompt - 1 + len(replay.forced)]
        if replay.kept is None:
            return Replayed(replay, None, full)
        return Replayed(replay, summarise(full, replay.kept))

    def _jitter(self, text: Sequence[int], shape: BatchShape) -> Reals | float:
        """What another batch shape adds to the logits of this text: always the same for the same shape."""
        if shape == BatchShape():
            return 0.0
        return self.config.noise * toy.normal(f"{shape} {text}", len(text), toy.VOCABULARY)

    def _log_probs(self, text: Sequence[int], target: Target, prompt: int, jitter: Reals | float = 0.0) -> Floats:
        """(len(text), V) log-probabilities of the letter after each. prompt: how many letters are the prompt's"""
        base = self._golden_base if target.weights is Weights.GOLDEN else self._live_base
        fault, memory = target.fault, toy.states(text, base)
        precision = (bits(fault), group(fault)) if fault and fault.kind is FaultKind.QUANTISED else (0, 0)
        logits = memory @ toy.head(base, *precision) + toy.habits(text) + self._added(memory, target, prompt) + jitter
        logits = logits - logits.max(axis=1, keepdims=True)
        log_probs: Floats = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
        return log_probs

    def _added(self, memory: Reals, target: Target, prompt: int) -> Reals:
        """(T, V) logits that come from adapters, under the target's fault."""
        golden, fault, name = target.weights is Weights.GOLDEN, target.fault, target.adapter
        other = other_adapter(fault)
        if fault and fault.kind is FaultKind.WITHOUT:
            return self._shift(memory, name, golden, PARTS.index(fault.name)) * target.scale
        own = self._shift(memory, name, golden) * target.scale
        if fault is None or fault.kind is FaultKind.QUANTISED:
            return own
        others = self._shift(memory, other, golden)
        if fault.kind in FOREIGN_CACHE:
            share = toy.share_of_first(prompt - FOREIGN_CACHE[fault.kind], len(memory))
            return share * others + (1 - share) * own
        others = others * target.scale
        if fault.kind is FaultKind.OTHER_ADAPTER:
            return others
        part = part_of(fault)[1]
        if fault.kind is FaultKind.AVERAGED:
            return (1 - part) * own + part * others
        return own + (part if fault.kind is FaultKind.STACKED else -part) * others

    def _shift(self, memory: Reals, adapter: str | None, golden: bool, left_out: int | None = None) -> Reals:
        """(T, V) logits that the adapter adds at scale 1, with its injected fault unless golden; zeros for the base."""
        if adapter is None:
            return np.zeros((len(memory), toy.VOCABULARY))
        kind, detail = ("none", "") if golden else self._fault(adapter)
        lost = kind in ("not_applied", "mismatched") or (not golden and self._fault("")[0] == "swapped_and_lost")
        if kind == "without":
            left_out = PARTS.index(detail)
        shift = toy.low_rank(memory, self._seeds[detail if kind == "wrong_adapter" else adapter], left_out)
        if kind == "with":
            return shift + toy.low_rank(memory, self._seeds[detail])
        if kind == "not_a_number":
            return shift * np.nan
        if kind == "distorted":
            return shift + float(detail or 0.5) * toy.low_rank(memory, f"off the way of {adapter}")
        return shift * (0.0 if lost else float(detail) if kind == "scale" else 1.0)


def _check_answerable(adapter: str | None, fault: Fault) -> None:
    """Raises Unreplayable for a fault that has no meaning here; the adapters that it names were checked before."""
    if fault.kind is FaultKind.QUANTISED:
        bits(fault)
    elif adapter is None and fault.kind not in (*FOREIGN_CACHE, FaultKind.OTHER_ADAPTER):
        raise Unreplayable("the base", f"cannot be {fault.kind}: wanted an adapter")
    elif fault.kind is FaultKind.WITHOUT and fault.name not in PARTS:
        raise Unreplayable(str(adapter), f"has no block {fault.name!r}; known are {', '.join(PARTS)}")
    elif not fault.name and fault.kind not in FOREIGN_CACHE:
        raise Unreplayable(str(adapter), f"{fault.kind} with no adapter's name")


def _mean(memory: Reals) -> Floats:
    return np.full(toy.WIDTH, np.nan, np.float32) if not len(memory) else memory.mean(axis=0).astype(np.float32)


def _hash(words: str) -> str:
    return "sha256:" + hashlib.sha256(words.encode()).hexdigest()
