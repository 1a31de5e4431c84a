"""PEFT folders: what is refused, by which name, and how strength is worked out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.artefacts.base_files import adapter_hash
from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable, Unsupported
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


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


def add_tensor(folder: Path, key: str, shape: tuple[int, ...]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {key: torch.ones(shape)}, file)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("use_dora", {"use_dora": True}),
    ("bias 'all'", {"bias": "all"}),
    ("bias 'lora_only'", {"bias": "lora_only"}),
    ("lora_bias", {"lora_bias": True}),
    ("fan_in_fan_out", {"fan_in_fan_out": True}),
    ("layer_replication", {"layer_replication": [[0, 2], [1, 2]]}),
    ("megatron_config", {"megatron_config": {"tensor_model_parallel_size": 2}}),
    ("target_parameters", {"target_parameters": ["mlp.experts.gate_up_proj"]}),
    ("trainable_token_indices", {"trainable_token_indices": [5, 6]}),
    ("alora_invocation_tokens", {"alora_invocation_tokens": [5]}),
    ("use_qalora", {"use_qalora": True}),
    ("peft_type 'IA3'", {"peft_type": "IA3"}),
    ("init_lora_weights 'pissa_niter_4'", {"init_lora_weights": "pissa_niter_4"}),
    ("init_lora_weights 'olora'", {"init_lora_weights": "olora"}),
    ("init_lora_weights 'corda'", {"init_lora_weights": "corda"}),
    ("init_lora_weights 'loftq'", {"init_lora_weights": "loftq"}),
]


@pytest.mark.parametrize(("feature", "changes"), REFUSED, ids=[name for name, _ in REFUSED])
def test_what_would_have_to_be_left_out_is_refused_by_name(folder: Path, feature: str, changes: dict[str, Any]) -> None:
    configure(folder, **changes)
    with pytest.raises(Unsupported) as told:
        read_adapter(folder)
    assert told.value.feature.startswith(feature)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", False])
def test_beginnings_that_leave_the_base_alone_are_read(folder: Path, init: object) -> None:
    configure(folder, init_lora_weights=init)
    assert len(read_adapter(folder).low_rank) == 6


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 98)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.weight", (96,)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.bias", (96,)),
        ("base_model.model.conv.lora_A.weight", (4, 3, 3, 3)),
    ],
)
def test_tensors_of_another_kind_are_refused_by_key(folder: Path, key: str, shape: tuple[int, ...]) -> None:
    add_tensor(folder, key, shape)
    with pytest.raises(Unsupported, match=key.removeprefix("base_model.model.").replace(".", r"\.")):
        read_adapter(folder)


def test_a_pickle_is_refused_and_a_missing_or_half_written_file_is_unreplayable(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Unreplayable, match="half written"):
        read_adapter(folder)
    weights.unlink()
    with pytest.raises(Unreplayable, match="No such file"):
        read_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(Unsupported, match=r"adapter_model\.bin"):
        read_adapter(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(Unreplayable, match=r"adapter_config\.json"):
        read_adapter(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"r": None},
        {"r": 0},
        {"lora_alpha": "much"},
        {"lora_alpha": 0},
        {"lora_alpha": -8},
        {"lora_alpha": float("nan")},
        {"alpha_pattern": {"q_proj": 0}},
        {"alpha_pattern": {"q_proj(": 1}},
        {"rank_pattern": {"q_proj": -1}},
    ],
    ids=str,
)
def test_strength_that_makes_no_sense_is_unreplayable(folder: Path, changes: dict[str, Any]) -> None:
    configure(folder, **changes)
    with pytest.raises(Unreplayable, match=r"adapter_config\.json"):
        read_adapter(folder)


def test_patterns_match_whole_names_or_their_ends_from_a_dot_on(folder: Path) -> None:
    configure(folder, alpha_pattern={"proj": 100, "self_attn.q_proj": 2, r"layers\.1\..*": 6})
    parts = read_adapter(folder).low_rank
    assert parts["model.layers.0.self_attn.q_proj"].scaling == 2 / 4
    assert parts["model.layers.1.self_attn.q_proj"].scaling == 2 / 4, "the first match counts"
    assert parts["model.layers.1.mlp.down_proj"].scaling == 6 / 4
    assert parts["model.layers.0.mlp.down_proj"].scaling == 8 / 4


def test_the_hash_is_of_content_and_not_of_where_it_came_from(folder: Path) -> None:
    before = adapter_hash(folder)
    assert read_adapter(folder).hash == before
    configure(folder, base_model_name_or_path="elsewhere", peft_version="9")
    assert adapter_hash(folder) == before
    configure(folder, lora_alpha=9)
    assert adapter_hash(folder) != before
