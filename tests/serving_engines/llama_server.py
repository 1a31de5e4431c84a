"""The real server of llama.cpp, from the package xllamacpp, in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def llama_server(base: Path, adapters: Sequence[Path] = (), log: Path | None = None) -> Iterator[str]:
    """Its address, while the block runs. base, adapters: GGUF files; log: what it writes, None to drop it."""
    named = [part for adapter in adapters for part in ("--adapter", str(adapter))]
    command = [sys.executable, "-m", "examples.engines.llama_cpp.serve", str(base), *named, "--port", "0"]
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        stack.callback(server.stdout.close)
        address = server.stdout.readline().strip()
        assert address.startswith("http://"), "llama.cpp did not start: read its log"
        yield address
