"""How far each partition was counted and judged: what a record that is read again is told by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kafka.contract import TopicPartition
from agent.records import LoggedHalf, PartitionAdapter
from probes.scoring.interaction import Interaction


class Watermarks:
    """judged: (topic, partition, adapter) -> offset after the last one in the evidence, as saved with that evidence.

    Counting goes by the store's marks and our own, because counts lie in the store; judging goes by those and by what
    the saved evidence holds, because a store that was away knows nothing of it. Adapters are scored in turns and not in
    the order of their offsets, so each has a mark of its own.

    Guarantee: nothing is judged twice. The price is paid in a crash: what was counted, or lies before its adapter's
    mark, and was not judged yet never will be. That is at most what was sampled since the last round.
    """

    def __init__(self, judged: Mapping[PartitionAdapter, int] | None = None) -> None:
        self._counted: dict[TopicPartition, int] = {}
        self._judged = dict(judged or {})

    def counted(self, place: TopicPartition) -> int:
        """The first offset not counted yet."""
        return self._counted.get(place, 0)

    def learn(self, places: Iterable[TopicPartition], stored: Mapping[TopicPartition, int]) -> None:
        """What the store says; our own mark may be ahead by batches that are on their way to it."""
        for place in places:
            self.move(place, stored.get(place, 0))

    def move(self, place: TopicPartition, next_offset: int) -> None:
        """Counted up to here. Never moves back."""
        self._counted[place] = max(next_offset, self.counted(place))

    def highest(self, place: TopicPartition) -> int:
        """Every mark of this partition is at or below this offset."""
        judged = (upto for (topic, partition, _), upto in self._judged.items() if (topic, partition) == place)
        return max(self.counted(place), *judged, 0)

    def forget(self, place: TopicPartition) -> None:
        """Another topic of the same name: nothing of it was counted or judged."""
        self._counted[place] = 0
        self._judged = {key: upto for key, upto in self._judged.items() if key[:2] != place}

    def cover(self, seen: Interaction) -> bool:
        """Was it read before, in a batch of ours or of the store's, or by those who saved the evidence?"""
        return seen.offset < max(self.counted((seen.topic, seen.partition)), self._upto(seen, seen.adapter))

    def cover_both(self, one: LoggedHalf, other: LoggedHalf, adapter: str) -> bool:
        """Were two halves whole before? Only if both were read before.

        The later one makes them whole, whichever it is: a response below the mark whose request lies above it was
        still waiting, unscored, when the mark was set. Counted marks are those of the time when each half was read
        (``LoggedHalf.redelivered``): by now the first one's has moved past it.
        """
        return all(half.redelivered or half.offset < self._upto(half, adapter) for half in (one, other))

    def _upto(self, record: Interaction | LoggedHalf, adapter: str) -> int:
        return self._judged.get((record.topic, record.partition, adapter), 0)
