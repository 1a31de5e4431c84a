"""A real API server admits what ships, in a namespace that enforces restricted, and refuses it one setting weaker."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytestmark = pytest.mark.cluster

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"
OBJECTS = list(yaml.safe_load_all((KUBERNETES / "sidecar.yaml").read_text()))
WITNESS = list(yaml.safe_load_all((KUBERNETES / "witness.yaml").read_text()))
SECRET = yaml.safe_load((KUBERNETES / "examples/secret.yaml").read_text())
FOLDERS = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Secret": "/api/v1/namespaces/{}/secrets",
    "PersistentVolumeClaim": "/api/v1/namespaces/{}/persistentvolumeclaims",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}


def shipped(kind: str) -> dict[str, Any]:
    [found] = [item for item in OBJECTS if item["kind"] == kind]
    return copy.deepcopy(found)


def pod_of(template: dict[str, Any], name: str) -> dict[str, Any]:
    """What a controller would create."""
    named = {"name": name, **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": template["spec"]}


def pod() -> dict[str, Any]:
    return pod_of(shipped("Deployment")["spec"]["template"], "a-pod")


def apply(api: httpx.Client, item: dict[str, Any]) -> httpx.Response:
    """As ``kubectl apply --server-side`` does."""
    place = FOLDERS[item["kind"]].format(shipped("Namespace")["metadata"]["name"])
    return api.patch(
        f"{place}/{item['metadata']['name']}",
        params={"fieldManager": "tests", "fieldValidation": "Strict"},
        headers={"Content-Type": "application/apply-patch+yaml"},
        content=yaml.safe_dump(item),
    )


def create(api: httpx.Client, item: dict[str, Any], *, dry_run: bool = False) -> httpx.Response:
    params = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
    namespace = shipped("Namespace")["metadata"]["name"]
    return api.post(FOLDERS[item["kind"]].format(namespace), params=params, json=item)


@pytest.fixture(scope="module")
def namespace(api: httpx.Client) -> httpx.Client:
    """A cluster with the shipped Namespace in it."""
    answer = api.post("/api/v1/namespaces", json=shipped("Namespace"))
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return api


@pytest.mark.parametrize("item", WITNESS, ids=lambda i: i["kind"])
def test_the_witness_is_applied_without_a_warning_and_a_second_time_changes_nothing(
    namespace: httpx.Client, item: dict[str, Any]
) -> None:
    first, second = apply(namespace, item), apply(namespace, item)
    assert (first.status_code, second.status_code) == (httpx.codes.CREATED, httpx.codes.OK), first.text + second.text
    assert "warning" not in first.headers and "warning" not in second.headers
    versions = {answer.json()["metadata"]["resourceVersion"] for answer in (first, second)}
    assert len(versions) == 1


def test_the_witnesses_pod_is_admitted_where_restricted_is_enforced(namespace: httpx.Client) -> None:
    [stateful] = [item for item in WITNESS if item["kind"] == "StatefulSet"]
    answer = create(namespace, pod_of(copy.deepcopy(stateful["spec"]["template"]), "gapwatch-witness-0"), dry_run=True)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    assert "warning" not in answer.headers


@pytest.mark.parametrize("item", [i for i in OBJECTS if i["kind"] != "Namespace"] + [SECRET], ids=lambda i: i["kind"])
def test_every_shipped_object_is_admitted_without_a_warning(namespace: httpx.Client, item: dict[str, Any]) -> None:
    answer = create(namespace, item)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    assert "warning" not in answer.headers, answer.headers["warning"]


def test_the_pod_is_admitted_where_restricted_is_enforced(namespace: httpx.Client) -> None:
    answer = create(namespace, pod())
    assert answer.status_code == httpx.codes.CREATED, answer.text
    [sidecar] = answer.json()["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("gapwatch", "Always")


def without_run_as_non_root(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["runAsNonRoot"]
    for container in spec["initContainers"] + spec["containers"]:
        del container["securityContext"]["runAsNonRoot"]


def without_seccomp_profile(spec: dict[str, Any]) -> None:
    del spec["securityContext"]["seccompProfile"]


def with_privilege_escalation(spec: dict[str, Any]) -> None:
    del spec["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"]


def with_capabilities(spec: dict[str, Any]) -> None:
    del spec["initContainers"][0]["securityContext"]["capabilities"]


def with_a_host_folder(spec: dict[str, Any]) -> None:
    spec["volumes"][0] = {"name": "models", "hostPath": {"path": "/srv/models"}}


WEAKER: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (without_run_as_non_root, "runAsNonRoot != true"),
    (without_seccomp_profile, "seccompProfile"),
    (with_privilege_escalation, "allowPrivilegeEscalation != false"),
    (with_capabilities, "unrestricted capabilities"),
    (with_a_host_folder, "restricted volume types"),
]


@pytest.mark.parametrize(("weaken", "reason"), WEAKER, ids=[weaken.__name__ for weaken, _ in WEAKER])
def test_a_weaker_pod_is_refused_with_the_reason(
    namespace: httpx.Client, weaken: Callable[[dict[str, Any]], None], reason: str
) -> None:
    weaker = pod()
    weaken(weaker["spec"])
    answer = create(namespace, weaker, dry_run=True)
    assert answer.status_code == httpx.codes.FORBIDDEN, answer.text
    assert reason in answer.json()["message"]


def test_a_weaker_deployment_is_warned_about_at_once(namespace: httpx.Client) -> None:
    weaker = shipped("Deployment")
    without_run_as_non_root(weaker["spec"]["template"]["spec"])
    weaker["metadata"]["name"] = "weaker"
    answer = create(namespace, weaker, dry_run=True)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    assert "runAsNonRoot" in answer.headers["warning"]


def test_a_misspelt_field_is_refused(namespace: httpx.Client) -> None:
    misspelt = shipped("Deployment")
    sidecar = misspelt["spec"]["template"]["spec"]["initContainers"][0]
    sidecar["startupProb"] = sidecar.pop("startupProbe")
    answer = create(namespace, misspelt, dry_run=True)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert 'unknown field "spec.template.spec.initContainers[0].startupProb"' in answer.json()["message"]
