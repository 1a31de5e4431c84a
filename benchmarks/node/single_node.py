"""A real kubelet with containerd and runc on this machine, without a cluster: it runs static pods.

Everything lives in namespaces of its own (network, mounts, processes, IPC), so ports are free, mounts vanish with it,
and ending its first process ends all the rest. The kernel settings that a kubelet changes are kept from it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.node.image import NAME, write_image

# The kubelet sets them at its start and never puts them back.
KERNEL_SETTINGS = (
    *("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"),
    *("kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
PROGRAMS = ("containerd", "ctr", "runc", "setpriv", "unshare", "nsenter", "ip", "mount", "ps")
NODE_ADDRESS = "10.99.0.1"
PODS_PORT = 10255
START_S = 60.0
ROOT = Path(__file__).resolve().parents[2]

CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/run"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{image}"
"""


def unavailable() -> str:
    """Why no kubelet can run here, in words; "" where it can."""
    if os.geteuid() != 0:
        return "not root"
    if not os.environ.get("KUBELET"):
        return "KUBELET is not set: no kubelet binary"
    if not os.access(os.environ["KUBELET"], os.X_OK):
        return f"KUBELET names no program: {os.environ['KUBELET']}"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"not on the PATH: {', '.join(missing)} (Debian: apt-get install containerd runc util-linux iproute2)"
    if not Path("/bin").is_symlink():
        return "/bin is no link into /usr: containers here run the machine's own programs from /usr"
    return ""


@dataclass(frozen=True, slots=True)
class Node:
    """A running one. folder: everything of it; first: the process whose namespaces it lives in."""

    folder: Path
    first: int

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """That command, as one that runs in the node's namespaces."""
        return ["nsenter", f"--target={self.first}", "--net", "--mount", "--pid", "--ipc", *map(str, command)]

    def run(self, *command: str | Path) -> str:
        """Run a command in the node to its end; what it printed. Raises CalledProcessError."""
        done = subprocess.run(self.inside(command), capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    def ctr(self, *words: str | Path) -> str:
        return self.run("ctr", f"--address={self.folder}/containerd.sock", "--namespace=k8s.io", *words)

    def apply(self, pod: dict[str, Any]) -> None:
        """Start a pod, or replace the one of that name."""
        place = self.folder / "manifests" / f"{pod['metadata']['name']}.yaml"
        unfinished = place.with_name(f".{place.name}")  # the kubelet skips names that begin with a dot
        unfinished.write_text(yaml.safe_dump(pod))
        unfinished.rename(place)

    def remove(self, name: str) -> None:
        """Have a pod ended as a deletion would."""
        (self.folder / "manifests" / f"{name}.yaml").unlink(missing_ok=True)

    def main_process(self, container_id: str) -> int:
        """Process id, inside the node, of a container's first process."""
        for line in self.ctr("tasks", "list").splitlines():
            fields = line.split()
            if fields[0] == container_id:
                return int(fields[1])
        raise LookupError(f"no running container {container_id}")

    def children(self, process: int) -> list[int]:
        """Process ids, inside the node, of what a process started and what these started."""
        table = [line.split() for line in self.run("ps", "-eo", "pid=,ppid=").splitlines()]
        direct = [int(pid) for pid, parent in table if int(parent) == process]
        return direct + [below for child in direct for below in self.children(child)]

    def kill(self, process: int) -> None:
        self.run("kill", "-9", str(process))


@contextmanager
def single_node(folder: Path) -> Iterator[Node]:
    """A kubelet with no pods; everything of it is ended again. Raises TimeoutError with the end of its log."""
    with ExitStack() as opened:
        node = Node(folder, _namespaces(opened))
        (folder / "manifests").mkdir(parents=True)
        _shield_kernel_settings(node)
        node.run("ip", "link", "set", "lo", "up")
        node.run("ip", "address", "add", f"{NODE_ADDRESS}/32", "dev", "lo")
        _containerd(node, opened)
        _kubelet(node, opened)
        yield node


def _shield_kernel_settings(node: Node) -> None:
    """Give the kubelet files of its own to set; those of the kernel stay, however this program ends."""
    for setting in map(Path, KERNEL_SETTINGS):
        stand_in = node.folder / setting.name
        stand_in.write_text(Path("/proc/sys", setting).read_text())
        node.run("mount", "--bind", stand_in, Path("/proc/sys", setting))


def _namespaces(opened: ExitStack) -> int:
    """Start a process in namespaces of its own; its end is the end of everything in them. Returns its process id."""
    apart = ["unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    # Ended with this program too, however that ends.
    holder = subprocess.Popen(["setpriv", "--pdeathsig=KILL", *apart, "sleep", "infinity"])
    opened.callback(holder.wait)
    opened.callback(holder.kill)
    give_up = time.monotonic() + START_S
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    while not (first := children.read_text().split()) and time.monotonic() < give_up:
        time.sleep(0.02)
    # Only once it is the program, and not the copy of unshare that becomes it, are all its mounts made.
    while Path(f"/proc/{first[0]}/comm").read_text().strip() != "sleep" and time.monotonic() < give_up:
        time.sleep(0.02)
    return int(first[0])


def _containerd(node: Node, opened: ExitStack) -> None:
    config, archive = node.folder / "containerd.toml", node.folder / "image.tar"
    config.write_text(CONTAINERD.format(folder=node.folder, image=NAME))
    write_image(archive)
    log = _start(node, ["containerd", "--config", config], opened)
    _until(lambda: _succeeds(lambda: node.ctr("images", "list")), log, "containerd")
    node.ctr("images", "import", archive)


def _kubelet(node: Node, opened: ExitStack) -> None:
    config = node.folder / "kubelet.yaml"
    config.write_text(yaml.safe_dump(kubelet_config(node.folder)))
    folders = [f"--root-dir={node.folder}/kubelet", f"--cert-dir={node.folder}/certificates"]
    named = ["--hostname-override=node", f"--node-ip={NODE_ADDRESS}"]
    log = _start(node, [os.environ["KUBELET"], f"--config={config}", *folders, *named], opened)
    url = f"http://127.0.0.1:{PODS_PORT}/pods"
    read = ["python3", "-c", f"import urllib.request as r; r.urlopen('{url}', timeout=2).read()"]
    _until(lambda: _succeeds(lambda: node.run(*read)), log, "the kubelet")


def kubelet_config(folder: Path) -> dict[str, Any]:
    """What a kubelet without a cluster needs, on cgroup v1 and v2; every period is the default of a real node."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": f"{folder}/manifests",
        "podLogsDir": f"{folder}/logs",
        "containerRuntimeEndpoint": f"unix://{folder}/containerd.sock",
        "address": "127.0.0.1",
        "readOnlyPort": PODS_PORT,
        "healthzPort": 0,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        # No hierarchy of slices is made at the root of a machine that is not ours.
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "failSwapOn": False,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    }


def _start(node: Node, command: Sequence[str | Path], opened: ExitStack) -> Path:
    """Start a server in the node; returns its log."""
    log = node.folder / f"{Path(command[0]).name}.log"
    written = opened.enter_context(log.open("wb"))
    process = subprocess.Popen(node.inside(command), stdout=written, stderr=written)
    opened.callback(process.wait)
    opened.callback(process.send_signal, signal.SIGTERM)  # to nsenter; what it started ends with the namespaces
    return log


def _until(holds: Callable[[], bool], log: Path, what: str) -> None:
    give_up = time.monotonic() + START_S
    while not holds():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not answer within {START_S:.0f} s: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def _succeeds(call: Callable[[], object]) -> bool:
    try:
        call()
    except subprocess.CalledProcessError:
        return False
    return True
