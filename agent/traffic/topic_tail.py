"""The latest records of the traffic topic, read once: outside of any group, nothing committed, nothing counted.

For a person who asks what was served (``gapwatch canaries``), where the store keeps no text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.clock import Clock
from agent.errors import Retryable
from agent.kafka.contract import PartitionRecords, TopicConsumer, TopicPartition
from agent.traffic.traffic_sampler import TrafficSampler
from agent.traffic.watermarks import Watermarks
from probes.scoring.interaction import Interaction

# Records read of one topic at most: at 100 us each a few seconds.
MOST_RECORDS = 50_000
# Seconds without any record, or without any broker, after which nothing more is expected.
PATIENCE_S = 10.0
Report = Callable[[int, int], None]
"""Called with records read, and how many there are."""


@dataclass(slots=True)
class TopicTail:
    """What was read. records: of all adapters; rejected: requests that could not be read; since: Kafka's time of the
    oldest record, seconds, None of none"""

    interactions: list[Interaction] = field(default_factory=list)
    records: int = 0
    rejected: int = 0
    since: float | None = None


def read_tail(
    consumer: TopicConsumer,
    sampler: TrafficSampler,
    report: Report = lambda done, total: None,  # noqa: ARG005
    clock: Clock | None = None,
    most: int = MOST_RECORDS,
) -> TopicTail:
    """The last ``most`` records of the topic, evenly over its partitions, up to their ends as they were at first.

    consumer: not opened yet, without a group and from the earliest record on; sampler: what is kept of the records
    Raises Retryable where no broker answers within PATIENCE_S.
    """
    clock = clock or Clock()
    consumer.open()
    try:
        ends, early = _ends(consumer, clock)
        each = max(1, most // max(len(ends), 1))
        begins = {partition: max(0, end - each) for partition, end in ends.items()}
        waiting = [] if consumer.seek(begins) else early  # a group begins at its commits
        total = sum(end - begins[partition] for partition, end in ends.items())
        tail, position = TopicTail(), dict(begins)
        watermarks, silent_since = Watermarks(), clock.steady()
        while any(position[partition] < end for partition, end in ends.items()):
            polled = waiting or consumer.poll()
            waiting = []
            if polled:
                silent_since = clock.steady()
            elif clock.steady() - silent_since >= PATIENCE_S:
                break  # what is left was compacted or deleted meanwhile
            for records in polled:
                _keep(tail, records, sampler, watermarks, clock.now())
                position[records.topic_partition] = records.next_offset
            report(min(tail.records, total), total)
    finally:
        consumer.close(1.0)
    return tail


def _ends(consumer: TopicConsumer, clock: Clock) -> tuple[dict[TopicPartition, int], list[PartitionRecords]]:
    """Where each partition ends, and what was polled meanwhile."""
    began, gained = clock.steady(), frozenset[TopicPartition]()
    early: list[PartitionRecords] = []
    while True:
        early += consumer.poll()
        gained |= consumer.take_partition_changes().gained
        ends = dict(consumer.ends())
        late = clock.steady() - began >= PATIENCE_S
        if ends and (late or gained <= set(ends)):  # an empty partition may never say where it ends
            return ends, early
        if late:
            raise Retryable("kafka", consumer.status.why or f"no partition of the topic within {PATIENCE_S:g} s")


def _keep(
    tail: TopicTail, records: PartitionRecords, sampler: TrafficSampler, watermarks: Watermarks, now: float
) -> None:
    columns = records.columns()
    sampled = sampler(records, columns, sampler.label(columns), watermarks, now)
    tail.interactions += sampled.kept
    tail.records += len(records.messages)
    tail.rejected += len(sampled.rejected)
    oldest = float(columns.stamps_ms.min()) / 1000
    tail.since = oldest if tail.since is None else min(tail.since, oldest)
