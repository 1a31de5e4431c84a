"""Bad transport between an engine and who asks it: what proxies, overload and other software at the address do.

``server.transport.set(slow(2.0))`` spoils all replies after it, ``set(html, only="/v1/completions")`` those of a path.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.serving_engines.replies import Question, Reply

Spoil = Callable[[Reply, threading.Event], Reply]


@dataclass
class Transport:
    """spoil: what becomes of a reply, None for nothing; only: of which path, "" for all"""

    spoil: Spoil | None = None
    only: str = ""
    _ended: threading.Event = field(default_factory=threading.Event)

    def set(self, spoil: Spoil | None, only: str = "") -> None:
        self.spoil, self.only = spoil, only

    def applied(self, question: Question, reply: Callable[[], Reply]) -> Reply:
        if self.spoil is None or self.only not in ("", question.path):
            return reply()
        return self.spoil(reply(), self._ended)

    def release(self) -> None:
        """Ends what waits."""
        self._ended.set()


def slow(seconds: float) -> Spoil:
    """The reply comes whole, after a while."""

    def spoil(reply: Reply, ended: threading.Event) -> Reply:
        ended.wait(seconds)
        return reply

    return spoil


def status(code: int, **headers: str) -> Spoil:
    """Another status: ``status(429, Retry_After="7")``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = json.dumps({"error": {"message": "not now", "type": "Error", "param": None, "code": code}}).encode()
    return lambda _reply, _ended: Reply(code, content, headers=named)


def redirect(to: str) -> Spoil:
    return lambda _reply, _ended: Reply(307, b"", headers={"Location": to})


def html(reply: Reply, ended: threading.Event) -> Reply:
    """A proxy's page with status 200."""
    return Reply(200, b"<!doctype html><title>Welcome</title>", "text/html")


def empty(reply: Reply, ended: threading.Event) -> Reply:
    return Reply(200, b"")


def broken_json(reply: Reply, ended: threading.Event) -> Reply:
    return Reply(200, b'{"object": "list", "data": [')


def other_json(reply: Reply, ended: threading.Event) -> Reply:
    """Well-formed, of another form."""
    return Reply(200, b'[{"generated_text": 7}]')


def cut(reply: Reply, ended: threading.Event) -> Reply:
    """Half the bytes that its length promises."""
    assert isinstance(reply.content, bytes)
    length = {"Content-Length": str(len(reply.content))}
    return Reply(reply.status, [reply.content[: len(reply.content) // 2]], headers=length)


def endless(reply: Reply, ended: threading.Event) -> Reply:
    """A body that goes on, a little at a time."""

    def pieces() -> Iterator[bytes]:
        while not ended.wait(0.02):
            yield b" " * 1024

    return Reply(200, pieces())


def dripping(reply: Reply, ended: threading.Event) -> Reply:
    """One byte at a time: each read is quick, all of them are not."""

    def pieces() -> Iterator[bytes]:
        assert isinstance(reply.content, bytes)
        for byte in reply.content:
            if ended.wait(0.05):
                return
            yield bytes([byte])

    return Reply(200, pieces())


def huge(reply: Reply, ended: threading.Event) -> Reply:
    """100 MB of JSON."""
    return Reply(200, b'{"data": "' + b"a" * 100_000_000 + b'"}')


def edited(edit: Callable[[dict[str, Any]], None]) -> Spoil:
    """The JSON object of a reply, changed in place. NaN and Infinity are written as Python writes them."""

    def spoil(reply: Reply, ended: threading.Event) -> Reply:
        if not isinstance(reply.content, bytes) or reply.status != 200:
            return reply
        value = json.loads(reply.content)
        edit(value)
        return Reply(200, json.dumps(value).encode())

    return spoil
