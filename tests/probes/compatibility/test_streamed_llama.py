"""Random texts through a Llama read from its files: as transformers and PEFT compute them, and what two bases keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes.artefacts.lora_files import read_adapter
from probes.compatibility.stored_tensors import StoredTensors
from probes.compatibility.streamed_llama import answers, kept_share, random_texts
from tests.probes.architectures import architecture_base
from tests.probes.compatibility.releases import noisy, permuted
from tests.probes.tiny import VOCABULARY, peft_log_probs, tiny_adapter, tiny_base

IDS = random_texts(VOCABULARY)


@pytest.fixture(scope="module", params=[True, False])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("world")
    base = tiny_base(folder / "base", tied=request.param)
    return base, tiny_adapter(folder / "a", base, target_modules=["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"])


def answered(base: Path, adapter: Path) -> torch.Tensor:
    known = answers(StoredTensors.open(base), read_adapter(adapter), IDS)
    assert known is not None
    return known


def test_base_and_adapter_answer_as_peft_computes_them(world: tuple[Path, Path]) -> None:
    base, adapter = world
    got = answered(base, adapter)
    prompt, forced = IDS[0, :4].tolist(), IDS[0, 4:].tolist()
    for side, files in enumerate((None, adapter)):
        wanted = peft_log_probs(base, files, prompt, forced)
        np.testing.assert_allclose(got[side, 0, 3:-1].numpy(), wanted, atol=2e-4)


def test_the_same_base_keeps_all_a_moved_one_less_and_other_coordinates_next_to_nothing(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = world
    before = answered(base, adapter)
    assert kept_share(before, before) == pytest.approx(1)
    little, much = (answered(noisy(base, tmp_path / str(share), share), adapter) for share in (0.02, 0.5))
    assert 0.9 < kept_share(before, little) < 1.1 and abs(kept_share(before, much) - 1) > 0.2
    assert kept_share(before, answered(permuted(base, tmp_path / "permuted"), adapter)) < 0.5


def test_another_architecture_is_not_computed(world: tuple[Path, Path], tmp_path: Path) -> None:
    other = architecture_base(tmp_path / "qwen", "qwen2")
    assert answers(StoredTensors.open(other), read_adapter(world[1]), IDS) is None
