"""What the deployment holds: ``python -m benchmarks.deploy --json FILE [--part NAME ...]``.

Parts: injection (pods of many shapes, on a real API server that enforces ``restricted``), releases (install, a second
apply, rollback and uninstall of every preset), values (mistakes that the chart refuses by name). They need Helm beside
the interpreter or on the PATH, and KUBEBUILDER_ASSETS. Exit code 0: all of it ran, whatever it showed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure, arguments, at_least, at_most, console, exactly, report, save, stored_figures
from tests.deploy import cluster_tools, test_chart, test_injection, test_install
from tests.deploy.api_server import TOKEN, api_server
from tests.deploy.helm import CHART, PRESETS, Helm, NotRendered, values
from tests.deploy.pod_shapes import FITTING, UNFIT

SEED = 0
SHAPES_WANTED = 14


def main() -> None:
    options = arguments(__doc__ or "")
    figures: list[Figure] = []
    earlier = stored_figures(options.json) if options.part else []
    parts: dict[str, Callable[[httpx.Client, Helm], list[Figure]]] = {
        "injection": injection,
        "releases": releases,
        "values": refused_values,
    }
    with tempfile.TemporaryDirectory() as folder:
        helm = Helm(cluster_tools.path_of("helm") or "helm", Path(folder))
        with api_server(Path(os.environ["KUBEBUILDER_ASSETS"]), Path(folder)) as api:
            for name, measure in parts.items():
                if not options.part or name in options.part:
                    console.print(f"{name} ...")
                    figures += measure(api, helm)
                    save(figures, SEED, options.json)
    names = {figure.name for figure in figures}
    report([*(figure for figure in earlier if figure.name not in names), *figures], SEED, options.json)


def injection(api: httpx.Client, helm: Helm) -> list[Figure]:
    place = "engines"
    _namespace(api, place, {"gapwatch.io/injection": "enabled"})
    helm.on(str(api.base_url), TOKEN).run("install", "gapwatch", str(CHART), "-n", place, *values("injected-vllm"))
    test_injection.wait_for_the_policy(api)
    fitting = [_created(api, make()) for make in FITTING.values()]
    # Two shapes are those of namespaces that do not enforce ``restricted``.
    unfit = [_created(api, make()) for make, _ in UNFIT.values()]
    admitted = [answer for answer in unfit if answer.status_code == httpx.codes.CREATED]
    injected = [a for a in fitting if a.status_code == httpx.codes.CREATED and _annotation(a) == "injected"]
    return [
        at_least("shapes of pods that get a sidecar under restricted", len(injected), "shapes", SHAPES_WANTED),
        exactly("of the shapes that fit, refused or left out", len(fitting) - len(injected), "shapes", 0),
        at_most("warnings to who creates them", sum("warning" in a.headers for a in fitting), "warnings", 0),
        exactly(
            "shapes that do not fit, left as they are with the reason",
            sum(_annotation(answer).startswith("left as it is") for answer in admitted),
            "shapes",
            len(admitted),
        ),
    ]


def _namespace(api: httpx.Client, name: str, labels: dict[str, str]) -> None:
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": name, "labels": levels | labels}
    api.post("/api/v1/namespaces", json={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


def _created(api: httpx.Client, pod: dict[str, Any]) -> httpx.Response:
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    return api.post("/api/v1/namespaces/engines/pods", params=params, json=pod)


def _annotation(answer: httpx.Response) -> str:
    return str(answer.json()["metadata"].get("annotations", {}).get(test_injection.INJECTED, ""))


def releases(api: httpx.Client, helm: Helm) -> list[Figure]:
    """Counted are presets that pass all steps, whose test is tests/deploy/test_install.py."""
    test_install.define_kinds_of_operators(api)
    passed = 0
    for preset in PRESETS:
        try:
            test_install.test_a_release_comes_changes_goes_back_and_leaves_nothing(
                api, helm.on(str(api.base_url), TOKEN), preset
            )
        except (AssertionError, NotRendered) as error:
            console.print(f"{preset}: {error}")
        else:
            passed += 1
    name = "presets that install, change nothing when applied again, upgrade, roll back and leave nothing"
    return [exactly(name, passed, "presets", len(PRESETS))]


def refused_values(_: httpx.Client, helm: Helm) -> list[Figure]:
    refused = 0
    for setting, reason in test_chart.REFUSED.items():
        try:
            helm.render("witness", "--set", setting)
        except NotRendered as error:
            refused += reason in str(error)
    return [exactly("mistakes in values that are refused by name", refused, "mistakes", len(test_chart.REFUSED))]


if __name__ == "__main__":
    main()
