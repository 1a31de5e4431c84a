"""Does the first Ctrl-C ask for an end, and the second interrupt as ever?"""

from __future__ import annotations

import signal
import threading

import pytest

from agent.terminal.interrupt import until_interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_asks_for_an_end_and_the_second_interrupts(number: signal.Signals) -> None:
    def raised(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, raised)
    try:
        with until_interrupted() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(number) is raised
    finally:
        signal.signal(number, before)


def test_in_another_thread_nothing_stops_it() -> None:
    answers = []

    def work() -> None:
        with until_interrupted() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
