"""What the demo puts on its volume, and what it needs before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from agent.demo import stage
from agent.errors import Refused
from examples.helpdesk.releases import make_release
from probes.artefacts.identity import base_hash


def test_the_release_of_the_upstream_is_the_one_of_the_example(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**shape, **heads)).save_pretrained(str(tmp_path / "golden"))
    there = stage.Stage(tmp_path, tmp_path / "base", tmp_path / "golden")
    capfd.readouterr()
    stage.ship_release(there, tmp_path / "shipped")
    assert capfd.readouterr().out == "", "with --json, standard output is for the document alone"
    wanted = make_release("reparameterised", there.golden, tmp_path / "wanted")
    assert base_hash(tmp_path / "shipped") == base_hash(wanted) != base_hash(there.golden)


def test_without_the_example_the_demo_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.need_checkout()
    monkeypatch.setattr(stage, "HELPDESK", tmp_path / "examples" / "helpdesk")
    with pytest.raises(Refused, match=r"gapwatch demo: saw .*, wanted a checkout of the repository"):
        stage.need_checkout()
