"""How fast does one GPU replay canaries, and what share of its arithmetic does the product's own forward pass use?

`python -m benchmarks.replay_on_gpu --json FILE [--quick]`. A model of the 8B shape with random weights, created on the
GPU, so that nothing is downloaded; 64 adapters of rank 16 on every linear layer, 32 canaries each. Measured: plain
matrix products, the product's own replay as it packs its batches now and packed by adapter, the same by grouped matrix
products (an experiment), the same by PEFT, and how fast weights are copied to the GPU. FILE is written after each
figure, and a stage that fails does not stop the others, so that no GPU time is wasted.
--quick runs all of it on the CPU with small widths in seconds, to see that it runs; its figures mean nothing.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn import functional

from benchmarks.figures import Figure, arguments, at_most, console, context, report, save
from benchmarks.gpu.card import (
    PRECISIONS,
    TINY,
    WHOLE,
    Pace,
    Precision,
    Size,
    adapter_name,
    adapters,
    linear_layers,
    model,
    network,
    pace,
    released,
    replays,
    seconds,
    synchronised,
)
from benchmarks.gpu.grouped import one_pass
from probes.model.forward import Model
from probes.model.packing import pack
from probes.runner import BatchShape, Replay

SEED = 0
PACKED_TOKENS = 2048
NO_CARD = 2
Stage = Callable[[Size], Iterator[Figure]]


def ceiling(size: Size) -> Iterator[Figure]:
    """Two matrix products of the model's widths and nothing else: the most that the GPU can do."""
    width, wide = size.width, int(size.llama["intermediate_size"])
    for precision in PRECISIONS:
        for rows in (664, 2656, 8192) if size.on_card else (32,):
            x = torch.randn(rows, width, device=size.device, dtype=precision.dtype)
            up = torch.randn(wide, width, device=size.device, dtype=precision.dtype)
            with precision.in_force():
                took = seconds(size, partial(_up_and_down, x, up), 5)
            speed = 4 * rows * width * wide / took / 1e12
            yield context(f"ceiling, {precision.name}, {rows} rows", speed, "TFLOP/s")


def _up_and_down(x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return functional.linear(functional.linear(x, up), up.T)


def grouped(size: Size) -> Iterator[Figure]:
    dtype = torch.bfloat16 if size.on_card else torch.float32
    for n, rows in ((16, 3), (64, 1), (16, 8)) if size.on_card else ((2, 2),):
        measured_pace, took = one_pass(network(size, dtype), size, n, rows, dtype)
        name = f"grouped products, {n} adapters x {rows} rows and the base"
        yield from _paced(name, measured_pace)
        yield context(f"{name}: one pass", took, "s")
        released(size)


def product(size: Size, precision: Precision) -> Iterator[Figure]:
    """The product's own replay. What it takes is measured before its kernels are counted: a profiler may fail."""
    with precision.in_force():
        yield from _product(size, precision)


def _product(size: Size, precision: Precision) -> Iterator[Figure]:
    on = model(network(size, precision.dtype))
    n = size.adapters if precision.dtype is torch.bfloat16 else min(8, size.adapters)
    began = time.perf_counter()
    for adapter, lora in adapters(on.network, size, precision.dtype, n):
        on.adapters.apply(adapter, lora)
    synchronised(size)
    name = f"replay, {precision.name}, {n} adapters"
    yield context(f"{name}: put an adapter in its place", (time.perf_counter() - began) / n * 1e3, "ms")
    batch_replays = replays(size, n)
    batches = pack(batch_replays, BatchShape(), PACKED_TOKENS, on.continues)
    yield from _paced(f"{name}, packed as now", pace(size, on, batches))
    for rows in (32, 64):
        yield from _paced(f"{name}, packed by adapter, {rows} rows", pace(size, on, by_adapter(batch_replays, rows)))
    if size.on_card:
        yield context(f"{name}: most memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
    yield from _profiled(f"{name}, one batch as packed now", size, on, batches[len(batches) // 2])
    yield from _profiled(f"{name}, one batch of an adapter", size, on, by_adapter(batch_replays, 32)[0])


def by_adapter(all_replays: list[Replay], rows: int) -> list[list[Replay]]:
    """Each batch of one adapter, or of the base; longest first, so that there is little padding."""
    by_name: dict[str, list[Replay]] = {}
    for replay in all_replays:
        by_name.setdefault(replay.target.adapter or "", []).append(replay)
    batches: list[list[Replay]] = []
    for own in by_name.values():
        own.sort(key=lambda replay: -len(replay.prompt) - len(replay.forced))
        batches += [own[at : at + rows] for at in range(0, len(own), rows)]
    return batches


def peft(size: Size, count: int = 32) -> Iterator[Figure]:
    """The same rows by the reference implementation, PEFT, which takes an adapter name for each row."""
    from peft import LoraConfig, get_peft_model

    dtype = torch.bfloat16 if size.on_card else torch.float32
    n = count if size.on_card else 4
    net = network(size, dtype)
    targets = sorted({name.rpartition(".")[2] for name in linear_layers(net)})
    config = LoraConfig(r=size.rank, lora_alpha=2 * size.rank, target_modules=targets, init_lora_weights=False)
    wrapped: Any = get_peft_model(net, config, adapter_name=adapter_name(0))
    for number in range(1, n):
        wrapped.add_adapter(adapter_name(number), config)
    wrapped = wrapped.to(size.device, dtype).eval()
    length = size.prompt + size.forced - 1
    ids = torch.randint(0, size.vocabulary, (2 * n, length), device=size.device)
    names = ["__base__"] * n + [adapter_name(number) for number in range(n)]
    with torch.inference_mode():
        took = seconds(size, lambda: wrapped(input_ids=ids, adapter_names=names, logits_to_keep=size.forced), 2)
    name = f"PEFT, {n} adapters and the base"
    yield context(f"{name}: tokens read a second", 2 * n * length / took, "1/s")
    yield context(f"{name}: one pass", took, "s")


def moving(size: Size) -> Iterator[Figure]:
    """How fast weights are copied to the GPU, and how fast they are hashed."""
    n_bytes = 2_000_000_000 if size.on_card else 2_000_000
    weights = torch.zeros(n_bytes, dtype=torch.uint8)
    if size.on_card:
        pinned_weights = weights.pin_memory()
        yield context("weights to the card", n_bytes / 1e9 / seconds(size, lambda: weights.to(size.device), 2), "GB/s")
        pinned = seconds(size, lambda: pinned_weights.to(size.device, non_blocking=True), 2)
        yield context("weights to the card from pinned memory", n_bytes / 1e9 / pinned, "GB/s")
    began = time.perf_counter()
    hashlib.sha256(weights.numpy().data).hexdigest()
    yield context("sha256 of weights", n_bytes / 1e9 / (time.perf_counter() - began), "GB/s")


def _paced(name: str, measured_pace: Pace) -> Iterator[Figure]:
    yield context(f"{name}: tokens read a second", measured_pace.tokens_a_second, "1/s")
    yield context(f"{name}: of the arithmetic", measured_pace.teraflops, "TFLOP/s")


def _profiled(name: str, size: Size, on: Model, batch: list[Replay]) -> Iterator[Figure]:
    """The kernels that one batch launches; many small ones keep a GPU idle."""
    from torch.profiler import ProfilerActivity, profile

    watched = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if size.on_card else [])]
    on.answer(batch, BatchShape(rows=len(batch)))
    synchronised(size)
    with profile(activities=watched) as profiler:
        on.answer(batch, BatchShape(rows=len(batch)))
        synchronised(size)
    events = list(profiler.events())
    yield context(f"{name}: operators called", sum(event.name.startswith("aten") for event in events), "calls")
    if size.on_card:
        kernels = [event for event in events if str(event.device_type).endswith("CUDA")]
        yield context(f"{name}: kernels", len(kernels), "kernels")
        yield context(f"{name}: time in kernels", sum(event.device_time for event in kernels) / 1e3, "ms")


# Each precision of the product is a stage of its own, so that one that fails costs the others nothing; the one that
# adapters are served in is first.
STAGES: Mapping[str, Stage] = {
    "ceiling": ceiling,
    "grouped": grouped,
    "PEFT": peft,
    "moving": moving,
    **{f"product, {precision.name}": partial(product, precision=precision) for precision in reversed(PRECISIONS)},
}


def measure(size: Size, file: Path | None) -> list[Figure]:
    """All stages; the file is written after each figure, and the last figure is the number of failed stages."""
    figures: list[Figure] = []
    failed: list[str] = []
    for name, stage in STAGES.items():
        try:
            for figure in stage(size):
                console.print(f"{figure.name}: {figure.value:.4g} {figure.unit}", highlight=False)
                figures.append(figure)
                save(figures, SEED, file)
        except Exception as error:  # a stage may fail for any reason of the GPU's; the others are still worth running
            failed.append(name)
            console.print(f"[red]{name} failed:[/red] {type(error).__name__}: {str(error)[:200]}")
        released(size)
    return [*figures, at_most("stages that failed", len(failed), "stages", 0)]


def main() -> int:
    options = arguments(__doc__ or "")
    if not options.quick and not torch.cuda.is_available():
        console.print("no CUDA device here: --quick runs every stage on the CPU, to see that it runs")
        return NO_CARD
    transformers.logging.set_verbosity_error()
    report(measure(TINY if options.quick else WHOLE, options.json), SEED, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
