"""Pods of serving engines as they are met, each a function that makes one anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Pod = dict[str, Any]

LABELLED = {"gapwatch.io/inject": "true"}
LOCKED = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
MODELS = {"name": "models", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}}


def engine_pod(
    annotations: dict[str, str] | None = None,
    *,
    labels: dict[str, str] | None = None,
    resources: dict[str, Any] | None = None,
    **spec: Any,
) -> Pod:
    """An engine that a namespace admits where ``restricted`` is enforced; ``spec`` goes before what stands here."""
    metadata: dict[str, Any] = {"generateName": "engine-", "labels": LABELLED if labels is None else labels}
    engine: dict[str, Any] = {
        "name": "engine",
        "image": "vllm/vllm-openai:v0.11.0",
        "securityContext": LOCKED,
        "ports": [{"name": "http", "containerPort": 8000}],
        "resources": resources or {},
    }
    if annotations is not None:
        metadata["annotations"] = annotations
    plain: dict[str, Any] = {
        "securityContext": {"runAsUser": 2000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [engine],
        "volumes": [MODELS],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": plain | spec}


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "registry.example.com/other:1.0.0", "securityContext": LOCKED, **more}


def with_engine(**more: Any) -> Pod:
    pod = engine_pod()
    pod["spec"]["containers"][0] |= more
    return pod


GPU = {"limits": {"nvidia.com/gpu": "1", "memory": "16Gi"}, "requests": {"cpu": "2", "memory": "16Gi"}}
SAME = {"cpu": "1", "memory": "1Gi"}
WRITABLE = {"name": "tmp", "emptyDir": {}}

FITTING: dict[str, Callable[[], Pod]] = {
    "plain": engine_pod,
    "with annotations of others": lambda: engine_pod({"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}),
    "with no annotations at all": lambda: engine_pod(None),
    "guaranteed": lambda: engine_pod(resources={"requests": SAME, "limits": SAME}),
    "burstable with a GPU": lambda: engine_pod(resources=GPU),
    "an init container that fetches": lambda: engine_pod(initContainers=[container("fetch")]),
    "a native sidecar of another": lambda: engine_pod(initContainers=[container("proxy", restartPolicy="Always")]),
    "two engines": lambda: engine_pod(containers=[container("one"), container("two")]),
    "more volumes": lambda: engine_pod(volumes=[WRITABLE, MODELS, {"name": "shm", "emptyDir": {"medium": "Memory"}}]),
    "the volume by another name": lambda: engine_pod(
        {"gapwatch.io/models-volume": "weights"}, volumes=[MODELS | {"name": "weights"}]
    ),
    "groups of its own": lambda: engine_pod(
        securityContext={"runAsUser": 2000, "fsGroup": 3000, "seccompProfile": {"type": "RuntimeDefault"}}
    ),
    "user only in the container": lambda: engine_pod(
        securityContext={},
        containers=[container("engine") | {"securityContext": LOCKED | {"seccompProfile": {"type": "RuntimeDefault"}}}],
    ),
    "a port named metrics": lambda: with_engine(ports=[{"name": "metrics", "containerPort": 8000}]),
    "a claim of a device": lambda: engine_pod(
        resources={"claims": [{"name": "gpu"}]},
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
    ),
    "a batch pod": lambda: engine_pod(restartPolicy="Never"),
    "no token": lambda: engine_pod(automountServiceAccountToken=False, enableServiceLinks=False),
    "affinity and tolerations": lambda: engine_pod(
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}], nodeSelector={"pool": "gpu"}
    ),
    "its own time to end": lambda: engine_pod(terminationGracePeriodSeconds=120),
    "probes and variables": lambda: with_engine(
        readinessProbe={"httpGet": {"path": "/health", "port": 8000}}, env=[{"name": "USER", "value": "vllm"}]
    ),
    "processes shared": lambda: engine_pod(shareProcessNamespace=True),
}

# Shape -> the pod, and what its annotation says.
UNFIT: dict[str, tuple[Callable[[], Pod], str]] = {
    "a container of that name": (
        lambda: engine_pod(containers=[container("engine"), container("gapwatch")]),
        "it has a container named gapwatch",
    ),
    "patched already": (
        lambda: engine_pod(initContainers=[container("gapwatch", restartPolicy="Always")]),
        "it has a container named gapwatch",
    ),
    "a volume of that name": (
        lambda: engine_pod(volumes=[MODELS, {"name": "gapwatch-state", "emptyDir": {}}]),
        "it has a volume named as one of gapwatch's: gapwatch-state",
    ),
    "the port in use": (
        lambda: with_engine(ports=[{"containerPort": 9464}]),
        "one of its containers has port 9464",
    ),
    "no models": (lambda: engine_pod(volumes=[WRITABLE]), "it has no volume models"),
    "no volumes": (lambda: engine_pod(volumes=[]), "it has no volume models"),
    "resources of the pod": (
        lambda: (
            engine_pod(containers=[container("engine")], resources=None)
            | {"spec": engine_pod(containers=[container("engine")])["spec"] | {"resources": {"requests": SAME}}}
        ),
        "it has resources of the pod",
    ),
    "network of the node": (lambda: engine_pod(hostNetwork=True), "it has the network of its node"),
    "Windows": (
        lambda: engine_pod(os={"name": "windows"}, securityContext={}, containers=[{"name": "e", "image": "e:1"}]),
        "it is not for Linux",
    ),
}
