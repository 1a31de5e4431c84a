"""One open Kafka client for the traffic topic, and what the demo and the tests need to publish to one.

The only file that imports the Kafka client (kafka-python 3). Three of its defaults are overridden, and have to stay so,
because each caused a failure: records are taken as bytes (after an exception in a deserializer the next poll() never
returns); reconnect back-off ends at 1 s (the default of 30 s delays reading by that much after the broker is back); its
loggers are held at INFO (at DEBUG they print the password). consumer.py keeps a client alive; nothing else should open
one for reading.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import structlog
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
from kafka.admin import MemberToRemove
from kafka.cluster import collect_hosts
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import (
    AuthorizationError,
    FencedInstanceIdError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
)
from kafka.net.compat import KafkaNetClient
from kafka.structs import MemberState

from agent.clock import Clock
from agent.errors import Refused, Retryable
from agent.kafka.config import BOOTSTRAP_S as BOOTSTRAP_S
from agent.kafka.config import Config as Config
from agent.kafka.config import connection_options
from agent.kafka.contract import LazyMessages, Message, Outgoing, PartitionRecords, TopicPartition, nothing_to_commit

COMMIT_S = 0.5
CLOSE_S = 1.0
PUBLISH_S = 20.0
METADATA_MS = 10_000  # within this a topic that is created later, or gets more partitions, is noticed

log = structlog.get_logger(__name__)
ClientError = KafkaError
NameTaken = FencedInstanceIdError
OnChange = Callable[[Literal["gained", "lost"], TopicPartition], None]
OnRevoke = Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]]


def limit_client_logging() -> None:
    """Hold kafka-python's loggers at INFO or above, whatever the user chose: at DEBUG they print the SASL password.

    By the standard library's logging, which kafka-python logs with; our own log goes through structlog.
    """
    names = [name for name in logging.root.manager.loggerDict if name.startswith("kafka.")]
    for logger in (logging.getLogger(name) for name in ["kafka", *names]):
        # Also one that inherits a higher level now: the root's level may be lowered later.
        logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))


class Client:
    """One KafkaConsumer from open to close, in this project's types. After any exception: close it, open another.

    on_change: called for each partition gained or lost, on the client's IO thread, before a poll returns its records
    on_revoke: called on that thread before partitions are given back, returns the offsets that may still be committed
    rule: of what the partitions are shared for. With one, a rebalance takes from a member nothing but what goes to
    another one, and gives it to that one afterwards (KIP-429); without, it takes everything from all. A broker lets
    nobody into a group whose members have another rule (InconsistentGroupProtocolError)
    Raises KafkaError when no broker answers within BOOTSTRAP_S, OSError when a file of the config cannot be read,
    ValueError when its content or the address of a broker is malformed.
    """

    def __init__(
        self, config: Config, on_change: OnChange, on_revoke: OnRevoke = nothing_to_commit, rule: str = ""
    ) -> None:
        self._config, self._on_change, self._on_revoke = config, on_change, on_revoke
        limit_client_logging()
        assignors = {"partition_assignment_strategy": [_in_steps(rule)]} if rule else {}
        self._kafka = _open(client_options(config) | assignors)
        limit_client_logging()  # again: opening imports modules, each with a logger of its own
        try:
            self._take_partitions()
        except BaseException:
            self.close()
            raise

    def _take_partitions(self) -> None:
        topic = self._config.topic
        if self._config.mode == "group":
            self._kafka.subscribe([topic], listener=_Listener(self._kafka, self._on_change, self._on_revoke))
            return
        if topic not in self._kafka.topics():
            raise UnknownTopicOrPartitionError(f"no topic {topic}")
        self._take_new_partitions()

    def _take_new_partitions(self) -> None:
        """Without a group no rebalance announces added partitions; one added later is read from its beginning."""
        topic, assigned = self._config.topic, self._kafka.assignment()
        existing = {KafkaPartition(topic, number) for number in self._kafka.partitions_for_topic(topic)}
        new = existing - assigned
        if not new:
            return
        self._kafka.assign(sorted(assigned | new))
        for tp in sorted(new):
            if assigned:
                self._kafka.seek(tp, 0)
            self._on_change("gained", (tp.topic, tp.partition))

    def poll(self, wait_s: float) -> list[PartitionRecords]:
        """Records of each partition that has some; at most max_poll_records together."""
        if self._config.mode == "assign":
            self._take_new_partitions()
        fetched = self._kafka.poll(timeout_ms=int(wait_s * 1000))
        return [
            PartitionRecords(tp.topic, tp.partition, LazyMessages(records, _message))
            for tp, records in fetched.items()
            if records
        ]

    def seek(self, offsets: Mapping[TopicPartition, int]) -> None:
        for partition, offset in offsets.items():
            self._kafka.seek(KafkaPartition(*partition), offset)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Waits at most COMMIT_S."""
        self._kafka.commit(_as_commit(offsets), timeout_ms=int(COMMIT_S * 1000))

    def pause(self) -> None:
        self._kafka.pause(*self._kafka.assignment())

    def resume(self) -> None:
        self._kafka.resume(*self._kafka.paused())

    def positions_and_lag(self) -> dict[TopicPartition, tuple[int, int]]:
        """Of each partition fetched at least once: the next offset to read, and how many records are not read yet.

        From the high water mark of the last fetch: end offsets requested separately are wrong on some brokers.
        """
        ends = {tp: self._kafka.highwater(tp) for tp in self._kafka.assignment()}
        # position() also makes the client resume a partition that it has stopped fetching (kafka-python #3106)
        positions = {tp: self._kafka.position(tp, timeout_ms=0) for tp, end in ends.items() if end is not None}
        return {(tp.topic, tp.partition): (at, ends[tp] - at) for tp, at in positions.items() if at is not None}

    def is_group_member(self) -> bool:
        """A stable member of its group, by its state and by its heartbeats? True where there is no group.

        A member whose instance id another has taken over is fenced without any exception, and its state stays stable:
        only its heartbeats stop.
        """
        if self._config.mode == "assign":
            return True
        silent_s = max(self._metric("last-heartbeat-seconds-ago"), default=math.inf)
        is_alive = silent_s == math.inf or silent_s < self._config.session_timeout_ms / 1000  # inf: none was due yet
        return is_alive and self._kafka.group_metadata().state is MemberState.STABLE

    def is_name_taken(self) -> bool:
        """Does the broker know another member by this one's name (group_instance_id)? Takes up to about 2 CLOSE_S;
        False where it does not say, and where this one was never a member."""
        if not self._is_named():
            return False
        name, group_id = self._config.group_instance_id, self._config.group_id
        try:
            own_id = self._kafka.group_metadata().member_id
            with _admin(self._config) as admin:
                members = admin.describe_groups([group_id])[group_id]["members"]
            holders = [member["member_id"] for member in members if member.get("group_instance_id") == name]
        except Exception as error:  # the broker is away, say, which would explain the silence too
            log.info("kafka_name_not_checked", why=error_text(error))
            return False
        return bool(own_id) and any(holder != own_id for holder in holders)

    def connections(self) -> int:
        """Connections to brokers, established or being established."""
        return int(sum(self._metric("connection-count")))

    def _metric(self, name: str) -> list[float]:
        metrics = self._kafka.metrics(raw=True)
        return [float(metric.value()) for label, metric in metrics.items() if label.name == name]

    def partition_count(self) -> int:
        """How many partitions the topic has, as far as is known; 0 where there is no such topic."""
        return len(self._kafka.partitions_for_topic(self._config.topic))

    def topic_names(self) -> set[str]:
        """Every topic that this user may see."""
        return set(self._kafka.topics())

    def committed(self, partition: TopicPartition) -> int | None:
        """The group's committed offset, None when it has none. Raises what the group's coordinator answers."""
        return self._kafka.committed(KafkaPartition(*partition), timeout_ms=int(BOOTSTRAP_S * 1000))

    def close(self, for_good: bool = False) -> None:
        """Leave the group and disconnect; commits nothing and raises nothing.

        A member with a name of its own (group_instance_id) leaves only where it closes for good: another client of the
        same name goes on with its partitions at once.
        """
        try:
            membership = self._kafka.group_metadata() if for_good and self._is_named() and self.connections() else None
            self._kafka.close(autocommit=False, timeout_ms=int(CLOSE_S * 1000))
            if membership is not None:
                _leave(self._config, membership.member_id)
        except Exception as error:  # the client is being discarded: its errors can only be logged
            log.info("kafka_client_close_failed", why=error_text(error))

    def _is_named(self) -> bool:
        return self._config.mode == "group" and bool(self._config.group_instance_id)


def _leave(config: Config, member_id: str) -> None:
    """What the client itself does for members without a name alone: without it their partitions would wait for the
    session to time out. By the member's id too, so that one that has the name meanwhile stays."""
    with _admin(config) as admin:
        admin.remove_group_members(config.group_id, [MemberToRemove(member_id, config.group_instance_id)])


@contextmanager
def _admin(config: Config) -> Iterator[KafkaAdminClient]:
    """For one question. Raises KafkaError where no broker answers within CLOSE_S."""
    limit_ms = int(CLOSE_S * 1000)
    options = connection_options(config) | {"bootstrap_timeout_ms": limit_ms, "request_timeout_ms": limit_ms}
    admin = KafkaAdminClient(**options)
    try:
        yield admin
    finally:
        admin.close()


def _open(options: dict[str, Any]) -> KafkaConsumer:
    """A KafkaConsumer; where opening it fails, its thread and sockets are closed.

    Its own constructor leaves its IO thread running forever: one more for each attempt while a broker is away.
    """
    collect_hosts(options["bootstrap_servers"])  # raises on a malformed address, before there is a socket to close
    with ExitStack() as undo:

        def network(**settings: Any) -> KafkaNetClient:
            net_client = KafkaNetClient(**settings)
            undo.callback(net_client.close)
            # Not handed on by its constructor: a topic of a wrong name would be created, and its absence never show.
            net_client.cluster.config["allow_auto_create_topics"] = options["allow_auto_create_topics"]
            return net_client

        opened = KafkaConsumer(kafka_client=network, **options)
        undo.pop_all()
        return opened


def error_text(error: BaseException) -> str:
    """Class and reason in one line; kafka-python puts the class in front of the reason itself, or "None" for none."""
    name = type(error).__name__
    lines = str(error).removeprefix(f"{name}: ").removesuffix("None").splitlines()
    return f"{name}: {lines[0][:300]}" if lines else name


def client_options(config: Config) -> dict[str, Any]:
    """All options that a consumer of this configuration is opened with."""
    return connection_options(config) | {
        "group_id": config.group_id,
        "group_instance_id": (config.group_instance_id or None) if config.mode == "group" else None,
        "enable_auto_commit": False,
        "auto_offset_reset": config.auto_offset_reset,
        "session_timeout_ms": config.session_timeout_ms,
        "heartbeat_interval_ms": min(3000, config.session_timeout_ms // 6),
        "max_poll_interval_ms": config.max_poll_interval_ms,
        "max_poll_records": config.max_poll_records,
        "allow_auto_create_topics": False,
        "metadata_max_age_ms": METADATA_MS,
        "fetch_max_bytes": 16 * 2**20,  # bounds what is fetched and not polled yet
    }


def _message(record: Any) -> Message:
    headers = {name: value for name, value in record.headers if value is not None}
    return Message(record.offset, max(record.timestamp, 0) / 1000, record.key, record.value, headers)


def _in_steps(rule: str) -> type[CooperativeStickyAssignor]:
    """Under a protocol name of its own: by that name a broker tells members of one rule from those of another."""
    return type("InSteps", (CooperativeStickyAssignor,), {"name": rule})


class _Listener(ConsumerRebalanceListener):
    """Called on the client's IO thread, while the thread that polls waits for it."""

    def __init__(self, kafka: KafkaConsumer, on_change: OnChange, on_revoke: OnRevoke) -> None:
        self._kafka, self._on_change, self._on_revoke = kafka, on_change, on_revoke

    def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        """Still ours: what is durable is committed before this member rejoins its group."""
        partitions = list(revoked)
        durable = self._on_revoke(frozenset((tp.topic, tp.partition) for tp in partitions)) if partitions else {}
        if durable:
            self._kafka.commit_async(_as_commit(durable))  # commit() would wait for this very thread
        self.on_partitions_lost(partitions)

    def on_partitions_lost(self, lost: Iterable[KafkaPartition]) -> None:
        """Another member may own them already: nothing may be committed."""
        for tp in lost:
            self._on_change("lost", (tp.topic, tp.partition))

    def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        for tp in assigned:
            self._on_change("gained", (tp.topic, tp.partition))


def _as_commit(offsets: Mapping[TopicPartition, int]) -> dict[KafkaPartition, OffsetAndMetadata]:
    return {KafkaPartition(*key): OffsetAndMetadata(offset, "", -1) for key, offset in offsets.items()}


def ensure_topic(bootstrap: str, topic: str, partitions: int = 1, settings: Mapping[str, str] | None = None) -> None:
    """Creates the topic unless it exists; waits for the leaders of a new one.

    settings: of the topic, like max.message.bytes. Raises Retryable.
    """
    topics = {topic: {"num_partitions": partitions, "replication_factor": 1, "configs": dict(settings or {})}}
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=int(PUBLISH_S * 1000))
        try:
            admin.create_topics(topics, wait_for_metadata=True, timeout_ms=int(PUBLISH_S * 1000))
        except TopicAlreadyExistsError:  # which is what was wanted
            pass
        finally:
            admin.close()
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error


def grow_topic(config: Config, topic: str, partitions: int) -> tuple[int, int]:
    """Creates the topic with the broker's own replication, or gives it more partitions where it has fewer; never takes
    any away. How many it had, 0 where it was not there, and has.

    Raises Retryable where no broker answers within PUBLISH_S, Refused where this user may not.
    """
    limit = {"bootstrap_timeout_ms": int(PUBLISH_S * 1000)}
    try:
        collect_hosts(list(config.bootstrap_servers))
        admin = KafkaAdminClient(**connection_options(config) | limit)
        try:
            before = sum(len(described["partitions"]) for described in admin.describe_topics([topic]))
            if not before:
                admin.create_topics({topic: {"num_partitions": partitions}}, wait_for_metadata=True)
            elif before < partitions:
                admin.create_partitions({topic: partitions})
            return before, max(before, partitions)
        finally:
            admin.close()
    except AuthorizationError as error:
        wanted = f"the rights to describe, create and alter topic {topic}, for the login of the section kafka"
        raise Refused("kafka.replays_topic", error_text(error), wanted) from error
    except (KafkaError, OSError, ValueError) as error:
        raise Retryable("kafka", error_text(error)) from error


def add_partitions(bootstrap: str, topic: str, partitions: int) -> None:
    """Raises the topic's number of partitions to ``partitions``. Raises Retryable."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=int(PUBLISH_S * 1000))
        try:
            admin.create_partitions({topic: partitions})
        finally:
            admin.close()
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error


class Publisher:
    """Sends records to one topic and returns which of them the broker has stored. One thread at a time."""

    def __init__(self, producer: KafkaProducer, topic: str, clock: Clock) -> None:
        self._producer, self._topic, self._clock = producer, topic, clock

    def send(self, records: Iterable[Outgoing], partition: int | None = None) -> list[bool]:
        """For each record in order: did the broker acknowledge it? Waits up to PUBLISH_S; raises no KafkaError."""
        answers = [self._begin(record, partition) for record in records]
        deadline = self._clock.steady() + PUBLISH_S
        return [self._acknowledged(answer, deadline) for answer in answers]

    def _begin(self, record: Outgoing, partition: int | None) -> Any:
        at = None if record.at is None else int(record.at * 1000)
        fields = {
            "key": record.key,
            "headers": list(record.headers.items()),
            "timestamp_ms": at,
            "partition": partition,
        }
        try:
            return self._producer.send(self._topic, value=record.value, **fields)
        except KafkaError as error:
            log.info("kafka_record_not_sent", why=error_text(error))
            return None

    def _acknowledged(self, answer: Any, deadline: float) -> bool:
        try:
            return answer is not None and answer.get(timeout=max(0.0, deadline - self._clock.steady())) is not None
        except KafkaError as error:
            log.info("kafka_record_not_acknowledged", why=error_text(error))
            return False


@contextmanager
def publisher(bootstrap: str, topic: str, clock: Clock | None = None, **options: Any) -> Iterator[Publisher]:
    """A Publisher, closed on exit. options: more settings of the client's producer. Raises Retryable."""
    within_ms = int(PUBLISH_S * 1000)
    defaults = {"acks": "all", "max_request_size": 16 * 2**20, "reconnect_backoff_max_ms": 1000}
    waits = {"bootstrap_timeout_ms": within_ms, "max_block_ms": within_ms}
    try:
        producer = KafkaProducer(bootstrap_servers=bootstrap, **(defaults | waits | options))
    except KafkaError as error:
        raise Retryable("kafka", error_text(error)) from error
    try:
        yield Publisher(producer, topic, clock or Clock())
    finally:
        producer.close(timeout=CLOSE_S)


def publish(bootstrap: str, topic: str, records: Iterable[Outgoing], partition: int | None = None) -> int:
    """Publish them all and return how many that was. Raises Retryable unless the broker acknowledged every one."""
    with publisher(bootstrap, topic) as out:
        acknowledged = out.send(records, partition)
    if not all(acknowledged):
        raise Retryable("kafka", f"{acknowledged.count(False)} of {len(acknowledged)} records not acknowledged")
    return len(acknowledged)
