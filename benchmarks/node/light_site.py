"""The packages of an image without the extra ``models``: links to those installed here, and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.deploy.installed import closure, environment

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("agent", "probes", "detectors")


def light_site(folder: Path) -> Path:
    """A folder that stands for site-packages: this checkout's rooms, and what they need without an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    checkout = folder / "checkout"
    checkout.mkdir(parents=True)
    for room in ROOMS:
        (checkout / room).symlink_to(ROOT / room)
    return environment(folder / "image", checkout, sorted(closure("gapwatch", project["dependencies"]))).site
