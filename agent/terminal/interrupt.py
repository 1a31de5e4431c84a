"""Ctrl-C during work that can be gone on with: the first one ends it at the next safe place, a second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """Is it to stop? True after SIGINT or SIGTERM, the next of which does what it did before.

    Never in another thread than the main one: signals are handled there alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    is_interrupted = False

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        restore()

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield lambda: is_interrupted
    finally:
        restore()
