"""A model of the 8B shape on one card: what share of its arithmetic a pass reaches, and PEFT beside it.

The ceiling is two matrix products of the model's widths in bfloat16 and nothing else, over as many rows as a batch has
tokens. Without a card each figure is reported as not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch.nn import functional

from benchmarks.figures import Figure, at_least, at_most, context
from benchmarks.gpu.card import Pace, Size, adapters, model, network, pace, released, replays, seconds
from benchmarks.replay_on_gpu import PACKED_TOKENS, by_adapter, peft
from probes.model.forward import Model
from probes.model.packing import pack
from probes.model.precision.split_products import split_layers
from probes.runner import BatchShape, Replay

NOT_MEASURED = "not measured"
BASE = "products of the base at the ceiling, of the time of a pass without adapters"
SPLIT = "the same by split products"
LORA = "adapters' share of a pass"
TIMES_PEFT = "times PEFT's adapter_names"
LOOP = "tokens read a second, each adapter in passes of its own"
MEMORY = "memory beside base and adapters"
TARGETS = {BASE: 80.0, SPLIT: 45.0, LORA: 15.0, TIMES_PEFT: 10.0, MEMORY: 1.5}
MOST = (LORA, MEMORY)
FLEETS = (64, 256)


def names(fleet: int) -> list[str]:
    every = [BASE, SPLIT, LORA, MEMORY, LOOP, *([TIMES_PEFT] if fleet == max(FLEETS) else [])]
    return [_name(fleet, kind) for kind in every]


def without_a_card() -> Iterator[Figure]:
    for fleet in FLEETS:
        for name in names(fleet):
            yield Figure(name, math.nan, NOT_MEASURED, TARGETS.get(name.partition(": ")[2]))


def figures(size: Size) -> Iterator[Figure]:
    """Fleets of 64 and of 256 adapters; fewer where the size is tiny."""
    for fleet in FLEETS:
        yield from _fleet(size, fleet, fleet if size.on_card else size.adapters)
        released(size)


def _fleet(size: Size, fleet: int, count: int) -> Iterator[Figure]:
    given = replays(replace(size, canaries=size.canaries * FLEETS[0] // fleet or 1), count)
    on = model(network(size, torch.bfloat16))
    for name, lora in adapters(on.network, size, torch.bfloat16, count):
        on.adapters.apply(name, lora)
    released(size)
    held = torch.cuda.memory_allocated() if size.on_card else 0
    of_base = [replay for replay in given if replay.target.adapter is None]
    top = _ceiling(size)
    plain, whole = (_paced(size, on, some) for some in (of_base, given))
    yield _judged(fleet, BASE, 100 * plain.teraflops / top, "%")
    # Half of the rows are an adapter's: a pass of such rows alone would take twice as much longer.
    yield _judged(fleet, LORA, 100 * 2 * max(0.0, 1 - whole.tokens_a_second / plain.tokens_a_second), "%")
    if size.on_card:
        yield _judged(fleet, MEMORY, (torch.cuda.max_memory_allocated() - held) / 1e9, "GB")
    loop = pace(size, on, by_adapter(given, 32))
    yield context(_name(fleet, LOOP), loop.tokens_a_second, "1/s")
    yield context(_name(fleet, "tokens read a second"), whole.tokens_a_second, "1/s")
    del on
    released(size)
    if fleet == max(FLEETS):
        theirs = next(figure.value for figure in peft(size, count) if figure.unit == "1/s")
        yield _judged(fleet, TIMES_PEFT, whole.tokens_a_second / theirs, "x")
        released(size)
    net = network(size, torch.float32)
    split_layers(net)
    yield _judged(fleet, SPLIT, 100 * _paced(size, model(net), of_base).teraflops / top, "%")


def _paced(size: Size, on: Model, given: Sequence[Replay]) -> Pace:
    return pace(size, on, pack(given, BatchShape(), PACKED_TOKENS, continues=True))


def _ceiling(size: Size) -> float:
    """1e12 operations a second."""
    width, wide, rows = size.width, int(size.llama["intermediate_size"]), PACKED_TOKENS if size.on_card else 64
    x, up = (torch.randn(n, width, device=size.device, dtype=torch.bfloat16) for n in (rows, wide))
    return 4 * rows * width * wide / seconds(size, partial(_up_and_down, x, up), 5) / 1e12


def _up_and_down(x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return functional.linear(functional.linear(x, up), up.T)


def _name(fleet: int, kind: str) -> str:
    return f"{fleet} adapters: {kind}"


def _judged(fleet: int, kind: str, value: float, unit: str) -> Figure:
    return (at_most if kind in MOST else at_least)(_name(fleet, kind), value, unit, TARGETS[kind])
