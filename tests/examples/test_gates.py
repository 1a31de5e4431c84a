"""The gates name options that the command has, and the one that Flagger calls lets pass what fits and nothing else."""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml

from agent.__main__ import cli
from examples.gates.flagger_gate import Run, server

GATES = Path(__file__).resolve().parents[2] / "examples" / "gates"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """As the command line reads them. Raises where an option is not the command's."""
    command: Any = typer.main.get_command(cli)
    with command.make_context("gapwatch", ["check", *arguments], resilient_parsing=True) as outer:
        check = command.get_command(outer, "check")
        return dict(check.make_context("check", arguments).params)


def test_the_workflow_checks_with_options_that_there_are() -> None:
    steps = yaml.safe_load((GATES / "github-actions.yaml").read_text())["jobs"]["check"]["steps"]
    (line,) = [step["run"] for step in steps if "gapwatch check" in step.get("run", "")]
    words = shlex.split(re.sub(r"\$\{\{.*?\}\}", "x", line).partition("|")[0])
    read = parsed(words[2:])
    assert read["replay"] and read["engine"] == "vllm" and str(read["old"]) == "accepted"
    assert next(step for step in steps if step.get("name") == "gapwatch check")["shell"] == "bash"


def test_the_analysis_is_a_job_that_asks_once() -> None:
    (metric,) = yaml.safe_load((GATES / "argo-rollouts.yaml").read_text())["spec"]["metrics"]
    job = metric["provider"]["job"]["spec"]
    assert (metric["count"], metric["failureLimit"], job["backoffLimit"]) == (1, 0, 0)
    (container,) = job["template"]["spec"]["containers"]
    read = parsed(container["args"][1:])
    assert container["args"][0] == "check" and str(read["base"]) == "{{args.base}}" and read["replay"]


@contextmanager
def serving(root: Path, run: Run) -> Iterator[str]:
    gate = server(root, 0, run, "127.0.0.1")
    thread = threading.Thread(target=gate.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{gate.server_port}/"
    finally:
        gate.shutdown()
        thread.join()
        gate.server_close()


@pytest.mark.parametrize(("code", "status"), [(0, 200), (1, 409), (2, 409), (64, 409)])
def test_only_what_fits_passes(tmp_path: Path, code: int, status: int) -> None:
    calls: list[list[str]] = []

    def run(arguments: list[str]) -> tuple[int, str]:
        calls.append(arguments)
        return code, "why"

    canary = yaml.safe_load((GATES / "flagger.yaml").read_text())
    (hook,) = canary["spec"]["analysis"]["webhooks"]
    metadata = {name: value.replace("/models", str(tmp_path)) for name, value in hook["metadata"].items()}
    body = {"name": "llm", "namespace": "a", "phase": "Progressing", "metadata": metadata}
    with serving(tmp_path, run) as url:
        answer = httpx.post(url, json=body)
        assert (answer.status_code, answer.text) == (status, "why")
        outside = httpx.post(url, json=body | {"metadata": metadata | {"base": "/etc"}})
        nothing = httpx.post(url, content=b"{")
    assert (outside.status_code, nothing.status_code, len(calls)) == (400, 400, 1)
    assert "metadata.base" in outside.text
    assert str(parsed(calls[0])["old"]) == str(tmp_path / "accepted")
