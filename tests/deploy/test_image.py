"""The image as buildah builds it and runc runs it: ``make test-image``, as root.

PYTHON_IMAGE names an image with Python 3.11 that buildah has or can pull; BUILDAH_OPTIONS are words before its command,
such as where its storage is. Only the variant without models is built: the others differ in what pip resolves, which
test_dockerfile.py checks.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

pytestmark = [pytest.mark.image, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCUMENTS, ENVIRONMENT = "usr/share/doc/gapwatch", "opt/gapwatch/venv"
NAME = "localhost/gapwatch-under-test:traffic"


def buildah(*words: str) -> str:
    command = ["buildah", *shlex.split(os.environ.get("BUILDAH_OPTIONS", "")), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    base = os.environ.get("PYTHON_IMAGE")
    missing = [tool for tool in ("buildah", "runc") if shutil.which(tool) is None]
    if not base or missing or os.geteuid() != 0:
        pytest.skip(f"not built: PYTHON_IMAGE is {base or 'not set'}, not here: {missing or 'nothing'}, root is wanted")
    build = ["bud", "--network", "host", "--build-arg", f"PYTHON_IMAGE={base}"]
    isolation = ["--isolation", "chroot"]  # of the build's own steps; what runs below is run by runc
    buildah(*build, *isolation, "-f", str(ROOT / "deploy/Dockerfile"), "-t", NAME, str(ROOT))
    name = buildah("from", "--pull-never", NAME)
    yield name
    buildah("rm", name)


@pytest.fixture(scope="module")
def files(container: str) -> Path:
    return Path(buildah("mount", container))


def installed(files: Path) -> dict[str, str]:
    """Package to version, by the metadata that the environment holds."""
    [site] = (files / ENVIRONMENT / "lib").glob("python3.*/site-packages")
    return {canonicalize_name(d.name): d.version for d in metadata.distributions(path=[str(site)])}


def test_the_bill_of_materials_is_complete(files: Path) -> None:
    bill = json.loads((files / DOCUMENTS / "sbom.cdx.json").read_text())
    listed = {canonicalize_name(item["name"]): item["version"] for item in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert listed == installed(files)


def test_it_has_its_licence_and_nothing_that_builds_or_installs(files: Path) -> None:
    assert (files / DOCUMENTS / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert {"pip", "setuptools", "wheel", "torch", "cyclonedx-bom"}.isdisjoint(installed(files))
    assert "gapwatch" in installed(files)
    assert not (files / "opt/bill").exists() and not (files / "usr/bin/cc").exists()


def test_it_is_nobody_in_particular_and_says_who_made_it(container: str) -> None:
    config = json.loads(buildah("inspect", "--type", "container", container))["OCIv1"]["config"]
    assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["gapwatch"])
    labels = config["Labels"]
    assert (labels["org.opencontainers.image.licenses"], labels["io.gapwatch.variant"]) == ("Apache-2.0", "traffic")


def test_it_runs_without_a_shell_and_writes_nothing_but_its_volumes(container: str, files: Path) -> None:
    """Run by runc as its own user; a shell that is not there could not be used."""
    shells = [files / name for name in ("usr/bin/sh", "usr/bin/bash", "usr/bin/dash") if (files / name).is_symlink()]
    shells += [files / name for name in ("usr/bin/bash", "usr/bin/dash") if (files / name).is_file()]
    for shell in shells:
        shell.unlink()
    run = ("run", "--isolation", "oci", "--runtime", "runc", container, "--")
    assert "gapwatch 0.1.0" in buildah(*run, "gapwatch", "--version")
    code = "import os, agent; print(os.getuid(), os.access(agent.__path__[0], os.W_OK), os.access('/etc', os.W_OK))"
    assert buildah(*run, "python", "-c", code) == "10001 False False"
