"""A real Kubernetes API server: etcd and kube-apiserver, given as controller-runtime's envtest gives them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

TOKEN = "only-for-this-loopback-server"
START_DEADLINE_S = 90.0


@contextmanager
def api_server(assets: Path, folder: Path) -> Iterator[httpx.Client]:
    """An HTTPS client of an empty cluster, as its administrator. Objects are admitted and stored; pods do not run.

    assets: holds both programs; folder: for their data
    """
    with ExitStack() as started:
        url = _start(assets, folder, started)
        # The server signs its own certificate at every start; loopback only.
        client = httpx.Client(base_url=url, verify=False, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)
        _wait_ready(started.enter_context(client))
        yield client


def _start(assets: Path, folder: Path, started: ExitStack) -> str:
    """Start both servers; ``started`` ends them, the API server first. Returns the API server's address."""
    etcd_url, port = f"http://127.0.0.1:{_free_port()}", _free_port()
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", folder / "sa.key", "2048"], check=True, capture_output=True)
    etcd = [f"--data-dir={folder}/etcd", f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}"]
    _run([assets / "etcd", *etcd, "--listen-peer-urls=http://127.0.0.1:0", "--unsafe-no-fsync"], folder, started)
    server = [
        f"--etcd-servers={etcd_url}",
        f"--secure-port={port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder}/certs",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--service-account-issuer=https://localhost",
        f"--service-account-key-file={folder}/sa.key",
        f"--service-account-signing-key-file={folder}/sa.key",
        "--authorization-mode=RBAC",
        f"--token-auth-file={folder}/tokens.csv",
        # No controller makes the default account here; everything else of admission is as on a real cluster.
        "--disable-admission-plugins=ServiceAccount",
    ]
    _run([assets / "kube-apiserver", *server], folder, started)
    return f"https://127.0.0.1:{port}"


def _run(command: list[str | Path], folder: Path, started: ExitStack) -> None:
    log = started.enter_context((folder / f"{Path(command[0]).name}.log").open("wb"))
    process = subprocess.Popen(command, stdout=log, stderr=log)
    started.callback(process.wait)
    # Killed, not asked: the data is thrown away, and a polite end takes the API server a minute of draining.
    started.callback(process.kill)


def _wait_ready(client: httpx.Client) -> None:
    deadline, last = time.monotonic() + START_DEADLINE_S, "no answer"
    while time.monotonic() < deadline:
        try:
            answer = client.get("/readyz")
        except httpx.TransportError as error:
            last = str(error)
        else:
            if answer.text == "ok":
                return
            last = answer.text
        time.sleep(0.2)
    raise TimeoutError(f"the API server was not ready within {START_DEADLINE_S:.0f} s: {last}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
