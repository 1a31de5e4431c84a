"""What a MutatingAdmissionPolicy adds to pods of many shapes on a real API server, and never against them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from agent.config import load
from tests.deploy.helm import CHART, Helm, values
from tests.deploy.pod_shapes import FITTING, UNFIT, Pod, engine_pod

pytestmark = pytest.mark.cluster

NAMESPACE, OUTSIDE = "engines", "not-labelled"
INJECTED = "gapwatch.io/injection"
TAKEN_UP_S = 60.0


@pytest.fixture(scope="module")
def engines(api: httpx.Client, cluster: Helm) -> httpx.Client:
    """A cluster with the policy, and two namespaces that enforce ``restricted``, one of them labelled for injection."""
    for name, labels in ((NAMESPACE, {"gapwatch.io/injection": "enabled"}), (OUTSIDE, {})):
        levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        metadata = {"name": name, "labels": levels | labels}
        answer = api.post("/api/v1/namespaces", json={"kind": "Namespace", "apiVersion": "v1", "metadata": metadata})
        assert answer.status_code == httpx.codes.CREATED, answer.text
    cluster.run("install", "injector", str(CHART), "--namespace", NAMESPACE, *values("injected-vllm"))
    wait_for_the_policy(api)
    return api


def wait_for_the_policy(api: httpx.Client) -> None:
    """The server takes a policy up, and begins to watch the kind of its parameters, a moment after it was stored."""
    until(lambda: INJECTED in created(api, engine_pod()).json()["metadata"].get("annotations", {}))


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TAKEN_UP_S
    while not happened():
        assert time.monotonic() < deadline, f"not within {TAKEN_UP_S:.0f} s"
        time.sleep(0.1)


def created(api: httpx.Client, pod: Pod, namespace: str = NAMESPACE) -> httpx.Response:
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = api.post(f"/api/v1/namespaces/{namespace}/pods", params=params, json=pod)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return answer


def sidecar_of(answer: httpx.Response) -> dict[str, Any]:
    [sidecar] = [c for c in answer.json()["spec"]["initContainers"] if c["name"] == "gapwatch"]
    return dict(sidecar)


@pytest.mark.parametrize("shape", FITTING)
def test_a_pod_gets_a_sidecar_under_restricted_without_a_warning(engines: httpx.Client, shape: str) -> None:
    pod = FITTING[shape]()
    answer = created(engines, copy.deepcopy(pod))
    assert "warning" not in answer.headers, answer.headers["warning"]
    assert answer.json()["metadata"]["annotations"][INJECTED] == "injected"
    spec, before = answer.json()["spec"], pod["spec"]
    assert sidecar_of(answer)["restartPolicy"] == "Always"
    names = [container["name"] for container in spec["initContainers"]]
    assert names == [container["name"] for container in before.get("initContainers", [])] + ["gapwatch"]
    # What was there is there, and as it was: the server adds its defaults and takes nothing away.
    assert holds(spec, before | {"initContainers": before.get("initContainers", [])})


def holds(after: Any, before: Any) -> bool:
    """Is every setting of ``before`` in ``after``; of lists the first entries."""
    if isinstance(before, dict):
        return isinstance(after, dict) and all(key in after and holds(after[key], of) for key, of in before.items())
    if isinstance(before, list):
        return len(after) >= len(before) and all(map(holds, after, before))
    return bool(after == before)


@pytest.mark.parametrize("shape", UNFIT)
def test_a_pod_that_it_does_not_fit_goes_in_as_it_is_and_says_why(engines: httpx.Client, shape: str) -> None:
    make, reason = UNFIT[shape]
    namespace = "default" if shape in ("network of the node", "Windows") else NAMESPACE
    pod = make()
    if namespace == "default":
        engines.patch(
            "/api/v1/namespaces/default",
            headers={"Content-Type": "application/merge-patch+json"},
            json={"metadata": {"labels": {"gapwatch.io/injection": "enabled"}}},
        )
    answer = created(engines, copy.deepcopy(pod), namespace)
    assert reason in answer.json()["metadata"]["annotations"][INJECTED]
    assert reason in answer.headers["warning"] and "gapwatch is not in this pod" in answer.headers["warning"]
    containers = answer.json()["spec"].get("initContainers", []) + answer.json()["spec"]["containers"]
    before = pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
    assert [c["name"] for c in containers] == [c["name"] for c in before]


def test_a_namespace_without_the_label_is_left_alone_and_the_creator_hears_why(engines: httpx.Client) -> None:
    answer = created(engines, engine_pod(), OUTSIDE)
    assert "initContainers" not in answer.json()["spec"]
    assert "its namespace has no label gapwatch.io/injection: enabled" in answer.headers["warning"]


@pytest.mark.parametrize("pod", [engine_pod(labels={}), engine_pod({"gapwatch.io/opt-out": "true"})])
def test_who_does_not_ask_or_opts_out_is_left_alone_in_silence(engines: httpx.Client, pod: Pod) -> None:
    answer = created(engines, pod)
    assert "initContainers" not in answer.json()["spec"] and "warning" not in answer.headers
    assert INJECTED not in answer.json()["metadata"].get("annotations", {})


def test_a_guaranteed_pod_stays_guaranteed(engines: httpx.Client) -> None:
    pod = engine_pod(resources={"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}})
    assert created(engines, pod).json()["status"]["qosClass"] == "Guaranteed"


def test_it_is_the_sidecar_of_the_manifest(engines: httpx.Client) -> None:
    """But for its port's name, its group (a foreign pod has one of its own), and its resources (requests = limits)."""
    items = yaml.safe_load_all((CHART.parents[1] / "kubernetes/sidecar.yaml").read_text())
    [shipped] = [
        item["spec"]["template"]["spec"]["initContainers"][0] for item in items if item["kind"] == "Deployment"
    ]
    ours = sidecar_of(created(engines, engine_pod()))
    shipped["ports"][0]["name"] = "gapwatch"
    for probe in ("startupProbe", "livenessProbe"):
        shipped[probe]["httpGet"]["port"] = 9464
    own = {"runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    shipped["securityContext"] |= own
    del shipped["resources"]
    assert sorted(v["name"] for v in ours["env"]) == sorted(v["name"] for v in shipped["env"])
    del ours["env"], shipped["env"]
    assert holds(ours, shipped), (ours, shipped)


ANNOTATED = {
    "gapwatch.io/base": "org/model@v2",
    "gapwatch.io/adapters": "ticket-router, team/rewriter",
    "gapwatch.io/topic": "other.topic",
    "gapwatch.io/budget": "1024",
    "gapwatch.io/engine-port": "8001",
    "gapwatch.io/image": "registry.example.com/gapwatch:0.2.0",
    "gapwatch.io/cpu": "1",
    "gapwatch.io/memory": "1Gi",
}


def test_annotations_choose_what_is_watched_and_at_what_cost(engines: httpx.Client, tmp_path: Path) -> None:
    answer = created(engines, engine_pod(ANNOTATED))
    (tmp_path / "gapwatch.yaml").write_text(answer.json()["metadata"]["annotations"]["gapwatch.io/configuration"])
    config = load(tmp_path / "gapwatch.yaml")
    [model] = config.models
    assert (config.role, model.name, model.served and model.served.url) == (
        "sidecar",
        "org/model@v2",
        "http://localhost:8001",
    )
    assert [(a.name, str(a.canaries)) for a in model.adapters] == [
        (name, f"/models/canaries/{name}.jsonl") for name in ("ticket-router", "team/rewriter")
    ]
    assert config.kafka is not None
    assert (config.kafka.topic, config.probes.token_budget_per_round) == ("other.topic", 1024)
    sidecar = sidecar_of(answer)
    assert sidecar["image"] == "registry.example.com/gapwatch:0.2.0"
    assert sidecar["resources"] == {kind: {"cpu": "1", "memory": "1Gi"} for kind in ("requests", "limits")}


def test_without_annotations_it_is_the_configuration_of_the_chart(engines: httpx.Client, tmp_path: Path) -> None:
    text = created(engines, engine_pod()).json()["metadata"]["annotations"]["gapwatch.io/configuration"]
    (tmp_path / "gapwatch.yaml").write_text(text)
    config = load(tmp_path / "gapwatch.yaml")
    assert config.kafka is not None
    assert (config.kafka.topic, config.probes.token_budget_per_round, config.models[0].name) == (
        "llm.interactions",
        512,
        "smollm2",
    )


def test_a_configmap_of_the_namespace_takes_its_place(engines: httpx.Client) -> None:
    answer = created(engines, engine_pod({"gapwatch.io/configmap": "own"}))
    assert "gapwatch.io/configuration" not in answer.json()["metadata"]["annotations"]
    [volume] = [v for v in answer.json()["spec"]["volumes"] if v["name"] == "gapwatch-config"]
    assert (volume["configMap"]["name"], volume["configMap"]["optional"]) == ("own", True)


@pytest.fixture(scope="module")
def pulling(engines: httpx.Client, cluster: Helm) -> Iterator[httpx.Client]:
    """The same release with the names of two pull secrets."""
    chart = ("injector", str(CHART), "--namespace", NAMESPACE, *values("injected-vllm"))
    cluster.run("upgrade", *chart, "--set", "injection.pullSecrets={of-gapwatch,of-both}")
    until(lambda: bool(created(engines, engine_pod()).json()["spec"].get("imagePullSecrets")))
    yield engines
    cluster.run("upgrade", *chart)
    until(lambda: not created(engines, engine_pod()).json()["spec"].get("imagePullSecrets"))


@pytest.mark.parametrize("own", [[], ["of-engine", "of-both"]])
def test_a_pod_gets_the_pull_secrets_of_its_sidecar_beside_its_own(pulling: httpx.Client, own: list[str]) -> None:
    pod = engine_pod(imagePullSecrets=[{"name": name} for name in own]) if own else engine_pod()
    answer = created(pulling, pod)
    names = [secret["name"] for secret in answer.json()["spec"]["imagePullSecrets"]]
    assert names == [*own, *(name for name in ("of-gapwatch", "of-both") if name not in own)]
    assert "warning" not in answer.headers
    assert "imagePullSecrets" not in created(pulling, engine_pod({"gapwatch.io/opt-out": "true"})).json()["spec"]


INVALID: dict[str, Callable[[], Pod]] = {
    "gapwatch.io/image": lambda: engine_pod({"gapwatch.io/image": "no image"}),
    "gapwatch.io/cpu": lambda: engine_pod({"gapwatch.io/cpu": "-1"}),
    "gapwatch.io/memory": lambda: engine_pod({"gapwatch.io/memory": "much"}),
    "gapwatch.io/configmap": lambda: engine_pod({"gapwatch.io/configmap": "No Name"}),
    "gapwatch.io/topic": lambda: engine_pod({"gapwatch.io/topic": 'x"\nrole: all'}),
    "gapwatch.io/budget": lambda: engine_pod({"gapwatch.io/budget": "0x10"}),
    "gapwatch.io/engine-port": lambda: engine_pod({**ANNOTATED, "gapwatch.io/engine-port": "http"}),
    "gapwatch.io/base and": lambda: engine_pod({"gapwatch.io/adapters": "x"}),
    "gapwatch.io/base is": lambda: engine_pod({"gapwatch.io/base": "a\nb", "gapwatch.io/adapters": "x"}),
    "gapwatch.io/adapters are": lambda: engine_pod({"gapwatch.io/base": "a", "gapwatch.io/adapters": 'x", path: "/'}),
    "gapwatch.io/models-volume": lambda: engine_pod({"gapwatch.io/models-volume": "weights"}),
    "gapwatch.io/engine-port comes": lambda: engine_pod({"gapwatch.io/engine-port": "8001"}),
}


@pytest.mark.parametrize("named", INVALID)
def test_a_senseless_annotation_is_named_and_the_pod_goes_in(engines: httpx.Client, named: str) -> None:
    answer = created(engines, INVALID[named]())
    assert named in answer.json()["metadata"]["annotations"][INJECTED]
    assert "initContainers" not in answer.json()["spec"]


def test_a_second_look_at_an_injected_pod_changes_nothing(engines: httpx.Client) -> None:
    """As after a webhook behind the policy: its own result is handed in."""
    once = created(engines, engine_pod()).json()
    metadata = {key: once["metadata"][key] for key in ("annotations", "labels")} | {"generateName": "engine-"}
    again = created(engines, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": once["spec"]}).json()
    assert again["spec"] == once["spec"] and again["metadata"]["annotations"] == once["metadata"]["annotations"]


def test_without_its_configmap_pods_go_in_and_the_creator_hears_why(engines: httpx.Client, cluster: Helm) -> None:
    place = f"/api/v1/namespaces/{NAMESPACE}/configmaps/injector-gapwatch-inject"
    stored = engines.get(place).json()
    assert engines.delete(place).status_code == httpx.codes.OK
    try:
        until(lambda: "initContainers" not in created(engines, engine_pod()).json()["spec"])
        warning = created(engines, engine_pod()).headers["warning"]
        assert "its ConfigMap injector-gapwatch-inject is gone" in warning
    finally:
        del stored["metadata"]["resourceVersion"], stored["metadata"]["uid"]
        answer = engines.post(f"/api/v1/namespaces/{NAMESPACE}/configmaps", json=stored)
        assert answer.status_code == httpx.codes.CREATED, answer.text
