from __future__ import annotations

from pathlib import Path

from probes.artefacts.access import holds


def test_what_may_not_even_be_looked_at_is_not_there(tmp_path: Path) -> None:
    refused = tmp_path / ("a" * 300)
    assert not holds(refused.is_file) and not holds(refused.is_dir) and not holds(refused.exists)
    assert holds(tmp_path.is_dir) and not holds(tmp_path.is_file)
