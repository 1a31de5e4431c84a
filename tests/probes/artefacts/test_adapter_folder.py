"""A folder that is no PEFT adapter is refused with what it is instead and what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable
from tests.probes.tiny import tiny_base

MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "dropout": 0.0, "scale": 20.0}, "num_layers": 16}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 4567890\n"


def refusal(path: Path) -> str:
    with pytest.raises(Unreplayable) as told:
        read_adapter(path)
    return told.value.why


def test_tensors_that_zero3_saved_empty(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(dict.fromkeys(load_file(file), torch.zeros(0)), file)
    assert refusal(folder).startswith("12 of 12 tensors are empty, first base_model.model.model.layers.0.mlp.down_proj")
    assert "saved empty by DeepSpeed ZeRO-3" in refusal(folder) and "gather them before saving" in refusal(folder)


def test_an_adapter_of_mlx(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapters.safetensors")
    assert refusal(folder).startswith("an mlx-lm adapter: convert it to PEFT's layout")
    (folder / "adapters.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(MLX))
    assert refusal(folder).startswith("an mlx-lm adapter: convert it to PEFT's layout"), "renamed, and still mlx's"


def test_a_gguf_file_by_name_or_content_and_a_folder_of_one(tmp_path: Path) -> None:
    for name in ("lora.gguf", "lora"):
        (tmp_path / name).write_bytes(b"GGUF\x03\0\0\0")
        assert refusal(tmp_path / name).startswith("a GGUF LoRA, llama.cpp's format: wanted is a folder in PEFT's")
    assert refusal(tmp_path).startswith("a GGUF LoRA")
    (tmp_path / "adapter.zip").write_bytes(b"PK")
    assert refusal(tmp_path / "adapter.zip").startswith("a file: wanted is a folder in PEFT's layout")


def test_a_whole_model(tmp_path: Path) -> None:
    assert refusal(tiny_base(tmp_path / "merged")).startswith(
        "a whole model, merged or fully fine-tuned, not an adapter"
    )


def test_a_git_lfs_pointer(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(POINTER)
    assert "is a Git LFS pointer" in refusal(folder) and "git lfs pull" in refusal(folder)


def test_a_folder_that_does_not_exist(folder: Path) -> None:
    shutil.rmtree(folder)
    assert refusal(folder) == "No such file or directory"
