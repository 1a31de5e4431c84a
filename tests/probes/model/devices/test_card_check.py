"""A card is tried before anything is read for it, and one that is there and not used is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detectors.records import Reason
from probes.errors import Unreplayable
from probes.model.devices.card_check import check_card, unused_card
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import opened, tiny_adapter, tiny_base

CUDA = torch.device("cuda")
DRIVER = "NVIDIA" if torch.version.cuda else "CUDA"
needs_no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card here")


@needs_no_card
def test_a_base_for_a_card_that_is_not_there_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])  # half written: reading it would say so
    runner = Runner(Config(str(base), device="cuda", cache_dir=str(tmp_path)))
    runner.open()
    ready = runner.refresh()[None]
    assert ready.blocked is Reason.UNREADABLE and "probes.device: cpu" in ready.detail, ready.detail
    assert "half written" not in ready.detail and "let its engine answer" not in ready.detail
    with pytest.raises(Unreplayable, match=r"probes\.device: cpu"):
        check_card("/base", CUDA, torch.float32)
    check_card("/base", torch.device("cpu"), torch.bfloat16)


@needs_no_card
def test_a_card_that_was_given_and_cannot_be_used_is_a_fact_of_each_round(tmp_path: Path) -> None:
    assert unused_card(tmp_path) == ""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    told = unused_card(tmp_path)
    assert told.startswith("answered on the CPU although there is a card: ") and DRIVER in told
    base = tiny_base(tmp_path / "base")
    runner = opened(base, tmp_path, {"a": tiny_adapter(tmp_path / "a", base)})
    assert runner.facts("a") == ()
    runner.residency.bases.without_card = told
    assert runner.facts("a") == (told,)
