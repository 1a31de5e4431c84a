"""The store as those see it who read: the loop with little patience, the commands of this machine with more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agent.config import Config
from agent.errors import AgentError, Retryable
from agent.store import client as store
from agent.store import migrations

PATIENCE_S = 0.5


class StoreReader:
    """The store as those see it who read: opened when first asked, opened again after it was away."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client: store.Client = None
        self._lock = threading.Lock()
        self._free = threading.Lock()

    def close(self) -> None:
        self._drop()

    def counted_upto(self) -> dict[tuple[str, int], int]:
        counted: dict[tuple[str, int], int] = self._soon(
            lambda client: store.counted_upto(client, self._config.cluster)
        )
        return counted

    def golden(self, adapter: str, pin: str) -> tuple[str, bytes] | None:
        return self._asked(lambda client: store.golden_row(client, adapter, pin, self._config.cluster))

    def query(self, name: str, params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        columns, rows = self._asked(lambda client: store.run_query(client, name, dict(params)))
        return list(columns), [tuple(row) for row in rows]

    def elsewhere(self, subjects: Collection[str]) -> Collection[str]:
        """Without the store's answer, soon, nobody knows, so nothing resolves; the next round asks again.

        On a thread of its own: other pages of the same round must not wait for a store that hangs.
        """
        mine = (self._config.cluster, self._config.pod)
        try:
            return self._soon(lambda client: store.degraded_elsewhere(client, *mine))
        except AgentError:
            return subjects

    def _soon(self, question: Callable[[store.Client], Any]) -> Any:
        """An answer for the loop, which does not wait for a store that hangs. Raises Retryable when none comes soon.

        A late answer is thrown away: by the next time it would be an answer about the past.
        """
        if not self._free.acquire(blocking=False):
            raise Retryable("clickhouse", "still busy with an earlier question")
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._put_answer, args=(question, answers), daemon=True, name="store").start()
        try:
            answer = answers.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise Retryable("clickhouse", f"no answer within {PATIENCE_S} s") from None
        if isinstance(answer, AgentError):
            raise answer
        return answer

    def _put_answer(self, question: Callable[[store.Client], Any], answers: queue.SimpleQueue[Any]) -> None:
        try:
            answers.put(self._asked(question))
        except AgentError as error:
            answers.put(error)
        finally:
            self._free.release()

    def _asked(self, question: Callable[[store.Client], Any]) -> Any:
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
                self._client = store.connect(self._config.clickhouse.dsn, self._config.clickhouse.password_file)
                migrations.migrate(self._client, replicated=self._config.clickhouse.replicated)
            return self._client

    def _drop(self) -> None:
        if not self._lock.acquire(timeout=PATIENCE_S):
            return  # another thread is still connecting, and will find out by itself
        try:
            client, self._client = self._client, None
        finally:
            self._lock.release()
        if client is not None:
            client.close()
