"""Install, upgrade, rollback and uninstall of each preset, by the real Helm on a real API server."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.deploy.helm import CHART, PRESETS, Helm, values

pytestmark = pytest.mark.cluster

# Kinds that the chart makes -> where they are listed, the operators' among them.
PLACES = (
    "/api/v1/namespaces/{}/configmaps",
    "/api/v1/namespaces/{}/services",
    "/apis/apps/v1/namespaces/{}/deployments",
    "/apis/apps/v1/namespaces/{}/statefulsets",
    "/apis/batch/v1/namespaces/{}/jobs",
    "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "/apis/monitoring.coreos.com/v1/namespaces/{}/podmonitors",
    "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules",
    "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
)
MONITORING = "monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true"


@pytest.fixture(scope="module")
def operators(api: httpx.Client) -> httpx.Client:
    define_kinds_of_operators(api)
    return api


def define_kinds_of_operators(api: httpx.Client) -> None:
    """The two kinds of the Prometheus operator, by name: their fields are not checked."""
    for kind in ("PodMonitor", "PrometheusRule"):
        plural = f"{kind.lower()}s"
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
        spec = {"group": "monitoring.coreos.com", "scope": "Namespaced", "names": names, "versions": [version]}
        definition = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.monitoring.coreos.com"},
            "spec": spec,
        }
        answer = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=definition)
        assert answer.status_code == httpx.codes.CREATED, answer.text


def stored(api: httpx.Client, namespace: str, release: str) -> dict[str, dict[str, Any]]:
    """Every object of the release, by kind and name."""
    selector = {"labelSelector": f"app.kubernetes.io/instance={release}"}
    lists = (api.get(place.format(namespace), params=selector).json() for place in PLACES)
    return {f"{listed['kind']} {item['metadata']['name']}": item for listed in lists for item in listed["items"]}


def versions(items: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: item["metadata"]["resourceVersion"] for name, item in items.items()}


def specs(items: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name: item.get("spec") or item.get("data") for name, item in items.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_release_comes_changes_goes_back_and_leaves_nothing(
    operators: httpx.Client, cluster: Helm, preset: str
) -> None:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": f"release-{preset}", "labels": levels}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    assert operators.post("/api/v1/namespaces", json=namespace).status_code == httpx.codes.CREATED
    place, release = metadata["name"], f"rel-{preset}"
    chart = (release, str(CHART), "--namespace", str(place), *values(preset), "--set", MONITORING)

    cluster.run("install", *chart)
    first = stored(operators, str(place), release)
    kinds = {name.split()[0].removesuffix("List") for name in first}
    assert {"ConfigMap", "Job", "NetworkPolicy", "PodMonitor", "PrometheusRule"} <= kinds
    cluster.run("upgrade", *chart)
    assert versions(stored(operators, str(place), release)) == versions(first), "a second apply changed something"
    cluster.run("upgrade", *chart, "--set", "image.tag=0.2.0,config.cluster=other")
    changed = stored(operators, str(place), release)
    assert "cluster: other" in str(changed) and "gapwatch:0.2.0" in str(changed)
    cluster.run("rollback", release, "1", "--namespace", str(place))
    back = stored(operators, str(place), release)
    assert without_uids(specs(back)) == without_uids(specs(first))
    cluster.run("uninstall", release, "--namespace", str(place))
    assert stored(operators, str(place), release) == {}


def without_uids(item: Any) -> Any:
    """A Job is made anew; the server labels its pods with the id of it."""
    if isinstance(item, dict):
        return {key: without_uids(of) for key, of in item.items() if not key.endswith(("-uid", "-name", "job-name"))}
    return item
