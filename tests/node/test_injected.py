"""A pod that the policy changed on a real API server, run by a real kubelet until its adapters are judged."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.node.faults import ASKING_POD, TOLD_PATIENCE_S, TOY_PORT, is_told
from benchmarks.node.sidecar_pod import ask_engine, healthy, injected
from benchmarks.node.single_node import Node
from benchmarks.node.trial import START_PATIENCE_S, beside, trial
from tests.deploy import cluster_tools
from tests.deploy.api_server import TOKEN, api_server
from tests.deploy.helm import CHART, Helm
from tests.deploy.pod_shapes import engine_pod
from tests.deploy.test_injection import NAMESPACE, created, wait_for_the_policy
from tests.end_to_end.world import ADAPTERS

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


def admitted(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A pod of an engine as the server stores it where the chart is installed with these settings."""
    assets, helm = os.environ.get("KUBEBUILDER_ASSETS"), cluster_tools.path_of("helm")
    if not assets or not helm:
        pytest.skip(f"KUBEBUILDER_ASSETS is {assets or 'not set'}, helm is {helm or 'not here'}")
    config = {key: value for key, value in settings.items() if key not in ("role", "pod")}
    values = {"injection": {"enabled": True}, "jobs": {"migrate": {"enabled": False}}, "config": config}
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    with api_server(Path(assets), folder) as api:
        labels = {"gapwatch.io/injection": "enabled"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        api.post("/api/v1/namespaces", json=namespace)
        on_it = Helm(helm, folder).on(str(api.base_url), TOKEN)
        on_it.run("install", "gapwatch", str(CHART), "-n", NAMESPACE, "--values", str(folder / "values.yaml"))
        wait_for_the_policy(api)
        return dict(created(api, engine_pod()).json())


def test_an_injected_sidecar_starts_before_its_engine_and_judges_what_that_answers(node: Node, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    inputs = healthy(tmp_path / "pod")
    ask_engine(inputs, TOY_PORT)
    injected(inputs, admitted(inputs.settings, tmp_path / "cluster"))
    with ExitStack() as opened:
        opened.enter_context(beside(node, "benchmarks.node.neighbour", *ASKING_POD.beside or ()))
        running = opened.enter_context(trial(node, inputs))
        running.wait(lambda look: look.ready, START_PATIENCE_S)
        running.wait(lambda _: is_told(running.outcome(), ASKING_POD), TOLD_PATIENCE_S)
        outcome = running.outcome()
    assert outcome.start_s is not None, outcome.log
    assert (outcome.unready_s, outcome.silent_s, outcome.restarts) == (0, 0, 0), outcome.log
    assert {outcome.statuses.get(name) for name in ADAPTERS} == {ASKING_POD.status}, f"{outcome.unwell}; {outcome.log}"
