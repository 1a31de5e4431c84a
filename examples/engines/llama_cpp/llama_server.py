"""The real server of llama.cpp, from the package xllamacpp, in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def llama_server(
    base: Path, adapters: Sequence[Path] = (), log: Path | None = None, alias: str = "", options: Sequence[str] = ()
) -> Iterator[str]:
    """Its address, while the block runs. base, adapters: GGUF files; log: what it writes, None to drop it.

    alias: the base's name in its list of models, by default its path; options: of ``serve``. Raises RuntimeError where
    it does not start.
    """
    named = [part for adapter in adapters for part in ("--adapter", str(adapter))]
    command = [sys.executable, "-m", "examples.engines.llama_cpp.serve", str(base), *named]
    command += ["--port", "0", "--alias", alias, *options]
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(log.open("w")) if log else subprocess.DEVNULL
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True, cwd=CHECKOUT)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        stack.callback(server.stdout.close)
        address = server.stdout.readline().strip()
        if not address.startswith("http://"):
            raise RuntimeError(f"llama.cpp did not start: read {log}")
        yield address
