"""The traffic of a witness: it reads all of it, and of this the sampled responses of its own bases are to be scored.

What was read is counted and stored by the agents that share the topic's partitions: nothing of that is handed on here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.kafka.contract import TopicPartition
from agent.records import TrafficBatch
from agent.traffic.feed import TrafficFeed
from probes.scoring.interaction import Interaction


class OwnedResponses:
    """traffic: of a witness, every partition; base_of: adapter -> its base; ends: where each partition ended lately

    Guarantee: of a base that came, only records are handed out that lay beyond the end of their partition by then, and
    its former owner had it until then: a record is scored by one witness at most. The price: what was read and not
    judged by the former one, at most what was sampled since its last round, is bet on by nobody. Broken where this one
    knew an older end, because it could not read for longer than the former owner was silent; the judge then knows what
    was bet on as far as the state that it goes on from says so (``ScoredResponses.upto``).
    """

    def __init__(
        self,
        traffic: TrafficFeed,
        base_of: Mapping[str, str],
        ends: Callable[[], Mapping[TopicPartition, int]],
    ) -> None:
        self._traffic, self._base_of, self._ends = traffic, base_of, ends
        self._owned: frozenset[str] = frozenset()
        self._begins: dict[tuple[str, TopicPartition], int] = {}  # of each owned base, first offset that is handed out

    def own(self, bases: frozenset[str]) -> None:
        """From now on these bases are this witness's."""
        ends, came = self._ends(), bases - self._owned
        kept = {key: begin for key, begin in self._begins.items() if key[0] in bases}
        self._begins = kept | {(base, partition): end for base in came for partition, end in ends.items()}
        self._owned = bases

    def poll(self, now: float) -> list[TrafficBatch]:
        """As of the traffic feed, without counts and rejections."""
        return [self._own_part(batch) for batch in self._traffic.poll(now)]

    def _own_part(self, batch: TrafficBatch) -> TrafficBatch:
        partition = batch.topic, batch.partition
        if batch.topic_recreated:
            self._begins |= {key: 0 for key in self._begins if key[1] == partition}
        self._begin_in(partition, batch.next_offset)
        own = tuple(interaction for interaction in batch.interactions if self._is_own(interaction))
        return replace(batch, interactions=own, counts=(), rejected=())

    def _begin_in(self, partition: TopicPartition, read_upto: int) -> None:
        """A partition that was not read yet when a base came: where it ends now is late enough."""
        unknown = [base for base in self._owned if (base, partition) not in self._begins]
        if unknown:
            end = max(read_upto, self._ends().get(partition, 0))
            self._begins |= {(base, partition): end for base in unknown}

    def _is_own(self, interaction: Interaction) -> bool:
        base, partition = self._base_of.get(interaction.adapter, ""), (interaction.topic, interaction.partition)
        return base in self._owned and interaction.offset >= self._begins[base, partition]
