"""Two enrolled adapters on one tiny base, each recorded on the other's canaries; once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from probes.canaries.canary_file import CanarySet
from probes.enrolment.enrol import Request, enrol
from probes.golden.record import Golden
from tests.probes.rebuild.worlds import CANARIES, FEW
from tests.probes.tiny import ends_now_and_then, opened, tiny_adapter, tiny_base
from tests.probes.worlds import never, silent


class Pair(NamedTuple):
    """folders, goldens: by the adapters' names, "tone" and "form"."""

    base: Path
    folders: dict[str, Path]
    goldens: dict[str, Golden]
    cache: Path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    home = tmp_path_factory.mktemp("pair")
    base = ends_now_and_then(tiny_base(home / "base", tied=False))
    folders = {name: tiny_adapter(home / name, base, seed) for seed, name in enumerate(("tone", "form"), start=1)}
    runner = opened(base, home, folders)
    canaries = CanarySet(CANARIES.canaries)
    goldens = {
        name: enrol(Request(runner, name, canaries, FEW, [own for own in folders if own != name], silent, never))
        for name in folders
    }
    runner.close()
    return Pair(base, folders, goldens, home)
