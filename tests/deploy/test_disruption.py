"""What the witness's PodDisruptionBudget does where an eviction is asked for, on a real API server.

No controller counts the pods here, so the test writes the budget's status as the controller would for two healthy
pods; which pods it is about, and that the second eviction is refused, is the API server's own.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.deploy.helm import CHART, Helm, values

pytestmark = pytest.mark.cluster

NAMESPACE = "disrupted"
BUDGET = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/gapwatch-witness"


@pytest.fixture(scope="module")
def witnesses(api: httpx.Client, cluster: Helm) -> httpx.Client:
    """Two pods of the StatefulSet's template, and one of another workload."""
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    assert api.post("/api/v1/namespaces", json=namespace).status_code == httpx.codes.CREATED
    cluster.run("install", "gapwatch", str(CHART), "-n", NAMESPACE, *values("witness"))
    stateful = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/gapwatch-witness").json()
    template = stateful["spec"]["template"]
    for name, labels in (("w-0", None), ("w-1", None), ("other", {"app": "other"})):
        metadata = {"name": name, "labels": template["metadata"]["labels"] if labels is None else labels}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        answer = api.post(f"/api/v1/namespaces/{NAMESPACE}/pods", json=pod)
        assert answer.status_code == httpx.codes.CREATED, answer.text
        # An eviction of a pod that does not run is granted whatever the budget says.
        running = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
        place = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/status"
        assert merged(api, place, running).status_code == httpx.codes.OK
    return api


def merged(api: httpx.Client, place: str, change: dict[str, Any]) -> httpx.Response:
    return api.patch(place, headers={"Content-Type": "application/merge-patch+json"}, json=change)


def evict(api: httpx.Client, name: str) -> httpx.Response:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    return api.post(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", json=eviction)


def test_of_two_witnesses_one_is_evicted_and_the_other_stays(witnesses: httpx.Client) -> None:
    before = evict(witnesses, "w-0")
    assert before.status_code == httpx.codes.TOO_MANY_REQUESTS, "the budget is about no pod of the StatefulSet"
    generation = witnesses.get(BUDGET).json()["metadata"]["generation"]
    counted = {"currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "disruptionsAllowed": 1}
    status = {"status": counted | {"observedGeneration": generation}}
    assert merged(witnesses, f"{BUDGET}/status", status).status_code == httpx.codes.OK
    first, second, other = (evict(witnesses, name) for name in ("w-0", "w-1", "other"))
    assert first.status_code == httpx.codes.CREATED
    assert second.status_code == httpx.codes.TOO_MANY_REQUESTS and "gapwatch-witness" in second.text
    assert other.status_code == httpx.codes.CREATED
