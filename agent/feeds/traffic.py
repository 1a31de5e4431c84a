"""The traffic line's source: counts every request, samples a few, sets aside what cannot be read, forgets on commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from agent.errors import AgentError, Unreadable
from agent.feeds import gapwatch_v1
from agent.records import AsideReason, Interaction, RequestCount, SetAside, TrafficBatch
from agent.sampling import Config as SamplingConfig
from agent.sampling import PerMinute, keep
from agent.topic import Link, Message, Place, Polled, TopicConsumer

A_DAY_S = 86_400.0
CountedUpto = Callable[[], Mapping[Place, int]]


class TrafficFeed:
    """One TrafficBatch for each partition that a poll found records in.

    consumer: a Consumer of Kafka or its twin
    adapters: the names that are counted and sampled; any other name is set aside, which keeps every label set bounded
    counted_upto: for each partition the first offset that no durable batch has counted; may raise AgentError
    max_record_bytes: longer records are counted and set aside
    max_pending: batches that may be uncommitted before reading pauses (the group keeps its membership)

    Guarantee: each record is handed out at least once and counted once, as long as every batch handed out becomes
    durable in the end: after a crash, records below counted_upto are read again but not counted again. Broken by two
    owners of one partition at once (a fenced member that still writes), which counts a range twice.
    """

    def __init__(
        self,
        consumer: TopicConsumer,
        adapters: Collection[str],
        sampling: SamplingConfig,
        counted_upto: CountedUpto,
        max_record_bytes: int = 1_000_000,
        max_pending: int = 8,
    ) -> None:
        self._consumer, self._adapters, self._sampling = consumer, frozenset(adapters), sampling
        self._counted_upto, self._max_record_bytes, self._max_pending = counted_upto, max_record_bytes, max_pending
        self._quota = PerMinute(sampling.per_adapter_per_minute)
        self._marks: dict[Place, int] = {}  # the first offset not counted yet
        self._unmarked: set[Place] = set()  # newly ours: what the store has of them is not known yet
        self._waiting: list[Polled] = []  # read, but the store has not told their marks
        self._pending: dict[Place, list[int]] = {}  # where each uncommitted batch ends
        self.records = 0
        self.aside: Counter[AsideReason] = Counter()

    @property
    def status(self) -> Link:
        """Not up while no broker answers; up, with a reason, while it holds back."""
        link = self._consumer.status
        if not link.up or not (self._waiting or self._is_full()):
            return link
        return Link(True, "waiting for the store to tell what it holds" if self._waiting else "waiting for the sinks")

    @property
    def shed(self) -> Mapping[str, int]:
        """Sampled requests without room in their minute, by adapter."""
        return self._quota.shed

    def open(self) -> None:
        self._consumer.open()

    def poll(self, now: float) -> list[TrafficBatch]:
        """What came since the last call, a batch for each partition; [] while held back or while no broker answers."""
        if self._waiting or self._is_full():
            self._consumer.pause()
        else:
            self._consumer.resume()
        polled = self._consumer.poll()  # also while paused: a member that does not poll is put out of its group
        self._follow_moves()
        self._waiting += polled
        if not self._waiting or not self._know_marks():
            return []
        polled, self._waiting = self._waiting, []
        return [self._batch(got, now) for got in polled]

    def commit(self) -> None:
        """Let Kafka forget every batch handed out so far; they must be durable. A refused commit is repeated later."""
        ends = {place: max(batches) for place, batches in self._pending.items()}
        if ends and self._consumer.commit(ends):
            self._pending = {}

    def close(self, budget_s: float = 1.0) -> None:
        self._consumer.close(budget_s)

    def lag(self) -> Mapping[Place, int]:
        """Records not read yet, by partition."""
        return self._consumer.lag()

    def _is_full(self) -> bool:
        return sum(map(len, self._pending.values())) >= self._max_pending

    def _follow_moves(self) -> None:
        """What we held of a lost partition is its next owner's to commit; it is read again from the last commit."""
        moves = self._consumer.take_moves()
        self._pending = {place: ends for place, ends in self._pending.items() if place not in moves.lost}
        self._waiting = [got for got in self._waiting if got.place not in moves.lost]
        self._unmarked = (self._unmarked - moves.lost) | moves.gained

    def _know_marks(self) -> bool:
        """Ask the store once for each partition that became ours; False while it cannot tell."""
        if not self._unmarked:
            return True
        try:
            stored = self._counted_upto()
        except AgentError:  # away, or its password is wrong: its own sink says so, and the canaries go on
            return False
        for place in self._unmarked:  # our own mark may be ahead: batches handed out that are on their way to the store
            self._marks[place] = max(self._marks.get(place, 0), stored.get(place, 0))
        self._unmarked = set()
        return True

    def _batch(self, got: Polled, now: float) -> TrafficBatch:
        kept: list[Interaction] = []
        aside: list[SetAside] = []
        counts: Counter[tuple[str, str, float]] = Counter()
        mark = self._marks.get(got.place, 0)
        for message in got.messages:
            seen = self._read(message, got.place, now)
            if message.offset >= mark:
                counts.update(self._counted_as(message, seen, now))
            if isinstance(seen, SetAside):
                aside.append(seen)
            elif self._wants(seen, now):
                kept.append(seen)
        self._hand_out(got, aside)
        return TrafficBatch(
            got.topic,
            got.partition,
            got.first_offset,
            got.next_offset,
            tuple(kept),
            _request_counts(got, mark, counts),
            tuple(aside),
            len(got.messages),
            now,
        )

    def _hand_out(self, got: Polled, aside: list[SetAside]) -> None:
        self._marks[got.place] = max(self._marks.get(got.place, 0), got.next_offset)
        self._pending.setdefault(got.place, []).append(got.next_offset)
        self.records += len(got.messages)
        self.aside.update(one.reason for one in aside)

    def _read(self, message: Message, place: Place, now: float) -> Interaction | SetAside:
        try:
            seen = gapwatch_v1.read(message, place, self._max_record_bytes)
            if seen.adapter not in self._adapters:
                name = gapwatch_v1.name_or_nothing(seen.adapter)
                raise Unreadable(AsideReason.UNKNOWN_ADAPTER, f"adapter {name}".strip())
        except Unreadable as error:
            return SetAside(*place, message.offset, AsideReason(error.reason), error.detail, now)
        return seen

    def _counted_as(self, message: Message, seen: Interaction | SetAside, now: float) -> list[tuple[str, str, float]]:
        """[(adapter, pod, minute)], [] where no known adapter can be told. The key speaks before the body."""
        key = (message.key or b"").decode("utf-8", "replace")
        body = None if isinstance(seen, SetAside) else seen
        adapter = key if key in self._adapters else body.adapter if body else ""
        # A producer's clock may be in other units: a minute that no table holds would stop the partition for good.
        sent = message.at if 0 <= message.at <= now + A_DAY_S else now
        pod, at = (body.pod, body.at) if body else (gapwatch_v1.pod_of(message), sent)
        return [(adapter, pod, at // 60 * 60)] if adapter else []

    def _wants(self, seen: Interaction, now: float) -> bool:
        chosen = keep(seen.request_id, self._sampling.rate, self._sampling.salt)
        return chosen and self._quota.admit(seen.adapter, now)


def _request_counts(got: Polled, mark: int, counts: Counter[tuple[str, str, float]]) -> tuple[RequestCount, ...]:
    """first_offset is where counting began, so that the ranges of all counts of a partition are disjoint."""
    first, last = max(got.first_offset, mark), got.next_offset - 1
    return tuple(
        RequestCount(got.topic, got.partition, first, last, adapter, pod, minute, n)
        for (adapter, pod, minute), n in counts.items()
    )
