"""gapwatch as a user installs it: a wheel built here, and environments of what its metadata asks for and no more.

An environment is a folder of links to packages that are installed here, so nothing is downloaded and nothing is
hidden by patching: what is not linked cannot be found by import, by ``find_spec`` or by ``importlib.metadata``.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
# What pyproject.toml reads when a wheel is built.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "agent", "probes", "detectors", "dashboards", "deploy")
PAGES = ("docs/glossary.md",)
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout; built from a copy, so that no build folder is left here."""
    copy = folder / "source"
    copy.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    for name in PAGES:
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return wheel_of(copy, folder)


def wheel_of(source: Path, folder: Path) -> Path:
    """Build in ``source``, which is left with a build folder."""
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=source, check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """All that installing a wheel of pure Python does, but for the script."""
    with zipfile.ZipFile(wheel) as held:
        held.extractall(folder)
    return folder


def asked_by(wheel_site: Path) -> list[str]:
    """The requirements that an unpacked wheel declares, those of its extras with their marker."""
    [installed] = metadata.distributions(path=[str(wheel_site)])
    return installed.requires or []


def closure(wanted: str, ours: Sequence[str]) -> set[str]:
    """Names of everything that a requirement pulls in, by the metadata of what is installed here.

    wanted: such as "gapwatch[models]"; ours: what gapwatch itself asks for. What markers leave out here is left out.
    """
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(wanted)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                below = ours if name == "gapwatch" else metadata.requires(name) or []
                todo += [r for r in map(Requirement, below) if _applies(r, extra)]
    return {name for name, _ in seen} - {"gapwatch"}


def _applies(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({**default_environment(), "extra": extra})  # type: ignore[arg-type,dict-item]


@dataclass(frozen=True, slots=True)
class Environment:
    """site: the folder that stands for site-packages; home: where the child runs and may write."""

    site: Path
    home: Path

    def python(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run an interpreter that finds nothing but the standard library and this environment."""
        known = {"PATH": os.environ["PATH"], "HOME": str(self.home), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        return subprocess.run(
            [sys.executable, "-S", "-P", "-s", *arguments],
            cwd=self.home,
            env={**known, "PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def gapwatch(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "agent", *words)


def environment(folder: Path, wheel_site: Path, names: Iterable[str]) -> Environment:
    """An environment with an unpacked wheel and these distributions."""
    site, home = folder / "site", folder / "home"
    site.mkdir(parents=True)
    home.mkdir()
    for entry in wheel_site.iterdir():
        (site / entry.name).symlink_to(entry)
    for name in names:
        for path in _places(name):
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():  # two distributions may own one file
                target.symlink_to(str(metadata.distribution(name).locate_file(path)))
    return Environment(site, home)


def _places(name: str) -> set[str]:
    """What to link for one distribution: whole folders where they are its own, else its files in them one by one."""
    files = _files(metadata.distribution(name))
    kept = [f for f in files if not f.startswith("..") and not f.endswith(".pth") and "__pycache__" not in f]
    return {f if len(_owners()[_top(f)]) > 1 else _top(f) for f in kept}


@cache
def _owners() -> dict[str, set[str]]:
    """First part of a path in site-packages -> names of the distributions that have files there."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in metadata.distributions():
        for top in set(map(_top, _files(each))):
            found[top].add(canonicalize_name(each.name))
    return found


def _files(installed: metadata.Distribution) -> list[str]:
    """Its paths in site-packages. Read as text: torch alone has 20 000, and objects of them take seconds."""
    return [row[0] for row in csv.reader((installed.read_text("RECORD") or "").splitlines())]


def _top(path: str) -> str:
    return path.partition("/")[0]
