"""What a diagnosis has found: the cause, and the numbers and names it rests on. No sentences.

wording.py makes the sentences, once, afterwards. A fact that a person on call should read needs a field here, a value
in wording.py and a template in detectors/on_call_text.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectors.evidence.alternative import Alternative
from detectors.records import Cause, FaultKind, Identity, Interval, Mode


@dataclass(frozen=True, slots=True)
class MeanFigures:
    """Means over the canaries that the diagnosis reads; what each figure is: detectors.records.Measurement."""

    retention: float
    gap_ratio: float
    scale: float
    distortion: float
    base_shift: float


@dataclass(frozen=True, slots=True)
class MatchedFault:
    """The recorded or computed fault that explains the present answers.

    kind: of the recorded fault; None where it was computed (a strength, a temperature, positions without the adapter)
    names: of what, by the kind's own rule: the best one first, then those of its kind that cannot be distinguished from
    it; never empty
    value: what was fitted: strength, temperature, or the other adapter's part; nan where nothing was
    unexplained: share of the energy above noise that it leaves over, in [0, 1]
    """

    kind: FaultKind | None
    names: tuple[str, ...]
    value: float
    unexplained: float


@dataclass(frozen=True, slots=True)
class CacheReplay:
    """The canaries on a cold cache, and on one that other requests have filled.

    cold, warm: mean retention; previous: whose request the warm answers point to: an adapter's, ``THE_BASE``'s, or ""
    where nobody's
    """

    cold: float
    warm: float
    previous: str


@dataclass(frozen=True, slots=True)
class ModeGap:
    """A mode in which the engine answers otherwise than it scores.

    apart, had: answers that differ, of so many; shift: mean of ``mode_shift`` over them all
    """

    mode: Mode
    apart: int
    had: int
    shift: float


@dataclass(frozen=True, slots=True)
class FaultyReplicas:
    """Some replicas answer as accepted, and others do not.

    bad, total: canaries, or, with ``in_modes``, single answers to them: in a mode a canary has several
    pods: names of the bad replicas, empty where replicas have no names; diagnosis: of the bad ones alone
    """

    bad: int
    total: int
    pods: tuple[str, ...]
    diagnosis: Diagnosis
    in_modes: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is at fault with one adapter, by one round of canaries.

    means: None where no canary was measured; match: the fault that explains the answers, None where none does
    base_moved: has the base other weights, or does it answer differently than accepted?
    nothing_left: the adapter's answers are the base's; otherwise what is lost of it is a part
    missing_block: the block of the adapter whose absence its answers resemble, where the base is at fault; "" for none
    merged_adapter: the adapter that the base's own endpoint answers like; "" for none
    changed_prompts: canaries whose prompts the present template or tokenizer renders to other token ids; canaries: of
    so many
    cache, replicas, mode: where those are at fault
    rank, alpha: of the adapter's LoRA, 0 where they are not known
    """

    cause: Cause
    adapter: str
    identity: Identity
    means: MeanFigures | None = None
    match: MatchedFault | None = None
    base_moved: bool = False
    nothing_left: bool = False
    missing_block: str = ""
    merged_adapter: str = ""
    changed_prompts: int = 0
    canaries: int = 0
    cache: CacheReplay | None = None
    replicas: FaultyReplicas | None = None
    mode: ModeGap | None = None
    rank: int = 0
    alpha: float = 0.0


@dataclass(frozen=True, slots=True)
class BaseDiagnosis:
    """What is at fault with a base: what most of its broken adapters show.

    affected: those adapters' names; measured: how many adapters were measured; typical: the diagnosis of the first that
    shows the commonest cause
    """

    base: str
    affected: tuple[str, ...]
    measured: int
    typical: Diagnosis

    @property
    def cause(self) -> Cause:
        return self.typical.cause


@dataclass(frozen=True, slots=True)
class MovedBase:
    """A base that has moved, whose adapters are within tolerance; means over their held-out canaries.

    adapters: those that were measured; shift: B; fault: a rounding or a temperature that explains it, or None
    strength: effective scale with its interval; weakest: the adapter with the least of it, and how much that is
    kl: of the served answers from the accepted ones, nats a token; changed_answers: share of other greedy answers
    tolerance: |s - 1| allowed on a base that has not moved; allowed: the least and the most of it now, over canaries
    """

    base: str
    adapters: tuple[str, ...]
    identity: Identity
    fault: MatchedFault | None
    shift: float
    strength: Interval
    weakest: str
    weakest_strength: float
    kl: float
    changed_answers: float
    tolerance: float
    allowed: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ResponseDiagnosis:
    """What is at fault with one adapter, or with requests that name the base, by sampled responses.

    adapter: its name; the base's where ``of_base``
    alternative: the one that explains the responses best; None where none does
    against, scored: responses that clearly speak against the accepted adapter, of so many
    since: when the first of those was served, seconds since the epoch; None where that is not known
    bad_pods: pods of those responses, where other pods answer as accepted; empty otherwise
    strength: of the accepted one, estimated from the responses; None where it was not
    """

    cause: Cause
    adapter: str
    alternative: Alternative | None
    against: int
    scored: int
    bad_pods: tuple[str, ...]
    strength: Interval | None
    since: float | None = None
    of_base: bool = False
