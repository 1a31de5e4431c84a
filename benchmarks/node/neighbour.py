"""What stands beside the sidecar in the node's network: ``python -m benchmarks.node.neighbour NAME PORT``.

engine: an HTTP server that accepts everything, as a serving engine that never fails. toy: one that serves three
adapters of the toy language. broker: a small Kafka broker with the topics of the manifests' configurations. store:
ClickHouse's interface over the embedded engine, which wants the password of ``STORE_PASSWORD``. All run until they are
ended.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

STORE_PASSWORD = "only-for-this-node"
TOPIC, REPLAYS = "llm.interactions", "gapwatch.replays"


class _Engine(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        """An event of PagerDuty's API, too: accepted."""
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(202)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: probes ask every second."""


def engine(port: int) -> None:
    server = ThreadingHTTPServer(("0.0.0.0", port), _Engine)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()


def toy(port: int) -> None:
    from tests.end_to_end.world import ADAPTERS
    from tests.serving_engines.shim import serving
    from tests.serving_engines.toy_engine import ToyEngine

    with serving(ToyEngine(adapters={name: f"{name}-v1" for name in ADAPTERS}), port=port):
        signal.pause()


def broker(port: int) -> None:
    from agent.demo.broker import start_broker
    from agent.kafka.client import ensure_topic

    with tempfile.TemporaryDirectory() as folder, start_broker(Path(folder), port, "tansu") as running:
        ensure_topic(running.bootstrap, TOPIC, 2)
        ensure_topic(running.bootstrap, REPLAYS, 1)
        signal.pause()


def store(port: int) -> None:
    from tests.clickhouse_http import ClickHouseServer

    with tempfile.TemporaryDirectory() as folder:
        server = ClickHouseServer(Path(folder), STORE_PASSWORD)
        server.port = port
        server.start()
        signal.pause()


if __name__ == "__main__":
    {"engine": engine, "toy": toy, "broker": broker, "store": store}[sys.argv[1]](int(sys.argv[2]))
