"""The pods of deploy/kubernetes/sidecar.yaml and witness.yaml as ones that a kubelet without a cluster can run.

Gapwatch's container is the manifest's own, probes, security context and limits included. What a cluster would bring
is replaced: ConfigMap, Secret and models volume by folders of this machine with the owner and mode that they have in a
pod, the image by this machine's Python with this checkout, the engine by a small HTTP server.
"""

from __future__ import annotations

import copy
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agent.demo.stage import HELPDESK, set_up
from benchmarks.node.image import NAME
from benchmarks.node.neighbour import TOPIC
from benchmarks.node.watcher import ENGINE_PORT
from tests.end_to_end.world import ADAPTERS, enrolled
from tests.serving_engines.toy_engine import ToyEngine

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy/kubernetes/sidecar.yaml"
WITNESS = ROOT / "deploy/kubernetes/witness.yaml"
USER = 10001
# The embedded engine would be in the memory that is measured; a sidecar writes to a server.
SERVER = {"dsn": "clickhouse://gapwatch@127.0.0.1:8123/gapwatch"}
WITNESS_MEMORY = "3Gi"  # as in deploy/kubernetes/witness.yaml
BROKER_PORT = 9092
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
# Volumes of the manifest that a folder of this machine stands for -> that folder below ``Inputs.folder``.
FOLDERS = {"gapwatch-config": "config", "gapwatch-secrets": "secrets", "models": "models"}
# As in deploy/Dockerfile.
IMAGE_ENV = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HOME": "/var/cache/gapwatch",
    "XDG_CACHE_HOME": "/var/cache/gapwatch",
    "HF_HUB_OFFLINE": "1",
    "TMPDIR": "/tmp",
}


@dataclass(slots=True)
class Inputs:
    """What a fault may change before the pod starts.

    folder: holds config/, secrets/ and models/; settings: the configuration; spec: the pod's
    text: the configuration as it is written, None for ``settings`` as YAML; configured: false writes none
    annotations: of the pod
    """

    folder: Path
    settings: dict[str, Any]
    spec: dict[str, Any]
    name: str
    text: str | None = None
    configured: bool = True
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def sidecar(self) -> dict[str, Any]:
        return _gapwatch(self.spec)

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def config_file(self) -> Path:
        return self.folder / "config/gapwatch.yaml"

    def volume(self, name: str, source: dict[str, Any]) -> None:
        """Replace a volume of the pod."""
        self.spec["volumes"] = [v for v in self.spec["volumes"] if v["name"] != name] + [{"name": name, **source}]

    def mount(self, name: str, place: str, read_only: bool = True) -> None:
        """A folder of this machine in the sidecar, at the same place."""
        self.spec["volumes"].append({"name": name, "hostPath": {"path": place}})
        self.sidecar["volumeMounts"].append({"name": name, "mountPath": place, "readOnly": read_only})

    def set_limit(self, memory: str) -> None:
        self.sidecar["resources"] = {"limits": {"memory": memory}}

    def write_config(self) -> None:
        """Replace the file whole, as the kubelet does."""
        fresh = self.config_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(self.settings) if self.text is None else self.text)
        fresh.rename(self.config_file)

    def pod(self) -> dict[str, Any]:
        """Write the files and give the pod."""
        if self.configured:
            self.write_config()
        named = {"name": self.name, "namespace": "default", "annotations": self.annotations}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": self.spec}


def healthy(folder: Path) -> Inputs:
    """Inputs with which everything works: traffic alone, no model; a broker is expected at BROKER_PORT. The embedded
    store is in the pod, which the manifest's limit has no room for: it has that of the witness's."""
    spec = _spec(shipped("Deployment"), folder)
    spec["containers"] = [_engine(spec["containers"][0])]
    inputs = _inputs(folder, _settings(shipped("ConfigMap")), spec)
    inputs.set_limit(WITNESS_MEMORY)
    for model in inputs.settings["models"]:
        del model["served"]
        model["replay"] = False
    shutil.copytree(ROOT / "examples/helpdesk/canaries", folder / "models/canaries")
    return inputs


def witness(folder: Path, volume: Path) -> Inputs:
    """A pod of the StatefulSet, on a volume that ``lay_models`` wrote, within the memory of its manifest."""
    inputs = _inputs(folder, _settings(shipped("ConfigMap", WITNESS)), _spec(shipped("StatefulSet", WITNESS), folder))
    inputs.volume("models", {"hostPath": {"path": str(volume)}})
    inputs.settings["probes"]["every"] = "15s"
    inputs.settings["clickhouse"] = SERVER
    return inputs


def _inputs(folder: Path, settings: dict[str, Any], spec: dict[str, Any]) -> Inputs:
    for name in FOLDERS.values():
        (folder / name).mkdir(parents=True)
    mount_python(spec)
    # A name of its own, as a Deployment's pods have: the kubelet takes its time before it starts one of a former name.
    inputs = Inputs(folder, settings, spec, f"llm-{secrets.token_hex(3)}")
    for name in ("pagerduty-routing-key", "clickhouse-password"):
        write_secret(inputs.secrets / name, ROUTING_KEY)
    return inputs


def with_models(folder: Path, volume: Path) -> Inputs:
    """Inputs that replay canaries in this pod, role ``all``: the manifest's base and adapter on a volume that
    ``lay_models`` wrote."""
    inputs = healthy(folder)
    inputs.settings["role"] = "all"
    inputs.volume("models", {"hostPath": {"path": str(volume)}})
    for model in inputs.settings["models"]:
        model["replay"] = True
    inputs.settings["probes"]["every"] = "15s"
    inputs.settings["clickhouse"] = SERVER
    return inputs


def ask_engine(inputs: Inputs, port: int) -> None:
    """As it ships, within the memory of its manifest: it asks an engine of the toy language at that port."""
    golden = inputs.folder / "models/golden"
    enrolled(golden)
    subprocess.run(["chmod", "-R", "a+rX", golden], check=True)
    served = {"url": f"http://127.0.0.1:{port}", "base": ToyEngine().base, "every": "5s"}
    adapters = [{"name": name} for name in ADAPTERS]
    inputs.settings["models"] = [{"name": "tiny", "served": served, "adapters": adapters}]
    inputs.settings["clickhouse"] = SERVER
    [container] = shipped("Deployment")["spec"]["template"]["spec"]["initContainers"]
    inputs.set_limit(container["resources"]["limits"]["memory"])


def injected(inputs: Inputs, pod: dict[str, Any]) -> None:
    """In place of the manifest's sidecar that of a pod as the API server admitted it, with the configuration that is in
    its annotations. Of it only what ``_spec`` replaces is replaced: image, command, and what a cluster would mount."""
    own = [mount for mount in inputs.sidecar["volumeMounts"] if mount["name"].startswith("machine-")]
    here = {key: inputs.sidecar[key] for key in ("image", "imagePullPolicy", "command")}
    [sidecar] = [container for container in pod["spec"]["initContainers"] if container["name"] == "gapwatch"]
    set_here = IMAGE_ENV | {"PYTHONPATH": str(ROOT)}
    sidecar["env"] += [{"name": name, "value": value} for name, value in set_here.items()]
    sidecar["volumeMounts"] += own
    del sidecar["resources"]["requests"]  # the node here may be smaller
    inputs.spec["initContainers"] = [sidecar | here]
    [configuration] = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "gapwatch-config"]
    inputs.volume("gapwatch-config", {"downwardAPI": configuration["downwardAPI"]})
    inputs.annotations = pod["metadata"]["annotations"]


def lay_models(volume: Path) -> None:
    """A volume as the manifest's configuration names it: base, adapter, canaries, golden records and accepted base."""
    base, adapter = volume / "SmolLM2-135M-Instruct", "ticket-router"
    with tempfile.TemporaryDirectory(dir=volume.parent) as folder:
        stage = set_up(Path(folder) / "stage")
        shutil.copytree(stage.base, base)  # the cached files that the stage links to are not readable by every user
        shutil.copytree(stage.folder / "golden", volume / "golden", ignore=shutil.ignore_patterns("*.safetensors"))
        kept = volume / stage.golden.relative_to(stage.folder)
        for file in stage.golden.glob("*.safetensors"):
            (kept / file.name).hardlink_to(base / file.name)
    shutil.copytree(HELPDESK / "adapters" / adapter, volume / adapter)
    shutil.copytree(HELPDESK / "canaries", volume / "canaries")
    subprocess.run(["chmod", "-R", "a+rX", volume], check=True)


def write_secret(file: Path, text: str, group: int = USER, mode: int = 0o440) -> None:
    """A file as the kubelet writes one of a Secret: root's, readable by the pod's fsGroup."""
    file.write_text(text)
    os.chown(file, 0, group)
    file.chmod(mode)


def shipped(kind: str, manifest: Path = MANIFEST) -> dict[str, Any]:
    """The manifest's one object of that kind."""
    objects = list(yaml.safe_load_all(manifest.read_text()))
    [item] = [item for item in objects if item["kind"] == kind]
    return copy.deepcopy(dict(item))


def _settings(config_map: dict[str, Any]) -> dict[str, Any]:
    """The manifest's configuration, with addresses of this node and a store in the pod."""
    settings: dict[str, Any] = yaml.safe_load(config_map["data"]["gapwatch.yaml"])
    broker = [f"127.0.0.1:{BROKER_PORT}"]
    settings["kafka"] |= {"bootstrap_servers": broker, "topic": TOPIC, "session_timeout_ms": 10_000}
    settings["clickhouse"] = {"dsn": "chdb:///var/lib/gapwatch/store"}
    settings["alerts"]["pagerduty"]["url"] = f"http://127.0.0.1:{ENGINE_PORT}"  # it answers 200: delivered
    return settings


def _spec(workload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of its pods, but for the image and what a cluster would bring. folder: holds what stands for volumes"""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    # There is no CNI: the pod shares the node's network, which is the node's own.
    spec |= {"hostNetwork": True, "volumes": [_volume(volume, folder) for volume in spec["volumes"]]}
    container = _gapwatch(spec)
    container |= {"image": NAME, "imagePullPolicy": "Never", "command": [sys.executable, "-m", "agent"]}
    container["resources"].pop("requests", None)  # the node here may be smaller
    set_here = IMAGE_ENV | {"PYTHONPATH": str(ROOT)}
    container["env"] += [{"name": name, "value": value} for name, value in set_here.items()]
    return spec


def _gapwatch(spec: dict[str, Any]) -> dict[str, Any]:
    """Its container: a native sidecar beside an engine, the only one of a witness."""
    container: dict[str, Any] = spec.get("initContainers", spec["containers"])[0]
    return container


def _engine(shipped_engine: dict[str, Any]) -> dict[str, Any]:
    """The manifest's engine, but for what it runs."""
    return {
        "name": shipped_engine["name"],
        "image": NAME,
        "imagePullPolicy": "Never",
        "command": [sys.executable, "-m", "benchmarks.node.neighbour", "engine", str(ENGINE_PORT)],
        "env": [{"name": "PYTHONPATH", "value": str(ROOT)}, {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"}],
        "ports": shipped_engine["ports"],
        "readinessProbe": shipped_engine["readinessProbe"],
        "securityContext": shipped_engine["securityContext"],
        "volumeMounts": [],
    }


def _volume(volume: dict[str, Any], folder: Path) -> dict[str, Any]:
    name = volume["name"]
    return {"name": name, "hostPath": {"path": str(folder / FOLDERS[name])}} if name in FOLDERS else volume


def mount_python(spec: dict[str, Any]) -> None:
    """This machine's programs, this environment and this checkout, read-only in each container at their own places."""
    wanted = sorted({Path("/usr"), Path(sys.base_prefix), Path(sys.prefix), ROOT})
    places = [place for place in wanted if not any(other in place.parents for other in wanted)]
    for i, place in enumerate(places):
        spec["volumes"].append({"name": f"machine-{i}", "hostPath": {"path": str(place)}})
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            container["volumeMounts"].append({"name": f"machine-{i}", "mountPath": str(place), "readOnly": True})
