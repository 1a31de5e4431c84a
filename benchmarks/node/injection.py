"""A pod that the chart's policy changed on a real API server, run by a real kubelet until its adapters are judged."""

from __future__ import annotations

import math
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from benchmarks.node.faults import ASKING_POD, TOLD_PATIENCE_S, TOY_PORT, is_told
from benchmarks.node.sidecar_pod import ask_engine, healthy, injected
from benchmarks.node.single_node import Node, unavailable
from benchmarks.node.trial import START_PATIENCE_S, Outcome, beside, trial
from tests.deploy import cluster_tools
from tests.deploy.api_server import TOKEN, api_server
from tests.deploy.helm import CHART, Helm
from tests.deploy.pod_shapes import engine_pod
from tests.deploy.test_injection import NAMESPACE, created, wait_for_the_policy


def missing() -> str:
    """Why none can be run here, in words; "" where it can."""
    assets, helm = os.environ.get("KUBEBUILDER_ASSETS"), cluster_tools.path_of("helm")
    without = f"KUBEBUILDER_ASSETS is {assets or 'not set'}, helm is {helm or 'not here'}"
    return unavailable() or ("" if assets and helm else without)


def run_injected(node: Node, folder: Path) -> tuple[Outcome, float]:
    """What it cost the pod, and the seconds from its manifest to a verdict of every adapter; nan for never."""
    (folder / "cluster").mkdir()
    inputs = healthy(folder / "pod")
    ask_engine(inputs, TOY_PORT)
    injected(inputs, _admitted(inputs.settings, folder / "cluster"))
    with ExitStack() as opened:
        opened.enter_context(beside(node, "benchmarks.node.neighbour", *ASKING_POD.beside or ()))
        began = time.monotonic()
        running = opened.enter_context(trial(node, inputs))
        running.wait(lambda look: look.ready, START_PATIENCE_S)
        judged = running.wait(lambda _: is_told(running.outcome(), ASKING_POD), TOLD_PATIENCE_S)
        return running.outcome(), time.monotonic() - began if judged else math.nan


def _admitted(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A pod of an engine as the server stores it where the chart is installed with these settings."""
    config = {key: value for key, value in settings.items() if key not in ("role", "pod")}
    values = {"injection": {"enabled": True}, "jobs": {"migrate": {"enabled": False}}, "config": config}
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    with api_server(Path(os.environ["KUBEBUILDER_ASSETS"]), folder) as api:
        labels = {"gapwatch.io/injection": "enabled"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        api.post("/api/v1/namespaces", json=namespace)
        helm = Helm(cluster_tools.path_of("helm") or "helm", folder).on(str(api.base_url), TOKEN)
        helm.run("install", "gapwatch", str(CHART), "-n", NAMESPACE, "--values", str(folder / "values.yaml"))
        wait_for_the_policy(api)
        return dict(created(api, engine_pod()).json())
