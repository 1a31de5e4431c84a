"""The commands of the steps in deploy/README.md, run word by word against a real API server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.deploy.api_server import TOKEN

README = Path(__file__).parents[2] / "deploy/README.md"
# What the example marks EDIT -> the node's addresses.
EDITED = {
    "kustomize/examples/vllm/gapwatch.yaml": {
        "kafka.kafka.svc:9092": "127.0.0.1:9092",
        "clickhouse.clickhouse.svc:8123": "127.0.0.1:8123",
    }
}
BLOCK = re.compile(r"^ *```\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the section "Steps", in order, each on one line."""
    [section] = re.findall(r"^## Steps$(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = "".join(BLOCK.findall(section)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip()]


@dataclass(frozen=True, slots=True)
class Shell:
    """Where the commands are typed: a folder with the files that they name, and the cluster that both programs know."""

    folder: Path
    environment: dict[str, str]

    def start(self, command: str) -> subprocess.Popen[str]:
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(shlex.split(command), cwd=self.folder, env=self.environment, **output)  # type: ignore[call-overload,no-any-return]

    def run(self, command: str) -> str:
        """What it wrote. Fails with that where it does not end with 0."""
        process = self.start(command)
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, f"{command}\n{output}"
        return output


def shell(folder: Path, server: str) -> Shell:
    """The files of the steps but for ``values.yaml``; ``deploy`` is a copy of this checkout's, edited where step 4 says
    so."""
    shutil.copytree(README.parent, folder / "deploy")
    for file, names in EDITED.items():
        text = (folder / "deploy" / file).read_text()
        for name, address in names.items():
            text = text.replace(name, address)
        (folder / "deploy" / file).write_text(text)
    cluster = {"server": server.rstrip("/"), "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "admin"}}],
        "current-context": "here",
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return Shell(folder, {"PATH": path, "HOME": str(folder), "KUBECONFIG": str(folder / "kubeconfig")})
