"""A consumer that stays in the loop whatever the broker does: it never raises, and it says why it has nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import tenacity

from agent.kafka.client import BOOTSTRAP_S, Client, Config, error_text
from agent.kafka.contract import (
    LinkStatus,
    PartitionChanges,
    PartitionRecords,
    StuckWatch,
    TopicPartition,
    nothing_to_commit,
)

POLL_S = 0.2
COMMIT_AGAIN_S = 1.0
STUCK_AFTER_S = 20.0
LOOK_EVERY_S = 1.0  # while records come; to ask the client how it does takes as long as to read a hundred

_log = logging.getLogger(__name__)


class Consumer:
    """Reads one topic of Kafka; agent.kafka.contract.TopicConsumer has the contract.

    A client is opened on a thread of its own, so that poll() stays short while a broker is away. It is thrown away, and
    another opened with back-off, after any exception out of it and when it stands still; ``rebuilds`` counts those.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client: Client | None = None
        self._opening: Future[Client] | None = None
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="kafka-open")
        self._closing = threading.Event()
        self._moved: deque[tuple[str, TopicPartition]] = deque()  # filled on the client's IO thread
        self._holds: set[TopicPartition] = set()
        self._paused = False
        self._polling = False
        self._held = False  # the client was told to pause, and not yet to go on
        self._watch = StuckWatch(STUCK_AFTER_S)
        self._joined_at = time.monotonic()
        self._commit_from = 0.0
        self._look_at = 0.0
        self._link = LinkStatus(False, "not opened")
        self.leaving: Callable[[frozenset[TopicPartition]], Mapping[TopicPartition, int]] = nothing_to_commit
        self.rebuilds = 0

    @property
    def status(self) -> LinkStatus:
        return self._link

    def open(self) -> None:
        """Begin to connect; returns at once, and ``status`` tells how it goes."""
        self._open_another("connecting")

    def poll(self) -> list[PartitionRecords]:
        """The next records of each partition that has some; at most max_poll_records together."""
        client = self._ready()
        if client is None:
            return []
        try:
            self._hold(client)
            polled = self._poll(client)
            self._look_after(client, sum(len(got.messages) for got in polled))
        except Exception as error:  # of any kind: its state is unknown now, and a poll() for ever was seen next
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
        while self._moved:
            what, place = self._moved.popleft()
            if what == "gained":
                gained.add(place)
            else:
                gained.discard(place)
                lost.add(place)
        self._holds = (self._holds - lost) | gained
        return PartitionChanges(frozenset(gained), frozenset(lost))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """A refusal passes by itself (rebalance, broker away) or stays visible in ``status`` (no right to commit)."""
        if self._config.group_id is None or not offsets:
            return True
        if self._client is None or time.monotonic() < self._commit_from:
            return False
        try:
            self._client.commit(offsets)
        except Exception as error:  # the client's own bookkeeping fails in other ways than by its errors
            self._refused(f"commit: {error_text(error)}")
            return False
        self._link = LinkStatus(True)
        return True

    def _refused(self, why: str) -> None:
        self._commit_from = time.monotonic() + COMMIT_AGAIN_S  # each try may take COMMIT_S out of the loop's turn
        if why != self._link.why:
            _log.warning("will be repeated: %s", why)
        self._link = LinkStatus(self._link.up, why)

    def seek(self, places: Mapping[TopicPartition, int]) -> bool:
        """Only without a group: a commit says better where this group was."""
        if self._config.group_id is not None or self._client is None:
            return False
        try:
            self._client.seek(places)
        except Exception as error:
            self._give_up(error_text(error))
        return True

    def pause(self) -> None:
        self._paused = True
        self._watch.forget()

    def resume(self) -> None:
        self._paused = False

    def _hold(self, client: Client) -> None:
        """Tell the client, at the poll: a rebalance on its own thread can make either call fail."""
        if self._paused:
            self._held = True
            client.pause()  # again at each poll: a rebalance forgets it
        elif self._held:
            client.resume()
            self._held = False

    def lag(self) -> Mapping[TopicPartition, int]:
        return {place: behind for place, (_, behind) in self._standing().items()}

    def ends(self) -> Mapping[TopicPartition, int]:
        return {place: position + behind for place, (position, behind) in self._standing().items()}

    def _standing(self) -> Mapping[TopicPartition, tuple[int, int]]:
        try:
            return self._client.standing() if self._client else {}
        except Exception:  # a partition that a rebalance takes away meanwhile is a KeyError
            return {}

    def close(self, budget_s: float = BOOTSTRAP_S) -> None:
        """Leave the group; commits nothing. A client still being opened is waited for as long as budget_s."""
        self._closing.set()
        client, self._client = self._client, None
        if self._opening is not None and wait([self._opening], budget_s).done:
            client = None if self._opening.exception() else self._opening.result()
        if client is not None:
            client.close()
        self._opener.shutdown(wait=False)
        self._link = LinkStatus(False, "closed")

    def _look_after(self, client: Client, n_read: int) -> None:
        """Find what no exception tells: no connection, a member put out of its group, a partition that stands still."""
        now = time.monotonic()
        if n_read and now < self._look_at:
            self._link = LinkStatus(True)
            return
        self._look_at = now + LOOK_EVERY_S
        joined = client.joined()
        if n_read:
            self._link = LinkStatus(True)
        elif client.connections() == 0:
            self._link = LinkStatus(False, "no connection to any broker")
        elif not joined:
            self._link = LinkStatus(True, "waiting for its share of the partitions")
        elif not self._link.why.startswith("commit"):
            self._link = LinkStatus(True)
        self._joined_at = now if joined else self._joined_at
        if now - self._joined_at > STUCK_AFTER_S + 2 * self._config.session_timeout_ms / 1000:
            self._give_up("not a member of its group any more")
        elif not self._paused and n_read < self._config.max_poll_records:  # else others wait their turn in the buffer
            self._find_stuck(client, now)

    def _find_stuck(self, client: Client, now: float) -> None:
        standing = client.standing()
        positions = {place: position for place, (position, _) in standing.items()}
        place = self._watch.stuck(positions, {place: behind for place, (_, behind) in standing.items()}, now)
        if place:
            self._give_up(f"partition {place[1]} stands still at {positions[place]} with records waiting")

    def _ready(self) -> Client | None:
        """The client, or None after a wait of at most POLL_S while there is none."""
        if self._opening is not None and wait([self._opening], POLL_S).done:
            self._client, self._opening = self._opening.result(), None
            self._link = LinkStatus(True)
            self._joined_at = time.monotonic()
        return self._client

    def _give_up(self, why: str) -> None:
        _log.warning("kafka client given up: %s", why)
        self.rebuilds += 1
        self._open_another(why)

    def _open_another(self, why: str) -> None:
        old, self._client = self._client, None
        self._moved.extend(("lost", place) for place in self._holds)
        self._watch.forget()
        self._link = LinkStatus(False, why)
        self._opening = self._opener.submit(self._connect, old)

    def _connect(self, old: Client | None) -> Client:
        if old is not None:
            old.close()
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Exception),  # an address without sense is a ValueError, and so on
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=2.0),
            stop=tenacity.stop_when_event_set(self._closing),
            sleep=tenacity.sleep_using_event(self._closing),
            before_sleep=self._tell_failure,
            reraise=True,
        )
        return attempts(Client, self._config, self._note_move, self._before_leaving)

    def _note_move(self, what: str, place: TopicPartition) -> None:
        self._moved.append((what, place))

    def _before_leaving(self, places: frozenset[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Only while a poll of ours waits: a client that is thrown away meets a loop that goes on."""
        return self.leaving(places) if self._polling else {}

    def _tell_failure(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._link = LinkStatus(False, error_text(error) if error else "unknown")
