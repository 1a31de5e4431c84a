"""What a restart must not forget, and a damaged file must not cost more than itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.alerting.checkpoint import StateFile


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    assert file.load() == {}
    file.save({"n": 1})
    file.save({"n": 2})
    assert StateFile(tmp_path / "state").load() == {"n": 2}


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"version": 0, "state": {}}', b"\xff"])
def test_a_damaged_file_is_renamed_and_the_state_starts_empty(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(data)
    assert StateFile(tmp_path).load() == {}
    assert path.with_suffix(".damaged").read_bytes() == data
    StateFile(tmp_path).save({"n": 3})
    assert StateFile(tmp_path).load() == {"n": 3}
