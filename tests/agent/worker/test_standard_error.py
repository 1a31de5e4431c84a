"""What is taken from the standard error of a process, and what is not repeated."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.worker.standard_error import MOST_FRAMES, StandardError

PATIENCE_S = 30.0
# ``new`` of C++ that nobody catches: an allocation beyond what the process may have.
BAD_ALLOC = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
new = ctypes.CDLL("libstdc++.so.6")._Znwm
new.argtypes, new.restype = [ctypes.c_size_t], ctypes.c_void_p
new(1 << 62)
"""


def written_by(code: str) -> tuple[StandardError, int]:
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert process.stderr is not None
    read = StandardError(process.stderr)
    code_of_exit = process.wait()
    read.join(PATIENCE_S)
    return read, code_of_exit


WHOLE = "memory allocation of 402653184 bytes failed\n"
IN_PIECES = """
import os, time
for piece in {pieces!r}:
    os.write(2, piece.encode())
    time.sleep(0.02)
"""
CRASH = """
import faulthandler, os
faulthandler.enable()
os.write(2, b"my card is 4111\\n")
os.abort()
"""
MUCH = """
import os
os.write(2, b"x" * 100_000)
for n in range(500):
    os.write(2, b'\\n  File "a", line %d in b' % n)
"""


@pytest.mark.parametrize("pieces", [(WHOLE,), ("memory alloc", "ation of 402653184 bytes fai", "led")])
def test_a_failed_allocation_of_rust_is_named_however_it_arrives(pieces: tuple[str, ...]) -> None:
    read, _ = written_by(IN_PIECES.format(pieces=pieces))
    assert read.failed_allocation == "an allocation of 402653184 bytes failed"


def test_a_failed_allocation_of_cpp_is_named() -> None:
    read, code = written_by(BAD_ALLOC)
    assert code == -6 and read.failed_allocation == "an allocation failed (std::bad_alloc)"


def test_of_a_crash_the_frames_are_kept_and_no_text() -> None:
    read, code = written_by(CRASH)
    assert code == -6 and not read.failed_allocation
    assert read.frames[0] == "Fatal Python error: Aborted"
    assert read.frames[-1] == '  File "<string>", line 5 in <module>'
    assert not any("4111" in line for line in read.frames)


def test_what_is_kept_is_bounded() -> None:
    read, _ = written_by(MUCH)
    assert len(read.frames) == MOST_FRAMES and read.frames[-1].endswith("line 499 in b")
