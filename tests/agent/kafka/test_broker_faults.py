"""A broker that is absent, goes away or is killed under a consumer; and what must never appear in a log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from agent.clock import HandClock
from agent.demo.broker import Broker, Kind, free_port, start_broker
from agent.kafka.client import Client, ClientError, Config, add_partitions, ensure_topic, publish, publisher
from agent.kafka.connection_check import check_connection
from agent.kafka.consumer import COMMIT_AGAIN_S, Consumer, patience_s
from agent.kafka.contract import Outgoing, PartitionRecords, TopicPartition
from agent.records import TrafficBatch
from agent.traffic.feed import TrafficFeed
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.traffic_sampler import TrafficSampler
from tests.conftest import REAL, need_apache
from tests.kafka_brokers import LEFT_CONNECTING, config_for, request

pytestmark = [LEFT_CONNECTING, pytest.mark.usefixtures("collected")]
WITHIN_S = 60.0


@pytest.fixture(params=["tansu", REAL])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "apache":
        need_apache()
    return request.param


def read_until(consumer: Consumer, enough: Callable[[set[bytes]], bool]) -> set[bytes]:
    """Poll and commit as the loop does; every value that came."""
    values: set[bytes] = set()
    give_up = time.monotonic() + WITHIN_S
    while not enough(values):
        assert time.monotonic() < give_up, (len(values), consumer.status, consumer.rebuilds)
        polled = consumer.poll()
        values.update(message.value or b"" for got in polled for message in got.messages)
        consumer.take_partition_changes()
        consumer.commit({got.topic_partition: got.next_offset for got in polled})
    return values


def numbered(n: int) -> list[Outgoing]:
    return [Outgoing(None, str(i).encode()) for i in range(n)]


def test_a_broker_that_is_away_at_start_is_waited_for(tmp_path: Path, kind: Kind) -> None:
    port = free_port()
    consumer = Consumer(config_for(f"127.0.0.1:{port}", "late"))
    consumer.open()
    longest = 0.0
    for _ in range(8):
        began = time.monotonic()
        assert consumer.poll() == []
        longest = max(longest, time.monotonic() - began)
    assert longest < 2.0  # usually 0.2 s: the loop must not wait for a broker
    assert not consumer.status.up
    assert consumer.status.why
    with start_broker(tmp_path, port, kind) as broker:
        ensure_topic(broker.bootstrap, "late")
        with publisher(broker.bootstrap, "late") as out:
            assert all(out.send(numbered(20)))
        assert len(read_until(consumer, lambda got: len(got) >= 20)) == 20
        assert consumer.status == (True, "")
        consumer.close()


def test_closing_while_no_broker_answers_is_quick() -> None:
    consumer = Consumer(config_for(f"127.0.0.1:{free_port()}", "never"))
    consumer.open()
    consumer.poll()
    began = time.monotonic()
    consumer.close(1.0)
    assert time.monotonic() - began < 10.0
    assert consumer.status == (False, "closed")


def test_settings_that_no_client_can_open_with_are_reported_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "reader"}
    odd = config_for(f"127.0.0.1:{free_port()}", "odd", **login, sasl_password_file=tmp_path / "password")
    unread = odd.model_copy(update={"bootstrap_servers": ("kafka:abc",), "security_protocol": "PLAINTEXT"})
    for config in (unread, odd):
        consumer = Consumer(config)
        consumer.open()
        for _ in range(8):
            assert consumer.poll() == []
        assert consumer.status.why not in ("", "connecting")
        consumer.close(1.0)


def test_a_topic_that_is_not_there_is_told_not_created_and_read_once_it_is_there(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of such a topic the client says nothing: it is a member of its group, without a partition."""
    monkeypatch.setattr("agent.kafka.consumer.WITHOUT_PARTITION_S", 1.0)
    monkeypatch.setattr("agent.kafka.client.METADATA_MS", 500)
    topic = f"misspelt-{broker.kind}"
    consumer = Consumer(config_for(broker.bootstrap, topic))
    with capture_logs() as lines:
        consumer.open()
        give_up = time.monotonic() + WITHIN_S
        while not consumer.status.why.startswith("topic: saw "):
            assert time.monotonic() < give_up, consumer.status
            assert consumer.poll() == []
            assert not consumer.take_partition_changes().gained, "it is not ours to create"
        assert not consumer.status.up
        assert f"{topic} is not among them, wanted topic {topic}, and the rights to describe" in consumer.status.why
        ensure_topic(broker.bootstrap, topic)
        publish(broker.bootstrap, topic, numbered(3))
        assert len(read_until(consumer, lambda got: len(got) >= 3)) == 3
        assert consumer.status == (True, "")
    assert [line["event"] for line in lines] == ["part_not_ok", "part_ok_again"]
    consumer.close()


def test_a_client_that_cannot_pause_or_go_on_is_replaced(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Client) -> None:
        raise KeyError("a partition that a rebalance took away")

    topic = f"held-{broker.kind}"
    ensure_topic(broker.bootstrap, topic)
    with publisher(broker.bootstrap, topic) as out:
        assert all(out.send(numbered(3)))
    consumer = Consumer(config_for(broker.bootstrap, topic))
    consumer.open()
    read_until(consumer, lambda got: len(got) >= 3)
    consumer.pause()
    assert consumer.poll() == []
    with monkeypatch.context() as race:
        race.setattr(Client, "resume", gone)
        consumer.resume()
        assert consumer.poll() == []
    assert consumer.rebuilds == 1
    with publisher(broker.bootstrap, topic) as out:
        assert all(out.send([Outgoing(None, b"later")]))
    assert b"later" in read_until(consumer, lambda got: b"later" in got)
    consumer.close()


def test_a_refused_commit_waits_before_it_is_tried_again_and_is_logged_once(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the consumer's clock: each try may block the loop."""
    attempts: list[Mapping[TopicPartition, int]] = []

    def refuse(_: Client, offsets: Mapping[TopicPartition, int]) -> None:
        attempts.append(offsets)
        raise ClientError("the group is rebalancing")

    topic, clock = f"refused-{broker.kind}", HandClock()
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, numbered(3))
    consumer = Consumer(config_for(broker.bootstrap, topic), clock)
    consumer.open()
    read_until(consumer, lambda got: len(got) >= 3)
    with monkeypatch.context() as refusing, capture_logs() as own_log:
        refusing.setattr(Client, "commit", refuse)
        assert not consumer.commit({(topic, 0): 3})
        clock.advance(0.9 * COMMIT_AGAIN_S)
        assert not consumer.commit({(topic, 0): 3})
        assert len(attempts) == 1
        clock.advance(0.2 * COMMIT_AGAIN_S)
        assert not consumer.commit({(topic, 0): 3})
        assert len(attempts) == 2
    why = "commit: KafkaError: the group is rebalancing"
    assert own_log == [{"event": "kafka_commit_refused", "why": why, "log_level": "warning"}]
    assert consumer.status == (True, why)
    clock.advance(2 * COMMIT_AGAIN_S)
    assert consumer.commit({(topic, 0): 3})
    consumer.close()


def test_attempts_that_fail_leave_no_thread_behind() -> None:
    before = set(threading.enumerate())
    consumer = Consumer(config_for(f"127.0.0.1:{free_port()}", "never"))
    consumer.open()
    waited_for = time.monotonic() + 6.0  # two or three attempts of BOOTSTRAP_S each
    while time.monotonic() < waited_for:
        consumer.poll()
    extra = [thread.name for thread in threading.enumerate() if thread not in before]
    assert len(extra) <= 2, extra  # the one that opens, and the client it is opening now
    consumer.close(3.0)


def test_a_broker_that_goes_away_shows_in_the_status_and_commits_wait(tmp_path: Path) -> None:
    with start_broker(tmp_path, kind="tansu") as broker:
        ensure_topic(broker.bootstrap, "gone")
        consumer = Consumer(config_for(broker.bootstrap, "gone"))
        consumer.open()
        with publisher(broker.bootstrap, "gone") as out:
            out.send(numbered(5))
        read_until(consumer, lambda got: len(got) >= 5)
        broker.kill_minus_9()
        give_up = time.monotonic() + WITHIN_S
        while consumer.status.up:
            assert time.monotonic() < give_up
            assert consumer.poll() == []
        assert consumer.commit({("gone", 0): 5}) is False
        assert not consumer.status.up
        consumer.close()


@pytest.mark.real_kafka
def test_after_a_kill_under_load_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    need_apache()
    with start_broker(tmp_path, kind="apache") as broker:
        ensure_topic(broker.bootstrap, "load", partitions=2)
        acknowledged: set[bytes] = set()
        with publisher(broker.bootstrap, "load") as out:
            consumer = Consumer(config_for(broker.bootstrap, "load"))
            consumer.open()
            stop = threading.Event()

            def load() -> None:
                while not stop.is_set():
                    records = [Outgoing(None, f"{time.monotonic_ns()}-{i}".encode()) for i in range(100)]
                    acknowledged.update(r.value or b"" for r, ok in zip(records, out.send(records), strict=True) if ok)

            loader = threading.Thread(target=load)
            loader.start()
            read = read_until(consumer, lambda got: len(got) >= 2000)
            broker.kill_minus_9()
            while consumer.status.up:  # what it had fetched before may still come
                read |= {message.value or b"" for got in consumer.poll() for message in got.messages}
            broker.restart()
            n_before = len(read)
            read |= read_until(consumer, lambda got: len(got) >= 1000)
            stop.set()
            loader.join()
            read |= read_until(consumer, lambda got: acknowledged <= read | got)
            assert len(read) > n_before
            consumer.close()


@pytest.mark.real_kafka
def test_the_password_is_in_no_log_even_at_debug(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to itself the client does print it, which shows that the assertion could fail."""
    need_apache()
    secret, plain, asking = "open-sesame-4711", free_port(), free_port()
    (tmp_path / "password").write_text(secret + "\n")
    login = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "reader"}
    config = config_for(f"127.0.0.1:{asking}", "secret", **login, sasl_password_file=tmp_path / "password")
    with start_broker(tmp_path / "broker", plain, "apache", _with_sasl(plain, asking, secret)) as broker:
        ensure_topic(broker.bootstrap, "secret")
        with publisher(broker.bootstrap, "secret") as out:
            assert all(out.send(numbered(3)))
        with _everything_at_debug(), caplog.at_level(logging.DEBUG), capture_logs() as own_log:
            _log_in_and_read(config)
        assert secret not in caplog.text
        assert secret not in str(own_log)
        monkeypatch.setattr("agent.kafka.client.limit_client_logging", lambda: None)
        with _everything_at_debug(), caplog.at_level(logging.DEBUG):
            _log_in_and_read(config)
        assert secret in caplog.text
    assert secret not in repr(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bootstrap_servers": ()},
        {"topic": ""},
        {"group_id": None},
        {"security_protocol": "SASL_SSL"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_username": "me"},
        {"max_pol_records": 5},
        {"sasl_password": "in the config"},
        {"auto_offset_reset": "newest"},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, object]) -> None:
    good: dict[str, object] = {"bootstrap_servers": ("127.0.0.1:9092",), "topic": "traffic"}
    Config.model_validate(good)
    with pytest.raises(ValidationError):
        Config.model_validate(good | wrong)


def test_without_a_group_all_partitions_are_read_and_nothing_is_committed(broker: Broker) -> None:
    topic = f"assigned-{broker.kind}"
    ensure_topic(broker.bootstrap, topic, partitions=3)
    with publisher(broker.bootstrap, topic) as out:
        assert all(answer for partition in range(3) for answer in out.send(numbered(4), partition))
    for _ in range(2):  # a second reader begins where the first did
        consumer = Consumer(config_for(broker.bootstrap, topic, mode="assign", group_id=None))
        consumer.open()
        places = {got.topic_partition for got in _polls(consumer, 12)}
        assert places == {(topic, 0), (topic, 1), (topic, 2)}
        assert consumer.take_partition_changes().gained == places
        assert consumer.commit({(topic, 0): 4})
        consumer.close()


@pytest.mark.real_kafka
def test_without_a_group_a_topic_that_grows_is_read_from_the_beginning_of_what_is_new(
    tmp_path: Path, shared_broker: Callable[[Kind], Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, topic = shared_broker("apache"), "grows"
    monkeypatch.setattr("agent.kafka.client.METADATA_MS", 500)
    ensure_topic(broker.bootstrap, topic)
    consumer = Consumer(config_for(broker.bootstrap, topic, mode="assign", group_id=None, auto_offset_reset="latest"))
    consumer.open()
    give_up = time.monotonic() + WITHIN_S
    while not consumer.lag():
        assert time.monotonic() < give_up
        assert consumer.poll() == []
    add_partitions(broker.bootstrap, topic, 3)
    with publisher(broker.bootstrap, topic, metadata_max_age_ms=500) as out:
        assert all(answer for partition in (1, 2) for answer in out.send(numbered(4), partition))
    assert {got.topic_partition for got in _polls(consumer, 8)} == {(topic, 1), (topic, 2)}
    consumer.close()


def test_without_a_group_reading_continues_where_the_store_has_counted(broker: Broker) -> None:
    """In a topic read from its end, what came while the agent was away is read all the same."""
    topic = f"marked-{broker.kind}"
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, (request(n) for n in range(10)))
    consumer = Consumer(config_for(broker.bootstrap, topic, mode="assign", group_id=None))
    every = SamplingConfig(rate=1.0, per_adapter_per_minute=1000)
    feed = TrafficFeed(consumer, TrafficSampler(every, ("ticket-router",)), lambda: {(topic, 0): 6})
    feed.open()
    give_up = time.monotonic() + WITHIN_S
    batches: list[TrafficBatch] = []
    while sum(batch.records for batch in batches) < 4:
        assert time.monotonic() < give_up, feed.status
        batches += feed.poll(0.0)
    assert [interaction.offset for batch in batches for interaction in batch.interactions] == [6, 7, 8, 9]
    assert sum(count.n for batch in batches for count in batch.counts) == 4
    feed.close()


@pytest.mark.real_kafka
def test_of_two_members_with_one_name_one_notices_by_itself(
    shared_broker: Callable[[Kind], Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker fences it without any exception out of the client: empty polls for ever."""
    broker, topic = shared_broker("apache"), "fenced"
    monkeypatch.setattr("agent.kafka.consumer.STUCK_AFTER_S", 0.5)
    ensure_topic(broker.bootstrap, topic)
    config = config_for(broker.bootstrap, topic, group_instance_id="pod-0", session_timeout_ms=1000)
    first = Consumer(config)
    first.open()
    publish(broker.bootstrap, topic, numbered(3))
    read_until(first, lambda got: len(got) >= 3)
    second = Consumer(config)
    second.open()
    give_up = time.monotonic() + WITHIN_S
    while not any("another member of the group has the name 'pod-0'" in each.status.why for each in (first, second)):
        assert time.monotonic() < give_up, (first.status, second.status)  # a stalled one may have lost it in its turn
        first.poll()
        second.poll()
    assert first.rebuilds + second.rebuilds > 0
    for consumer in (first, second):
        consumer.close()


@pytest.mark.real_kafka
def test_a_broker_that_was_away_for_longer_than_a_session_is_no_other_member_with_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats stop in both cases."""
    need_apache()
    monkeypatch.setattr("agent.kafka.consumer.STUCK_AFTER_S", 0.5)
    with start_broker(tmp_path, kind="apache") as broker:
        ensure_topic(broker.bootstrap, "away")
        publish(broker.bootstrap, "away", numbered(3))
        consumer = Consumer(config_for(broker.bootstrap, "away", group_instance_id="pod-0", session_timeout_ms=1000))
        consumer.open()
        read_until(consumer, lambda got: len(got) >= 3)
        broker.kill_minus_9()
        said: set[str] = set()
        back_at = time.monotonic() + 6.0
        while time.monotonic() < back_at:
            consumer.poll()
            said.add(consumer.status.why)
        broker.restart()
        ensure_topic(broker.bootstrap, "away")
        publish(broker.bootstrap, "away", [Outgoing(None, b"later")])
        give_up, came = time.monotonic() + WITHIN_S, False
        while not came:
            assert time.monotonic() < give_up, said
            came = any(message.value == b"later" for got in consumer.poll() for message in got.messages)
            said.add(consumer.status.why)
        assert not [why for why in said if "has the name" in why]
        consumer.close()


def test_where_a_broker_lets_no_member_with_a_name_in_it_is_read_without_and_nobody_else_is_named(
    shared_broker: Callable[[Kind], Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, topic = shared_broker("tansu"), "no-names"
    monkeypatch.setattr("agent.kafka.consumer.STUCK_AFTER_S", 0.5)
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, numbered(3))
    consumer = Consumer(config_for(broker.bootstrap, topic, group_instance_id="pod-0", session_timeout_ms=1000))
    consumer.open()
    read_until(consumer, lambda got: len(got) >= 3)
    assert "another member" not in consumer.status.why
    assert "has not taken it in by the name 'pod-0'" in consumer.status.why
    consumer.close()


def test_a_client_that_never_became_a_member_is_waited_for_twice_as_long_as_the_one_before() -> None:
    config = config_for("127.0.0.1:9", "t", session_timeout_ms=10_000)
    assert [patience_s(config, given_up) for given_up in range(5)] == [40.0, 80.0, 160.0, 320.0, 320.0]


@pytest.mark.real_kafka
def test_two_agents_with_one_name_share_the_partitions_and_one_says_so(shared_broker: Callable[[Kind], Broker]) -> None:
    """The one that the broker has fenced hears it when it commits, before it reads much that the other reads too."""
    broker, topic = shared_broker("apache"), "one-name"
    ensure_topic(broker.bootstrap, topic, 2)
    config = config_for(broker.bootstrap, topic, group_instance_id="pod-0", session_timeout_ms=300_000)
    pair = [Consumer(config) for _ in range(2)]
    owned: list[set[TopicPartition]] = [set(), set()]
    give_up = time.monotonic() + WITHIN_S
    for consumer in pair:
        consumer.open()
        while not owned[pair.index(consumer)]:  # the second takes the name once the first has it
            assert time.monotonic() < give_up, [each.status for each in pair]
            turn(pair, owned)
    n = 0
    while [len(partitions) for partitions in owned] != [1, 1]:
        assert time.monotonic() < give_up, ([each.status for each in pair], owned)
        for partition in (0, 1):
            publish(broker.bootstrap, topic, [Outgoing(None, str(n).encode())], partition)
        n += 1
        turn(pair, owned)
    assert [consumer.status.up for consumer in pair] == [True, True]
    assert ["has the name 'pod-0'" in consumer.status.why for consumer in pair] == [True, False]
    for consumer in pair:
        consumer.close()


def turn(consumers: Sequence[Consumer], owned: list[set[TopicPartition]]) -> None:
    """Poll and commit once, and note who has which partitions."""
    for place, consumer in enumerate(consumers):
        polled = consumer.poll()
        changes = consumer.take_partition_changes()
        owned[place] = (owned[place] - changes.lost) | changes.gained
        consumer.commit({got.topic_partition: got.next_offset for got in polled})


@pytest.mark.real_kafka
def test_a_member_with_a_name_leaves_when_it_closes_for_good(shared_broker: Callable[[Kind], Broker]) -> None:
    """A roll-out: the next pod has another name, and the session of the old one would time out in five minutes."""
    broker, topic = shared_broker("apache"), "rolled-out"
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, numbered(3))

    def named(name: str) -> Consumer:
        consumer = Consumer(config_for(broker.bootstrap, topic, group_instance_id=name, session_timeout_ms=300_000))
        consumer.open()
        return consumer

    old = named("pod-old")
    read_until(old, lambda got: len(got) >= 3)
    old.close()
    new = named("pod-new")
    publish(broker.bootstrap, topic, [Outgoing(None, b"later")])
    assert read_until(new, lambda got: b"later" in got) == {b"later"}
    new.close()


@pytest.mark.real_kafka
def test_a_member_with_a_name_that_was_killed_goes_on_at_once(shared_broker: Callable[[Kind], Broker]) -> None:
    """Its session would time out in five minutes; the first client is abandoned as a kill -9 leaves it."""
    broker, topic = shared_broker("apache"), "killed-member"
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, numbered(3))
    config = config_for(broker.bootstrap, topic, group_instance_id="pod-0", session_timeout_ms=300_000)
    killed, again = Consumer(config), Consumer(config)
    killed.open()
    read_until(killed, lambda got: len(got) >= 3)
    again.open()
    publish(broker.bootstrap, topic, [Outgoing(None, b"later")])
    assert read_until(again, lambda got: b"later" in got) == {b"later"}
    for consumer in (killed, again):
        consumer.close()


@pytest.mark.real_kafka
def test_a_member_that_was_stalled_comes_back_and_reads_what_it_had_not_committed(
    shared_broker: Callable[[Kind], Broker],
) -> None:
    broker, topic = shared_broker("apache"), "stalled"
    ensure_topic(broker.bootstrap, topic)
    publish(broker.bootstrap, topic, numbered(5))
    consumer = Consumer(config_for(broker.bootstrap, topic, session_timeout_ms=1000, max_poll_interval_ms=1000))
    consumer.open()
    polled = _polls(consumer, 5)
    time.sleep(2.5)  # no poll for longer than the interval: the member leaves its group
    give_up = time.monotonic() + WITHIN_S
    again: list[PartitionRecords] = []
    while not again:
        assert time.monotonic() < give_up, consumer.status
        consumer.commit(
            {got.topic_partition: got.next_offset for got in polled if not consumer.take_partition_changes().lost}
        )
        again = consumer.poll()
    assert again[0].first_offset == 0
    consumer.close()


def test_every_layer_is_checked_until_the_first_that_fails(broker: Broker) -> None:
    topic = f"reached-{broker.kind}"
    ensure_topic(broker.bootstrap, topic)
    found = check_connection(config_for(broker.bootstrap, topic))
    assert [(layer.layer, layer.ok) for layer in found] == [
        (name, True) for name in ("name", "tcp", "api", "bootstrap", "topic", "group")
    ]
    assert found[-1].observed == "committed in partition 0: nothing yet"
    lacking = check_connection(config_for(broker.bootstrap, "no-such-topic"))
    assert (lacking[-1].layer, lacking[-1].ok) == ("topic", False)


def test_a_closed_port_and_an_unknown_name_are_distinguished() -> None:
    closed = check_connection(config_for(f"127.0.0.1:{free_port()}", "any"))
    assert [(layer.layer, layer.ok) for layer in closed] == [("name", True), ("tcp", False)]
    unknown = check_connection(config_for("no-such-host.invalid:9092", "any"))
    assert [(layer.layer, layer.ok) for layer in unknown] == [("name", False)]


def _log_in_and_read(config: Config) -> None:
    consumer = Consumer(config)
    consumer.open()
    assert _polls(consumer, 3)
    consumer.close()


def _polls(consumer: Consumer, n_records: int) -> list[PartitionRecords]:
    """Polls, without asking for moves, until so many records came."""
    polled: list[PartitionRecords] = []
    give_up = time.monotonic() + WITHIN_S
    while sum(len(got.messages) for got in polled) < n_records:
        assert time.monotonic() < give_up, consumer.status
        polled += consumer.poll()
    return polled


@contextmanager
def _everything_at_debug() -> Iterator[None]:
    """Each logger of the client set to DEBUG by name, as a user's logging config may do; put back afterwards."""
    names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "kafka"]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _with_sasl(plain: int, asking: int, secret: str) -> dict[str, str]:
    """Settings of a broker with a second listener, on port ``asking``, that wants "reader" and the password."""
    controller = free_port()
    outside = f"PLAINTEXT://127.0.0.1:{plain},SASL_PLAINTEXT://127.0.0.1:{asking}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    return {
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"{outside},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": outside,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} user_reader="{secret}";',
    }
