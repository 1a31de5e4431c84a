"""The contract between gapwatch and an engine that computes log-probabilities: what a runner must and may implement.

A runner is one file in probes/runners/ with two public names: ``Config``, a frozen dataclass, and ``Runner(config)``
with all methods of the protocol ``Runner`` below. The protocols after it are optional capabilities: a runner has one by
having its methods, and callers ask with ``isinstance``. Two rules hold throughout:

- What cannot be answered raises Unreplayable with a reason, or Unsupported (probes/errors.py). It is never answered by
  the base instead: that would look exactly like the fault that gapwatch is to detect.
- An answer does not depend on what else is in the batch, beyond rounding.

tests/probes/test_every_runner.py holds every file in probes/runners/ to this. How to start: docs/adding-a-runner.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Protocol, runtime_checkable

from detectors.diagnosis.name_encoding import part_of
from detectors.records import Fault, FaultKind, Floats, Identity, Ints, Mode, Reason, Summary
from probes.artefacts.identity import NEWEST
from probes.errors import Unreplayable
from probes.serving.engine import Listed
from probes.serving.probe_check import Probe

# Returns true when the caller wants no more: checked between micro-batches and between generated tokens.
Stop = Callable[[], bool]
BITS = ("8", "6", "4", "3")  # names of ``FaultKind.QUANTISED``, one scale for each output row
GROUPED = ("8/32", "4/32", "4/128")  # likewise, one scale for so many weights of a row


class Weights(StrEnum):
    """Which artefacts answer: the files as they are now, or those that were accepted at enrolment."""

    LIVE = "live"
    GOLDEN = "golden"


@dataclass(frozen=True, slots=True)
class Target:
    """Which adapter answers on which base.

    adapter: a registered name; None for the base itself
    scale: multiplies the adapter's own scaling (alpha / r); 1 as trained, 0 the base
    fault: answer as if this fault were present (fault injection): after an alarm such answers are the signatures by
    which its cause is named. What each kind means: probes/model/fault_injection.py. A runner that cannot raises
    Unreplayable or Unsupported, and never answers as if there were no fault.
    """

    adapter: str | None
    weights: Weights = Weights.LIVE
    scale: float = 1.0
    fault: Fault | None = None


def other_adapter(fault: Fault | None) -> str | None:
    """The second registered adapter that a fault involves; None where it involves none, or the base."""
    if fault is None or fault.kind in (FaultKind.WITHOUT, FaultKind.QUANTISED):
        return None
    if fault.kind in (FaultKind.STACKED, FaultKind.AVERAGED, FaultKind.TAKEN_AWAY):
        return part_of(fault)[0] or None
    return fault.name or None


def bits(fault: Fault) -> int:
    """Bits a weight of a QUANTISED fault. Raises Unreplayable for a name that is not one of BITS or GROUPED."""
    if fault.name not in (*BITS, *GROUPED):
        raise Unreplayable("the base", f"in {fault.name!r} bits: wanted one of {', '.join((*BITS, *GROUPED))}")
    return int(fault.name.partition("/")[0])


def group(fault: Fault) -> int:
    """Weights that share one scale, of a QUANTISED fault whose ``bits`` are valid; 0 for one scale a row."""
    return int(fault.name.partition("/")[2] or 0)


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """One teacher-forced pass: the prompt, then a given continuation of T tokens whose log-probabilities are wanted.

    canary: name of the text, returned as it is; prompt: token ids, at least one; forced: the T token ids
    kept: (T, K) token ids whose log-probabilities are wanted at each position, -1 where padded; None for the whole
    vocabulary (at enrolment only: T x V floats)
    listed: tokens of each position by which the kept ones are read, where the runner sees no more (``Listing``); 0 for
    as many as it sees
    """

    canary: str
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    target: Target
    kept: Ints | None = None
    listed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """The answer to one Replay: a summary where it names kept tokens, else full.

    summary: log-probabilities of the kept tokens and of all others together (probes/canaries/log_prob_summary.py)
    full: (T, V) float32, normalised natural-log probabilities of the raw model: no temperature, penalty or truncation
    """

    replay: Replay
    summary: Summary | None
    full: Floats | None = None


@dataclass(frozen=True, slots=True)
class Readiness:
    """May this base or adapter be replayed now? blocked: None, or the reason why not (files_changing, unreadable,
    no_memory, engine_away, paused, not_served, not_replayed_yet); detail: that reason in words, with the file"""

    blocked: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How replays are packed into micro-batches. The noise battery of enrolment varies it to measure rounding noise; a
    runner that has no control over it may ignore it.

    rows: most replays in a micro-batch; left_pad: padding before the prompt, else after the text
    chunk: tokens that each forward pass reads, through the key-value cache (chunked prefill); 0 for one pass
    warm: a serving engine may use what its cache of prefixes holds; else it is kept from it, where the engine can
    beside: requests of others that a serving engine answers at the same time
    """

    rows: int = 32
    left_pad: bool = False
    chunk: int = 0
    warm: bool = False
    beside: int = 0


class Runner(Protocol):
    """An engine that answers replays. gapwatch calls each runner from one thread."""

    def open(self) -> None:
        """Load what can be loaded. What cannot be loaded is blocked in ``refresh`` and raises nothing here."""

    def close(self) -> None:
        """Release everything that was loaded; ``open`` may follow."""

    def refresh(self) -> dict[str | None, Readiness]:
        """Look at the files and load what has changed and settled. Called before each round.

        Gives an entry for the base (None) and one for each registered adapter. An adapter may be replayed when neither
        its own entry nor the base's is blocked.
        """

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """One answer for each replay, in any order; ends early, between micro-batches, when ``stop()`` is true.

        Raises Unreplayable for an unknown or blocked target, for an empty prompt, and where the files changed since the
        last ``refresh``, so that no round mixes two versions.
        """

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """Greedy continuation of at most so many tokens, the end-of-text token included when reached; shorter after
        ``stop()``. Raises like ``run``."""

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        """For each (prompt ids, output ids): the last hidden states of the golden base, without adapter, averaged over
        the prompt and over the output, (d,) float32 each; nan for a side without tokens. In order; after ``stop()``
        those done so far. Raises Unreplayable without a golden base."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        """Token ids of a chat, rendered by the chat template with the generation prompt. Raises Unreplayable.

        messages: each with "role" and "content"; weights: whose tokenizer and template; ``embed`` wants the golden ones
        day: on which the chat was served, for templates that write the date; None for canaries, which are rendered
        alike on every day
        """

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        """Token ids of plain text, without special tokens."""

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str:
        """The text of token ids, special tokens included."""

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """Hashes of what is loaded, golden and live: of the base (None), or of base and adapter; "" where nothing is.

        scheme: hash scheme, of probes/artefacts/identity.py
        """

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter did not take effect while loading, in words: keys that match no module, wrong shapes, all
        weights zero. An engine would ignore it, so it is reported and not refused. Raises Unreplayable for an unknown
        adapter."""


@runtime_checkable
class Breakable(Protocol):
    """A runner that answers ``Target.fault`` (fault injection). Without it the cause of an incident is diagnosed
    from facts alone, not from signatures."""

    def blocks(self, adapter: str, weights: Weights = Weights.LIVE) -> tuple[str, ...]:
        """Names that ``FaultKind.WITHOUT`` takes for this adapter: the blocks that can be left out, each of which
        leaves a part of the adapter applied (probes/model/faulty_adapters.py). Raises like ``run``.

        weights: of the files as they are now, which may lack a block, or of the accepted ones
        """

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        """Hashes of the golden base and of the adapter's accepted version on it, by that scheme: only where both are
        those of a golden record are faults replayed on what the record accepted. Raises like ``run``."""


@runtime_checkable
class Batching(Protocol):
    """A runner that generates for several prompts in one batch; without it enrolment generates one by one."""

    def generate_many(
        self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Stop
    ) -> list[tuple[int, ...]]:
        """``Runner.generate`` for each prompt, in the order given; the same tokens, except for ties within rounding.

        After ``stop()`` each is as far as it got, some empty.
        """


@runtime_checkable
class Bounded(Protocol):
    """A runner that knows how long a text may be; without it an overlong canary fails when it is replayed."""

    def context(self) -> int | None:
        """Most tokens of a prompt and its continuation on the live base, None for no limit. Raises Unreplayable."""


@runtime_checkable
class LoraSettings(Protocol):
    """A runner that reads the configuration of adapters; without it golden records hold rank 0 and alpha 0."""

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        """r and lora_alpha of adapter_config.json, without rank_pattern and alpha_pattern. Raises like ``run``."""


@runtime_checkable
class Comparing(Protocol):
    """A runner that can say how alike two adapters are; without it enrolment records the other adapters that come first
    in the configuration."""

    def likeness(self, adapter: str, other: str) -> float:
        """The cosine between what the two change in the weights, in [-1, 1]. Raises like ``run``."""


@runtime_checkable
class Reconfigurable(Protocol):
    """A runner that can be set up a second time with another attention kernel or another precision. Without it the
    noise battery of enrolment measures neither."""

    def other_attention(self) -> str:
        """Name of an attention kernel that the open live base supports and does not run on, "" where there is none."""

    def half_precision(self) -> str:
        """Name of the 16-bit type that a CUDA device computes in here, "" for float32 or a CPU."""

    def reconfigured(self, attention: str = "", dtype: str = "") -> Runner:
        """A second runner over the same files, not yet open; "" keeps this runner's own setting."""


@runtime_checkable
class PureFunction(Protocol):
    """A runner whose answer depends, beyond rounding, on nothing but the hashes of its live files, the replay, and how
    it computes. Without it every canary is replayed in every round."""

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """As ``Runner.identity``: of what is loaded now."""

    def computed_by(self) -> str:
        """Device, type and kernel that the answers of this process come from; another one may round otherwise."""


@runtime_checkable
class Computing(Protocol):
    """A runner that computes answers itself. Without it a golden record does not say how they were computed."""

    def kernel(self) -> str:
        """In which numbers, by which attention and on which kind of device the live base answers, in words; "" while
        none is loaded. Not the versions: the noise battery covers what they change."""


@runtime_checkable
class Listing(Protocol):
    """A runner that sees the most probable tokens of a position and nothing of the others, as serving engines list
    them. It has no golden copies, embeds nothing, and raises Unsupported or Unreplayable for all that. Golden records
    are read through the same listing (probes/serving/listed_summary.py)."""

    def most_listed(self) -> int:
        """Tokens that it lists at a position, at least 1. Raises Unreplayable where that is not known yet."""

    def listings(self, replays: Sequence[Replay], stop: Stop) -> dict[Replay, Listed]:
        """What it lists at each forced position, for enrolment: no kept tokens are chosen yet. Raises like ``run``."""

    def choose_route(self, adapter: str, probes: Sequence[Probe], tolerance: float, stop: Stop) -> tuple[str, ...]:
        """Take the first route that shows what is served under the adapter's name, for all later replays of it.

        What was noticed on the way comes back in words. tolerance: allowed share of the adapter's effect. Raises
        EngineAway, and Unreplayable where no route does, or ``stop()`` turned true before it was known.
        """

    def takes_strengths(self) -> bool:
        """Does it answer at other strengths of an adapter than 0 and 1? If not, these raise Unsupported. Raises
        Unreplayable where that is not known yet."""

    def made_on(self, adapter: str) -> str:
        """Which engine answers for this adapter and by which route, in words, for a golden record."""


@runtime_checkable
class AnswersInModes(Protocol):
    """A runner that can be had answer as users are answered, and not only score a given text."""

    def modes(self) -> tuple[Mode, ...]:
        """In which it can be; none where it gives no log-probabilities of what it writes. Raises Unreplayable."""

    def streams_chats(self) -> bool:
        """Can it be had answer at the chat endpoint and streamed at once? Raises Unreplayable."""

    def written(
        self, replay: Replay, messages: Sequence[Mapping[str, str]], modes: Sequence[Mode], stop: Stop
    ) -> Listed | None:
        """What it writes greedily after the replay's prompt, as many tokens as are given there at most, in these modes
        of its own; None after ``stop()``. Raises like ``run``.

        messages: that the prompt was rendered from, for the chat endpoint
        """

    def has_news(self) -> bool:
        """Was it looked at for the first time, or an event noticed, since it was last had answer in modes before a
        ``refresh``?"""

    def suspects(self, adapter: str) -> bool:
        """Was an answer of the adapter in some mode apart from the scored one of late (``suspect``)?"""

    def suspect(self, adapter: str, apart: bool) -> None:
        """apart: was an answer of the adapter in some mode apart from the scored one in the round that ends now?"""


@dataclass(frozen=True, slots=True)
class PushedOut:
    """One adapter that its engine has to load again. words: what was done; tokens: that the engine read and wrote"""

    adapter: str
    words: str
    tokens: int


@runtime_checkable
class PushesOut(Protocol):
    """A runner that can have an engine put an adapter aside, as other adapters' users do, so that a load that goes
    wrong shows. Without it an adapter is loaded again only where its users leave it unused."""

    def push_out(self, prompts: Mapping[str, Sequence[int]], stop: Stop) -> PushedOut | None:
        """Where it is time for it: one adapter, by turns; None where it is not, or where that cannot be done.

        prompts: adapter -> token ids that other adapters are asked with. Raises nothing: a round follows, and says what
        is wrong with the engine.
        """


@runtime_checkable
class SeesEvents(Protocol):
    """A runner whose models may be replaced where no file shows it, and which can tell cheaply. Without it rounds come
    by the schedule alone."""

    def event(self) -> str:
        """What has happened since the last ``refresh``, in words; "" for nothing, and while it cannot be told."""


@runtime_checkable
class LosesDevice(Protocol):
    """A runner whose device may fail so that only another process can use it again. Without it every failure counts as
    one that the next round may not have."""

    def lost_device(self) -> str:
        """Why this process can compute nothing on the device any more, in words; "" where it can. Called after work."""
