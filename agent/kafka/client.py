"""Kafka: one opened client of the traffic topic, and what the demo and the tests need to publish to one.

The only file that imports the Kafka client (kafka-python 3). What is not left to its defaults, because each was seen to
go wrong: records are taken as bytes (after an exception in a deserializer the next poll() never returns); reconnect
back-off ends at 1 s (default 30 s: silent for that long after the broker is back); loggers are held at INFO (its DEBUG
log prints the password). consumer.py keeps a client alive; nothing else should open one for reading.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from kafka import (
    ConsumerRebalanceListener,
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    OffsetAndMetadata,
)
from kafka import (
    TopicPartition as KafkaPartition,
)
from kafka.cluster import collect_hosts
from kafka.errors import KafkaError, TopicAlreadyExistsError, UnknownTopicOrPartitionError
from kafka.net.compat import KafkaNetClient
from kafka.structs import MemberState

from agent.errors import Retryable
from agent.kafka.config import BOOTSTRAP_S as BOOTSTRAP_S
from agent.kafka.config import Config as Config
from agent.kafka.config import connection_options
from agent.kafka.contract import LazyMessages, Message, Outgoing, PartitionRecords, TopicPartition, nothing_to_commit

COMMIT_S = 0.5
CLOSE_S = 1.0
PUBLISH_S = 20.0
METADATA_MS = 10_000  # a topic that is created later, or grows, is noticed within this

_log = logging.getLogger(__name__)
ClientError = KafkaError
Moved = Callable[[Literal["gained", "lost"], TopicPartition], None]
Leaving = Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]]


def limit_client_logging() -> None:
    """Hold the client's loggers at INFO or above, whatever the user chose: at DEBUG it prints the SASL password."""
    known = [name for name in logging.root.manager.loggerDict if name.startswith("kafka.")]
    for logger in (logging.getLogger(name) for name in ["kafka", *known]):
        # Also where it is quiet now: the root's level may be lowered later.
        logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


class Client:
    """One KafkaConsumer from open to close, in this project's words. After any exception: close it, open another.

    moved: told of each partition that comes or goes, on the client's IO thread, before a poll returns its records
    leaving: asked on that thread, before partitions are given back in order, what of them may still be committed
    Raises KafkaError when no broker answers within BOOTSTRAP_S, OSError when a file of the config cannot be read,
    ValueError when that or an address of a broker makes no sense.
    """

    def __init__(self, config: Config, moved: Moved, leaving: Leaving = nothing_to_commit) -> None:
        self._config, self._moved, self._leaving = config, moved, leaving
        limit_client_logging()
        self._kafka = _open(client_options(config))
        limit_client_logging()  # again: opening imports modules, and each brings a logger
        try:
            self._take_partitions()
        except BaseException:
            self.close()
            raise

    def _take_partitions(self) -> None:
        topic = self._config.topic
        if self._config.mode == "group":
            self._kafka.subscribe([topic], listener=_Listener(self._kafka, self._moved, self._leaving))
            return
        if topic not in self._kafka.topics():
            raise UnknownTopicOrPartitionError(f"no topic {topic}")
        self._take_new_partitions()

    def _take_new_partitions(self) -> None:
        """Without a group nobody tells of a topic that grows; what comes later is read from its beginning."""
        topic, mine = self._config.topic, self._kafka.assignment()
        there = {KafkaPartition(topic, number) for number in self._kafka.partitions_for_topic(topic)}
        new = there - mine
        if not new:
            return
        self._kafka.assign(sorted(mine | new))
        for tp in sorted(new):
            if mine:
                self._kafka.seek(tp, 0)
            self._moved("gained", (tp.topic, tp.partition))

    def poll(self, wait_s: float) -> list[PartitionRecords]:
        """Records of each partition that has some; at most max_poll_records together."""
        if self._config.mode == "assign":
            self._take_new_partitions()
        fetched = self._kafka.poll(timeout_ms=int(wait_s * 1000))
        return [
            PartitionRecords(tp.topic, tp.partition, LazyMessages(got, _message)) for tp, got in fetched.items() if got
        ]

    def seek(self, places: Mapping[TopicPartition, int]) -> None:
        for place, offset in places.items():
            self._kafka.seek(KafkaPartition(*place), offset)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Waits at most COMMIT_S."""
        self._kafka.commit(_as_commit(offsets), timeout_ms=int(COMMIT_S * 1000))

    def pause(self) -> None:
        self._kafka.pause(*self._kafka.assignment())

    def resume(self) -> None:
        self._kafka.resume(*self._kafka.paused())

    def standing(self) -> dict[TopicPartition, tuple[int, int]]:
        """Of each partition fetched at least once: the next offset to read, and how many records are behind it.

        By the high water mark of the last fetch: end offsets that are asked for apart are wrong on some brokers.
        """
        ends = {tp: self._kafka.highwater(tp) for tp in self._kafka.assignment()}
        # position() also unsticks a partition whose validation was forgotten (kafka-python #3106)
        at = {tp: self._kafka.position(tp, timeout_ms=0) for tp, end in ends.items() if end is not None}
        return {(tp.topic, tp.partition): (here, ends[tp] - here) for tp, here in at.items() if here is not None}

    def joined(self) -> bool:
        """A stable member of its group, by its own word and by its heartbeats? True where there is no group.

        A member whose name another took over is fenced without any exception, and calls itself stable for ever: only
        its heartbeats have stopped.
        """
        if self._config.mode == "assign":
            return True
        silent_s = max(self._metric("last-heartbeat-seconds-ago"), default=math.inf)
        beats = silent_s == math.inf or silent_s < self._config.session_timeout_ms / 1000  # inf: none was due yet
        return beats and self._kafka.group_metadata().state is MemberState.STABLE

    def connections(self) -> int:
        """Connections to brokers, made or being made."""
        return int(sum(self._metric("connection-count")))

    def _metric(self, name: str) -> list[float]:
        return [float(found.value()) for about, found in self._kafka.metrics(raw=True).items() if about.name == name]

    def topic_names(self) -> set[str]:
        """Every topic that this user may see."""
        return set(self._kafka.topics())

    def committed(self, place: TopicPartition) -> int | None:
        """The group's commit, None when it has none. Raises what the group's coordinator answers."""
        return self._kafka.committed(KafkaPartition(*place), timeout_ms=int(BOOTSTRAP_S * 1000))

    def close(self) -> None:
        """Leave the group and hang up, with nothing committed and nothing raised."""
        try:
            self._kafka.close(autocommit=False, timeout_ms=int(CLOSE_S * 1000))
        except Exception as error:  # it is being thrown away: what it says can only be told
            _log.info("kafka client closed with %s", error_text(error))


def _open(options: dict[str, Any]) -> KafkaConsumer:
    """A KafkaConsumer that leaves nothing behind when it cannot be opened.

    Its own constructor leaves its IO thread running for ever: one more for each attempt while a broker is away.
    """
    collect_hosts(options["bootstrap_servers"])  # an address without sense: said before there is a socket to leave open
    with ExitStack() as undo:

        def network(**given: Any) -> KafkaNetClient:
            made = KafkaNetClient(**given)
            undo.callback(made.close)
            return made

        opened = KafkaConsumer(kafka_client=network, **options)
        undo.pop_all()
        return opened


def error_text(error: BaseException) -> str:
    """Class and reason in one line; kafka-python puts the class in front of the reason itself, or "None" for none."""
    name = type(error).__name__
    lines = str(error).removeprefix(f"{name}: ").removesuffix("None").splitlines()
    return f"{name}: {lines[0][:300]}" if lines else name


def client_options(config: Config) -> dict[str, Any]:
    """Every option that a consumer of this configuration is opened with."""
    return connection_options(config) | {
        "group_id": config.group_id,
        "group_instance_id": config.group_instance_id if config.mode == "group" else None,
        "enable_auto_commit": False,
        "auto_offset_reset": config.auto_offset_reset,
        "session_timeout_ms": config.session_timeout_ms,
        "heartbeat_interval_ms": min(3000, config.session_timeout_ms // 6),
        "max_poll_interval_ms": config.max_poll_interval_ms,
        "max_poll_records": config.max_poll_records,
        "allow_auto_create_topics": False,
        "metadata_max_age_ms": METADATA_MS,
        "fetch_max_bytes": 16 * 2**20,  # bounds what lies here unread
    }


def _message(record: Any) -> Message:
    headers = {name: value for name, value in record.headers if value is not None}
    return Message(record.offset, max(record.timestamp, 0) / 1000, record.key, record.value, headers)


class _Listener(ConsumerRebalanceListener):
    """Called on the client's IO thread, while the thread that polls waits for it."""

    def __init__(self, kafka: KafkaConsumer, moved: Moved, leaving: Leaving) -> None:
        self._kafka, self._moved, self._leaving = kafka, moved, leaving

    def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        """Still ours: what is durable is committed, before this member says that it joins anew."""
        gone = list(revoked)
        settled = self._leaving(frozenset((tp.topic, tp.partition) for tp in gone)) if gone else {}
        if settled:
            self._kafka.commit_async(_as_commit(settled))  # not commit(): this thread is the one that would answer it
        self.on_partitions_lost(gone)

    def on_partitions_lost(self, lost: Iterable[KafkaPartition]) -> None:
        """Somebody else's already: nothing may be committed."""
        for tp in lost:
            self._moved("lost", (tp.topic, tp.partition))

    def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        for tp in assigned:
            self._moved("gained", (tp.topic, tp.partition))


def _as_commit(offsets: Mapping[TopicPartition, int]) -> dict[KafkaPartition, OffsetAndMetadata]:
    return {KafkaPartition(*place): OffsetAndMetadata(offset, "", -1) for place, offset in offsets.items()}


def ensure_topic(bootstrap: str, topic: str, partitions: int = 1, settings: Mapping[str, str] | None = None) -> None:
    """The topic is there afterwards, with its leaders. settings: topic settings, for example max.message.bytes."""
    wanted = {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": dict(settings or {})}}
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=int(PUBLISH_S * 1000))
        try:
            admin.create_topics(wanted, wait_for_metadata=True, timeout_ms=int(PUBLISH_S * 1000))
        except TopicAlreadyExistsError:
            pass
        finally:
            admin.close()
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error


def add_partitions(bootstrap: str, topic: str, partitions: int) -> None:
    """The topic has so many partitions afterwards. Raises Retryable."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=int(PUBLISH_S * 1000))
        try:
            admin.create_partitions({topic: partitions})
        finally:
            admin.close()
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error


class Publisher:
    """Sends records to one topic and says which of them the broker has. One thread at a time."""

    def __init__(self, producer: KafkaProducer, topic: str) -> None:
        self._producer, self._topic = producer, topic

    def send(self, records: Iterable[Outgoing], partition: int | None = None) -> list[bool]:
        """For each record in order: did the broker acknowledge it? Waits for the answers; raises nothing of Kafka's."""
        answers = [self._begin(record, partition) for record in records]
        give_up = time.monotonic() + PUBLISH_S
        return [self._acknowledged(answer, give_up) for answer in answers]

    def _begin(self, record: Outgoing, partition: int | None) -> Any:
        at = None if record.at is None else int(record.at * 1000)
        sent = {"key": record.key, "headers": list(record.headers.items()), "timestamp_ms": at, "partition": partition}
        try:
            return self._producer.send(self._topic, value=record.value, **sent)
        except KafkaError as error:
            _log.info("not sent: %s", error_text(error))
            return None

    def _acknowledged(self, answer: Any, give_up: float) -> bool:
        try:
            return answer is not None and answer.get(timeout=max(0.0, give_up - time.monotonic())) is not None
        except KafkaError as error:
            _log.info("not acknowledged: %s", error_text(error))
            return False


@contextmanager
def publisher(bootstrap: str, topic: str, **options: Any) -> Iterator[Publisher]:
    """A Publisher, closed on the way out. options: more settings of the client's producer. Raises Retryable."""
    within_ms = int(PUBLISH_S * 1000)
    defaults = {"acks": "all", "max_request_size": 16 * 2**20, "reconnect_backoff_max_ms": 1000}
    waits = {"bootstrap_timeout_ms": within_ms, "max_block_ms": within_ms}
    try:
        producer = KafkaProducer(bootstrap_servers=bootstrap, **(defaults | waits | options))
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error
    try:
        yield Publisher(producer, topic)
    finally:
        producer.close(timeout=CLOSE_S)


def publish(bootstrap: str, topic: str, records: Iterable[Outgoing], partition: int | None = None) -> int:
    """Publish them all and return how many that was. Raises Retryable when the broker did not take every one."""
    with publisher(bootstrap, topic) as out:
        answers = out.send(records, partition)
    if not all(answers):
        raise Retryable("kafka", f"{answers.count(False)} of {len(answers)} records not acknowledged")
    return len(answers)
