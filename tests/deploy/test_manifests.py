"""The manifests: valid to the letter, and in agreement with the configuration and the image they carry."""

from __future__ import annotations

import copy
import re
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.cli.run import PORT_VARIABLE
from agent.config import Config, load

DEPLOY = Path(__file__).parents[2] / "deploy"
# A PrometheusRule is the operator's and in no schema of Kubernetes: test_prometheus_rules.py.
FILES = sorted(set((DEPLOY / "kubernetes").rglob("*.yaml")) - {DEPLOY / "kubernetes/prometheus-rules.yaml"})
KUBERNETES = ["1.29", "1.37"]  # the oldest with native sidecars by default, the newest with a schema
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes/sidecar.yaml").read_text()))
SECRET: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes/examples/secret.yaml").read_text())


def shipped(kind: str) -> dict[str, Any]:
    [found] = [item for item in OBJECTS if item["kind"] == kind]
    return copy.deepcopy(found)


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = shipped("Deployment")["spec"]["template"]["spec"]
    return spec


def sidecar() -> dict[str, Any]:
    [found] = pod()["initContainers"]
    return dict(found)


def mounts(*, writable: bool) -> dict[PurePosixPath, str]:
    """Where the sidecar may write, or may only read: folder to volume."""
    found = [m for m in sidecar()["volumeMounts"] if m.get("readOnly", False) is not writable]
    return {PurePosixPath(mount["mountPath"]): mount["name"] for mount in found}


def lies_in(path: Path | str, folders: dict[PurePosixPath, str]) -> str | None:
    """The volume a path lies on."""
    return next((name for folder, name in folders.items() if PurePosixPath(path).is_relative_to(folder)), None)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """What the container loads: the text of the ConfigMap, as the file it is mounted as."""
    [(name, text)] = shipped("ConfigMap")["data"].items()
    (tmp_path / name).write_text(text)
    return load(tmp_path / name)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_manifest_is_valid(file: Path, version: str) -> None:
    for item in yaml.safe_load_all(file.read_text()):
        assert kubernetes_validate.validate(item, version, strict=True) == version


@pytest.mark.parametrize("version", KUBERNETES)
def test_a_misspelt_field_is_not(version: str) -> None:
    deployment = shipped("Deployment")
    container = deployment["spec"]["template"]["spec"]["initContainers"][0]
    container["startupProb"] = container.pop("startupProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="startupProb"):
        kubernetes_validate.validate(deployment, version, strict=True)


def test_the_configmap_says_what_the_sample_says(config: Config) -> None:
    assert config.model_dump(exclude={"pod"}) == load(DEPLOY / "gapwatch.yaml").model_dump(exclude={"pod"})


def test_the_container_reads_the_mounted_configuration() -> None:
    map_name = shipped("ConfigMap")["metadata"]["name"]
    volume = next(v for v in pod()["volumes"] if v.get("configMap", {}).get("name") == map_name)
    folder = next(path for path, name in mounts(writable=False).items() if name == volume["name"])
    assert sidecar()["args"] == ["run", "--config", str(folder / "gapwatch.yaml")]
    assert all("subPath" not in mount for mount in sidecar()["volumeMounts"])


def test_what_the_configuration_writes_lies_on_an_empty_dir_with_a_limit(config: Config) -> None:
    limited = {v["name"] for v in pod()["volumes"] if "sizeLimit" in v.get("emptyDir", {})}
    for path in (config.state_dir, config.probes.cache_dir, "/tmp"):
        assert lies_in(path, mounts(writable=True)) in limited, path


def test_what_the_configuration_reads_is_mounted_read_only_and_shared_with_the_engine(config: Config) -> None:
    [model] = config.models
    files = [model.path, config.probes.golden_dir]
    files += [file for adapter in model.adapters for file in (adapter.path, adapter.canaries)]
    assert {lies_in(str(file), mounts(writable=False)) for file in files} == {"models"}
    [engine] = pod()["containers"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in engine["volumeMounts"]
    served = " ".join(engine["command"] + engine["args"])
    assert model.path and model.path in served and all(f"{a.name}={a.path}" in served for a in model.adapters)


def test_secrets_are_mounted_files_with_the_names_that_the_configuration_reads(config: Config) -> None:
    assert config.alerts.pagerduty is not None and config.clickhouse.password_file is not None
    files = {config.alerts.pagerduty.routing_key_file, config.clickhouse.password_file}
    [volume] = [v for v in pod()["volumes"] if "secret" in v]
    assert volume["secret"]["secretName"] == SECRET["metadata"]["name"]
    assert {lies_in(str(file), mounts(writable=False)) for file in files} == {volume["name"]}
    assert {file.name for file in files} == set(SECRET["stringData"])
    assert all(value.startswith("REPLACE-WITH") for value in SECRET["stringData"].values())
    assert "Secret" not in {item["kind"] for item in OBJECTS}, "applying the folder would overwrite real keys"


def test_the_readme_makes_the_same_secret() -> None:
    named = re.findall(r"--from-file=([\w-]+)=", (DEPLOY / "README.md").read_text())
    assert set(named) == set(SECRET["stringData"])


def test_gapwatch_is_a_native_sidecar_that_waits_for_nobody() -> None:
    assert sidecar()["restartPolicy"] == "Always"
    for probe in ("startupProbe", "livenessProbe"):
        assert sidecar()[probe]["httpGet"] == {"path": "/livez", "port": "metrics"}
        assert "initialDelaySeconds" not in sidecar()[probe], "the engine waits for it"
    assert "readinessProbe" not in sidecar(), "it would take the serving pod out of its Service"
    assert "preStop" not in sidecar().get("lifecycle", {})


def test_a_start_on_a_starved_node_is_given_time_and_a_slow_answer_too() -> None:
    """A restart would begin it again, and the engine waits for it: 5 minutes, of answers within 5 s."""
    for container in (sidecar(), *WITNESS["StatefulSet"]["spec"]["template"]["spec"]["containers"]):
        start = container["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 300 and start["timeoutSeconds"] >= 5
        alive = container["livenessProbe"]
        assert alive["timeoutSeconds"] >= 5 and alive["periodSeconds"] * alive["failureThreshold"] >= 120


def test_the_pod_starts_without_the_secret_and_without_the_configmap() -> None:
    """Neither may keep the engine from starting: the kubelet waits for a volume that is not optional for ever."""
    own = [v for v in pod()["volumes"] if v["name"] in {mount["name"] for mount in sidecar()["volumeMounts"]}]
    optional = {kind: v[kind].get("optional") for v in own for kind in ("configMap", "secret") if kind in v}
    assert optional == {"configMap": True, "secret": True}
    assert not [variable for variable in sidecar()["env"] if {"secretKeyRef", "configMapKeyRef"} & variable.keys()]
    assert "envFrom" not in sidecar()


def test_livez_answers_where_the_probes_look_also_without_a_configuration() -> None:
    [port] = sidecar()["ports"]
    variables = {variable["name"]: variable.get("value") for variable in sidecar()["env"]}
    assert variables[PORT_VARIABLE] == str(port["containerPort"])
    assert pod()["enableServiceLinks"] is False, "a Service named gapwatch-health would set the same variable"


def test_the_metrics_port_is_the_one_in_the_configuration(config: Config) -> None:
    [port] = sidecar()["ports"]
    assert port == {"name": "metrics", "containerPort": config.telemetry.prometheus_port}
    annotations = shipped("Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(config.telemetry.prometheus_port)


def test_the_pod_gives_more_time_to_end_than_the_agent_takes(config: Config) -> None:
    grace_s = pod()["terminationGracePeriodSeconds"]
    # Sidecars are told to stop only after the engine has ended: the budget has to fit beside what the engine needs.
    assert config.shutdown_budget <= 5.0 < grace_s / 2


def test_the_sidecar_is_locked_down() -> None:
    security = sidecar()["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert shipped("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_memory_is_reserved_and_bounded_and_images_are_pinned() -> None:
    for container in pod()["initContainers"] + pod()["containers"]:
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert re.search(r":v?\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", container["image"]), container["image"]


def test_the_network_policy_lets_the_configured_addresses_out(config: Config) -> None:
    policy = shipped("NetworkPolicy")["spec"]
    labels = shipped("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Egress"]
    assert config.kafka is not None
    addresses = [*config.kafka.bootstrap_servers, config.clickhouse.dsn.split("@")[1].split("/")[0]]
    for host, port in (address.split(":") for address in addresses):
        namespace = host.split(".")[1]
        assert (namespace, int(port)) in reachable(policy["egress"]), host
    assert (None, 443) in reachable(policy["egress"]) and ("kube-system", 53) in reachable(policy["egress"])


def reachable(rules: list[dict[str, Any]]) -> set[tuple[str | None, int]]:
    """(namespace, port) of each egress rule; None for an address block."""
    name = "kubernetes.io/metadata.name"
    return {
        (to.get("namespaceSelector", {}).get("matchLabels", {}).get(name), port["port"])
        for rule in rules
        for to in rule["to"]
        for port in rule["ports"]
    }


WITNESS = {item["kind"]: item for item in yaml.safe_load_all((DEPLOY / "kubernetes/witness.yaml").read_text())}


@pytest.fixture
def witness_config(tmp_path: Path) -> Config:
    (tmp_path / "gapwatch.yaml").write_text(WITNESS["ConfigMap"]["data"]["gapwatch.yaml"])
    return load(tmp_path / "gapwatch.yaml")


def test_the_witness_says_what_the_sidecar_says_but_for_its_role(config: Config, witness_config: Config) -> None:
    assert (config.role, witness_config.role) == ("sidecar", "witness")
    own = {"pod", "role"}
    assert witness_config.model_dump(exclude=own) == config.model_dump(exclude=own)


def test_the_witness_has_the_models_read_only_room_to_write_and_no_rights(witness_config: Config) -> None:
    spec = WITNESS["StatefulSet"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    where = {PurePosixPath(m["mountPath"]): m["name"] for m in container["volumeMounts"]}
    read_only = {m["name"] for m in container["volumeMounts"] if m.get("readOnly")}
    [model] = witness_config.models
    assert {lies_in(path, where) for path in (str(model.path), witness_config.probes.golden_dir)} == {"models"}
    assert {"models", "gapwatch-config", "gapwatch-secrets"} == read_only
    limited = {v["name"] for v in spec["volumes"] if "sizeLimit" in v.get("emptyDir", {})}
    for path in (witness_config.state_dir, witness_config.probes.cache_dir, "/tmp"):
        assert lies_in(path, where) in limited
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]} and spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert witness_config.shutdown_budget < spec["terminationGracePeriodSeconds"]
    assert WITNESS["StatefulSet"]["metadata"]["namespace"] == shipped("Namespace")["metadata"]["name"]


def test_the_witness_has_a_name_that_its_group_knows_and_reaches_what_the_sidecar_reaches() -> None:
    stateful = WITNESS["StatefulSet"]["spec"]
    assert stateful["serviceName"] == WITNESS["Service"]["metadata"]["name"]
    labels = stateful["template"]["metadata"]["labels"]
    for selector in (stateful["selector"]["matchLabels"], WITNESS["Service"]["spec"]["selector"]):
        assert selector.items() <= labels.items()
    policy = WITNESS["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9464}]}]
    budget = WITNESS["PodDisruptionBudget"]["spec"]
    assert (
        budget["selector"]["matchLabels"].items() <= labels.items() and budget["maxUnavailable"] < stateful["replicas"]
    )
    [spread] = stateful["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    assert reachable(policy["egress"]) == reachable(shipped("NetworkPolicy")["spec"]["egress"])
