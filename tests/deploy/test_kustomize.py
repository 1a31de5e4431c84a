"""The Kustomize folders, built by the real kustomize of kubectl, and what the component adds to workloads of others."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from agent.config import load
from tests.deploy import cluster_tools
from tests.deploy.helm import CHART, Helm, Manifest, only, pod_specs
from tests.deploy.pod_shapes import MODELS, container

FOLDER = CHART.parents[1] / "kustomize"
BUILT = ("witness", "apart", "examples/vllm", "examples/llama-cpp")
PLACES = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
}
Build = Callable[[Path], list[Manifest]]


@pytest.fixture(scope="module")
def build() -> Build:
    kubectl = cluster_tools.path_of("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl beside the interpreter or on the PATH (tests/deploy/cluster_tools.py)")

    def build_folder(folder: Path) -> list[Manifest]:
        command = [kubectl, "kustomize", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return list(yaml.safe_load_all(done.stdout))

    return build_folder


@pytest.mark.parametrize("name", BUILT)
def test_a_folder_builds_what_is_valid_to_the_letter(build: Build, name: str) -> None:
    for item in build(FOLDER / name):
        for version in ("1.29", "1.37"):
            assert kubernetes_validate.validate(item, version, strict=True) == version


def gapwatch_of(spec: Manifest) -> dict[str, Any]:
    [own] = [c for c in spec.get("initContainers", []) + spec["containers"] if c["name"] == "gapwatch"]
    return dict(own)


def test_a_patched_sidecar_is_that_of_the_manifest(build: Build) -> None:
    """But for what depends on the pod: groups, the name of the port, and requests that are limits."""
    [shipped] = pod_specs(list(yaml.safe_load_all((FOLDER.parent / "kubernetes/sidecar.yaml").read_text()))).values()
    ours, theirs = gapwatch_of(only_pod(build(FOLDER / "examples/vllm"))), gapwatch_of(shipped)
    own = {"runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    assert ours["securityContext"] == theirs["securityContext"] | own
    assert ours["resources"]["limits"] == ours["resources"]["requests"]
    assert ours["resources"]["limits"]["memory"] == theirs["resources"]["limits"]["memory"]
    for container_of in (ours, theirs):
        container_of["env"].sort(key=lambda variable: variable["name"])
        port = container_of["ports"][0].pop("name")
        assert all(container_of[probe]["httpGet"].pop("port") == port for probe in ("startupProbe", "livenessProbe"))
        del container_of["securityContext"], container_of["resources"]
    assert ours == theirs


def only_pod(items: list[Manifest]) -> Manifest:
    [spec] = pod_specs(items).values()
    return spec


@pytest.mark.parametrize("engine", ["vllm", "llama-cpp"])
def test_an_example_reads_its_own_configuration_and_its_engines_port(build: Build, engine: str, tmp_path: Path) -> None:
    items = build(FOLDER / "examples" / engine)
    (tmp_path / "gapwatch.yaml").write_text(only(items, "ConfigMap")["data"]["gapwatch.yaml"])
    config, spec = load(tmp_path / "gapwatch.yaml"), only_pod(items)
    [port] = spec["containers"][0]["ports"]
    [model] = config.models
    assert model.served is not None and model.served.url == f"http://localhost:{port['containerPort']}"
    assert config.shutdown_budget < spec["terminationGracePeriodSeconds"]
    used = {mount["name"] for mount in gapwatch_of(spec)["volumeMounts"]}
    assert used <= {volume["name"] for volume in spec["volumes"]}


def test_an_engine_of_the_class_guaranteed_stays_one_and_is_scaled_by_its_own_container(build: Build) -> None:
    items = build(FOLDER / "examples/vllm")
    for each in only_pod(items)["initContainers"] + only_pod(items)["containers"]:
        resources = each["resources"]
        assert {"cpu", "memory"} <= resources["limits"].keys() and resources["limits"] == resources["requests"]
    [metric] = only(items, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["containerResource"]["container"] == "engine"


def test_vllm_is_told_its_user_and_the_pods_ports_have_names_of_their_own(build: Build) -> None:
    spec = only_pod(build(FOLDER / "examples/vllm"))
    assert {"USER", "HOME"} <= {variable["name"] for variable in spec["containers"][0]["env"]}
    ports = [port["name"] for each in spec["initContainers"] + spec["containers"] for port in each["ports"]]
    assert sorted(ports) == ["gapwatch", "http"]


def workload(kind: str, name: str, label: str | None) -> Manifest:
    labels = {"app": name} | ({"gapwatch.io/sidecar": label} if label else {})
    pod = {"initContainers": [container("fetch")], "containers": [container("engine")], "volumes": [MODELS]}
    template = {"metadata": {"labels": {"app": name}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"app": name}}, "template": template}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def test_the_component_adds_to_labelled_workloads_alone_and_takes_nothing_away(build: Build, tmp_path: Path) -> None:
    given = [
        workload("Deployment", "asked", "true"),
        workload("StatefulSet", "asked-too", "true"),
        workload("Deployment", "not-asked", None),
        workload("Deployment", "says-no", "false"),
    ]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(given))
    # Kustomize takes relative paths alone.
    component = os.path.relpath(FOLDER / "patched", tmp_path.resolve())
    overlay = {"kind": "Kustomization", "resources": ["all.yaml"], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = {item["metadata"]["name"]: item for item in build(tmp_path)}
    for item in given:
        name = item["metadata"]["name"]
        before, after = item["spec"]["template"]["spec"], built[name]["spec"]["template"]["spec"]
        names = [c["name"] for c in after["initContainers"]]
        assert sorted(names) == (["fetch", "gapwatch"] if name.startswith("asked") else ["fetch"])
        kept = after | {"initContainers": [c for c in after["initContainers"] if c["name"] != "gapwatch"]}
        kept["volumes"] = [v for v in after["volumes"] if not v["name"].startswith("gapwatch-")]
        assert kept == before


def test_an_agent_apart_is_that_of_the_chart(build: Build, helm: Helm) -> None:
    ours = only(build(FOLDER / "apart"), "Deployment")["spec"]["template"]["spec"]
    theirs = only(helm.render("apart"), "Deployment")["spec"]["template"]["spec"]
    assert theirs["containers"][0].pop("imagePullPolicy") == "IfNotPresent"
    assert ours == theirs


@pytest.mark.cluster
@pytest.mark.parametrize("name", BUILT)
def test_a_folder_is_applied_without_a_warning_and_a_second_time_changes_nothing(
    build: Build, api: httpx.Client, name: str
) -> None:
    namespace = name.replace("/", "-")
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": namespace, "labels": levels}
    answer = api.post("/api/v1/namespaces", json={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    assert answer.status_code == httpx.codes.CREATED, answer.text
    for item in build(FOLDER / name):
        item["metadata"]["namespace"] = namespace
        first, second = apply(api, item, namespace), apply(api, item, namespace)
        assert (first.status_code, second.status_code) == (httpx.codes.CREATED, httpx.codes.OK), first.text
        assert "warning" not in first.headers, first.headers["warning"]
        versions = {answer.json()["metadata"]["resourceVersion"] for answer in (first, second)}
        assert len(versions) == 1


def apply(api: httpx.Client, item: Manifest, namespace: str) -> httpx.Response:
    return api.patch(
        f"{PLACES[item['kind']].format(namespace)}/{item['metadata']['name']}",
        params={"fieldManager": "tests", "fieldValidation": "Strict"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        content=yaml.safe_dump(item),
    )
