"""deploy/hashes: what pip would install for each variant of the image, by name, version and SHA-256.

``python -m tests.deploy.package_hashes`` writes the files again after a change of constraints.txt; it asks the package
index, and downloads no packages. They are of this machine's platform and Python, and named by it.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/hashes"
EXTRAS = {"traffic": "otlp", "cuda": "models,otlp"}
# What a variant takes from another index, with what comes with it there: no hash of this index is one of that.
FROM_ANOTHER_INDEX = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def resolved(extras: str) -> list[dict[str, Any]]:
    """What pip reports that it would install, the project itself left out."""
    pins = "".join((ROOT / name).read_text() for name in ("constraints.txt", "deploy/constraints-image.txt"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "constraints.txt").write_text(pins)
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
        command += ["--constraint", f"{folder}/constraints.txt", "--report", f"{folder}/report.json", f".[{extras}]"]
        subprocess.run(command, cwd=ROOT, check=True)
        report = json.loads((Path(folder) / "report.json").read_text())
    return [item for item in report["install"] if item["metadata"]["name"] != "gapwatch"]


def line(item: dict[str, Any]) -> str:
    metadata = item["metadata"]
    hashed = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{canonicalize_name(metadata['name'])}=={metadata['version']} --hash=sha256:{hashed}"


def write() -> None:
    lines = {variant: sorted(map(line, resolved(extras))) for variant, extras in EXTRAS.items()}
    lines["cpu"] = [text for text in lines["cuda"] if not FROM_ANOTHER_INDEX.fullmatch(text.partition("==")[0])]
    FOLDER.mkdir(exist_ok=True)
    for variant, texts in lines.items():
        (FOLDER / f"{variant}-{platform.machine()}.txt").write_text("\n".join(texts) + "\n")


if __name__ == "__main__":
    write()
