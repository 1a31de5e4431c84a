"""From the records of one poll to the few that are kept: choose first, open afterwards."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from agent.errors import Unreadable
from agent.kafka.contract import Message, PartitionRecords, RecordColumns, TopicPartition
from agent.records import LoggedHalf, RejectedRecord, RejectionReason
from agent.traffic import json_fields
from agent.traffic.decoder import Decoder, Splitting, finished, known
from agent.traffic.formats import kserve, openai
from agent.traffic.pairing import Joiner
from agent.traffic.record_labels import BODY_TELLS, STRANGER, LabelReader, RecordLabels, label_of, split_base
from agent.traffic.reservoir import Config, RankHash, Reservoirs, below
from agent.traffic.watermarks import Watermarks
from probes.scoring.interaction import Interaction

A_DAY_S = 86_400.0
REMEMBERED = 20_000
NO_REQUEST = (RejectionReason.STREAM_CHUNK, RejectionReason.ERROR_ANSWER)
SENT_AGAIN_S = 600.0  # Kafka's producers give up after two minutes, unless told otherwise


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one poll of one partition came to.

    counts: of records that only their body could tell the adapter of; below 0 where what was counted by its key turned
    out to be no request
    """

    kept: tuple[Interaction, ...]
    rejected: tuple[RejectedRecord, ...]
    counts: Counter[tuple[str, str, float]]
    opened: int


class SampleCandidate(NamedTuple):
    """In the sample by its rank. seen: None until it is opened; number: its place among the requests of its record."""

    position: int
    adapter: str
    rank: int
    seen: Interaction | None = None
    number: int = 0


class _Before(NamedTuple):
    """Where a request was seen before. at: its time, which its record may have told or not."""

    place: TopicPartition
    offset: int
    number: int
    at: float
    told: bool


@dataclass(slots=True)
class _Poll:
    """One poll while it is worked on."""

    got: PartitionRecords
    outline: RecordColumns
    told: RecordLabels
    marks: Watermarks
    now: float
    rejected: list[RejectedRecord] = field(default_factory=list)
    counts: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    opened: int = 0

    def message(self, position: int) -> Message:
        return self.got.messages[position]

    def reject(self, offset: int, why: Unreadable, place: TopicPartition | None = None) -> None:
        reason = RejectionReason(why.reason)
        self.rejected.append(RejectedRecord(*(place or self.got.place), offset, reason, why.detail, self.now))


class TrafficSampler:
    """Keeps what lasts from poll to poll: room of this minute, halves that wait for their other, ids seen lately.

    form: format of the values, auto looks at each record; max_bytes: longer records are counted and set aside

    A request is known again by its id, its words and its time: at the same place (offset, and number within its record)
    it was read twice (marked ``again``), at another it was produced twice (set aside as duplicate), as far back as
    REMEMBERED sampled requests. An id alone says nothing: some engines draw it from a thousand.
    """

    def __init__(
        self, config: Config, adapters: Collection[str], form: str = "auto", max_bytes: int = 1_000_000
    ) -> None:
        self._adapters, self._rate = frozenset(adapters), config.rate
        self._reader = Decoder(form, max_bytes)
        # Half a request, or several, in a record: then only its body tells what is to be counted.
        several = isinstance(known().get(form), Splitting)
        self.tell = LabelReader(sorted(adapters), body_tells_half=form == kserve.NAME or several)
        self._ranking = RankHash(config.salt)
        self._reservoirs = Reservoirs(config.per_adapter_per_minute, config.rate)
        self._joiner = Joiner()
        self._lately: OrderedDict[tuple[str, int], _Before] = OrderedDict()

    @property
    def shed(self) -> Mapping[str, int]:
        """Of every adapter, how many requests found no room in their minute."""
        return {name: self._reservoirs.shed[name] for name in sorted(self._adapters)}

    def __call__(
        self, got: PartitionRecords, outline: RecordColumns, told: RecordLabels, marks: Watermarks, now: float
    ) -> Sampled:
        poll = _Poll(got, outline, told, marks, now)
        candidates = self._candidates(poll)
        chosen = self._reservoirs.choose([(one.adapter, one.rank) for one in candidates], now)
        kept = [seen for at in chosen if (seen := self._kept(poll, candidates[at])) is not None]
        for half, why in self._joiner.dropped(now):
            place = half.topic, half.partition
            poll.reject(half.offset, Unreadable(RejectionReason.UNPAIRED, why), place)
        return Sampled(tuple(kept), _in_order(poll.rejected), poll.counts, poll.opened)

    def _candidates(self, poll: _Poll) -> list[SampleCandidate]:
        told = poll.told
        ranks = told.ranks(self._ranking, poll.got, poll.outline)
        in_sample = np.flatnonzero(below(ranks, self._rate)).tolist()
        found = [self._by_told(poll, at, int(ranks[at])) for at in in_sample]
        if BODY_TELLS in told.adapters:
            must_open = [at for at, name in enumerate(told.adapters) if name == BODY_TELLS]
            found += [one for at in must_open for one in self._by_body(poll, at, int(ranks[at]))]
        return sorted((one for one in found if one is not None), key=lambda one: one.position)

    def _by_told(self, poll: _Poll, at: int, rank: int) -> SampleCandidate | None:
        adapter = poll.told.adapters[at]
        if adapter == BODY_TELLS:
            return None  # by its body, with the others of its kind
        if adapter == STRANGER:
            name = json_fields.name_or_nothing(poll.message(at).headers["adapter"].decode("utf-8", "replace"))
            poll.opened += 1
            poll.reject(poll.message(at).offset, Unreadable(RejectionReason.UNKNOWN_ADAPTER, f"adapter {name}".strip()))
            return None
        if at not in poll.told.halves:
            return SampleCandidate(at, adapter, rank)
        seen = self._open(poll, at)
        return SampleCandidate(at, seen.adapter, rank, seen) if isinstance(seen, Interaction) else None

    def _by_body(self, poll: _Poll, at: int, rank: int) -> list[SampleCandidate]:
        """Opened to be counted; candidates by their ranks, which are the body's own ids' where no header has one."""
        message, told = poll.message(at), poll.told
        found = self._read(poll, message)
        own = not told.ids or not told.ids[at] or len(found) > 1
        candidates = []
        for number, seen in enumerate(found):
            if isinstance(seen, Unreadable):
                continue
            if own or isinstance(seen, LoggedHalf):
                rank = int(self._ranking.of_ids([_name_of(seen)])[0])
            kept = self._counted(poll, seen, message, rank < self._rate * 2**64)
            if kept is not None:
                candidates.append(SampleCandidate(at, kept.adapter, rank, kept, number))
        return candidates

    def _counted(
        self, poll: _Poll, seen: Interaction | LoggedHalf, message: Message, chosen: bool
    ) -> Interaction | None:
        """What there is to keep of it where it is chosen; counted in any case."""
        if isinstance(seen, LoggedHalf):
            self._count_half(poll, seen, message)
            return self._join(poll, seen, message) if chosen else None
        ours = self._ours(poll, seen)
        if ours is None:
            return None
        self._count(poll, ours.adapter, ours.pod, ours.at, ours.offset)
        return ours if chosen else None

    def _open(self, poll: _Poll, at: int) -> Interaction | None:
        """None where it is unreadable, a stranger's, or a half that waits for its other."""
        message = poll.message(at)
        found = self._read(poll, message)
        if len(found) > 1:
            told = f"{len(found)} requests in a record whose key or header names one adapter: set kafka.format"
            poll.reject(message.offset, Unreadable(RejectionReason.WRONG_TYPE, told))
            return None
        seen = found[0]
        if isinstance(seen, LoggedHalf):
            return self._join(poll, seen, message)
        if isinstance(seen, Unreadable):
            self._take_back(poll, at, seen)
            return None
        return self._ours(poll, seen)

    def _take_back(self, poll: _Poll, at: int, why: Unreadable) -> None:
        """What was counted by its key, and turned out to be no request at all."""
        if why.reason in NO_REQUEST and poll.message(at).offset >= poll.marks.counted(poll.got.place):
            label = label_of(poll.told, poll.outline, at, poll.now)
            if label is not None:
                poll.counts[label] -= 1

    def _read(self, poll: _Poll, message: Message) -> Sequence[Interaction | LoggedHalf | Unreadable]:
        found = self._reader.read(message, poll.got.place)
        poll.opened += len(found)
        for why in found:
            if isinstance(why, Unreadable):
                poll.reject(message.offset, why)
        return found

    def _join(self, poll: _Poll, half: LoggedHalf, message: Message) -> Interaction | None:
        half = replace(half, redelivered=half.offset < poll.marks.counted(poll.got.place))
        other = self._joiner.add(half, len(message.value or b""), poll.now)
        if other is None:
            return None
        request = half if half.is_request else other
        try:
            joined = self._ours(poll, finished(kserve.join(half, other)))
        except Unreadable as why:
            poll.reject(message.offset, why)
            return None
        if joined is None:
            return None
        again = poll.marks.cover_both(half, other, joined.adapter)
        return replace(joined, other_half=(request.topic, request.partition, request.offset), redelivered=again)

    def _ours(self, poll: _Poll, seen: Interaction) -> Interaction | None:
        """By the names that are configured, also where a name has its base before it; None for any other."""
        base, adapter = split_base(seen.adapter, self._adapters)
        if adapter in self._adapters:
            return seen if not base else replace(seen, adapter=adapter, base=seen.base or base)
        name = json_fields.name_or_nothing(seen.adapter)
        poll.reject(seen.offset, Unreadable(RejectionReason.UNKNOWN_ADAPTER, f"adapter {name}".strip()))
        return None

    def _count_half(self, poll: _Poll, half: LoggedHalf, message: Message) -> None:
        """One request, one count: its response's, by the model that it names; where the request names its adapter apart
        from its model, the response names the base, and the request is counted."""
        model = openai.named_apart(half.body) if half.is_request else half.body.get("model")
        _, adapter = split_base(model if isinstance(model, str) else "", self._adapters)
        if adapter in self._adapters:
            self._count(poll, adapter, half.pod, half.at, message.offset)

    def _count(self, poll: _Poll, adapter: str, pod: str, at: float, offset: int) -> None:
        if offset >= poll.marks.counted(poll.got.place):
            sane = at if at <= poll.now + A_DAY_S else poll.now
            poll.counts[adapter, pod, sane // 60 * 60] += 1

    def _kept(self, poll: _Poll, one: SampleCandidate) -> Interaction | None:
        seen = one.seen or self._open(poll, one.position)
        if seen is None:
            return None
        message = poll.message(one.position)
        here = _Before((seen.topic, seen.partition), seen.offset, one.number, seen.at, seen.at != message.at)
        before = self._seen_before(seen, here)
        if before is not None:
            topic, partition = before.place
            why = Unreadable(RejectionReason.DUPLICATE, f"as {topic}:{partition}:{before.offset}")
            poll.reject(seen.offset, why, here.place)
            return None
        at = seen.at if 0 <= seen.at <= poll.now + A_DAY_S else _sane(message.at, poll.now)
        again = seen.redelivered if seen.other_half else poll.marks.cover(seen)
        return replace(seen, at=at, redelivered=again, number=one.number)

    def _seen_before(self, seen: Interaction, here: _Before) -> _Before | None:
        """Where the same request lies at another place; None where it is read for the first time, or once more there.

        Times a second apart are two requests, also where a classifier has written the same word again; those that Kafka
        has told, which are of the sending, only where no producer would still be trying.
        """
        key = seen.request_id, hash((seen.output, *(turn["content"] for turn in seen.messages)))
        before = self._lately.setdefault(key, here)
        if len(self._lately) > REMEMBERED:
            self._lately.popitem(last=False)
        if before[:3] == here[:3]:
            return None
        if abs(before.at - here.at) >= (1.0 if before.told and here.told else SENT_AGAIN_S):
            self._lately[key] = here
            return None
        return before


def _name_of(seen: Interaction | LoggedHalf) -> bytes:
    """What chooses a request whose id is in its body: the id of a half, which is all that both have in common; of a
    whole one the time and the answer besides, so that requests of one id are chosen each by itself."""
    told = seen.request_id if isinstance(seen, LoggedHalf) else f"{seen.request_id} {seen.at!r} {seen.output}"
    return told.encode(errors="surrogatepass")


def _in_order(rejected: Sequence[RejectedRecord]) -> tuple[RejectedRecord, ...]:
    """By place and offset, those of one record numbered."""
    seen: Counter[tuple[str, int, int]] = Counter()
    told = []
    for one in sorted(rejected, key=lambda one: (one.topic, one.partition, one.offset)):
        record = one.topic, one.partition, one.offset
        told.append(replace(one, number=seen[record]))
        seen[record] += 1
    return tuple(told)


def _sane(at: float, now: float) -> float:
    """A clock that runs ahead by more than a day is in other units: the record's own time, or the agent's."""
    return at if 0 < at <= now + A_DAY_S else now
