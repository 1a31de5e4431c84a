"""What a restart must not forget, and a damaged file must not cost more than itself."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from agent.alerting.checkpoint import StateFile


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state")
    assert file.load() == {}
    file.save({"n": 1})
    file.save({"n": 2})
    assert StateFile(tmp_path / "state").load() == {"n": 2}


def test_a_file_of_the_version_before_is_loaded_and_replaced_by_one_of_the_present(tmp_path: Path) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(b'{"version": 1, "state": {"n": 1}}')
    file = StateFile(tmp_path)
    assert file.load() == {"n": 1}
    file.save({"n": 2})
    assert orjson.loads(path.read_bytes()) == {"version": 2, "state": {"n": 2}}
    assert StateFile(tmp_path).load() == {"n": 2}


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"version": 0, "state": {}}', b'{"version": 3, "state": {}}', b"\xff"])
def test_a_damaged_file_is_renamed_and_the_state_starts_empty(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(data)
    assert StateFile(tmp_path).load() == {}
    assert path.with_suffix(".damaged").read_bytes() == data
    StateFile(tmp_path).save({"n": 3})
    assert StateFile(tmp_path).load() == {"n": 3}
