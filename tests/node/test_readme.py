"""The steps of deploy/README.md, followed word by word on a real API server and a real kubelet, enrolment included.

Not run: ``docker build`` and ``push`` (tests/deploy/test_image.py builds the image by buildah). ``kubectl exec`` and
the end of a Job take a cluster's controllers: the words behind ``--`` are run in the sidecar's container, and a Job's
status is written as its pod ended.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from benchmarks.node.cluster_pod import Cluster, Ended, may_write, run_to_end, running
from benchmarks.node.image import NAME
from benchmarks.node.neighbour import STORE_PASSWORD
from benchmarks.node.sidecar_pod import ROUTING_KEY
from benchmarks.node.single_node import Node
from benchmarks.node.trial import beside
from tests.agent.cli.test_enrol import QUESTIONS
from tests.deploy import cluster_tools
from tests.deploy.api_server import api_server
from tests.node.readme_steps import Shell, commands, shell
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

pytestmark = [pytest.mark.node, pytest.mark.timeout(1500)]

NAMESPACE, STORE_PORT, USER = "llm-serving", 8123, 10001
BASE, ADAPTER = "SmolLM2-135M-Instruct", "ticket-router"
NOT_RUN = ["build", "build", "push", "push"]
JOBS = "apis/batch/v1"
MERGE = {"Content-Type": "application/merge-patch+json"}


@pytest.fixture(scope="module")
def api(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or not all(map(cluster_tools.path_of, ("helm", "kubectl"))):
        pytest.skip("KUBEBUILDER_ASSETS is not set, or helm or kubectl is not here")
    with api_server(Path(assets), tmp_path_factory.mktemp("cluster")) as client:
        yield client


def lay_tiny_models(folder: Path) -> None:
    """Base, adapter and canaries as step 3 wants them on the volume."""
    base = ends_now_and_then(tiny_base(folder / BASE, tied=False))
    tiny_adapter(folder / ADAPTER, base)
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (folder / "canaries").mkdir()
    (folder / f"canaries/{ADAPTER}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    may_write(folder, USER)


def own_values() -> dict[str, Any]:
    """The values of one's own that step 3 asks for: addresses; the image is the node's."""
    image, _, tag = NAME.rpartition(":")
    store = f"clickhouse://gapwatch@127.0.0.1:{STORE_PORT}/gapwatch"
    addresses = {"kafka": {"bootstrap_servers": ["127.0.0.1:9092"]}, "clickhouse": {"dsn": store}}
    return {"image": {"repository": image, "tag": tag, "modelsTag": tag}, "config": addresses}


class Follower:
    """Runs what the steps create, as a cluster would. ended: Jobs by their component"""

    def __init__(self, node: Node, cluster: Cluster) -> None:
        self.node, self.cluster, self.ended = node, cluster, dict[str, Ended]()

    def jobs(self) -> dict[str, dict[str, Any]]:
        listed = self.cluster.api.get(f"/{JOBS}/namespaces/{NAMESPACE}/jobs").json()["items"]
        return {job["metadata"]["labels"]["app.kubernetes.io/component"]: job for job in listed}

    def run_job(self, component: str) -> None:
        """Its pod, to its end; then its status, as the controller would write that."""
        job = self.jobs()[component]
        ended = self.ended[component] = run_to_end(self.node, self.cluster.pod(job["spec"]["template"]))
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        kinds = ("SuccessCriteriaMet", "Complete") if ended.exit_code == 0 else ("FailureTarget", "Failed")
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now, "reason": "Ended"} for kind in kinds]
        status: dict[str, Any] = {"startTime": now, "conditions": conditions, "uncountedTerminatedPods": {}}
        status |= {"completionTime": now, "succeeded": 1} if ended.exit_code == 0 else {"failed": 1}
        place = f"/{JOBS}/namespaces/{NAMESPACE}/jobs/{job['metadata']['name']}/status"
        answer = self.cluster.api.patch(place, headers=MERGE, json={"status": status})
        assert answer.status_code == httpx.codes.OK, answer.text
        print(f"{component}: {ended.exit_code} after {ended.seconds:.0f} s")

    def gate(self, steps: Shell, command: str) -> str:
        """``helm test`` waits for the Job that it makes; its exit code and what it wrote."""
        process, give_up = steps.start(command), time.monotonic() + 60
        while "probe" not in self.jobs():
            assert time.monotonic() < give_up and process.poll() is None, process.communicate()[0]
            time.sleep(0.2)
        self.run_job("probe")
        output, _ = process.communicate(timeout=120)
        return f"{process.returncode}: {output}"

    def executed(self, command: str) -> str:
        """Words behind ``--`` in the sidecar of a pod of the Deployment; what they wrote, and their exit code."""
        before, _, words = command.partition(" -- gapwatch ")
        [name] = [word.removeprefix("deploy/") for word in before.split() if word.startswith("deploy/")]
        deployment = self.cluster.get("deployments", name, "apis/apps/v1")
        assert deployment is not None, name
        typed = f"{sys.executable} -m agent {words} --config /etc/gapwatch/gapwatch.yaml; echo exit code $?"
        with running(self.node, self.cluster.pod(deployment["spec"]["template"])) as container:
            return self.node.ctr("tasks", "exec", "--exec-id=asked", f"--user={USER}", container, "sh", "-c", typed)


@dataclass(frozen=True, slots=True)
class Followed:
    """The steps, once all of them were followed. answers: command -> what it wrote, "" where it was not run"""

    follower: Follower
    models: Path
    answers: dict[str, str]


@pytest.fixture(scope="module")
def steps(node: Node, api: httpx.Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    folder = tmp_path_factory.mktemp("steps")
    (models := folder / "models").mkdir()
    lay_tiny_models(models)
    typed = shell(folder / "typed", str(api.base_url))
    secrets = {"ROUTING_KEY": ROUTING_KEY, "PASSWORD": STORE_PASSWORD, "MIGRATIONS_PASSWORD": STORE_PASSWORD}
    for name, text in secrets.items():
        (typed.folder / f"{name}_FILE").write_text(text)
    (typed.folder / "values.yaml").write_text(yaml.safe_dump(own_values()))
    follower = Follower(node, Cluster(api, NAMESPACE, folder, {"models": models}))
    answers: dict[str, str] = {}
    with beside(node, "benchmarks.node.neighbour", "store", str(STORE_PORT)):
        for command in commands():
            answers[command] = followed(command, typed, follower)
            print(f"$ {command}\n{answers[command]}")
            enforce_restricted(api)
        yield Followed(follower, models, answers)


def test_the_steps_are_followed_word_by_word(steps: Followed) -> None:
    assert [command.split()[1] for command, answer in steps.answers.items() if not answer] == NOT_RUN
    assert list((steps.models / "golden").iterdir()), "the enrolment wrote no record"
    codes = {name: ended.exit_code for name, ended in steps.follower.ended.items()}
    assert codes == {"migrate": 0, "enrol": 0, "probe": 0}
    assert "enrol" not in steps.follower.jobs(), "the last line of step 3 takes the enrolment's Job away"
    doctor, degraded, gate = (steps.answers[command] for command in commands()[-3:])
    good = {line.split()[1] for line in doctor.splitlines() if line.strip().startswith("✓")}
    assert {"files", "kafka", "clickhouse", "golden", "agent:"} <= good, doctor
    assert degraded.rstrip().endswith("exit code 0")
    assert gate.startswith("0: ")


def another_base(steps: Followed) -> None:
    shutil.rmtree(base := steps.models / BASE)
    ends_now_and_then(tiny_base(base, seed=9, tied=False))


def no_records(steps: Followed) -> None:
    shutil.rmtree(steps.models / "golden")


def wrong_password(steps: Followed) -> None:
    place = f"/api/v1/namespaces/{NAMESPACE}/secrets/gapwatch-migrations"
    steps.follower.cluster.api.patch(place, headers=MERGE, json={"stringData": {"clickhouse-password": "another"}})


@pytest.mark.parametrize(
    ("component", "prepare", "code"),
    [("probe", another_base, 1), ("probe", no_records, 2), ("migrate", wrong_password, 64)],
    ids=["probe of another base", "probe without records", "migration with a wrong password"],
)
def test_a_job_ends_with_the_code_that_says_why(
    steps: Followed, component: str, prepare: Callable[[Followed], None], code: int
) -> None:
    prepare(steps)
    may_write(steps.models, USER)
    follower = steps.follower
    ended = run_to_end(follower.node, follower.cluster.pod(follower.jobs()[component]["spec"]["template"]))
    assert ended.exit_code == code, ended.log


def followed(command: str, steps: Shell, follower: Follower) -> str:
    """What the command answered, "" for one that is not run here."""
    if command.startswith("docker "):
        return ""
    if " wait " in command:
        for component in ("migrate", "enrol"):
            follower.run_job(component)
            assert follower.ended[component].exit_code == 0, follower.ended[component]
    if " exec " in command:
        return follower.executed(command)
    return follower.gate(steps, command) if command.startswith("helm test") else steps.run(command)


def enforce_restricted(api: httpx.Client) -> None:
    """From the step on that creates the namespace."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    api.patch(f"/api/v1/namespaces/{NAMESPACE}", headers=MERGE, json={"metadata": {"labels": labels}})
