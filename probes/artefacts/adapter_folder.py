"""Is this folder an adapter in PEFT's layout? If not: what it is instead, and how to get one in that layout.

These messages are what an operator reads of a wrong adapter path; tests/probes/artefacts/test_adapter_folder.py pins
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from probes.artefacts.safetensors_header import RawTensor, TensorEntry
from probes.errors import Unreplayable

WANTED = f"wanted is a folder in PEFT's layout ({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS})"
GGUF = f"a GGUF LoRA, llama.cpp's format: {WANTED}, the one that it was converted from"
MLX = (
    "an mlx-lm adapter: convert it to PEFT's layout (lora_a and lora_b transposed, as lora_A and lora_B, behind "
    f"base_model.model.; r is mlx's rank, lora_alpha its scale * rank; {ADAPTER_WEIGHTS})"
)
PICKLE = (
    f"{{name}} is a pickle, which can run code and is never loaded: save the adapter as {ADAPTER_WEIGHTS} "
    "(save_pretrained does)"
)
WHOLE = "a whole model, merged or fully fine-tuned, not an adapter: configure it as a model of its own"
ZERO3 = (
    "saved empty by DeepSpeed ZeRO-3, which had partitioned the parameters: gather them before saving "
    "(stage3_gather_16bit_weights_on_model_save: true, or zero_to_fp32.py on the checkpoint)"
)
# Keys of mlx-lm's adapter_config.json that PEFT's never has.
MLX_KEYS = {"lora_parameters", "fine_tune_type", "adapter_path"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def check_layout(path: Path) -> None:
    """Raises Unreplayable for every recognised layout other than PEFT's. Opens no weights."""
    if path.is_file():
        raise Unreplayable(str(path), GGUF if _is_gguf(path) else f"a file: {WANTED}")
    if (path / ADAPTER_WEIGHTS).is_file():
        return
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if "adapters.safetensors" in names:
        raise Unreplayable(str(path), MLX)
    if any(name.endswith(".gguf") for name in names):
        raise Unreplayable(str(path), GGUF)
    if ADAPTER_CONFIG not in names and "config.json" in names:
        raise Unreplayable(str(path), WHOLE)
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise Unreplayable(str(path), PICKLE.format(name=pickles[0]))


def check_origin(path: Path, config: Mapping[str, Any]) -> None:
    """Raises Unreplayable for the config of another library's adapter."""
    if "peft_type" not in config and MLX_KEYS & set(config):
        raise Unreplayable(str(path), MLX)


def check_not_empty(path: Path, tensors: Sequence[RawTensor | TensorEntry]) -> None:
    """Raises Unreplayable for tensors without elements."""
    if empty := [tensor.name for tensor in tensors if 0 in tensor.shape]:
        raise Unreplayable(str(path), f"{len(empty)} of {len(tensors)} tensors are empty, first {empty[0]}: {ZERO3}")


def _is_gguf(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(4) == b"GGUF" or file.suffix == ".gguf"
    except OSError as error:
        raise Unreplayable(str(file), error.strerror or str(error)) from error
