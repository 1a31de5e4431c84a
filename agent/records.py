"""The agent's records: what came in from Kafka, what goes out to the on-call person, what the agent reports of itself.

Records that detectors or runners read are in their rooms (detectors/records.py, probes/runner.py,
probes/scoring/interaction.py). Values of the enums are stored in ClickHouse: they stay, whatever a member is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from detectors.records import BaseRound, Evidence, FaultReplay, FilesReplay, FilesRound, Verdict
from detectors.traffic_records import Calibration, Embedding, TrafficRound
from probes.scoring.interaction import Interaction


@dataclass(frozen=True, slots=True)
class LoggedHalf:
    """A request, or a response, that comes as a record of its own; ``request_id`` is what joins the two.

    body: of the request or response, decoded; at, pod: as the record told them, 0.0 and "" where it did not
    logged_by: which component wrote it, "" where it is not told: two that pass a request on use one id
    redelivered: an earlier batch was read as far as this record
    format: NAME of the format that read it, which also joins it to its other half; set by the decoder
    """

    request_id: str
    is_request: bool
    body: Mapping[str, Any]
    at: float
    pod: str
    topic: str
    partition: int
    offset: int
    redelivered: bool = False
    logged_by: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True)
class RequestCount:
    """How many requests of one adapter one offset range held, before any sampling. minute: seconds, floored to 60."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    adapter: str
    pod: str
    minute: float
    n: int


class RejectionReason(StrEnum):
    """Why a Kafka record was rejected: counted, and listed in the table ``aside``, instead of read."""

    NOT_JSON = "not_json"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    UNKNOWN_ADAPTER = "unknown_adapter"
    UNKNOWN_SCHEMA = "unknown_schema"
    TOO_LARGE = "too_large"
    EMPTY = "empty"
    DUPLICATE = "duplicate"  # the same id, time and text at another offset, within the feed's memory
    STREAM_CHUNK = "stream_chunk"  # a piece of an answer, which would read as a short or an empty one
    ERROR_ANSWER = "error_answer"  # the engine refused or broke off: nothing was written by a model
    FAILED = "failed"  # this program fails on it, with an error that nobody expected: its detail names the error
    UNPAIRED = "unpaired"  # a request without its response, or the reverse, within the time that a half waits


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """One record that could not be read; detail names the field or the position, never the production text.

    number: its place among what was rejected of the same record
    """

    topic: str
    partition: int
    offset: int
    reason: RejectionReason
    detail: str
    at: float
    number: int = 0


@dataclass(frozen=True, slots=True)
class TrafficBatch:
    """All that one offset range of one partition gave; stored as a whole, then its offset may be committed.

    next_offset: where reading goes on once this is durable; records: all read, kept or not
    opened: of these, how many were looked into. ``rejected`` are records of those: the unreadable share of the traffic
    is estimated by rejected / opened, because records that are not sampled are counted by key and never decoded
    first_ms: Kafka timestamp of the first record, milliseconds; topic_recreated: before this batch the topic was
    deleted and created again: offsets stored earlier for this partition are void
    """

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    interactions: tuple[Interaction, ...]
    counts: tuple[RequestCount, ...]
    rejected: tuple[RejectedRecord, ...]
    records: int
    at: float
    opened: int = 0
    first_ms: int = 0
    topic_recreated: bool = False

    @property
    def fresh(self) -> tuple[Interaction, ...]:
        """Those that were in no batch before: what evidence may be drawn from, each once."""
        return tuple(interaction for interaction in self.interactions if not interaction.redelivered)

    @property
    def token(self) -> str:
        """Deduplication token of the insert: the same range gives the same token after a crash.

        With the time of its first record, because the store drops what has a token that it knows: of a topic that was
        deleted and recreated it would drop the same offsets of other records.
        """
        return f"{self.topic}:{self.partition}:{self.first_offset}-{self.next_offset - 1}:{self.first_ms}:v2"


PartitionAdapter = tuple[str, int, str]
"""(topic, partition, adapter)"""


@dataclass(frozen=True, slots=True, eq=False)
class ScoredResponses:
    """What the sampled responses of one base gave since the last of these: judged together, saved together.

    round: their scores; None where they are embedded and no more
    upto: of each stretch the offset after the last record in here, so that a saved state says what its evidence holds
    """

    base: str
    at: float
    embeddings: tuple[Embedding, ...]
    round: TrafficRound | None
    upto: Mapping[PartitionAdapter, int]


@dataclass(frozen=True, slots=True)
class Flip:
    """A canary whose greedy answer changed: golden and present text side by side (canary text is ours to keep).

    golden_passes, present_passes: the canary's own check on either text, None where it has none
    """

    adapter: str
    base: str
    canary: str
    round: int
    at: float
    prompt: str
    golden_text: str
    present_text: str
    retention: float
    golden_passes: bool | None = None
    present_passes: bool | None = None


@dataclass(frozen=True, slots=True)
class GoldenAccepted:
    """From now on an adapter is compared with this golden record. golden: hash of ``data``, its bytes.

    smallest_loss: of its strength that pages in time (probes/golden/smallest_loss.py), None where none does or it is
    not known; draws: that this takes; tolerance: |s - 1| that each canary may be off, None where it is not known
    made_on: the serving engine that answered at enrolment, "" where the files did; offline: hash of the record made in
    process that this engine was measured against, with which the files are compared; "" for none
    """

    adapter: str
    base: str
    golden: str
    previous: str
    why: str
    accepted_at: float
    data: bytes
    smallest_loss: float | None = None
    draws: int = 0
    tolerance: float | None = None
    made_on: str = ""
    offline: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The agent is alive; its absence is an alert of its own.

    unsent: notices that nobody has received yet; -1 where this agent sends none to anybody
    overdue: bases of this agent of which no round was judged for several intervals (agent/alerting/rounds_due.py)
    agent_cpu_s, models_cpu_s: CPU seconds since then of this process, and of the models', those that ended included
    """

    at: float
    pod: str
    cluster: str
    started_at: float
    rounds: int
    records: int
    unsent: int = 0
    overdue: tuple[str, ...] = ()
    agent_cpu_s: float = 0.0
    models_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SavedState:
    """What another pod may go on from that judges this base, once this one does not.

    version: of the layout, as in ``state_dir``; subjects: state keys of what was judged; data: JSON
    closed: the last that this pod says of the base: it ends, or has handed the base over
    """

    at: float
    version: int
    base: str
    subjects: tuple[str, ...]
    data: bytes
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Watching:
    """What a pod judges from now on, as state keys: its word on anything else is of the past, though it is alive."""

    at: float
    subjects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterClock:
    """One thing of an adapter's passport that runs out (agent/lifecycle/clocks.py).

    due: the day, seconds since the epoch at its beginning (UTC); stage: the warning in force, "" while the day is far
    name: by which this warning is known, of this day and stage; words: for people
    """

    adapter: str
    kind: str
    due: float
    stage: str
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class AdapterWorth:
    """What an adapter added over its base on its own task when that was last measured (agent/economics/worth_file.py).

    at: when; golden: hash of the record whose canaries were put to both; worth: adds, base_passes, lost, unclear
    checked: canaries with a check of their own; *_right: of these; gain: in [-1, 1], with its interval
    base_loss_high: bound of the share that the base alone fails of what was accepted; gain_left: nan where not known
    right_with_examples, extra_tokens: of the base with so many examples in its prompt
    """

    adapter: str
    base: str
    at: float
    golden: str
    base_hash: str
    worth: str
    checked: int
    accepted_right: int
    adapter_right: int
    base_right: int
    gain: float
    gain_low: float
    gain_high: float
    base_loss_high: float
    gain_left: float
    right_with_examples: Mapping[int, float] = field(default_factory=dict)
    extra_tokens: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PassportClocks:
    """All that runs out, of all adapters that this agent judges, as their passports say now. troubles: passports that
    cannot be read, in words; worth: what was measured of these adapters, of those that it was measured of"""

    at: float
    clocks: tuple[AdapterClock, ...]
    troubles: tuple[str, ...] = ()
    worth: tuple[AdapterWorth, ...] = ()


class NoticeKind(StrEnum):
    """What is sent: an incident opens, an incident ends, or a change is told without an incident."""

    TRIGGER = "trigger"
    RESOLVE = "resolve"
    CHANGE = "change"


class NoticeReason(StrEnum):
    """Why something is sent now."""

    DEGRADED = "degraded"
    CAUSE_SHARPER = "cause_sharper"  # same incident, better named
    TAKEN_OVER = "taken_over"  # resolve of a member: its base's incident speaks for it from now on
    RECOVERED = "recovered"
    REENROLLED = "reenrolled"  # resolve: a new release was accepted, with the reason given
    BASE_MOVED = "base_moved"  # change event, no incident; so are the next five
    TOKENIZER_CHANGED = "tokenizer_changed"
    TEMPLATE_CHANGED = "template_changed"
    ADAPTER_MOVED = "adapter_moved"
    ENGINE_MOVED = "engine_moved"
    SOURCE_MOVED = "source_moved"
    TOLERATED_CHANGE = "tolerated_change"  # so too: off by more than noise, by less than the tolerance
    TOLERATED_CHANGE_OVER = "tolerated_change_over"
    GOLDEN_OLD = "golden_old"  # change event: the golden record in force is older than the policy allows
    PASSPORT_CLOCK = "passport_clock"  # so too: something that the adapter's passport names runs out
    NO_LONGER_JUDGED = "no_longer_judged"  # of an open incident: unmonitorable for three rounds, so it stays open
    CANNOT_TELL = "cannot_tell"  # unmonitorable for three rounds: an incident of its own
    CAN_TELL_AGAIN = "can_tell_again"  # resolve of that


@dataclass(frozen=True, slots=True)
class Notice:
    """One event for the on-call system. dedup_key: cluster and subject, never the cause. summary <= 1024 characters.

    after: dedup key of the incident that has to be told before this, "" for none
    change: of a change event, the name by which the fleet knows that it was sent
    """

    kind: NoticeKind
    reason: NoticeReason
    dedup_key: str
    summary: str
    verdict: Verdict
    at: float
    details: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    change: str = ""


Whole = BaseRound | Flip | TrafficBatch | GoldenAccepted | PassportClocks
Observation = Whole | ScoredResponses | FaultReplay | FilesRound
Judgement = Evidence | Verdict | Calibration | FilesReplay | Notice
Finding = Whole | TrafficRound | Embedding | Judgement | Heartbeat | SavedState | Watching
