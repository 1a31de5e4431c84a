"""The records that all rooms share: what was measured, what it is evidence of, and what was decided.

Values of the enums are stored in ClickHouse, in saved state and in golden records: they stay, whatever a member is
called.
Units: log-probabilities and ``log_e`` in nats; ``at`` in seconds since the epoch (UTC); energies in nats squared.
Shapes: T scored positions (the forced continuation), K kept tokens (padded), S recorded scales, d embedding width.
Every record is frozen; a step that learns more returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

# What pages and causes name where it is no adapter; no adapter has that name.
THE_BASE = "the base"
# Who answered the canaries of a round that was replayed in process.
THE_FILES = "files"


class SubjectKind(StrEnum):
    """What a verdict is about: one adapter, the base that several adapters share, or what answers requests that name
    this base itself."""

    ADAPTER = "adapter"
    BASE = "base"
    BASE_REQUESTS = "base_requests"


Subject = tuple[SubjectKind, str]
"""(kind, name): whom a verdict or an incident is about."""


class CanarySplit(StrEnum):
    """Which half of the canary set: evidence is drawn from SELECTED, retention's interval comes from HELD_OUT."""

    SELECTED = "selected"
    HELD_OUT = "held_out"


class Status(StrEnum):
    """Silence is never healthy: without data, golden record or statistical power a subject is UNMONITORABLE."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEGRADED = "degraded"
    UNMONITORABLE = "unmonitorable"


class Reason(StrEnum):
    """Why a subject has the status it has."""

    WITHIN_TOLERANCE = "within_tolerance"
    BASE_MOVED = "base_moved"  # healthy: another base, on which the adapters keep their effect
    TOKENIZER_CHANGED = "tokenizer_changed"  # healthy: other files of the tokenizer, canaries have the same token ids
    TEMPLATE_CHANGED = "template_changed"  # healthy: another chat template, or prompts that render to other token ids
    ADAPTER_MOVED = "adapter_moved"  # healthy: other files of the adapter, which answers as accepted
    ENGINE_MOVED = "engine_moved"  # healthy: the serving engine says something else of itself, or of its source
    EVIDENCE_GROWING = "evidence_growing"  # suspect: half way to an alarm, or a round that is rare with nothing wrong
    ALARM = "alarm"  # degraded: the e-detector passed the fleet's threshold in this round
    STILL_DEGRADED = "still_degraded"  # degraded: open incident, another bad round
    RECOVERING = "recovering"  # degraded: a good round, not yet enough of them or of evidence to end it
    CAUSE_REFINED = "cause_refined"  # degraded: replayed or suspected faults name the open incident's cause better
    CAUSE_KEPT = "cause_kept"  # degraded: no replayed fault does, or none could be replayed
    RESOLVED = "resolved"  # healthy: good rounds and evidence enough have ended the incident
    NOT_REPLAYED_YET = "not_replayed_yet"
    NO_GOLDEN = "no_golden"
    GOLDEN_REFUSED = "golden_refused"
    NO_POWER = "no_power"
    FILES_CHANGING = "files_changing"
    UNREADABLE = "unreadable"
    NO_MEMORY = "no_memory"  # its files are fine, and there is no room for them
    BAD_NUMBERS = "bad_numbers"  # NaN or infinite log-probabilities
    REPLAY_FAILED = "replay_failed"
    ENGINE_AWAY = "engine_away"  # the serving engine is down, starting or overloaded, which is no fault of the adapter
    PAUSED = "paused"  # somebody keeps gapwatch from asking the serving engine
    NOT_SERVED = "not_served"  # the serving engine lists no model of that name, or several
    NOT_JUDGED = "not_judged"  # the agent is alive, and no round was judged for several intervals
    NO_TRAFFIC = "no_traffic"  # canaries are off, and no response was sampled
    NOT_SCORED = "not_scored"  # canaries are off, and responses came but none could be scored
    INPUT_DRIFT = "input_drift"  # healthy: the embeddings of prompts have moved, the adapter has not
    SAMPLING_CHANGED = "sampling_changed"  # healthy: tokens are drawn by another sampler than the requests ask for
    RANKS_MOVED = "ranks_moved"  # suspect: tokens are not distributed as accepted, and no sampler or fault explains it
    OUTPUT_DRIFT = "output_drift"  # suspect: the embeddings of outputs have moved, and no response could be scored


class Cause(StrEnum):
    """What is at fault, by the table of docs/mathematics.md#causes."""

    NONE = "none"
    ADAPTER_NOT_APPLIED = "adapter_not_applied"
    BASE_SWAPPED = "base_swapped"
    BASE_SWAPPED_AND_ADAPTER_LOST = "base_swapped_and_adapter_lost"
    WRONG_STRENGTH = "wrong_strength"
    WRONG_ADAPTER = "wrong_adapter"
    UNKNOWN = "unknown"
    PARTLY_APPLIED = "partly_applied"
    QUANTISED_BASE = "quantised_base"
    SHARED_CACHE = "shared_cache"
    TEMPLATE_CHANGED = "template_changed"
    SAMPLING_CHANGED = "sampling_changed"
    COMPOSITION_INTERFERENCE = "composition_interference"
    ADAPTER_REPLACED = "adapter_replaced"
    ONE_REPLICA = "one_replica"
    SERVING_PATH = "serving_path"  # what is written, streamed or sent through chat is not what the engine scores
    BASE_ANSWERED_BY_ADAPTER = "base_answered_by_adapter"


class NamedCause(NamedTuple):
    """A cause with its sentences for the on-call person: what was observed, and the first thing to do."""

    cause: Cause
    explanation: str
    action: str


class FaultKind(StrEnum):
    """Faults that are injected on purpose after an alarm, to see how the accepted adapter answers under them."""

    OTHER_ADAPTER = "other_adapter"  # name: a registered adapter, or an earlier version "NAME@HASH"
    WITHOUT = "without"  # name: a block of the adapter that is left out: "q_proj", "mlp", "layers.5"
    QUANTISED = "quantised"  # name: bits of the base's weights, "8" to "3"; "4/32" in groups of 32
    STACKED = "stacked"  # name: the adapter that is applied on top of this one, "NAME*0.5" at that strength
    AVERAGED = "averaged"  # name: the adapter that is averaged with this one, "NAME*0.25" by that share, else by half
    TAKEN_AWAY = "taken_away"  # name: a member of the composition, "NAME*0.5" where that is how strong it is in it
    WARMED = "warmed"  # name: the adapter whose cache of the prompt, but for its last token, is reused; "" the base's
    PREFILLED = "prefilled"  # name: the adapter that reads the whole prompt and so gives the first token; "" the base


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One injected fault. name: of what is missing, added or exchanged, as the kind says."""

    kind: FaultKind
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A signature of one canary: what is answered under a fault, (T, K) log-probabilities over the kept tokens.

    served: under the adapter's name; live_base: under the base's, None where the fault leaves the base alone
    """

    served: Floats
    live_base: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """One teacher-forced replay of one canary, reduced to its kept tokens.

    log_probs: (T, K) over the kept tokens of each position; pads hold -inf
    rest: (T,) log of the probability mass outside the kept tokens
    top1: (T,) most probable token of the whole vocabulary
    """

    log_probs: Floats
    rest: Floats
    top1: Ints


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """How far figures move under the benign configurations of the enrolment battery, the largest of each, all >= 0.

    The same for every canary of an adapter where that is little beside the tolerance, else of each canary its own.

    scale: of |s - 1|; distortion: of sqrt(rho); base_shift: of B
    mass_outside: of that figure; 0 in records made before it was measured
    """

    scale: float
    distortion: float
    base_shift: float
    mass_outside: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What enrolment recorded of one canary: the frozen side of every comparison.

    kept: (T, K) int32 token ids, -1 where padded
    scales: (S,) ascending LoRA scales, contains 0 and 1; after an alarm on held-out canaries also strengths that were
    replayed then
    curve: (S, T, K) log-probabilities of the adapter at those scales
    others: adapter name -> (T, K) log-probabilities of another registered adapter on this canary
    faults: signatures, held-out canaries only: made after an alarm, or recorded by an enrolment of earlier versions
    mode_floors: of ``mode_shift`` in each mode, measured at the enrolment through an engine; what has none pages nobody
    listed: k, where it is read through a listing of the k most probable tokens of each position, as serving engines
    give it (docs/mathematics.md#served-canaries); 0 where the log-probabilities are those of the whole vocabulary
    """

    canary: str
    golden: str
    split: CanarySplit
    kept: Ints
    golden_adapter: Summary
    golden_base: Summary
    scales: Floats
    curve: Floats
    others: Mapping[str, Floats]
    noise: NoiseFloor
    faults: Mapping[Fault, Recorded] = field(default_factory=dict)
    listed: int = 0
    mode_floors: Mapping[Mode, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The four reference points of one canary in one round.

    draws: how often the canary was drawn this round (0 for a held-out canary replayed for the interval only)
    served: y, what answers under the adapter's name; live_base: z, what answers under the base's name
    pod: which replica answered, "" where there is one
    modes: in which ``served`` was had, sorted; none where it was scored cold. What was written is compared up to its
    first token that is not the accepted one, so that reference and answers then have as many positions
    """

    adapter: str
    reference: Reference
    draws: int
    served: Summary
    live_base: Summary
    at: float
    pod: str = ""
    modes: tuple[Mode, ...] = ()


class Mode(StrEnum):
    """How an engine is had answer, where it is not asked to score a given text, kept from its cache.

    Every mode but WRITTEN is a level of a factor of its own; what is answered in one is written as well.
    """

    WRITTEN = "written"  # it writes the continuation itself, greedily, as it does for users
    STREAMED = "streamed"
    CHAT = "chat"  # at the chat endpoint, which renders the messages itself
    WARM = "warm"  # its cache of prefixes may be read
    LONG = "long"  # the prompt has more tokens than the largest block of such a cache


class Band(StrEnum):
    """Ranges of scored positions: a fault of prefill alone, or a late one, would vanish in a mean over all of them."""

    FIRST = "first"  # position 1
    EARLY = "2-16"
    MIDDLE = "17-128"
    LATE = "beyond_128"


@dataclass(frozen=True, slots=True)
class BandFigures:
    """Retention and distortion of one canary on one band, over that band's own |delta|^2 (nan where it is 0).

    share: of the canary's |delta|^2 that is in this band, in [0, 1]
    """

    band: Band
    positions: int
    share: float
    retention: float
    distortion: float


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One canary in numbers; all dimensionless but the KL figures (nats per token). Formulae: retention.py.

    retention: lambda of delta' = y - z along delta = a - b (in place); frozen_* use y - b
    distortion: rho = |across|^2 / |delta|^2, an energy; tolerances and noise floors are of its square root
    base_shift: B = |z - b|^2 / |delta|^2
    scale, frozen_scale: effective LoRA scale, of the nearest point on the recorded curve
    scale_misfit: energy that this point leaves over, / |delta|^2
    gap_ratio: KL(y || z) over its healthy value KL(a || b)
    frozen_shift: |y - a|^2 / |delta|^2: how far what is served is from what was accepted, in any direction
    mass_outside: mean over positions of y's probability outside the kept tokens, as far as it exceeds a's and b's there
    kl_golden_served, kl_served_golden: KL(a || y) and back; kl_served_base, kl_base_served: KL(y || z) and back
    mode_shift: of an answer had in a mode, how far it is from the one scored cold in the same round (mode_gap.py)
    """

    comparison: Comparison
    retention: float
    distortion: float
    base_shift: float
    frozen_retention: float
    frozen_distortion: float
    scale: float
    scale_misfit: float
    frozen_scale: float
    kl_golden_served: float
    kl_served_base: float
    gap_ratio: float
    top1_agreement: float
    finite: bool
    frozen_shift: float = float("nan")
    mass_outside: float = float("nan")
    kl_served_golden: float = float("nan")
    kl_base_served: float = float("nan")
    bands: tuple[BandFigures, ...] = ()
    mode_shift: float = float("nan")


# Of a base whose weights lie on no grid of a quantised format.
NO_GRID = "none"


@dataclass(frozen=True, slots=True)
class Identity:
    """Hashes of what was accepted and of the present files; context for the cause, never a reason to stay silent.

    "" where not known. tokenizer: of its files, other ones of which may still give the same token ids; by scheme 1 they
    are hashed together with the chat template
    scheme: of hashing (probes/artefacts/identity.py); hashes of two schemes cannot be compared
    grid: how the base's weights are quantised, in words (probes/artefacts/weight_grid.py); NO_GRID where they are not
    engine: what the serving engine says of itself, kind, version and settings; source: from where it loaded the
    adapter, and on which base, by its own list
    """

    golden_base: str = ""
    live_base: str = ""
    golden_adapter: str = ""
    live_adapter: str = ""
    golden_tokenizer: str = ""
    live_tokenizer: str = ""
    golden_template: str = ""
    live_template: str = ""
    scheme: int = 1
    golden_grid: str = ""
    live_grid: str = ""
    golden_engine: str = ""
    live_engine: str = ""
    golden_source: str = ""
    live_source: str = ""

    @property
    def engine_moved(self) -> bool:
        return _differ(self.golden_engine, self.live_engine)

    @property
    def source_moved(self) -> bool:
        return _differ(self.golden_source, self.live_source)

    @property
    def base_moved(self) -> bool:
        return _differ(self.golden_base, self.live_base)

    @property
    def base_quantised(self) -> bool:
        """Is the present base another one, on a grid of bits and groups that the accepted one was not on?"""
        on_other_grid = _differ(_bits_and_groups(self.golden_grid), _bits_and_groups(self.live_grid))
        return self.base_moved and on_other_grid and self.live_grid != NO_GRID

    @property
    def adapter_moved(self) -> bool:
        return _differ(self.golden_adapter, self.live_adapter)

    @property
    def template_moved(self) -> bool:
        return _differ(self.golden_template, self.live_template)

    @property
    def tokenizer_moved(self) -> bool:
        """Are its files other ones? By scheme 1 that is unknown where the template moved, which the hash covers too."""
        hidden = self.scheme == 1 and self.template_moved
        return not hidden and _differ(self.golden_tokenizer, self.live_tokenizer)


def _bits_and_groups(grid: str) -> str:
    """Without the name of the levels and the count, which need not be the same for one and the same precision."""
    return grid.partition(":")[0].partition(" (")[0]


def _differ(golden: str, live: str) -> bool:
    return bool(golden and live) and golden != live


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """All canaries of one adapter in one scheduled round, as a member of the BaseRound that canary detectors read.

    number: counts scheduled rounds of this adapter's base from 0
    facts: observations while loading, in words ("24 of 120 keys match nothing"); evidence decides, facts explain
    blocked: why there is nothing to measure, and detail in words; None where there are measurements
    raw: the same canaries from the accepted token ids, where the present template renders other ones
    cells: some of the drawn canaries as an engine answers them in other modes, each in two that share none but WRITTEN
    and LONG; served runners only
    rank, alpha: of the accepted LoRA, 0 where unknown: they name what gives a wrong strength
    answered_by: THE_FILES, or the serving engine and the route by which it was asked, in words; "" not known
    accepted_on: likewise of the engine that the golden record was made on, "" where that was made from the files
    """

    adapter: str
    base: str
    number: int
    at: float
    measurements: tuple[Measurement, ...]
    identity: Identity = Identity()
    facts: tuple[str, ...] = ()
    blocked: Reason | None = None
    detail: str = ""
    raw: tuple[Measurement, ...] = ()
    cells: tuple[Measurement, ...] = ()
    rank: int = 0
    alpha: float = 0.0
    answered_by: str = ""
    accepted_on: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BaseRound:
    """One scheduled round of one base: a Round for each of its registered adapters, in the order of the config."""

    base: str
    number: int
    at: float
    members: tuple[Round, ...]
    tokens_scored: int = 0
    tokens_processed: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FaultReplay:
    """A round of an open incident once more, with signatures that were made for it after the alarm: faults replayed on
    the accepted base and adapters.

    subject_kind, subject: whose incident it is about
    round: as it was judged; members: of the adapters that faults were replayed with, for a base some of its broken
    ones, the same answers against references that hold the signatures
    faults: how many were replayed; at: when the last one was
    missing: what could not be replayed and why, in words, "" where nothing is missing
    """

    subject_kind: SubjectKind
    subject: str
    round: BaseRound
    members: tuple[Round, ...]
    faults: int
    at: float
    missing: str = ""

    @property
    def replayed(self) -> tuple[str, ...]:
        return tuple(member.adapter for member in self.members)


@dataclass(frozen=True, slots=True, eq=False)
class FilesRound:
    """A round that was replayed from the files of a base whose engine answers its canaries: no evidence, only what is
    said of the files beside the engine."""

    round: BaseRound


@dataclass(frozen=True, slots=True)
class FilesReplay:
    """How the files of one adapter and its base answered when they were last replayed.

    golden: hash of the record that they were compared with; at: of the round
    as_accepted: were no more draws beyond tolerance than a good round may have? share_beyond: of the draws
    identity: of the files; pod: that replayed them, "" for this one
    """

    adapter: str
    base: str
    golden: str
    at: float
    as_accepted: bool
    share_beyond: float
    identity: Identity
    pod: str = ""


class FilesState(StrEnum):
    """What is known of the files that an engine is to serve."""

    NOT_KNOWN = ""
    AS_ACCEPTED = "as_accepted"
    NOT_AS_ACCEPTED = "not_as_accepted"


class KnownBy(StrEnum):
    """How it is known."""

    NOBODY = ""
    WITNESS = "witness"  # another pod has replayed them
    THIS_POD = "this_pod"  # the pod that asked the engine has replayed them itself
    HASH = "hash"  # of the adapter's files alone, which nobody replayed


@dataclass(frozen=True, slots=True)
class FilesCheck:
    """The files of a subject beside what its engine answers. pod, at: who replayed them last, and when; "" and None
    where nobody did"""

    state: FilesState = FilesState.NOT_KNOWN
    by: KnownBy = KnownBy.NOBODY
    pod: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A level, not an increment: ``log_e`` is ln of the mean of M over bets after this record.

    stream: names the process within its detector ("" where a detector has one a subject; "prompt", "output", a pod ...)
    n: observations since the process last started at 0
    pages: may this detector alarm by itself? replica: the pod whose responses alone it is about, "" for all of them
    """

    subject_kind: SubjectKind
    subject: str
    detector: str
    stream: str
    round: int
    log_e: float
    n: int
    at: float
    pages: bool = True
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean or an estimate with its 95 % interval, of n canaries or responses; a bound that is not known is nan."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Onset:
    """The fault began after the last healthy round (None: there was none) and no later than the first bad one.

    Of responses the times are those at which they were served: ``after`` of the last good one, ``by`` of the first bad.

    estimate: when the evidence says it began, by the detectors' CUSUM statistics; None where they cannot tell
    earliest, latest: after the one and by the other, with 95 % confidence (docs/mathematics.md#onset-interval); latest
    is None where there is no such interval, earliest alone where it may have begun before all rounds that are kept
    """

    after: float | None
    by: float
    estimate: float | None = None
    earliest: float | None = None
    latest: float | None = None


class ShareOf(StrEnum):
    """What a verdict's share was counted among."""

    DRAWS = "draws"
    SCORES = "scores"  # of a base: draws that count for it (tolerance.py::base_scores)
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is decided about one subject after one round, with everything a person needs to check it.

    share_beyond: what share_of says: of the round's draws beyond tolerance, of a base's own scores that are 1, or of
    the scored responses that speak against it
    covered_by: the base whose open incident speaks for this adapter
    retention_over_rounds: anytime-valid, over all rounds since the incident last opened or ended
    good_in_a_row, silent_in_a_row: good rounds, and rounds without measurements, in a row with this one
    good_responses: rounds of good responses in a row, None where responses are not judged here
    tolerated_change: how a healthy adapter differs from what was accepted by more than its noise, in words; "" for not
    explanation: what was observed; action: the first thing to do
    answered_by: who answered its canaries, as of its Round; files: beside them, where that was a serving engine
    reopenings: of the incident that is open or was just ended: alarms in a row within a day of the end before
    bad_pods, pods: by sampled responses: replicas of those that speak against it since its first bad round, and of all
    path_from: of requests that name the base: the adapter from which the path leads along which its responses tell
    whether a fault is over; "" while none is known
    """

    subject_kind: SubjectKind
    subject: str
    base: str
    round: int
    at: float
    status: Status
    reason: Reason
    cause: Cause = Cause.NONE
    retention: Interval | None = None
    retention_over_rounds: Interval | None = None
    scale: float = float("nan")
    distortion: float = float("nan")
    base_shift: float = float("nan")
    gap_ratio: float = float("nan")
    share_beyond: float = float("nan")
    evidence: tuple[Evidence, ...] = ()
    log_threshold: float = float("inf")
    onset: Onset | None = None
    covered_by: str = ""
    members: tuple[str, ...] = ()
    explanation: str = ""
    action: str = ""
    identity: Identity = field(default_factory=Identity)
    good_in_a_row: int = 0
    silent_in_a_row: int = 0
    share_of: ShareOf = ShareOf.DRAWS
    tolerated_change: str = ""
    good_responses: int | None = None
    answered_by: str = ""
    files: FilesCheck = FilesCheck()
    reopenings: int = 0
    path_from: str = ""
    bad_pods: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()

    @property
    def is_of_engine(self) -> bool:
        """Did a serving engine answer its canaries?"""
        return self.answered_by not in ("", THE_FILES)
