"""What a runner is asked and what it answers.

A runner is one file under probes/runners with two public names, ``Config`` and ``Runner``, and this contract:
the methods of ``Runner`` below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from detectors.records import Fault, Floats, Identity, Ints, Reason, Summary

Stop = Callable[[], bool]


class Weights(StrEnum):
    """Which artefacts: those that lie there now, or the golden ones kept since enrolment."""

    LIVE = "live"
    GOLDEN = "golden"


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers. adapter: None for the base itself; scale: multiplies the adapter's own scaling (1 = as trained);

    fault: answer as if this were wrong; what enrolment records signatures with (probes/variants.py)
    """

    adapter: str | None
    weights: Weights = Weights.LIVE
    scale: float = 1.0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """One teacher-forced pass: prompt, then the forced continuation whose T positions are scored.

    kept: (T, K) token ids to keep, -1 where padded; None asks for the whole vocabulary (enrolment only: T x V floats)
    """

    canary: str
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    target: Target
    kept: Ints | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The answer to one Replay. summary where kept tokens were named, else full: (T, V) log-probabilities, float32."""

    replay: Replay
    summary: Summary | None
    full: Floats | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """May this subject be replayed now? blocked: None, or why not (files_changing, unreadable); detail in words."""

    blocked: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How replays are packed; the nuisance battery varies it. left_pad: pads before the prompt, else after the text;
    chunk: prefill in pieces of so many tokens through the cache (0: one pass)."""

    rows: int = 8
    left_pad: bool = False
    chunk: int = 0


class Runner(Protocol):
    """A backend that answers replays."""

    def open(self) -> None:
        """Load what can be loaded; a base that is away is a Readiness later, not an error here."""

    def close(self) -> None: ...

    def refresh(self) -> dict[str | None, Readiness]:
        """Look at the files, load what settled; key None is the base, others the adapters. Called before each round."""

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """Answer in micro-batches, in any order; ends early when ``stop()`` is true. Raises Unreplayable."""

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """Greedy continuation, end-of-text token included when reached."""

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        """Mean-pooled last hidden states of the golden base for (prompt ids, output ids): one (d,) float32 each."""

    def encode_chat(self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        """Token ids of the rendered chat prompt, generation prompt included, by the live base's tokenizer or by the
        golden one's, which is what ``embed`` wants."""

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def identity(self, adapter: str | None) -> Identity:
        """Golden and live hashes of the base (None), or of base and adapter."""

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What did not fit while loading, in words: keys that match nothing, shapes, an all-zero effect."""
