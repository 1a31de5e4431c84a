"""Read access to ClickHouse: for the loop with a short time-out, for the commands of this machine without one.

The loop must never wait for a store that hangs: whatever it asks goes through ``_soon``.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from agent.alerting.fleet import Fleet, GoneState, fresh_s, spacing
from agent.alerting.judged_state import subjects_of
from agent.alerting.notice import state_key
from agent.clock import Clock
from agent.config import Config, Model
from agent.errors import AgentError, Retryable
from agent.store import client as store
from agent.store import migrations
from agent.store.fleet import fleet, watchers
from agent.store.handover import Wanted, gone_states
from agent.store.history import History, history
from agent.store.table_rows import Origin
from detectors.records import Subject

TIMEOUT_S = 0.5

log = structlog.get_logger(__name__)


class StoreReader:
    """Connects at the first query, and again after an error; creates the tables as ``migrations.opened`` does."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config, self._clock = config, clock or Clock()
        self._client: store.Client = None
        self._lock = threading.Lock()
        self._free = threading.Lock()
        self._no_state_why = ""  # logged once, and not at each query

    def close(self) -> None:
        self._drop()

    def counted_upto(self) -> dict[tuple[str, int], int]:
        """See client.counted_upto. Raises Retryable when no answer comes in time."""
        config = self._config
        adapters = [adapter.name for model in config.models for adapter in model.adapters]
        counted: dict[tuple[str, int], int] = self._soon(
            lambda client: store.counted_upto(client, config.cluster, config.consumer_group, adapters)
        )
        return counted

    def most_pods(self) -> int:
        """Of the last day, see client.most_pods. Raises Retryable when no answer comes in time."""
        until = self._clock.now()
        since, cluster = until - migrations.DAY_S, self._config.cluster
        pods: int = self._soon(lambda client: store.most_pods(client, cluster, since, until))
        return pods

    def golden(self, adapter: str, pin: str) -> tuple[str, bytes] | None:
        """(hash, bytes) of the pinned golden record, or of the newest where pin is ""; None where it is not stored."""
        return self._query(lambda client: store.golden_row(client, adapter, pin, self._config.cluster))

    def query(self, name: str, params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Answer one of the on-call questions: columns and rows. Raises Refused, Retryable."""
        columns, rows = self._query(lambda client: store.run_query(client, name, dict(params)))
        return list(columns), [tuple(row) for row in rows]

    def history(self) -> History:
        """The last day of the cluster, for the status page. Raises AgentError; takes as long as the store does."""
        last_day: History = self._query(lambda client: history(client, self._config.cluster, self._clock.now()))
        return last_day

    def fleet(self, subjects: Collection[Subject]) -> Fleet | None:
        """What the pods of the cluster have sent about these subjects, and how the others judge them. None without an
        answer in time: then nothing is ended; the next round queries again.

        On a thread of its own: other pages of the same round must not wait for a store that hangs.
        """
        config = self._config
        times = spacing(max(map(config.canaries_every, config.models))), fresh_s(config.probes.every)
        try:
            answer: Fleet = self._soon(lambda client: fleet(client, config.cluster, config.pod, subjects, *times))
        except AgentError:
            return None
        return answer

    def watchers(self, subjects: Collection[Subject]) -> Mapping[str, Sequence[str]]:
        """Which pods that are alive judge each of these, see fleet.watchers. Raises Retryable when no answer comes in
        time."""
        pods: Mapping[str, Sequence[str]] = self._soon(lambda client: watchers(client, self._config.cluster, subjects))
        return pods

    def gone_states(self, later_than: Mapping[str, float], wait_s: float = TIMEOUT_S) -> Sequence[GoneState]:
        """The states of bases whose pod handed them over or is gone, claimed for this one (agent/store/handover.py);
        none without an answer in time: a claim of this pod that was made by then holds at the next query.

        later_than: base -> seconds since the epoch, of which a state has to be later
        """
        config = self._config
        place = Origin(config.cluster, config.pod, consumer_group=config.consumer_group)
        models = [model for model in config.models if model.name in later_than]
        wanted = [Wanted(model.name, _subjects(model), later_than[model.name]) for model in models]
        own_first = config.role != "witness"
        try:
            gone: Sequence[GoneState] = self._soon(lambda client: gone_states(client, place, wanted, own_first), wait_s)
        except AgentError as error:
            if str(error) != self._no_state_why:
                log.warning("states_not_read", why=str(error), cost="evidence begins at 0")
            self._no_state_why = str(error)
            return ()
        return gone

    def _soon(self, question: Callable[[store.Client], Any], wait_s: float = TIMEOUT_S) -> Any:
        """An answer within that time, else Retryable: the loop does not wait for a store that hangs.

        A late answer is dropped: by the next query it would describe the past.
        """
        if not self._free.acquire(blocking=False):
            raise Retryable("clickhouse", "still busy with an earlier question")
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._put_answer, args=(question, answers), daemon=True, name="store").start()
        try:
            answer = answers.get(timeout=wait_s)
        except queue.Empty:
            raise Retryable("clickhouse", f"no answer within {wait_s} s") from None
        if isinstance(answer, AgentError):
            raise answer
        return answer

    def _put_answer(self, question: Callable[[store.Client], Any], answers: queue.SimpleQueue[Any]) -> None:
        try:
            answers.put(self._query(question))
        except AgentError as error:
            answers.put(error)
        finally:
            self._free.release()

    def _query(self, question: Callable[[store.Client], Any]) -> Any:
        try:
            return question(self._opened())
        except AgentError:
            self._drop()
            raise
        except Exception as error:
            self._drop()
            raise Retryable("clickhouse", str(error).split("\n")[0][:300]) from error

    def _opened(self) -> store.Client:
        with self._lock:
            if self._client is None:
                self._client = migrations.opened(self._config.clickhouse)
            return self._client

    def _drop(self) -> None:
        if not self._lock.acquire(timeout=TIMEOUT_S):
            return  # another thread is still connecting; if the store is away, it will fail and drop the client itself
        try:
            client, self._client = self._client, None
        finally:
            self._lock.release()
        if client is not None:
            client.close()


def _subjects(model: Model) -> list[str]:
    """State keys of what is judged of one base."""
    return [state_key(*subject) for subject in subjects_of(model.name, [own.name for own in model.adapters])]
