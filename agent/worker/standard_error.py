"""What the model process writes to its standard error: why an allocation failed, and in which code it crashed.

Libraries that abort where there is no memory say so there and nowhere else: Rust's (the tokenizers) and C++'s. Nothing
else is repeated, since the message of a crash may quote what a tenant wrote.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from typing import IO

# Bytes that are read at once, and of one line the most that are looked at.
CHUNK, LONGEST_LINE = 4096, 1000
# Lines of a traceback that are kept: of the innermost calls of a few threads.
MOST_FRAMES = 40
# Rust: alloc::alloc::handle_alloc_error; C++: std::terminate after an exception that nobody caught.
RUST = re.compile(rb"memory allocation of (\d{1,20}) bytes failed")
CPP = b"std::bad_alloc"
# Written by faulthandler and by Python's traceback: file, line and function, no values.
FRAME = re.compile(rb'(?:Fatal Python error: |Current thread |Thread 0x|  File ")[^\n]*')


class StandardError:
    """stream: the reading end of the process's standard error, read to its end on a thread of its own

    failed_allocation: which one the process says that it ended for, in words, "" for none
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frames: deque[str] = deque(maxlen=MOST_FRAMES)
        self.failed_allocation = ""
        self._thread = threading.Thread(target=self._read, name="models stderr", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> list[str]:
        """Lines of the tracebacks written, the last ones: where the process was."""
        return list(self._frames)

    def join(self, budget_s: float) -> None:
        """Wait so long for the end of what a process wrote that is gone. One that it started may keep it open."""
        self._thread.join(budget_s)

    def _read(self) -> None:
        rest = b""
        with self._stream:
            while chunk := os.read(self._stream.fileno(), CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._take(line[:LONGEST_LINE])
                rest = rest[:LONGEST_LINE]
        self._take(rest)

    def _take(self, line: bytes) -> None:
        if of_rust := RUST.search(line):
            self.failed_allocation = f"an allocation of {int(of_rust[1])} bytes failed"
        elif CPP in line:
            self.failed_allocation = "an allocation failed (std::bad_alloc)"
        elif FRAME.fullmatch(line):
            self._frames.append(line.decode(errors="replace"))
