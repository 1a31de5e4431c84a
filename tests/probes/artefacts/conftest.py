"""An adapter as PEFT saves it, and a copy of it for each test that breaks one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.probes.tiny import tiny_adapter, tiny_base


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    return tiny_adapter(folder / "a", tiny_base(folder / "base"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((original / name).read_bytes())
    return tmp_path
