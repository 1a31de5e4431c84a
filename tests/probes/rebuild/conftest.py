"""One enrolled adapter serves all tests of this folder: golden records are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from probes.golden.record import Golden
from tests.probes.rebuild.worlds import base_and_adapter, record_of


class Enrolled(NamedTuple):
    base: Path
    adapter: Path
    golden: Golden
    folder: Path


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Enrolled:
    folder = tmp_path_factory.mktemp("enrolled")
    base, adapter = base_and_adapter(folder)
    return Enrolled(base, adapter, record_of(base, adapter, folder / "cache"), folder)
