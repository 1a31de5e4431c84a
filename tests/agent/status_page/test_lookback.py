"""The store is asked while somebody looks, one question at a time, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.clock import HandClock
from agent.status_page.lookback import EVERY_S, Lookback
from agent.store.history import History


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_one_question_at_a_time_and_the_next_when_the_answer_is_old() -> None:
    clock, asked, answer = HandClock(), threading.Semaphore(0), threading.Semaphore(0)

    def ask() -> History:
        asked.release()
        assert answer.acquire(timeout=20)
        return History(clock.now())

    lookback = Lookback(ask, clock)
    assert lookback.latest().at == 0.0 and "is being asked" in lookback.words
    assert asked.acquire(timeout=20)
    clock.advance(10 * EVERY_S)
    lookback.latest()
    assert not asked.acquire(blocking=False), "the first one hangs"
    answer.release()
    wait_for(lambda: lookback.words == "")
    begun = clock.now()
    assert lookback.latest().at == begun
    assert asked.acquire(timeout=20), "older than half a minute"
    answer.release()


def test_once_it_is_closed_nothing_is_asked() -> None:
    clock, asked = HandClock(), threading.Semaphore(0)

    def ask() -> History:
        asked.release()
        return History(1.0)

    lookback = Lookback(ask, clock)
    lookback.latest()
    lookback.close()
    assert asked.acquire(blocking=False), "the question that was on its way had a moment"
    clock.advance(10 * EVERY_S)
    assert lookback.latest().at == 1.0
    assert not asked.acquire(timeout=0.05)
