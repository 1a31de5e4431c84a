from __future__ import annotations

from pathlib import Path

import pytest

from tests.probes.tiny import tiny_base


@pytest.fixture
def bases(tmp_path: Path) -> tuple[Path, Path]:
    """Two bases of one shape; the first is where the runner looks."""
    return tiny_base(tmp_path / "base", seed=0), tiny_base(tmp_path / "other", seed=9)
