"""What is counted from config.json alone is what is counted with the config as transformers reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probes.artefacts.needed_memory import Answering, memory_of, stored_base
from probes.errors import Unreplayable
from probes.model.base_memory import base_memory
from probes.model.build import AUTO, Placement
from tests.probes.architectures import KINDS, architecture_base
from tests.probes.tiny import tiny_base

BATCH = 512
ON_CPU = Placement(torch.device("cpu"), torch.float32, AUTO, BATCH)


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_config_gives_the_figures_of_the_one_that_is_loaded(tmp_path: Path, kind: str) -> None:
    base = architecture_base(tmp_path, kind)
    stored = stored_base(base)
    counted = memory_of(stored, Answering(4, BATCH, stored.has_plain_attention))
    assert counted == base_memory(base, ON_CPU)


def test_what_the_config_leaves_out_is_read_from_the_embedding(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    whole = memory_of(stored_base(base), Answering(4, BATCH))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": None, "hidden_size": None}))
    assert memory_of(stored_base(base), Answering(4, BATCH)) == whole


def test_former_names_of_a_config_are_read(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    whole = memory_of(stored_base(base), Answering(2, BATCH))
    former = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
    renamed = {former.get(key, key): value for key, value in config.items()}
    (base / "config.json").write_text(json.dumps({"text_config": renamed}))
    assert memory_of(stored_base(base), Answering(2, BATCH)) == whole


def test_a_folder_without_weights_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    with pytest.raises(Unreplayable, match="holds neither model"):
        stored_base(base)


def test_it_is_counted_without_a_model_library() -> None:
    modules = "sys, probes.artefacts.needed_memory, probes.card_share, agent.capacity.memory_plan"
    code = f"import {modules}; print({{'torch', 'transformers'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
