"""An HTTP gate in front of ``gapwatch check``, in the form that Flagger's webhooks call: 200 lets the rollout go on.

`python -m examples.gates.flagger_gate --root /models [--port 8080]`

POST / with ``{"name", "namespace", "phase", "metadata": {"base", "from", "adapter", "engine", "engine-version"}}``
(docs.flagger.app, Webhooks). 200 where the adapter fits, 409 with the reasons where it does not or nobody can tell, 400
for another request. Only folders below ``--root`` are read; one check runs at a time.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

FOLDERS, OPTIONS = ("base", "from", "adapter"), ("engine", "engine-version")
LIMIT_BYTES, LIMIT_S = 100_000, 1800
Run = Callable[[list[str]], tuple[int, str]]


def gapwatch(arguments: list[str]) -> tuple[int, str]:
    """Exit code and words of ``gapwatch check``."""
    command = [sys.executable, "-m", "agent", "check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stdout + done.stderr


def arguments_of(metadata: dict[str, str], root: Path) -> list[str]:
    """The command's options. Raises ValueError for metadata that lacks a folder, or names one outside ``root``."""
    arguments = []
    for name in FOLDERS:
        folder = Path(metadata.get(name, "")).resolve()
        if name not in metadata or not folder.is_relative_to(root.resolve()):
            raise ValueError(f"metadata.{name}: wanted a folder below {root}")
        arguments += [f"--{name}", str(folder)]
    return arguments + [f"--{name}={metadata[name]}" for name in OPTIONS if name in metadata]


def server(root: Path, port: int, run: Run = gapwatch, host: str = "0.0.0.0") -> HTTPServer:
    """Not yet serving. port: 0 for a free one; run: what answers"""

    class Gate(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                length = int(self.headers.get("Content-Length") or 0)
                request = json.loads(self.rfile.read(min(length, LIMIT_BYTES)))
                arguments = arguments_of(dict(request["metadata"]), root)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._answer(400, f"{error}\n")
                return
            code, words = run(arguments)
            self._answer(200 if code == 0 else 409, words)

        def _answer(self, status: int, words: str) -> None:
            body = words.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return HTTPServer((host, port), Gate)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    server(given.root, given.port).serve_forever()
