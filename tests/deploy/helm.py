"""The real Helm on the chart of this checkout, and what it renders."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "deploy/helm/gapwatch"
PRESETS = sorted(path.stem for path in (CHART / "presets").iterdir())
Manifest = dict[str, Any]


class NotRendered(Exception):
    """What Helm said instead."""


@dataclass(frozen=True, slots=True)
class Helm:
    """program: its path; home: its own, so that no setting of this machine's user counts; cluster: options."""

    program: str
    home: Path
    cluster: tuple[str, ...] = ()

    def on(self, url: str, token: str) -> Helm:
        options = ("--kube-apiserver", url, "--kube-token", token, "--kube-insecure-skip-tls-verify")
        return replace(self, cluster=options)

    def run(self, *arguments: str) -> str:
        """What it wrote. Raises NotRendered with what it complained of."""
        folders = {f"HELM_{name}_HOME": str(self.home / name) for name in ("CACHE", "CONFIG", "DATA")}
        command = [self.program, *arguments, *self.cluster]
        alone = {"PATH": os.environ["PATH"], "HOME": str(self.home), **folders}
        done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            # It also tells of each link in the chart that it followed.
            raise NotRendered("\n".join(line for line in done.stderr.splitlines() if "symbolic link" not in line))
        return done.stdout

    def render(self, preset: str, *options: str, namespace: str = "llm-serving") -> list[Manifest]:
        text = self.run("template", "gapwatch", str(CHART), "--namespace", namespace, *values(preset), *options)
        return [item for item in yaml.safe_load_all(text) if item]


def values(preset: str) -> tuple[str, str]:
    return "--values", str(CHART / f"presets/{preset}.yaml")


def only(items: list[Manifest], kind: str, suffix: str = "") -> Manifest:
    [item] = [i for i in items if i["kind"] == kind and i["metadata"]["name"].endswith(suffix)]
    return item


def pod_specs(items: list[Manifest]) -> dict[str, Manifest]:
    """Of every workload and Job, by its kind and name."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["spec"]["template"]["spec"]
        for item in items
        if "template" in item.get("spec", {})
    }
