"""A Kafka consumer for the loop: it never raises, whatever the broker does, and its status says why it has no records.

What must stay so: poll() returns within about POLL_S; after any exception out of the client another client is opened,
because a client that has raised once was seen to hang in its next poll().

The Kafka client reports every fault alike, and a topic that is not there not at all: where a fault comes again, or no
partition does, the connection is checked layer by layer (connection_check.py), and ``status`` says what that found.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal

import structlog
import tenacity

from agent.clock import Clock
from agent.kafka.client import BOOTSTRAP_S, Client, Config, NameTaken, error_text
from agent.kafka.connection_check import check_connection
from agent.kafka.contract import (
    LinkStatus,
    PartitionChanges,
    PartitionRecords,
    Share,
    StuckWatch,
    TopicPartition,
    nothing_to_commit,
)
from agent.trouble import Trouble

POLL_S = 0.2
COMMIT_AGAIN_S = 1.0
STUCK_AFTER_S = 20.0
LONGEST_PATIENCE = 3  # doublings of it
PROVEN_S = 5.0  # a client that replaced another is taken for good once it has raised nothing for so long
MAX_WAIT_S = 60.0  # before another client is opened, where those before it failed as soon as they were used
WITHOUT_PARTITION_S, EXPLAIN_AGAIN_S = 10.0, 60.0  # until the connection is checked, and checked again
ATTEMPTS_A_CHECK = 8  # to open a client, between two checks of the connection
CHECK_EVERY_S = 1.0  # while records come; asking the client for its state takes as long as reading a hundred records

log = structlog.get_logger(__name__)


def patience_s(config: Config, never_members: int) -> float:
    """Seconds until a client that is no member of its group is given up for another.

    never_members: how many in a row were given up before they had become one. Where joining itself takes longer, as on
    a CPU that others have, each new client would begin again what the last one was about to end, for ever: so each is
    waited for twice as long as the one before, up to eight times.
    """
    return (STUCK_AFTER_S + 2 * config.session_timeout_ms / 1000) * 2.0 ** min(never_members, LONGEST_PATIENCE)


class Consumer:
    """Reads one topic of Kafka; agent.kafka.contract.TopicConsumer is the contract.

    rule: how partitions go from one member to another, and who may be one, see ``Client``

    A client is opened on a thread of its own, so that poll() stays short while a broker is away. After any exception
    out of it, and when it makes no progress, it is replaced, with back-off; ``rebuilds`` counts how often. ``status``
    stays down over such replacements until records come or PROVEN_S have passed without an exception.

    Two agents with one group_instance_id would take the partitions from each other for ever: the one that the broker
    has fenced goes on without a name, which ``status`` says. So does one that was never let in by its name.
    """

    def __init__(self, config: Config, clock: Clock | None = None, rule: str = "") -> None:
        self._config, self._clock = config, clock or Clock()
        self._rule = rule
        self._client: Client | None = None
        self._opening: Future[Client] | None = None
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="kafka-open")
        self._closing = threading.Event()
        self._changes: deque[tuple[Literal["gained", "lost"], TopicPartition]] = deque()  # by the client's IO thread
        self._assigned: set[TopicPartition] = set()
        self._paused = False
        self._polling = False
        self._client_paused = False
        self._stuck_watch = StuckWatch(STUCK_AFTER_S)
        self._member_at = self._clock.steady()  # when it was last a member of its group
        self._commit_from = 0.0
        self._check_from = 0.0
        self._failures = 0  # clients in a row that had to be given up before they were proven
        self._opened_at = self._explain_from = self._clock.steady()
        self._explaining: Future[str] | None = None
        self._explained = ""  # why no partition comes, as far as the last check of the connection tells
        self._trouble = Trouble("kafka")
        self._link = LinkStatus(False, "not opened")
        self._was_member = False  # this client, at any time
        self._never_members = 0  # clients in a row that were given up before they were one
        self._name_in_doubt = False
        self._without_name = ""  # why it reads without the name that is configured
        self.on_revoke: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]] = nothing_to_commit
        self.rebuilds = 0

    @property
    def status(self) -> LinkStatus:
        return self._link

    def open(self) -> None:
        """Begin to connect; returns at once, and ``status`` reports the progress."""
        self._open_another("connecting")

    def poll(self) -> list[PartitionRecords]:
        """The next records of each partition that has some; at most max_poll_records together."""
        client = self._ready()
        if client is None:
            return []
        try:
            self._pause_or_resume(client)
            polled = self._poll(client)
            self._check(client, sum(len(records.messages) for records in polled))
        except NameTaken:
            self._give_up_name()
            return []
        except Exception as error:  # of any kind: the client's state is unknown now, and its next poll() may hang
            self._give_up(error_text(error))
            return []
        return polled

    def _poll(self, client: Client) -> list[PartitionRecords]:
        self._polling = True
        try:
            return client.poll(POLL_S)
        finally:
            self._polling = False

    def take_partition_changes(self) -> PartitionChanges:
        gained: set[TopicPartition] = set()
        lost: set[TopicPartition] = set()
        while self._changes:
            change, partition = self._changes.popleft()
            if change == "gained":
                gained.add(partition)
            else:
                gained.discard(partition)
                lost.add(partition)
        self._assigned = (self._assigned - lost) | gained
        return PartitionChanges(frozenset(gained), frozenset(lost))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """A refusal either passes (rebalance, broker away) or stays visible in ``status`` (no right to commit)."""
        if self._config.group_id is None or not offsets:
            return True
        if self._client is None or self._clock.steady() < self._commit_from:
            return False
        try:
            self._client.commit(offsets)
        except NameTaken:
            self._give_up_name()
            return False
        except Exception as error:  # the client's own bookkeeping can fail with other exceptions than KafkaError
            self._commit_refused(f"commit: {error_text(error)}")
            return False
        self._up()
        return True

    def _up(self, why: str = "") -> None:
        """why: what keeps records from coming all the same, if anything"""
        self._trouble.end()
        self._link = LinkStatus(True, why or self._without_name)

    def _down(self, why: str) -> None:
        self._trouble.begin(why)
        self._link = LinkStatus(False, why)

    def _commit_refused(self, why: str) -> None:
        self._commit_from = self._clock.steady() + COMMIT_AGAIN_S  # each try may block the loop for COMMIT_S
        if why != self._link.why:
            log.warning("kafka_commit_refused", why=why)
        self._link = LinkStatus(self._link.up, why)

    def seek(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Only without a group: a group's commit is the better starting point."""
        if self._config.group_id is not None or self._client is None:
            return False
        try:
            self._client.seek(offsets)
        except Exception as error:
            self._give_up(error_text(error))
        return True

    def pause(self) -> None:
        self._paused = True
        self._stuck_watch.forget()

    def resume(self) -> None:
        self._paused = False

    def _pause_or_resume(self, client: Client) -> None:
        """Called at the poll and not before: a rebalance on the client's thread can make either call fail."""
        if self._paused:
            self._client_paused = True
            client.pause()  # again at each poll: a rebalance resumes
        elif self._client_paused:
            client.resume()
            self._client_paused = False

    def lag(self) -> Mapping[TopicPartition, int]:
        return {partition: behind for partition, (_, behind) in self._positions_and_lag().items()}

    def ends(self) -> Mapping[TopicPartition, int]:
        return {partition: position + behind for partition, (position, behind) in self._positions_and_lag().items()}

    def share(self) -> Share | None:
        try:
            if self._client is None or not self._client.is_group_member():
                return None
            return Share(frozenset(self._assigned), self._client.partition_count())
        except Exception:  # as of a client whose next poll will fail
            return None

    def _positions_and_lag(self) -> Mapping[TopicPartition, tuple[int, int]]:
        try:
            return self._client.positions_and_lag() if self._client else {}
        except Exception:  # a partition that a rebalance takes away meanwhile is a KeyError
            return {}

    def close(self, budget_s: float = BOOTSTRAP_S) -> None:
        """Leave the group; commits nothing. Waits up to budget_s for a client that is being opened, or a check."""
        self._closing.set()
        client, self._client = self._client, None
        under_way: list[Future[Any]] = [each for each in (self._opening, self._explaining) if each is not None]
        wait(under_way, budget_s)
        if self._opening is not None and self._opening.done():
            client = None if self._opening.exception() else self._opening.result()
        if client is not None:
            client.close(for_good=True)
        self._opener.shutdown(wait=False)
        self._link = LinkStatus(False, "closed")

    def _check(self, client: Client, n_read: int) -> None:
        """Find what raises no exception: no connection, a member expelled from its group, a stuck partition."""
        now = self._clock.steady()
        if n_read or now - self._opened_at >= PROVEN_S:
            self._failures = 0
        if n_read and now < self._check_from:
            self._up()
            return
        self._check_from = now + CHECK_EVERY_S
        is_member = client.is_group_member()
        is_connected = client.connections() > 0
        self._explain_silence(now, not is_connected or not self._assigned)
        if n_read:
            self._up()
        elif not is_connected:
            self._down(self._explained or "no connection to any broker")
        elif self._explained:
            self._down(self._explained)
        elif self._failures == 0 and not is_member:
            self._up("waiting for its share of the partitions")
        elif self._failures == 0 and not self._link.why.startswith("commit"):
            self._up()
        self._member_at = now if is_member else self._member_at
        self._was_member = self._was_member or is_member
        self._never_members = 0 if is_member else self._never_members
        if now - self._member_at > patience_s(self._config, self._never_members):
            self._name_in_doubt = client.connections() > 0
            self._never_members += not self._was_member
            self._give_up("no longer a member of its group")
        elif not self._paused and n_read < self._config.max_poll_records:  # else others wait in the client's buffer
            self._find_stuck(client, now)

    def _explain_silence(self, now: float, is_silent: bool) -> None:
        """Without a partition for long: have others all of them, or is the topic not there? Checked on the thread that
        opens clients, which has nothing to do meanwhile."""
        if not is_silent:
            self._explained, self._explain_from = "", now + WITHOUT_PARTITION_S
            return
        if self._explaining is not None and self._explaining.done():
            self._explained, self._explaining = self._explaining.result(), None
        if self._explaining is None and now >= self._explain_from:
            self._explain_from = now + EXPLAIN_AGAIN_S
            self._explaining = self._opener.submit(explanation, self._config)

    def _find_stuck(self, client: Client, now: float) -> None:
        by_partition = client.positions_and_lag()
        positions = {partition: position for partition, (position, _) in by_partition.items()}
        lags = {partition: behind for partition, (_, behind) in by_partition.items()}
        stuck = self._stuck_watch.stuck(positions, lags, now)
        if stuck:
            self._give_up(f"partition {stuck[1]} is stuck at offset {positions[stuck]} with records waiting")

    def _ready(self) -> Client | None:
        """The client, or None after a wait of at most POLL_S while there is none."""
        if self._opening is not None and wait([self._opening], POLL_S).done:
            self._client, self._opening = self._opening.result(), None
            if self._failures == 0:
                self._up()
            self._member_at = self._opened_at = self._clock.steady()
            self._was_member = False
            self._explain_from, self._explained = self._opened_at + WITHOUT_PARTITION_S, ""
        return self._client

    def _give_up_name(self) -> None:
        self._go_without_name(is_taken=True)
        self._give_up(self._without_name)

    def _go_without_name(self, is_taken: bool) -> None:
        name = self._config.group_instance_id
        self._without_name = (
            f"another member of the group has the name {name!r}, so this one reads without a name: give each agent a "
            "kafka.group_instance_id of its own, or a pod name of its own"
            if is_taken
            else f"the group has not taken it in by the name {name!r}, so it reads without a name, and its partitions "
            "wait for a session to time out when it is killed: see whether the broker knows kafka.group_instance_id"
        )
        self._config = self._config.model_copy(update={"group_instance_id": None})

    def _give_up(self, why: str) -> None:
        self.rebuilds += 1
        self._failures += 1
        if self._failures == 1 or self._link.up:
            self._down(why)
        self._open_another(self._link.why)

    def _open_another(self, why: str) -> None:
        old, self._client = self._client, None
        self._changes.extend(("lost", partition) for partition in self._assigned)
        self._stuck_watch.forget()
        self._link = LinkStatus(False, why)
        self._opening = self._opener.submit(self._connect, old)

    def _connect(self, old: Client | None) -> Client:
        if old is not None:
            self._check_name(old)
            old.close()
        if self._failures > 1:
            self._explain_failure("it fails as soon as it is used")
            self._closing.wait(min(MAX_WAIT_S, 0.5 * 2.0 ** (self._failures - 2)))
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Exception),  # a malformed address is a ValueError, for example
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=2.0),
            stop=tenacity.stop_when_event_set(self._closing),
            sleep=tenacity.sleep_using_event(self._closing),
            before_sleep=self._report_failure,
            reraise=True,
        )
        return attempts(Client, self._config, self._note_change, self._before_revoke, self._rule)

    def _check_name(self, old: Client) -> None:
        """Without records nothing is committed, so that nothing says that a name was taken. That heartbeats stopped
        does not: they also do while a broker is away, and a name that is given up is not taken again. Some brokers let
        no member with a name in."""
        in_doubt = self._name_in_doubt and self._config.mode == "group" and bool(self._config.group_instance_id)
        self._name_in_doubt = False
        is_taken = in_doubt and old.is_name_taken()
        if is_taken or (in_doubt and not self._was_member):
            self._go_without_name(is_taken)
            self._down(self._without_name)

    def _note_change(self, change: Literal["gained", "lost"], partition: TopicPartition) -> None:
        self._changes.append((change, partition))

    def _before_revoke(self, partitions: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Only while our own poll waits: when a client is being closed, the loop runs on and may be using the sinks."""
        return self.on_revoke(partitions) if self._polling else {}

    def _report_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        why = error_text(error) if error else "unknown"
        if state.attempt_number % ATTEMPTS_A_CHECK == 2:
            self._explain_failure(why)
        elif state.attempt_number == 1:
            self._down(why)

    def _explain_failure(self, otherwise: str) -> None:
        """What the layers of the connection say; where all of them are well, what the client did."""
        why = explanation(self._config)
        self._down(why or (otherwise if self._link.up else self._link.why))


def explanation(config: Config) -> str:
    """The first layer that fails, what came back and what to do; "" where all are well. Takes seconds."""
    try:
        failed = next((check for check in check_connection(config) if not check.ok), None)
    except Exception as error:  # whatever an odd answer leads to: the check is only to explain
        log.info("kafka_not_explained", why=error_text(error))
        return ""
    return f"{failed.layer}: saw {failed.observed}, wanted {failed.wanted}" if failed else ""
