from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.world import enrolled


@pytest.fixture(scope="session")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden records of the toy world's adapters; read, never written."""
    folder = tmp_path_factory.mktemp("goldens")
    enrolled(folder)
    return folder
