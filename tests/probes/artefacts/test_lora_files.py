"""PEFT folders: which features are refused, under which name, and how the LoRA scaling is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.artefacts.identity import adapter_hash
from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable, Unsupported


def configure(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


def add_tensor(folder: Path, key: str, shape: tuple[int, ...]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(load_file(file) | {key: torch.ones(shape)}, file)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("bias 'all'", {"bias": "all"}),
    ("bias 'lora_only'", {"bias": "lora_only"}),
    ("layer_replication", {"layer_replication": [[0, 2], [1, 2]]}),
    ("megatron_config", {"megatron_config": {"tensor_model_parallel_size": 2}}),
    ("alora_invocation_tokens", {"alora_invocation_tokens": [5]}),
    ("use_qalora", {"use_qalora": True}),
    ("ensure_weight_tying", {"ensure_weight_tying": True, "modules_to_save": ["lm_head"]}),
    ("lora_bias beside use_dora", {"lora_bias": True, "use_dora": True}),
    ("peft_type 'IA3'", {"peft_type": "IA3"}),
    ("init_lora_weights 'pissa_niter_4'", {"init_lora_weights": "pissa_niter_4"}),
    ("init_lora_weights 'olora'", {"init_lora_weights": "olora"}),
    ("init_lora_weights 'corda'", {"init_lora_weights": "corda"}),
    ("init_lora_weights 'loftq'", {"init_lora_weights": "loftq"}),
]


@pytest.mark.parametrize(("feature", "changes"), REFUSED, ids=[name for name, _ in REFUSED])
def test_unsupported_features_are_refused_by_name(folder: Path, feature: str, changes: dict[str, Any]) -> None:
    configure(folder, **changes)
    with pytest.raises(Unsupported) as told:
        read_adapter(folder)
    assert told.value.feature.startswith(feature)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", False])
def test_initialisations_that_leave_the_base_alone_are_read(folder: Path, init: object) -> None:
    configure(folder, init_lora_weights=init)
    assert len(read_adapter(folder).low_rank) == 6


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", (4, 98, 1)),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 64)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.weight", (96,)),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.bias", (96,)),
        ("base_model.model.conv.lora_A.weight", (4, 3, 3, 3)),
    ],
)
def test_tensors_of_another_kind_are_refused_by_key(folder: Path, key: str, shape: tuple[int, ...]) -> None:
    add_tensor(folder, key, shape)
    with pytest.raises(Unsupported, match=key.removeprefix("base_model.model.").replace(".", r"\.")):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("key", "switch"), [("lora_B.bias", "lora_bias"), ("lora_magnitude_vector", "use_dora")], ids=str
)
def test_what_its_config_does_not_switch_on_is_ignored_as_peft_does_and_stated(
    folder: Path, key: str, switch: str
) -> None:
    add_tensor(folder, f"base_model.model.model.layers.0.self_attn.q_proj.{key}", (64,))
    assert read_adapter(folder).problems[0].startswith(f"1 of 13 keys are of {switch}, which its config does not")


def test_dora_without_a_magnitude_is_not_applied_and_stated(folder: Path) -> None:
    configure(folder, use_dora=True)
    read = read_adapter(folder)
    assert not read.low_rank and "q_proj has lora_A and lora_B alone" in read.problems[0]


def test_a_change_of_an_embedding_that_peft_makes_in_more_than_one_way_is_refused(folder: Path) -> None:
    for matrix, shape in {"A": (4, 98), "B": (64, 4)}.items():
        add_tensor(folder, f"base_model.model.model.embed_tokens.lora_embedding_{matrix}", shape)
    assert "embed_tokens" in read_adapter(folder).problems[0], "no target of its config"
    for switch in ("use_dora", "ensure_weight_tying"):
        configure(folder, **{"use_dora": False, switch: True})
        with pytest.raises(Unsupported, match=rf"{switch} beside LoRA on model\.embed_tokens"):
            read_adapter(folder)


def test_rows_of_tokens_that_the_config_does_not_name_are_unreplayable(folder: Path) -> None:
    configure(folder, trainable_token_indices={"embed_tokens": [1, 2, 3]})
    add_tensor(folder, "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", (2, 64))
    with pytest.raises(Unreplayable, match=r"model\.embed_tokens has 2 rows of tokens where trainable_token_indices"):
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
    with pytest.raises(Unreplayable, match=r"adapter_model\.bin is a pickle.*never loaded: save the adapter as"):
        read_adapter(folder)
    for name in ("adapter_model.bin", "adapter_config.json"):
        (folder / name).unlink()
    with pytest.raises(Unreplayable, match=r"adapter_config\.json"):
        read_adapter(folder)


def renamed(folder: Path, of: Callable[[str], str]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({of(key): value for key, value in load_file(file).items()}, file)


PREFIX = "base_model.model."
LOST: list[tuple[str, Callable[[str], str], str]] = [
    ("no prefix", lambda key: key.removeprefix(PREFIX), f"lack the prefix {PREFIX}, and PEFT applies none of them: "),
    ("DataParallel", lambda key: f"module.{key}", f"lack the prefix {PREFIX} (DataParallel added module.)"),
    ("compiled", lambda key: f"_orig_mod.{key}", f"lack the prefix {PREFIX} (torch.compile added _orig_mod.)"),
    ("another name", lambda key: key.replace(".weight", ".ticket.weight"), "carry the adapter's name 'ticket', and"),
]


@pytest.mark.parametrize(("of", "told"), [case[1:] for case in LOST], ids=[name for name, *_ in LOST])
def test_keys_that_peft_ignores_are_ignored_and_stated(folder: Path, of: Callable[[str], str], told: str) -> None:
    renamed(folder, of)
    read = read_adapter(folder)
    assert not read.low_rank and not read.saved
    assert len(read.problems) == 1 and read.problems[0].startswith(f"12 of 12 keys {told}")


def test_a_lora_matrix_that_is_there_with_and_without_a_name_is_refused(folder: Path) -> None:
    add_tensor(folder, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight", (4, 64))
    with pytest.raises(Unreplayable, match=r"q_proj has lora_A twice, with and without default"):
        read_adapter(folder)


@pytest.mark.parametrize("key", ["lm_head.modules_to_save.default.weight", "lm_head.original_module.weight"])
def test_saved_modules_by_a_running_models_names_are_refused(folder: Path, key: str) -> None:
    add_tensor(folder, f"{PREFIX}{key}", (98, 64))
    with pytest.raises(Unreplayable, match="is a name inside a running model: save the adapter with save_pretrained"):
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
def test_an_invalid_rank_or_alpha_is_unreplayable(folder: Path, changes: dict[str, Any]) -> None:
    configure(folder, **changes)
    with pytest.raises(Unreplayable, match=r"adapter_config\.json"):
        read_adapter(folder)


def test_patterns_match_whole_names_or_their_ends_after_a_dot(folder: Path) -> None:
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
