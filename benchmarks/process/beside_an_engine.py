"""What the agent takes from the pod it runs in, without a model: memory, threads, answers under load, time to end."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, at_most, console, context, exactly
from benchmarks.process.agents import ROOT, Agent, agent, wait_for

SILENT_SOCKETS = 3_000
SETTLE_S = 10.0
CLIENTS = 16
LOOKS = 40
# The shortest timeout that Kubernetes gives a probe by default.
PROBE_TIMEOUT_S = 1.0


def measure(quick: bool) -> list[Figure]:
    """All of it in one agent, but for the network without IPv4."""
    sockets = SILENT_SOCKETS // 10 if quick else SILENT_SOCKETS
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder) / "agent", {}) as running:
        wait_for(lambda: running.get("/livez"), "an agent that answers")
        time.sleep(5.0)
        memory, idle = running.memory_mb(), _livez_seconds(running)
        figures = [at_most("memory of the agent without models, nothing to talk to", memory, "MB", 250)]
        figures += _under_load(running, statistics.median(idle))
        figures += _with_silent_sockets(running, sockets)
        figures.append(at_most("SIGTERM to the end, broker and store away", running.end(), "s", 5))
        figures.append(exactly("exit code after SIGTERM, broker and store away", running.process.returncode, "", 0))
    return [*figures, *_without_ipv4()]


def _livez_seconds(running: Agent) -> list[float]:
    """Seconds of one answer after another; infinite for none within the probe's timeout."""
    taken = []
    for _ in range(LOOKS):
        began = time.monotonic()
        answered = running.get("/livez", PROBE_TIMEOUT_S)
        taken.append(time.monotonic() - began if answered else float("inf"))
    return taken


def _under_load(running: Agent, idle_s: float) -> list[Figure]:
    """/livez while other clients fetch the metrics without a pause, as a share of what it takes otherwise."""
    stop = threading.Event()

    def fetch() -> None:
        while not stop.is_set():
            running.get("/metrics")

    clients = [threading.Thread(target=fetch) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    busy = _livez_seconds(running)
    stop.set()
    for client in clients:
        client.join()
    name = f"/livez while {CLIENTS} clients fetch metrics"
    return [
        context(f"{name}, median against an idle agent's", min(statistics.median(busy) / idle_s, 1e6), "times"),
        exactly(f"{name}: no answer within {PROBE_TIMEOUT_S:g} s", sum(s == float("inf") for s in busy), "", 0),
    ]


def _with_silent_sockets(running: Agent, wanted: int) -> list[Figure]:
    """Connections that never send a byte: what they add, and whether a probe still gets its answer."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, wanted + 500), most))
    threads, memory = running.threads(), running.memory_mb()
    with ExitStack() as opened:
        for _ in range(wanted):
            silent = opened.enter_context(socket.socket())
            silent.setblocking(False)  # a full queue of the server must not hold up the others
            silent.connect_ex(("127.0.0.1", running.port))
            time.sleep(0.001)
        time.sleep(SETTLE_S)
        late = sum(seconds == float("inf") for seconds in _livez_seconds(running))
        added_threads, added_memory = running.threads() - threads, running.memory_mb() - memory
    of = f"{wanted} silent connections"
    return [
        at_most(f"{of}: threads added", added_threads, "threads", 32),
        at_most(f"{of}: memory added", added_memory, "MB", 20),
        exactly(f"{of}: /livez without an answer within {PROBE_TIMEOUT_S:g} s", late, f"of {LOOKS}", 0),
    ]


def _without_ipv4() -> list[Figure]:
    """In a network of its own whose loopback has ::1 alone, as the pods of an IPv6 cluster have it."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        console.print("not root: a network without IPv4 is not measured")
        return []
    network = 'ip link set lo up && ip address del 127.0.0.1/8 dev lo && exec "$@"'
    inside = [sys.executable, "-m", "benchmarks.process.beside_an_engine"]
    done = subprocess.run(["unshare", "--net", "sh", "-c", network, "sh", *inside], cwd=ROOT, capture_output=True)
    return [exactly("/livez answers where there is no IPv4", float(done.returncode == 0), "", 1)]


def _answer_on_ipv6() -> None:
    """Runs in the network without IPv4; ends with 0 where /livez answers."""
    import httpx

    ports = 9464, 9465  # nothing else is in this network
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder) / "agent", {}, ports) as running:

        def answers() -> bool:
            try:
                return httpx.get(f"http://[::1]:{running.port}/livez", timeout=2).is_success
            except httpx.TransportError:
                return False

        wait_for(answers, "an answer on ::1", 30.0)


if __name__ == "__main__":
    _answer_on_ipv6()
