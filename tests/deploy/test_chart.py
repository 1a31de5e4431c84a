"""The chart, rendered by the real Helm: valid, in agreement with program and manifests, and strict about its values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.config import Config, load
from tests.deploy.helm import CHART, PRESETS, Helm, Manifest, NotRendered, only, pod_specs
from tests.deploy.test_manifests import reachable
from tests.deploy.values_schema import FILE, rewritten

DEPLOY = CHART.parents[1]
SAMPLE = DEPLOY / "gapwatch.yaml"
# Everything that has no default of on.
WHOLE = ("--set", "monitoring.podMonitor.enabled=true,monitoring.prometheusRule.enabled=true,jobs.enrol.enabled=true")
WORKLOADS = [preset for preset in PRESETS if not preset.startswith("injected")]
# Of the operators, which bring their own schemas.
NOT_OF_KUBERNETES = ("monitoring.coreos.com/v1",)


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> dict[str, list[Manifest]]:
    return {preset: helm.render(preset, *(WHOLE if preset == "witness" else ())) for preset in PRESETS}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_valid_to_the_letter(rendered: dict[str, list[Manifest]], preset: str) -> None:
    items = [item for item in rendered[preset] if item["apiVersion"] not in NOT_OF_KUBERNETES]
    assert len(items) > 3
    for item in items:
        assert kubernetes_validate.validate(item, "1.37", strict=True) == "1.37"
        if preset in WORKLOADS:
            assert kubernetes_validate.validate(item, "1.29", strict=True) == "1.29"


@pytest.mark.parametrize("preset", PRESETS)
def test_lint_has_nothing_to_say_but_that_there_is_no_icon(helm: Helm, preset: str) -> None:
    text = helm.run("lint", "--strict", str(CHART), "--values", str(CHART / f"presets/{preset}.yaml"))
    assert re.findall(r"^\[(\w+)\] (.*)$", text, re.MULTILINE) == [("INFO", "Chart.yaml: icon is recommended")]


def configuration(item: Manifest, folder: Path) -> Config:
    (folder / "gapwatch.yaml").write_text(item["data"]["gapwatch.yaml"])
    return load(folder / "gapwatch.yaml")


@pytest.mark.parametrize("preset", WORKLOADS)
def test_what_agents_and_jobs_read_is_a_configuration_of_their_role(
    rendered: dict[str, list[Manifest]], preset: str, tmp_path: Path
) -> None:
    for suffix in (preset, "jobs"):
        config = configuration(only(rendered[preset], "ConfigMap", suffix), tmp_path)
        assert config.role == preset
        grace_s = {spec.get("terminationGracePeriodSeconds", 30) for spec in pod_specs(rendered[preset]).values()}
        assert config.shutdown_budget < min(grace_s)


def test_numbers_reach_the_program_as_they_were_written(helm: Helm, tmp_path: Path) -> None:
    """Helm keeps numbers as floats, and may write 2e+06 for one."""
    settings = "config.kafka.max_record_bytes=2000000,config.scoring.numeric=0.00005,config.probes.every=90s"
    config = configuration(only(helm.render("witness", "--set", settings), "ConfigMap", "witness"), tmp_path)
    assert config.kafka is not None
    assert (config.kafka.max_record_bytes, config.scoring.numeric, config.probes.every) == (2_000_000, 5e-5, 90.0)


def test_the_sample_configuration_is_accepted_whole(helm: Helm, tmp_path: Path) -> None:
    """Every setting that the program knows by default has the type that the schema wants."""
    sample = yaml.safe_load(SAMPLE.read_text())
    sample.pop("role")
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"config": sample, "witness": {"enabled": True}}))
    items = helm.render("witness", "--values", str(tmp_path / "values.yaml"))
    told_by_file = load(SAMPLE).model_dump(exclude={"pod", "role"})
    assert (
        configuration(only(items, "ConfigMap", "witness"), tmp_path).model_dump(exclude={"pod", "role"})
        | {"clickhouse": told_by_file["clickhouse"]}
        == told_by_file
    )


def test_the_schema_is_of_this_program() -> None:
    text = FILE.read_text()
    assert rewritten(text) == text, "python -m tests.deploy.values_schema"


def test_the_schema_knows_the_values_that_there_are_and_no_others() -> None:
    schema = json.loads(FILE.read_text())
    assert settings_of(yaml.safe_load((CHART / "values.yaml").read_text())) == named_by(schema, schema) - {"global"}


def settings_of(values: dict[str, Any], above: str = "") -> set[str]:
    names: set[str] = set()
    for key, value in values.items():
        path = f"{above}{key}"
        open_ended = path == "config" or re.search(r"(resources|labels|annotations|Annotations|telemetry)$", path)
        inner = settings_of(value, f"{path}.") if isinstance(value, dict) and value and not open_ended else set()
        names |= {path} | inner
    return names


def named_by(node: dict[str, Any], schema: dict[str, Any], above: str = "") -> set[str]:
    names: set[str] = set()
    for key, of in node.get("properties", {}).items():
        reference = of.get("$ref", "").rpartition("/")[2]
        inner = schema["$defs"][reference] if reference not in ("", "config", "resources") else of
        path = f"{above}{key}"
        names |= {path} | (named_by(inner, schema, f"{path}.") if path != "networkPolicy.telemetry" else set())
    return names


REFUSED = {
    "witnes.enabled=true": "'witnes' not allowed",
    "witness.replica=3": "'replica' not allowed",
    "witness.replicas=two": "got string, want integer",
    "config.role=all": "'role' not allowed",
    "config.kafka.topik=x": "'topik' not allowed",
    "config.models[0].adapters[0].nam=x": "'nam' not allowed",
    "config.alerts.pagerduty.routing_key=0123": "'routing_key' not allowed",
    "config.sampling.rate=2": "maximum: got 2, want 1",
    "image.digest=abc": "does not match pattern",
    "injection.memory=lots": "does not match pattern",
    "networkPolicy.kafka.port=9092": "'port' not allowed",
    "jobs.migrate.secret=x": "'secret' not allowed",
    "monitoring.grafana=true": "'grafana' not allowed",
    "witness.resources.limit.memory=1Gi": "'limit' not allowed",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_an_unknown_or_senseless_value_is_refused_by_name(helm: Helm, setting: str) -> None:
    with pytest.raises(NotRendered, match=re.escape(REFUSED[setting])):
        helm.render("witness", "--set", setting)


UNFIT = [
    ("witness", ("--set", "config.models=null"), "got null, want array"),
    ("witness", ("--set", "config.kafka=null"), "config.kafka says where"),
    ("apart", ("--set", "jobs.enrol.enabled=true"), "without witnesses run `gapwatch enrol --all`"),
    ("injected-vllm", ("--kube-version", "1.35"), "Kubernetes v1.35 has no MutatingAdmissionPolicy"),
    ("witness", ("--kube-version", "1.28"), "incompatible with Kubernetes"),
]


@pytest.mark.parametrize(("preset", "options", "reason"), UNFIT, ids=[reason for _, _, reason in UNFIT])
def test_what_does_not_fit_together_is_refused_with_the_reason(
    helm: Helm, preset: str, options: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(NotRendered, match=re.escape(reason)):
        helm.render(preset, *options)


def test_without_a_configuration_the_first_thing_said_is_what_to_write(helm: Helm) -> None:
    with pytest.raises(NotRendered, match=re.escape("config.models: there is none; name the base and its adapters")):
        helm.run("template", "gapwatch", str(CHART), "--set", "apart.enabled=true,jobs.migrate.enabled=false")


def test_a_witness_is_that_of_the_manifest(rendered: dict[str, list[Manifest]]) -> None:
    """But for who it belongs to: names and labels are the release's."""
    [shipped] = [
        item
        for item in yaml.safe_load_all((DEPLOY / "kubernetes/witness.yaml").read_text())
        if item["kind"] == "StatefulSet"
    ]
    ours = only(rendered["witness"], "StatefulSet")["spec"]
    for named in ("serviceName", "selector"):
        assert ours.pop(named) != shipped["spec"].pop(named) or named == "serviceName"
    assert "annotations" not in ours["template"].pop("metadata"), "scraped by its PodMonitor"
    del shipped["spec"]["template"]["metadata"]
    for stateful in (ours, shipped["spec"]):
        [spread] = stateful["template"]["spec"]["topologySpreadConstraints"]
        assert spread.pop("labelSelector")
    [container] = ours["template"]["spec"]["containers"]
    assert container.pop("imagePullPolicy") == "IfNotPresent", "what the API takes where a manifest says nothing"
    assert ours == shipped["spec"]


def test_the_network_policy_lets_the_configured_addresses_out_and_scraping_in(
    rendered: dict[str, list[Manifest]], tmp_path: Path
) -> None:
    policy = only(rendered["witness"], "NetworkPolicy")["spec"]
    config = configuration(only(rendered["witness"], "ConfigMap", "witness"), tmp_path)
    assert config.kafka is not None
    for address in (*config.kafka.bootstrap_servers, config.clickhouse.dsn.split("@")[1].split("/")[0]):
        host, port = address.split(":")
        assert (host.split(".")[1], int(port)) in reachable(policy["egress"])
    blocks = {to["ipBlock"]["cidr"] for rule in policy["egress"] for to in rule["to"] if "ipBlock" in to}
    assert blocks == {"169.254.20.10/32", "0.0.0.0/0", "::/0"}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"protocol": "TCP", "port": config.telemetry.prometheus_port}]}]
    for spec in rendered["witness"]:
        labels = spec.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        assert not labels or policy["podSelector"]["matchLabels"].items() <= labels.items()


def test_a_peer_without_addresses_is_no_rule(helm: Helm) -> None:
    """An empty list of peers would mean everybody."""
    policy = only(helm.render("witness", "--set", "networkPolicy.alerts.to=null"), "NetworkPolicy")["spec"]
    assert (None, 443) not in reachable(policy["egress"])
    assert all(rule["to"] and rule["ports"] for rule in policy["egress"])


def test_the_account_that_alters_tables_is_in_its_job_alone(rendered: dict[str, list[Manifest]]) -> None:
    secrets = {
        name: {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        for name, spec in pod_specs(rendered["witness"]).items()
    }
    owners = {name.rpartition("-")[0] for name, names in secrets.items() if "gapwatch-migrations" in names}
    assert owners == {"Job/gapwatch-migrate"} and len(secrets) == 4


def test_only_the_enrolment_writes_to_the_models(rendered: dict[str, list[Manifest]]) -> None:
    writes = {
        name.rpartition("-")[0]
        for name, spec in pod_specs(rendered["witness"]).items()
        for volume in spec["volumes"]
        if volume["name"] == "models" and not volume["persistentVolumeClaim"].get("readOnly")
    }
    assert writes == {"Job/gapwatch-enrol"}


@pytest.mark.parametrize("preset", WORKLOADS)
def test_every_pod_is_locked_down(rendered: dict[str, list[Manifest]], preset: str) -> None:
    for spec in pod_specs(rendered[preset]).values():
        [container] = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] and not spec["automountServiceAccountToken"]
        assert {"memory"} <= set(container["resources"]["limits"])
        assert "OTEL_RESOURCE_ATTRIBUTES" in {variable["name"] for variable in container["env"]}
        assert all("sizeLimit" in volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume)


def test_a_job_runs_once_for_each_image_and_configuration(helm: Helm) -> None:
    names = [
        only([i for i in helm.render("witness", *options) if "migrate" in i["metadata"]["name"]], "Job")["metadata"]
        for options in ((), (), ("--set", "image.tag=0.2.0"), ("--set", "config.cluster=other"))
    ]
    first, again, image, configured = (metadata["name"] for metadata in names)
    assert first == again and len({first, image, configured}) == 3


def test_the_image_is_the_digest_where_one_is_given(helm: Helm) -> None:
    plain, models = (f"sha256:{digit * 64}" for digit in "01")
    items = helm.render("witness", *WHOLE, "--set", f"image.digest={plain},image.modelsDigest={models}")
    images = {name.split("-")[1]: spec["containers"][0]["image"] for name, spec in pod_specs(items).items()}
    at = "registry.example.com/gapwatch@"
    assert images == {"migrate": at + plain} | dict.fromkeys(("witness", "enrol", "probe"), at + models)


def test_rules_are_those_of_the_folder_and_each_dashboard_has_a_map(helm: Helm) -> None:
    settings = "monitoring.prometheusRule.enabled=true,monitoring.dashboards.enabled=true"
    items = helm.render("witness", "--set", settings)
    shipped = yaml.safe_load((DEPLOY / "kubernetes/prometheus-rules.yaml").read_text())
    assert only(items, "PrometheusRule")["spec"] == shipped["spec"]
    files = {path.name: path.read_text() for path in (DEPLOY.parent / "dashboards/grafana").glob("*.json")}
    maps = [item for item in items if item["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert {name: text for item in maps for name, text in item["data"].items()} == files
    assert len(maps) == len(files)


def test_pods_are_scraped_by_one_way_alone(helm: Helm) -> None:
    """As the manifest has it, or by a PodMonitor: both would send every alert twice."""
    items = list(yaml.safe_load_all((DEPLOY / "kubernetes/witness.yaml").read_text()))
    for monitor, expected in (("false", annotated(items)), ("true", {})):
        assert annotated(helm.render("witness", "--set", f"monitoring.podMonitor.enabled={monitor}")) == expected


def annotated(items: list[Manifest]) -> dict[str, str]:
    return dict(only(items, "StatefulSet")["spec"]["template"]["metadata"].get("annotations", {}))


def test_one_witness_has_no_disruption_budget(helm: Helm) -> None:
    """It would forbid that its node is ever drained."""
    kinds = [item["kind"] for item in helm.render("witness", "--set", "witness.replicas=1")]
    assert "PodDisruptionBudget" not in kinds and "StatefulSet" in kinds


def test_gpu_claims_and_placement_reach_the_pod(helm: Helm) -> None:
    claim = '{"name":"gpu","resourceClaimTemplateName":"one"}'
    options = (
        "--set-json",
        f"witness.resourceClaims=[{claim}]",
        "--set-json",
        'witness.resources.claims=[{"name":"gpu"}]',
    )
    spec = only(helm.render("witness", *options, "--set", "witness.runtimeClassName=nvidia"), "StatefulSet")["spec"]
    pod = spec["template"]["spec"]
    assert (pod["resourceClaims"], pod["runtimeClassName"]) == ([json.loads(claim)], "nvidia")
    assert pod["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]


@pytest.mark.parametrize(
    ("budget", "grace_s"), [('"4s"', 20), ('"25s"', 35), ('"1m"', 70), ('"1500ms"', 20), ("12.5", 23)]
)
def test_a_pod_may_take_longer_to_end_than_its_agent_does(helm: Helm, budget: str, grace_s: int) -> None:
    items = helm.render("witness", "--set-json", f"config.shutdown_budget={budget}")
    assert only(items, "StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace_s
