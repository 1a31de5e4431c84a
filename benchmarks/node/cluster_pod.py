"""A pod of an object that a real API server holds, run by a real kubelet.

What controllers and a CNI would do is done here. There is no controller manager: a Job's or Deployment's pod is made of
its template, as the server has completed it. Of the pod only what ``sidecar_pod`` replaces is replaced: image and
command by this machine's Python with this checkout, ConfigMaps, Secrets and claims by folders with the content, owner
and mode that they have in a pod, the network by the node's.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.node.image import NAME
from benchmarks.node.sidecar_pod import IMAGE_ENV, ROOT, mount_python, write_secret
from benchmarks.node.single_node import PODS_PORT, Node

ENDS_S, GONE_S = 900.0, 90.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a pod of one container ended. exit_code: None where it had not within the time; log: its last lines"""

    exit_code: int | None
    seconds: float
    log: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """The API server's namespace whose objects are run. claims: name of a volume claim -> the folder that it stands
    for; folder: for what is mounted"""

    api: httpx.Client
    namespace: str
    folder: Path
    claims: Mapping[str, Path]

    def get(self, kind: str, name: str, group: str = "api/v1") -> dict[str, Any] | None:
        answer = self.api.get(f"/{group}/namespaces/{self.namespace}/{kind}/{name}")
        return dict(answer.json()) if answer.status_code == httpx.codes.OK else None

    def pod(self, template: Mapping[str, Any]) -> dict[str, Any]:
        """Of that template, admitted by the server, as a static one."""
        metadata = {"generateName": "run-", "labels": template["metadata"].get("labels", {})}
        wanted = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        place = f"/api/v1/namespaces/{self.namespace}/pods"
        answer = self.api.post(place, params={"dryRun": "All", "fieldValidation": "Strict"}, json=wanted)
        if answer.status_code != httpx.codes.CREATED or "warning" in answer.headers:
            raise ValueError(f"not admitted: {answer.headers.get('warning', '')} {answer.text}")
        spec = copy.deepcopy(answer.json()["spec"])
        group = spec["securityContext"].get("fsGroup", 0)
        for key in ("nodeName", "priority", "preemptionPolicy", "serviceAccountName", "serviceAccount", "affinity"):
            spec.pop(key, None)
        spec |= {"hostNetwork": True, "volumes": [self._volume(volume, group) for volume in spec["volumes"]]}
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            _on_this_machine(container)
        mount_python(spec)
        named = {"name": f"run-{secrets.token_hex(3)}", "namespace": "default", "labels": metadata["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": spec}

    def _volume(self, volume: dict[str, Any], group: int) -> dict[str, Any]:
        name, place = volume["name"], self.folder / f"{volume['name']}-{secrets.token_hex(3)}"
        if claim := volume.get("persistentVolumeClaim"):
            return {"name": name, "hostPath": {"path": str(self.claims[claim["claimName"]])}}
        if source := volume.get("configMap"):
            held = self.get("configmaps", source["name"])
            place.mkdir()
            for file, text in ((held or {}).get("data") or {}).items():
                (place / file).write_text(text)
        elif source := volume.get("secret"):
            held = self.get("secrets", source["secretName"])
            place.mkdir()
            for file, text in ((held or {}).get("data") or {}).items():
                write_secret(place / file, base64.b64decode(text).decode(), group, source["defaultMode"])
        else:
            return volume
        return {"name": name, "hostPath": {"path": str(place)}}


def _on_this_machine(container: dict[str, Any]) -> None:
    """Gapwatch's container but for its image; another one is there, and does nothing."""
    container |= {"image": NAME, "imagePullPolicy": "Never"}
    container["resources"].pop("requests", None)  # the node here may be smaller, and has no devices
    container["resources"] = {"limits": {"memory": container["resources"].get("limits", {}).get("memory", "1Gi")}}
    if container["name"] == "gapwatch":
        container["command"] = [sys.executable, "-m", "agent"]
        here = IMAGE_ENV | {"PYTHONPATH": str(ROOT)}
        container["env"] = [*container.get("env", []), *({"name": key, "value": here[key]} for key in here)]
        return
    container |= {"command": ["/usr/bin/sleep"], "args": ["infinity"]}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        container.pop(probe, None)


def run_to_end(node: Node, pod: dict[str, Any], ends_s: float = ENDS_S) -> Ended:
    """Run a pod of one container until that has ended; it is removed then."""
    began, name = time.monotonic(), pod["metadata"]["name"]
    node.apply(pod)
    try:
        while (code := _exit_code(node, name)) is None and time.monotonic() - began < ends_s:
            time.sleep(0.5)
        return Ended(code, time.monotonic() - began, log_of(node, name))
    finally:
        node.remove(name)


@contextmanager
def running(node: Node, pod: dict[str, Any]) -> Iterator[str]:
    """A pod until the block ends; gives the id of its gapwatch container once that is ready."""
    name, give_up = pod["metadata"]["name"], time.monotonic() + GONE_S
    node.apply(pod)
    try:
        while not (container := _container(node, name)).get("ready"):
            if time.monotonic() > give_up:
                raise TimeoutError(f"not ready: {container.get('state')} {log_of(node, name)}")
            time.sleep(0.5)
        yield str(container["containerID"]).rpartition("/")[2]
    finally:
        node.remove(name)


def log_of(node: Node, name: str) -> str:
    logs = sorted(node.folder.glob(f"logs/default_{name}-*/gapwatch/*.log"))
    return logs[-1].read_text(errors="replace")[-3000:] if logs else ""


def _exit_code(node: Node, name: str) -> int | None:
    ended = _container(node, name).get("state", {}).get("terminated")
    return None if ended is None else int(ended["exitCode"])


def _container(node: Node, name: str) -> dict[str, Any]:
    """State of the container gapwatch, {} while there is none."""
    read = (
        f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{PODS_PORT}/pods', timeout=5).read().decode())"
    )
    pods = json.loads(node.run("python3", "-c", read)).get("items") or []
    for pod in pods:
        if pod["metadata"]["name"].startswith(name):
            status = pod["status"]
            of_all = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
            return next((dict(each) for each in of_all if each["name"] == "gapwatch"), {})
    return {}


def may_write(folder: Path, group: int) -> None:
    """As the kubelet gives a claim to a pod's fsGroup."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 0, group)
        path.chmod(0o2775 if path.is_dir() else 0o664)
