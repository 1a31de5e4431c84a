"""The real server of llama.cpp in benign configurations: restarted, busy, and computing by other settings.

The engine is asked all canaries once in each; then 1,000 rounds by the default settings, a week of them, are drawn from
these answers, each round from one configuration drawn at random. As in benchmarks/engines/llama_cpp.py otherwise.
That a configuration which answers alike to the last bit does not page says nothing: how far each is from the engine as
started stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
CONFIGURATIONS: dict[str, tuple[str, ...]] = {
    AS_STARTED: (),
    "started again": (),
    BUSY: ("--slots", "4"),
    "prompts in pieces of 16 tokens": ("--piece", "16"),
    "a cache of 32 bits": ("--cache", "f32"),
    "a cache of 8 bits": ("--cache", "q8_0"),
    "without flash attention": ("--flash-attention", "off"),
    "weights as they are stored": ("--no-repack",),
}


def measure(quick: bool) -> list[Figure]:
    """Rounds that page, and how far the healthy answers are apart."""
    engine = Recorded()
    with random_adapter() if quick else ticket_router() as served, ExitStack() as opened:
        for name, options in CONFIGURATIONS.items():
            url = opened.enter_context(served.server(options))
            _record(engine, name, served, url)
        return [*_apart(engine, served), *_figures(engine, served, ROUNDS)]


def _record(engine: Recorded, name: str, served: Served, url: str) -> None:
    writing = Request(served.config.models[0].name, tuple(range(10, 70)))
    busy = company(lambda _: connect(Address(url)), writing, 2) if name == BUSY else nullcontext()
    with busy:
        record(engine, name, served, url)


def _apart(engine: Recorded, served: Served) -> Iterator[Figure]:
    for name in list(CONFIGURATIONS)[1:]:
        of = f"llama.cpp, {served.name}, {name}: largest distance from the engine as started, of one token"
        yield context(of, engine.apart(AS_STARTED, name), "nats")


def _figures(engine: Recorded, served: Served, rounds: int) -> list[Figure]:
    rng, names = np.random.default_rng(16), list(CONFIGURATIONS)
    engine.configuration = names[0]
    watch, adapter = watch_of(engine, served.config, 0), served.adapter_name
    paged, others, farthest = 0, 0, 0.0
    for _ in range(rounds):
        engine.configuration = names[int(rng.integers(len(names)))]
        verdicts = watch.judged()
        paged += bool(pages(verdicts.values()))
        others += verdicts[adapter].status is not Status.HEALTHY
        retention = verdicts[adapter].retention
        farthest = max(farthest, abs(retention.mean - 1)) if retention else farthest
    engine.save()
    console.print(f"  {paged} of {rounds} rounds page, {others} are not healthy")
    of = f"llama.cpp, {served.name}, {len(names)} benign configurations, {rounds} rounds drawn from their answers"
    return [
        at_most(f"{of}: rounds that page", paged, "rounds", 0),
        share(f"{of}: share that pages", paged, rounds),
        context(f"{of}: rounds that are not healthy", others, "rounds"),
        context(f"{of}: largest distance of a round's retention from 1", farthest, ""),
    ]
