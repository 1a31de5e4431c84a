"""What a runner is asked and what it answers.

A runner is one file under probes/runners with two public names, ``Config`` and ``Runner``, and this contract:
the methods of ``Runner`` below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Protocol, runtime_checkable

from detectors.diagnosis.name_encoding import part_of
from detectors.records import Fault, FaultKind, Floats, Identity, Ints, Reason, Summary
from probes.artefacts.identity import NEWEST
from probes.errors import Unreplayable

Stop = Callable[[], bool]
BITS = ("8", "6", "4", "3")  # names of ``FaultKind.QUANTISED``, one scale for each output row
GROUPED = ("8/32", "4/32", "4/128")  # likewise, one scale for so many weights of a row


class Weights(StrEnum):
    """Which artefacts: those that lie there now, or the golden ones kept since enrolment."""

    LIVE = "live"
    GOLDEN = "golden"


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers. adapter: None for the base itself; scale: multiplies the adapter's own scaling (1 = as trained);

    fault: answer as if this were wrong, which is what enrolment records signatures of (probes/model/faulty_adapters.py,
    probes/model/quantise.py). A runner that cannot raises Unsupported or Unreplayable; it never answers as if all were
    well.
    """

    adapter: str | None
    weights: Weights = Weights.LIVE
    scale: float = 1.0
    fault: Fault | None = None


def other_adapter(fault: Fault | None) -> str | None:
    """The registered adapter that a fault brings in; None where it brings in none, or the base."""
    if fault is None or fault.kind in (FaultKind.WITHOUT, FaultKind.QUANTISED):
        return None
    if fault.kind in (FaultKind.STACKED, FaultKind.AVERAGED):
        return part_of(fault)[0] or None
    return fault.name or None


def bits(fault: Fault) -> int:
    """Of a fault that is QUANTISED. Raises Unreplayable for a name that is not one of BITS or GROUPED."""
    if fault.name not in (*BITS, *GROUPED):
        raise Unreplayable("the base", f"in {fault.name!r} bits: wanted one of {', '.join((*BITS, *GROUPED))}")
    return int(fault.name.partition("/")[0])


def group(fault: Fault) -> int:
    """Weights of a row that share a scale, 0 for whole rows. Of a fault that is QUANTISED and has ``bits``."""
    return int(fault.name.partition("/")[2] or 0)


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
    """May this subject be replayed now? blocked: None, or why not (files_changing, unreadable, no_memory); in words."""

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

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        """Token ids of the rendered chat prompt, generation prompt included, by the live base's tokenizer or by the
        golden one's, which is what ``embed`` wants.

        day: on which it was served, for templates that write the date; None renders the same on every day, as canaries
        want it
        """

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str: ...

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """Golden and live hashes of the base (None), or of base and adapter. scheme: of probes/artefacts/identity.py"""

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What did not fit while loading, in words: keys that match nothing, shapes, an all-zero effect."""


@runtime_checkable
class Breakable(Protocol):
    """What a runner has that answers ``Target.fault``; optional, ask with ``isinstance``."""

    def blocks(self, adapter: str) -> tuple[str, ...]:
        """Names for ``FaultKind.WITHOUT``: each single part of this adapter that can be left out, and leaves a rest.

        Raises Unreplayable like ``run``.
        """


@runtime_checkable
class Batching(Protocol):
    """What a runner has that continues several prompts at a time; optional, ask with ``isinstance``."""

    def generate_many(
        self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Stop
    ) -> list[tuple[int, ...]]:
        """``Runner.generate`` for each prompt, in the order given; equal but for ties within float rounding.

        After ``stop()`` each is as long as it got, some empty.
        """


@runtime_checkable
class Bounded(Protocol):
    """What a runner has that knows how long a text may be; optional, ask with ``isinstance``."""

    def context(self) -> int | None:
        """Most tokens that the live base reads in one text, None where it sets no bound. Raises Unreplayable."""


@runtime_checkable
class LoraSettings(Protocol):
    """What a runner has that reads the configuration of adapters; optional, ask with ``isinstance``."""

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        """r and lora_alpha of adapter_config.json, without rank_pattern and alpha_pattern. Raises like ``run``."""


@runtime_checkable
class Reconfigurable(Protocol):
    """What a runner has that can be set up a second time with another attention kernel or another precision, so that
    enrolment can measure how far benign changes of either move the answers; optional, ask with ``isinstance``."""

    def other_attention(self) -> str:
        """Name of an attention kernel that the open live base supports and does not run on, "" where there is none."""

    def half_precision(self) -> str:
        """Name of the 16-bit type that a CUDA device computes in here, "" for float32 or a CPU."""

    def reconfigured(self, attention: str = "", dtype: str = "") -> Runner:
        """A second runner over the same files, not yet open; "" keeps this runner's own setting."""
