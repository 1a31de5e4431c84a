"""Per-partition watermarks that detect re-delivered records: how far each partition was counted and judged.

They ensure that no record is counted or judged twice after a crash or a rebalance. docs/architecture.md, "Offsets",
describes the protocol of commits, stored counts and saved evidence that they are part of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.kafka.contract import TopicPartition
from agent.records import LoggedHalf, PartitionAdapter
from probes.scoring.interaction import Interaction


class Watermarks:
    """judged: (topic, partition, adapter) -> offset after the last record in the evidence, as saved with that evidence.

    A record is counted unless it lies below the store's watermark or our own, because counts are kept in the store. It
    is judged unless it lies below those or below what the saved evidence contains, because a store that was unreachable
    does not know of that. Adapters are scored in turns and not in the order of their offsets, so each has a watermark
    of its own.

    Guarantee: nothing is judged twice. The price is paid in a crash: a record that was counted, or lies below its
    adapter's watermark, and was not judged yet never will be. That is at most what was sampled since the last round.
    """

    def __init__(self, judged: Mapping[PartitionAdapter, int] | None = None) -> None:
        self._counted: dict[TopicPartition, int] = {}
        self._judged = dict(judged or {})

    def counted(self, partition: TopicPartition) -> int:
        """The first offset that is not counted yet."""
        return self._counted.get(partition, 0)

    def add_stored(self, partitions: Iterable[TopicPartition], stored: Mapping[TopicPartition, int]) -> None:
        """The store's watermarks; ours may be ahead by batches that are on their way to the store."""
        for partition in partitions:
            self.advance(partition, stored.get(partition, 0))

    def advance(self, partition: TopicPartition, next_offset: int) -> None:
        """Counted up to this offset. Never moves back."""
        self._counted[partition] = max(next_offset, self.counted(partition))

    def highest(self, partition: TopicPartition) -> int:
        """The highest watermark of this partition, of any kind."""
        judged = (end for (topic, number, _), end in self._judged.items() if (topic, number) == partition)
        return max(self.counted(partition), *judged, 0)

    def reset(self, partition: TopicPartition) -> None:
        """The topic was recreated: nothing of the new one was counted or judged."""
        self._counted[partition] = 0
        self._judged = {key: end for key, end in self._judged.items() if key[:2] != partition}

    def is_redelivered(self, interaction: Interaction) -> bool:
        """Was it in an earlier batch, of this process or of the store's, or in the saved evidence?"""
        counted = self.counted((interaction.topic, interaction.partition))
        return interaction.offset < max(counted, self._judged_end(interaction, interaction.adapter))

    def is_redelivered_pair(self, half: LoggedHalf, other: LoggedHalf, adapter: str) -> bool:
        """Was the pair complete before? Only if both halves were read before.

        The later half completes it, whichever that is: a response below the watermark whose request lies above it was
        still waiting, unscored, when the watermark was set. For counting, the watermark at the time when each half was
        read applies (``LoggedHalf.redelivered``): by now it has moved past the first half.
        """
        return all(each.redelivered or each.offset < self._judged_end(each, adapter) for each in (half, other))

    def _judged_end(self, record: Interaction | LoggedHalf, adapter: str) -> int:
        return self._judged.get((record.topic, record.partition, adapter), 0)
