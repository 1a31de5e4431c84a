"""What a base takes in memory, against its headers: ``python -m benchmarks.process.base_memory BASE [DTYPE [COUNT]]``.

One base a process: the peak is the kernel's own high-water mark (VmHWM) less what the process had before it loaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.figures import Figure, at_most, context
from probes.artefacts import base_files
from probes.model.base_memory import base_memory
from probes.runner import Replay, Target
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import tiny_base

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6
VOCABULARY = 32_000
# Millions of parameters -> width, layers.
SIZES = {50: (512, 8), 150: (768, 17), 500: (1280, 23)}
# Rows, prompt tokens, forced tokens: canaries as they are, canaries that begin alike, one long text.
BATCHES = ((8, 216, 40), (8, 128, 128), (1, 1920, 128))


def measure(quick: bool) -> list[Figure]:
    """Peak over what was counted, for each size in both usual types, and for a .gguf file that is converted first."""
    sizes = {50: SIZES[50]} if quick else SIZES
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for millions, (hidden, layers) in sizes.items():
            for dtype in ("float32", "bfloat16"):
                base = a_base(Path(folder) / f"{millions}-{dtype}", hidden, layers, dtype)
                figures += _figures(f"{millions} M parameters in {dtype}", in_a_process(base))
                shutil.rmtree(base)
        figures += _figures("SmolLM2 135M in Q4_1, converted", in_a_process(base_files.packaged_gguf()))
    return figures


def a_base(folder: Path, hidden: int, layers: int, dtype: str = "float32") -> Path:
    """A random Llama with the tokenizer of the tests."""
    torch.manual_seed(hidden)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=hidden * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 128, tie_word_embeddings=False,
        eos_token_id=2, bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    with tempfile.TemporaryDirectory() as tiny:
        for file in tiny_base(Path(tiny) / "tiny").glob("*token*"):
            shutil.copy(file, folder)
    return folder


def in_a_process(base: Path, dtype: str = "float32", batches: int = len(BATCHES)) -> dict[str, float]:
    """Bytes and parameters of this base, computed with in this dtype. batches: so many of ``BATCHES`` are answered"""
    command = [sys.executable, "-m", "benchmarks.process.base_memory", str(base), dtype, str(batches)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return measured


def _figures(name: str, measured: dict[str, float]) -> list[Figure]:
    return [
        at_most(f"{name}: peak while loading over what was counted", _ratio(measured, "loading_"), "", 1.0),
        at_most(f"{name}: peak of loading and replays over what was counted", _ratio(measured, ""), "", 1.0),
        context(f"{name}: peak while loading", measured["loading_peak"] / measured["parameters"], "bytes a parameter"),
        context(f"{name}: peak of all", measured["peak"] / MB, "MB beside the libraries"),
        context(f"{name}: libraries before it is loaded", measured["libraries"] / MB, "MB"),
    ]


def _ratio(measured: dict[str, float], part: str) -> float:
    return measured[f"{part}peak"] / measured[f"{part}counted"]


def _measured(base: str, cache: str, dtype: str = "float32", batches: str = "") -> dict[str, float]:
    """Of this process."""
    before = _status("VmRSS")
    torch.set_num_threads(1)
    config = Config(base, device="cpu", cache_dir=cache, threads=1, dtype=dtype)
    converting = base_files.conversion_bytes(base, Path(cache))
    runner = Runner(config)
    runner.open()
    loading_peak = _status("VmHWM") - before
    need = base_memory(base_files.resolve(base, Path(cache)), config.placement())
    assert runner.loaded.live is not None, runner.refresh()
    for rows, prompt, forced in BATCHES[: int(batches or len(BATCHES))]:
        list(runner.run([_replay(row, prompt, forced) for row in range(rows)], lambda: False))
    return {
        "parameters": sum(parameter.numel() for parameter in runner.loaded.live.network.parameters()),
        "libraries": before,
        "loading_peak": loading_peak,
        "loading_counted": max(need.held + need.loading, converting),
        "peak": _status("VmHWM") - before,
        "counted": max(need.needed, converting),
    }


def _replay(row: int, prompt: int, forced: int) -> Replay:
    kept = np.tile(np.arange(20, dtype=np.int32), (forced, 1))
    return Replay(str(row), tuple(3 + at % 90 for at in range(prompt)), (5,) * forced, Target(None), kept)


def _status(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache_folder:
        sys.stdout.write(json.dumps(_measured(sys.argv[1], cache_folder, *sys.argv[2:])) + "\n")
