"""From the records of one poll to the few interactions that are kept: choose first, decode afterwards.

A record meets these steps in this order:

1. labels: adapter, pod and request id from key and headers, for all records at once (record_labels.py);
2. rank: a hash of the request id, or of the offset where there is no id (reservoir.RankHash);
3. in the sample? Its rank is below the sampling rate. All others are counted by their labels and never decoded;
4. room: at most so many requests an adapter and minute (reservoir.Reservoirs);
5. decode (decoder.py);
6. duplicate check: the same request at another offset is rejected;
7. kept.

Two kinds of records are decoded before step 4. A record whose labels name no adapter is decoded before step 2, because
only its body says what to count and what to rank by. Half of a pair is decoded after step 3 and joined to its other
half (pairing.py), and the pair takes part in step 4.

What decides in steps 2 to 4 may not depend on what a record says: a sample chosen by content is biased, and with it the
evidence. No format is named here: the decoder knows what each can do besides reading.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from agent.errors import Unreadable
from agent.kafka.contract import Message, PartitionRecords, RecordColumns, TopicPartition
from agent.records import LoggedHalf, RejectedRecord, RejectionReason
from agent.traffic import json_fields
from agent.traffic.decoder import Decoder
from agent.traffic.pairing import Joiner
from agent.traffic.record_labels import IN_BODY, NOT_CONFIGURED, RecordLabeller, RecordLabels, split_base
from agent.traffic.request_counts import CountKey, count_key
from agent.traffic.reservoir import WHOLE, Config, RankHash, Reservoirs, below
from agent.traffic.watermarks import Watermarks
from probes.scoring.interaction import Interaction

A_DAY_S = 86_400.0
REMEMBERED_REQUESTS = 20_000
NO_REQUEST = (RejectionReason.STREAM_CHUNK, RejectionReason.ERROR_ANSWER)
SENT_AGAIN_S = 600.0  # Kafka's producers give up after two minutes, unless configured otherwise


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one poll of one partition came to.

    counts: requests that only a body could assign to an adapter; negative where a record that was counted by its labels
    turned out to be no request. opened: records that were looked into, each request of an envelope for itself
    """

    kept: tuple[Interaction, ...]
    rejected: tuple[RejectedRecord, ...]
    counts: Counter[CountKey]
    opened: int


class SampleCandidate(NamedTuple):
    """A request in the sample by its rank, before it is known whether there is room for it.

    position: of its record in the poll; interaction: None until the record is decoded; number: which of its record's
    requests it is
    """

    position: int
    adapter: str
    rank: int
    interaction: Interaction | None = None
    number: int = 0


class _Occurrence(NamedTuple):
    """Where and when a request was read. has_own_time: its record has a time, so ``at`` is not Kafka's timestamp."""

    partition: TopicPartition
    offset: int
    number: int
    at: float
    has_own_time: bool


@dataclass(slots=True)
class _Poll:
    """The records of one poll of one partition, and what their sampling has produced so far."""

    records: PartitionRecords
    columns: RecordColumns
    labels: RecordLabels
    watermarks: Watermarks
    now: float
    rejected: list[RejectedRecord] = field(default_factory=list)
    counts: Counter[CountKey] = field(default_factory=Counter)
    opened: int = 0

    def message(self, position: int) -> Message:
        return self.records.messages[position]

    def reject(self, offset: int, why: Unreadable, partition: TopicPartition | None = None) -> None:
        reason, where = RejectionReason(why.reason), partition or self.records.topic_partition
        self.rejected.append(RejectedRecord(*where, offset, reason, why.detail, self.now))

    def was_counted(self, offset: int) -> bool:
        """By an earlier batch: a re-delivered record is not counted again."""
        return offset < self.watermarks.counted(self.records.topic_partition)


class TrafficSampler:
    """Callable: the records of one poll to what is Sampled.

    Keeps between polls: the room that is left in this minute, halves that wait for their other half, and which requests
    were kept recently.

    form: format of the values, auto recognises that of each record; max_bytes: longer records are counted and rejected
    bases: name by which requests ask for a base itself -> that base, whose name is then their adapter's

    A request is recognised by its id, its text and its time. At the same place (offset, and number within the record)
    it was read twice, and is marked ``redelivered``; at another place it was produced twice, and is rejected as a
    duplicate. This reaches back over REMEMBERED_REQUESTS sampled requests. An id alone proves nothing: some engines
    draw it from a thousand.
    """

    def __init__(
        self,
        config: Config,
        adapters: Collection[str],
        form: str = "auto",
        max_bytes: int = 1_000_000,
        bases: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._adapters, self._rate, self._bases = frozenset(adapters), config.rate, bases
        self._decoder = Decoder(form, max_bytes)
        self.label = RecordLabeller(sorted(adapters), self._decoder.counts_by_body, bases)
        self._rank_hash = RankHash(config.salt)
        self._reservoirs = Reservoirs(config.per_adapter_per_minute, config.rate)
        self._joiner = Joiner()
        self._recent: OrderedDict[tuple[str, int], _Occurrence] = OrderedDict()

    @property
    def shed(self) -> Mapping[str, int]:
        """By adapter, how many sampled requests found no room in their minute."""
        return {name: self._reservoirs.shed[name] for name in sorted({*self._adapters, *self._bases.values()})}

    def __call__(
        self,
        records: PartitionRecords,
        columns: RecordColumns,
        labels: RecordLabels,
        watermarks: Watermarks,
        now: float,
    ) -> Sampled:
        poll = _Poll(records, columns, labels, watermarks, now)
        candidates = self._candidates(poll)
        with_room = self._reservoirs.choose([(candidate.adapter, candidate.rank) for candidate in candidates], now)
        outcomes = [self._keep(poll, candidates[index]) for index in with_room]
        for half, why in self._joiner.dropped(now):
            poll.reject(half.offset, Unreadable(RejectionReason.UNPAIRED, why), (half.topic, half.partition))
        kept = tuple(interaction for interaction in outcomes if interaction is not None)
        return Sampled(kept, _numbered(poll.rejected), poll.counts, poll.opened)

    def _candidates(self, poll: _Poll) -> list[SampleCandidate]:
        """Steps 2 and 3, in the order of the records."""
        labels = poll.labels
        ranks = labels.ranks(self._rank_hash, poll.records, poll.columns)
        in_sample = np.flatnonzero(below(ranks, self._rate)).tolist()
        by_labels = [self._candidate_by_labels(poll, position, int(ranks[position])) for position in in_sample]
        candidates = [candidate for candidate in by_labels if candidate is not None]
        if IN_BODY in labels.adapters:
            for position in [at for at, adapter in enumerate(labels.adapters) if adapter == IN_BODY]:
                candidates += self._candidates_by_body(poll, position, int(ranks[position]))
        return sorted(candidates, key=lambda candidate: candidate.position)

    def _candidate_by_labels(self, poll: _Poll, position: int, rank: int) -> SampleCandidate | None:
        adapter = poll.labels.adapters[position]
        if adapter == IN_BODY:
            return None  # _candidates_by_body takes all of these
        if adapter == NOT_CONFIGURED:
            message = poll.message(position)
            poll.opened += 1
            poll.reject(message.offset, _unknown_adapter(message.headers["adapter"].decode("utf-8", "replace")))
            return None
        if position not in poll.labels.halves:
            return SampleCandidate(position, adapter, rank)
        pair = self._decode_one(poll, position)
        return SampleCandidate(position, pair.adapter, rank, pair) if pair is not None else None

    def _candidates_by_body(self, poll: _Poll, position: int, rank: int) -> list[SampleCandidate]:
        """Decodes the record and counts its requests; those in the sample are candidates.

        rank: by the labels. It applies to a single request with an id in its headers; any other is ranked by its body.
        """
        message, labels = poll.message(position), poll.labels
        items = self._decode(poll, message)
        rank_by_body = not labels.ids or not labels.ids[position] or len(items) > 1
        candidates = []
        for number, item in enumerate(items):
            if isinstance(item, Unreadable):
                continue
            if rank_by_body or isinstance(item, LoggedHalf):
                rank = int(self._rank_hash.of_ids([_rank_key(item)])[0])
            interaction = self._count_and_join(poll, item, message, in_sample=rank < self._rate * WHOLE)
            if interaction is not None:
                candidates.append(SampleCandidate(position, interaction.adapter, rank, interaction, number))
        return candidates

    def _count_and_join(
        self, poll: _Poll, item: Interaction | LoggedHalf, message: Message, in_sample: bool
    ) -> Interaction | None:
        """Counts the request, and returns it where it is in the sample and of a configured adapter.

        Half a request is returned once it is joined to its other half.
        """
        if isinstance(item, LoggedHalf):
            self._count_half(poll, item, message)
            return self._join(poll, item, message) if in_sample else None
        interaction = self._of_configured_adapter(poll, item)
        if interaction is None:
            return None
        self._count(poll, interaction.adapter, interaction.pod, interaction.at, interaction.offset)
        return interaction if in_sample else None

    def _decode_one(self, poll: _Poll, position: int) -> Interaction | None:
        """The request of a record that was counted by its labels.

        None where it is rejected, or is a half that waits for its other half.
        """
        message = poll.message(position)
        items = self._decode(poll, message)
        if len(items) > 1:
            why = f"{len(items)} requests in a record whose key or header names one adapter: set kafka.format"
            poll.reject(message.offset, Unreadable(RejectionReason.WRONG_TYPE, why))
            return None
        (item,) = items
        if isinstance(item, LoggedHalf):
            return self._join(poll, item, message)
        if isinstance(item, Unreadable):
            self._undo_count(poll, position, item)
            return None
        return self._of_configured_adapter(poll, item)

    def _undo_count(self, poll: _Poll, position: int, why: Unreadable) -> None:
        """Of a record that was counted by its labels and turned out to be no request at all."""
        if why.reason in NO_REQUEST and not poll.was_counted(poll.message(position).offset):
            key = count_key(poll.labels, poll.columns, position, poll.now)
            if key is not None:
                poll.counts[key] -= 1

    def _decode(self, poll: _Poll, message: Message) -> Sequence[Interaction | LoggedHalf | Unreadable]:
        """What the record holds; what cannot be read of it is rejected here already."""
        items = self._decoder.read(message, poll.records.topic_partition)
        poll.opened += len(items)
        for item in items:
            if isinstance(item, Unreadable):
                poll.reject(message.offset, item)
        return items

    def _join(self, poll: _Poll, half: LoggedHalf, message: Message) -> Interaction | None:
        """The whole request, None while its other half has not arrived or where the pair is rejected."""
        half = replace(half, redelivered=poll.was_counted(half.offset))
        other = self._joiner.add(half, len(message.value or b""), poll.now)
        if other is None:
            return None
        request = half if half.is_request else other
        try:
            pair = self._of_configured_adapter(poll, self._decoder.join(half, other))
        except Unreadable as why:
            poll.reject(message.offset, why)
            return None
        if pair is None:
            return None
        redelivered = poll.watermarks.is_redelivered_pair(half, other, pair.adapter)
        return replace(pair, other_half=(request.topic, request.partition, request.offset), redelivered=redelivered)

    def _of_configured_adapter(self, poll: _Poll, interaction: Interaction) -> Interaction | None:
        """Under the adapter's configured name, also where a base stands before it, or under the base's where it names
        that alone; None where it is not configured."""
        if (own := self._bases.get(interaction.adapter)) is not None:
            return replace(interaction, adapter=own, base=interaction.base or interaction.adapter)
        base, adapter = split_base(interaction.adapter, self._adapters)
        if adapter in self._adapters:
            return interaction if not base else replace(interaction, adapter=adapter, base=interaction.base or base)
        poll.reject(interaction.offset, _unknown_adapter(interaction.adapter))
        return None

    def _count_half(self, poll: _Poll, half: LoggedHalf, message: Message) -> None:
        """Of each pair one half is counted; its format says which."""
        name = self._decoder.counted_name(half)
        adapter = self._bases.get(name) or split_base(name, self._adapters)[1]
        if adapter in self._adapters or name in self._bases:
            self._count(poll, adapter, half.pod, half.at, message.offset)

    def _count(self, poll: _Poll, adapter: str, pod: str, at: float, offset: int) -> None:
        if not poll.was_counted(offset):
            plausible = at if at <= poll.now + A_DAY_S else poll.now
            poll.counts[adapter, pod, plausible // 60 * 60] += 1

    def _keep(self, poll: _Poll, candidate: SampleCandidate) -> Interaction | None:
        """Steps 5 to 7; None where the record is rejected."""
        interaction = candidate.interaction or self._decode_one(poll, candidate.position)
        if interaction is None:
            return None
        message = poll.message(candidate.position)
        here = _occurrence(interaction, candidate.number, message)
        earlier = self._earlier_occurrence(interaction, here)
        if earlier is not None:
            topic, number = earlier.partition
            why = Unreadable(RejectionReason.DUPLICATE, f"as {topic}:{number}:{earlier.offset}")
            poll.reject(interaction.offset, why, here.partition)
            return None
        at = interaction.at if 0 <= interaction.at <= poll.now + A_DAY_S else _plausible(message.at, poll.now)
        is_pair = interaction.other_half is not None
        redelivered = interaction.redelivered if is_pair else poll.watermarks.is_redelivered(interaction)
        return replace(interaction, at=at, redelivered=redelivered, number=candidate.number)

    def _earlier_occurrence(self, interaction: Interaction, here: _Occurrence) -> _Occurrence | None:
        """Where the same request lies at another place; None where it is new, or was read again at the same place.

        Times a second apart are two requests, also where a classifier has written the same word again. Kafka's
        timestamps are those of sending, and a producer may send a record again: with these, times have to be so far
        apart that no producer would still be trying.
        """
        text_hash = hash((interaction.output, *(turn["content"] for turn in interaction.messages)))
        key = interaction.request_id, text_hash
        first = self._recent.setdefault(key, here)
        if len(self._recent) > REMEMBERED_REQUESTS:
            self._recent.popitem(last=False)
        if first[:3] == here[:3]:
            return None
        if abs(first.at - here.at) >= (1.0 if first.has_own_time and here.has_own_time else SENT_AGAIN_S):
            self._recent[key] = here
            return None
        return first


def _occurrence(interaction: Interaction, number: int, message: Message) -> _Occurrence:
    partition = interaction.topic, interaction.partition
    return _Occurrence(partition, interaction.offset, number, interaction.at, interaction.at != message.at)


def _unknown_adapter(name: str) -> Unreadable:
    """The name only where it looks like one: it may be production text."""
    return Unreadable(RejectionReason.UNKNOWN_ADAPTER, f"adapter {json_fields.name_or_nothing(name)}".strip())


def _rank_key(item: Interaction | LoggedHalf) -> bytes:
    """What a request is ranked by when its headers have no id.

    A half: its id, which is all that both halves have in common. A whole request: also its time and answer, so that
    requests that share an id are chosen independently of each other.
    """
    key = item.request_id if isinstance(item, LoggedHalf) else f"{item.request_id} {item.at!r} {item.output}"
    return key.encode(errors="surrogatepass")


def _numbered(rejected: Sequence[RejectedRecord]) -> tuple[RejectedRecord, ...]:
    """By partition and offset; rejections of the same record are numbered."""
    n_of_record: Counter[tuple[str, int, int]] = Counter()
    numbered = []
    for rejection in sorted(rejected, key=lambda rejection: (rejection.topic, rejection.partition, rejection.offset)):
        record = rejection.topic, rejection.partition, rejection.offset
        numbered.append(replace(rejection, number=n_of_record[record]))
        n_of_record[record] += 1
    return tuple(numbered)


def _plausible(at: float, now: float) -> float:
    """The record's Kafka timestamp, or the agent's time: a clock more than a day ahead is in other units."""
    return at if 0 < at <= now + A_DAY_S else now
