"""Requests of others beside those that are measured, so that an engine computes them in a batch of another shape.

For the noise battery of an enrolment alone: in rounds what else the engine does is up to its users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from threading import Event, Thread

from probes.errors import ProbeError
from probes.serving.engine import Engine, Request

# Tokens of each request: long enough to be under way while a canary is scored, short enough to end soon after.
TOKENS = 16


@contextmanager
def company(connect: Callable[[Callable[[], bool]], Engine], request: Request, requests: int) -> Iterator[None]:
    """So many requests are under way until the end of the block; they write, and score nothing.

    connect: a connection for each, because an engine is called from one thread; it is given what turns true at the end,
    so that none waits on. One that fails ends without a word: it
    is the answers to the canaries that count.
    """
    ended = Event()
    threads = [Thread(target=_keep_writing, args=(connect, request, ended), daemon=True) for _ in range(requests)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _keep_writing(connect: Callable[[Callable[[], bool]], Engine], request: Request, ended: Event) -> None:
    with suppress(ProbeError), closing(connect(ended.is_set)) as engine:
        while not ended.is_set():
            engine.generate(request, TOKENS)
