"""The real server of llama.cpp in benign configurations: restarted, busy, and computing by other settings.

The engine is asked all canaries once in each; then 1,000 rounds by the default settings, a week of them, are drawn from
these answers, each round from one configuration drawn at random. As in benchmarks/engines/llama_cpp.py otherwise, but
that the random model, whose answers cost hardly anything, is always measured. That a configuration which answers alike
to the last bit does not page says nothing: how far each is from the engine as started stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext

import numpy as np

from benchmarks.engines.llama_cpp import AS_STARTED, record, watch_of
from benchmarks.engines.real_llama import Served, random_adapter, ticket_router
from benchmarks.engines.recorded import Recorded
from benchmarks.engines.watched import pages
from benchmarks.figures import Figure, at_most, console, context, share
from detectors.records import Status
from probes.serving.company import company
from probes.serving.discovery import connect
from probes.serving.engine import Address, Request

ROUNDS = 1000
BUSY = "4 slots, 2 of them busy with other requests"
FLASH, PIECES, STORED = "without flash attention", "prompts in pieces of 16 tokens", "weights as they are stored"
EXACT, COARSE = "without flash attention, a cache of 32 bits", "a cache of 8 bits"
OPTIONS: dict[str, tuple[str, ...]] = {
    AS_STARTED: (),
    "started again": (),
    BUSY: ("--slots", "4"),
    PIECES: ("--piece", "16"),
    STORED: ("--no-repack",),
    FLASH: ("--flash-attention", "off"),
    EXACT: ("--flash-attention", "off", "--cache", "f32"),
    COARSE: ("--cache", "q8_0"),
}
# Heads of the random model are too small for a cache of 8 bits; that of the router differs most of all. The router is
# not asked beside other requests: the server lays its adapter on and off between them, and one answer takes over 30 s.
OF_RANDOM = tuple(name for name in OPTIONS if name != COARSE)
OF_ROUTER = (AS_STARTED, "started again", PIECES, COARSE)


def measure(quick: bool) -> list[Figure]:
    """Rounds that page, and how far the healthy answers are apart."""
    with random_adapter() as served:
        figures = _measured(served, OF_RANDOM)
    if not quick:
        with ticket_router() as served:
            figures += _measured(served, OF_ROUTER)
    return figures


def _measured(served: Served, names: Sequence[str]) -> list[Figure]:
    engine = Recorded()
    with ExitStack() as opened:
        for name in names:
            _record(engine, name, served, opened.enter_context(served.server(OPTIONS[name])))
        return [*_apart(engine, served, names), *_figures(engine, served, names)]


def _record(engine: Recorded, name: str, served: Served, url: str) -> None:
    writing = Request(served.config.models[0].name, tuple(range(10, 70)))
    busy = company(lambda _: connect(Address(url)), writing, 2) if name == BUSY else nullcontext()
    with busy:
        record(engine, name, served, url)


def _apart(engine: Recorded, served: Served, names: Sequence[str]) -> Iterator[Figure]:
    for name in names[1:]:
        of = f"llama.cpp, {served.name}, {name}: largest distance from the engine as started, of one token"
        yield context(of, engine.apart(AS_STARTED, name), "nats")


def _figures(engine: Recorded, served: Served, names: Sequence[str]) -> list[Figure]:
    rng = np.random.default_rng(16)
    engine.configuration = names[0]
    watch, adapter = watch_of(engine, served, 0), served.adapter_name
    paged, others, farthest = 0, 0, 0.0
    for _ in range(ROUNDS):
        engine.configuration = names[int(rng.integers(len(names)))]
        verdicts = watch.judged()
        paged += bool(pages(verdicts.values()))
        others += verdicts[adapter].status is not Status.HEALTHY
        retention = verdicts[adapter].retention
        farthest = max(farthest, abs(retention.mean - 1)) if retention else farthest
    engine.save()
    console.print(f"  {paged} of {ROUNDS} rounds page, {others} are not healthy")
    of = f"llama.cpp, {served.name}, {len(names)} benign configurations, {ROUNDS} rounds drawn from their answers"
    return [
        at_most(f"{of}: rounds that page", paged, "rounds", 0),
        share(f"{of}: share that pages", paged, ROUNDS),
        context(f"{of}: rounds that are not healthy", others, "rounds"),
        context(f"{of}: largest distance of a round's retention from 1", farthest, ""),
    ]
