"""Is the file of a LoRA sidecar read as it is written, and is each difference from the engine's list told in words?"""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.errors import Refused
from probes.serving.desired_state import DesiredAdapter, differences, read_desired
from probes.serving.engine import ServedModel

FILE = """
vLLMLoRAConfig:
  name: sql-loras
  host: localhost
  port: 8000
  defaultBaseModel: smollm2
  ensureExist:
    models:
      - {id: alpha, source: /adapters/alpha, base-model: smollm2}
      - {id: beta, source: org/beta}
  ensureNotExist:
    models:
      - {id: gamma, source: org/gamma}
"""
BASE = ServedModel("smollm2", "/models/smollm2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "loras.yaml").write_text(FILE)
    return tmp_path / "loras.yaml"


def test_a_sidecars_file_is_read(file: Path) -> None:
    desired = read_desired(file)
    assert desired.wanted == {
        "alpha": DesiredAdapter("/adapters/alpha", "smollm2"),
        "beta": DesiredAdapter("org/beta", "smollm2"),
    }
    assert desired.unwanted == {"gamma"}


@pytest.mark.parametrize(
    "adapter, served, words",
    [
        ("alpha", ServedModel("alpha", "/adapters/alpha/", "smollm2"), ""),
        ("alpha", ServedModel("alpha", "", ""), ""),
        ("alpha", ServedModel("alpha", "/adapters/old", "smollm2"), "wants alpha from /adapters/alpha, the engine"),
        ("alpha", ServedModel("alpha", "/adapters/alpha", "/models/smollm2"), ""),
        ("alpha", ServedModel("alpha", "/adapters/alpha", "qwen"), "wants alpha on smollm2, the engine lists"),
        ("beta", None, "wants beta from org/beta, and the engine does not list it"),
        ("gamma", ServedModel("gamma"), "wants gamma gone, and the engine lists it"),
        ("gamma", None, ""),
        ("delta", ServedModel("delta"), "does not name delta, and the engine lists it"),
    ],
)  # fmt: skip
def test_each_difference_is_told(file: Path, adapter: str, served: ServedModel | None, words: str) -> None:
    told = differences(read_desired(file), [BASE, *([served] if served else [])], adapter)
    assert len(told) == bool(words) and all(words in each for each in told)


@pytest.mark.parametrize(
    "text", ["", "a: b", "vLLMLoRAConfig: 3", "vLLMLoRAConfig: {ensureExist: {models: [a]}}", "{", "[" * 500]
)
def test_a_file_of_another_form_is_refused_in_words(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Refused, match="vLLMLoRAConfig"):
        read_desired(file)


def test_a_file_that_is_not_there_or_too_large_is_refused(file: Path) -> None:
    with pytest.raises(Refused, match="that can be read"):
        read_desired(file.with_name("none"))
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(Refused, match="1000000 at most"):
        read_desired(file)
