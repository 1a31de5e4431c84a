"""The chart's account for KServe's objects, on a real API server with that kind: it reads one object, and no other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from agent.config import load
from agent.desired_state.kserve import Service, Source, read_service
from agent.desired_state.watch import compared, source_of
from agent.errors import Retryable
from tests.deploy import cluster_tools
from tests.deploy.helm import CHART, Helm, NotRendered, only, values

pytestmark = pytest.mark.cluster

NAMESPACE = "desired"
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "llminferenceservices.serving.kserve.io"},
}
# As KServe defines it, but for the fields that are not read here.
NAMED = {"type": "object", "required": ["uri"], "properties": {"uri": {"type": "string"}, "name": {"type": "string"}}}
LORA = {"type": "object", "properties": {"adapters": {"type": "array", "items": NAMED}}}
MODEL = NAMED | {"properties": {**NAMED["properties"], "lora": LORA}}  # type: ignore[dict-item]
SPEC = {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"model": MODEL}}
SCHEMA = {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC}}}
NAMES = {"kind": "LLMInferenceService", "plural": "llminferenceservices", "singular": "llminferenceservice"}
DESIRED = {"llm_inference_service": f"{NAMESPACE}/support"}


def values_with_desired(folder: Path) -> tuple[str, str]:
    config = yaml.safe_load((CHART / "presets/witness.yaml").read_text())["config"]
    config["models"][0]["desired"] = DESIRED
    (folder / "values.yaml").write_text(yaml.safe_dump({"config": config}))
    return "--values", str(folder / "values.yaml")


def test_without_a_desired_state_there_is_no_account_and_no_token(helm: Helm) -> None:
    items = helm.render("witness")
    assert not {"ServiceAccount", "Role", "RoleBinding"} & {item["kind"] for item in items}
    assert "serviceAccountToken" not in json.dumps(items) and "6443" not in json.dumps(items)


def test_the_agent_that_runs_on_has_the_account_and_the_jobs_have_not(helm: Helm, tmp_path: Path) -> None:
    items = helm.render("witness", *values_with_desired(tmp_path))
    spec = only(items, "StatefulSet")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == "gapwatch" and not spec["automountServiceAccountToken"]
    others = [item for item in items if item["kind"] == "Job"]
    assert others and "gapwatch-api" not in json.dumps(others) and "serviceAccountName" not in json.dumps(others)
    assert only(items, "Role")["rules"][0]["verbs"] == ["get"]


def test_injected_sidecars_are_not_told_of_it(helm: Helm, tmp_path: Path) -> None:
    items = helm.render("injected-vllm", *values_with_desired(tmp_path), "--kube-version", "1.36.0")
    assert "llm_inference_service" not in json.dumps(only(items, "ConfigMap", "inject"))
    assert "ServiceAccount" not in {item["kind"] for item in items}


def test_the_kustomize_component_gives_the_witness_the_same(tmp_path: Path) -> None:
    kubectl = cluster_tools.path_of("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl beside the interpreter or on the PATH (tests/deploy/cluster_tools.py)")
    kustomize, here = CHART.parents[1] / "kustomize", tmp_path.resolve()
    folders = [os.path.relpath(kustomize / name, here) for name in ("witness", "desired-state")]
    own = {"kind": "Kustomization", "resources": folders[:1], "components": folders[1:]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    built = subprocess.run(
        [kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    items = list(yaml.safe_load_all(built.stdout))
    for item in items:
        assert kubernetes_validate.validate(item, "1.37", strict=True) == "1.37"
    spec = only(items, "StatefulSet")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == only(items, "ServiceAccount")["metadata"]["name"]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "gapwatch-api"]
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["path"] == "token"
    assert only(items, "Role")["rules"][0]["resourceNames"] == ["support"]


def test_a_name_of_another_shape_is_refused(helm: Helm, tmp_path: Path) -> None:
    option = "config.models[0].desired.llm_inference_service=support"
    with pytest.raises(NotRendered, match="llm_inference_service"):
        helm.render("witness", *values_with_desired(tmp_path), "--set", option)


@pytest.fixture(scope="module")
def account(api: httpx.Client, cluster: Helm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pod has: a token of the chart's account, and the server's authority."""
    folder = tmp_path_factory.mktemp("account")
    versions = [
        {"name": name, "served": True, "storage": name == "v1alpha2", "schema": SCHEMA}
        for name in ("v1alpha1", "v1alpha2")
    ]
    spec = {"group": "serving.kserve.io", "scope": "Namespaced", "names": NAMES, "versions": versions}
    posted = api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=CRD | {"spec": spec})
    assert posted.status_code == httpx.codes.CREATED, posted.text
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
    assert api.post("/api/v1/namespaces", json=namespace).status_code == httpx.codes.CREATED
    chart = ("gapwatch", str(CHART), "-n", NAMESPACE, *values("witness"), *values_with_desired(folder))
    cluster.run("install", *chart)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = api.post(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/gapwatch/token", json=request)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    (folder / "token").write_text(answer.json()["status"]["token"])
    return folder


def apply(api: httpx.Client, name: str, *adapters: str) -> None:
    lora = {"adapters": [{"name": adapter, "uri": f"s3://adapters/{adapter}"} for adapter in adapters]}
    spec = {"model": {"uri": "hf://org/smollm2", "name": "smollm2", "lora": lora}}
    item = {"apiVersion": "serving.kserve.io/v1alpha2", "kind": NAMES["kind"], "metadata": {"name": name}, "spec": spec}
    place = f"/apis/serving.kserve.io/v1alpha2/namespaces/{NAMESPACE}/llminferenceservices"
    api.delete(f"{place}/{name}")
    answer = api.post(place, params={"fieldValidation": "Strict"}, json=item)
    assert answer.status_code == httpx.codes.CREATED, answer.text


def test_its_pod_is_admitted_under_restricted_without_a_warning(api: httpx.Client, account: Path) -> None:
    stateful = api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets/gapwatch-witness").json()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w"}, "spec": stateful["spec"]["template"]["spec"]}
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = api.post(f"/api/v1/namespaces/{NAMESPACE}/pods", params=params, json=pod)
    assert answer.status_code == httpx.codes.CREATED and "warning" not in answer.headers, answer.text
    assert (account / "token").exists() and answer.json()["spec"]["serviceAccountName"] == "gapwatch"


def test_the_account_reads_the_object_that_is_named_and_no_other(
    api: httpx.Client, account: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [authority] = tmp_path_factory.getbasetemp().glob("cluster[0-9]/certs/apiserver.crt")
    shutil.copy(authority, account / "ca.crt")
    apply(api, "support", "ticket-router", "rewriter")
    apply(api, "other", "x")
    url = str(api.base_url)
    assert read_service(Source(url, f"{NAMESPACE}/support", account)) == Service(
        "smollm2", ("ticket-router", "rewriter"), True
    )
    for name in (f"{NAMESPACE}/other", "default/support"):
        with pytest.raises(Retryable, match="403, wanted the right to get"):
            read_service(Source(url, name, account))
    settings = yaml.safe_load((account / "values.yaml").read_text())["config"]
    settings["models"][0]["desired"] |= {"api_url": url.rstrip("/"), "api_dir": str(account)}
    (tmp_path / "gapwatch.yaml").write_text(yaml.safe_dump(settings | {"role": "witness"}))
    [model] = load(tmp_path / "gapwatch.yaml").models
    source = source_of(model)
    assert source is not None
    assert compared(model, source).words == ("desired and not watched: rewriter",)
    apply(api, "support", "ticket-router")
    assert compared(model, source).words == ()
