"""The real server of llama.cpp with an adapter whose scale is set wrongly: the ticket router, or a random one.

Which is which: benchmarks/engines/real_llama.py; a quick run measures the random one. The engine is asked all canaries
once at each scale, and the base, whose requests name scale 0 whatever is set, at one of them. Rounds by the default
settings are then drawn from these answers, and each case is another draw. Canaries that a round has written besides are
answered once too, when a round first wants them.
"""

from __future__ import annotations

from contextlib import ExitStack

import httpx

from benchmarks.engines.real_llama import Served, random_adapter, ticket_router
from benchmarks.engines.recorded import Recorded
from benchmarks.engines.watched import Watch, pages, watching
from benchmarks.figures import Figure, console, context, share
from detectors.records import Cause, Status
from probes.canaries.replay_pairs import ask_all, replay_pair
from probes.golden.record import Golden
from probes.serving.discovery import connect
from probes.serving.engine import Address

SEED = 7
CASES, HEALTHY_ROUNDS = 50, 2
AS_STARTED = "as started"
SCALES = {AS_STARTED: 1.0, "scale 0": 0.0, "scale 0.5": 0.5}


def measure(quick: bool) -> list[Figure]:
    """Shares of the cases in which a scale of 0 pages in the first round, and one of .5 within two."""
    engine = Recorded()
    with random_adapter() if quick else ticket_router() as served, ExitStack() as opened:
        for name, scale in SCALES.items():
            url = opened.enter_context(served.server())
            httpx.post(f"{url}/lora-adapters", json=[{"id": 0, "scale": scale}]).raise_for_status()
            record(engine, name, served, url, base_as="" if name == AS_STARTED else AS_STARTED)
        cases = range(CASES)
        lost = [_rounds_until_page(engine, served, "scale 0", number, Cause.ADAPTER_NOT_APPLIED) for number in cases]
        half = [_rounds_until_page(engine, served, "scale 0.5", number, Cause.WRONG_STRENGTH) for number in cases]
        engine.save()
    of, n = f"llama.cpp, {served.name}, of {len(lost)} draws", len(lost)
    return [
        share(f"{of}: scale 0 found and named in the first round", sum(r == 1 and ok for r, ok, _ in lost), n, 100),
        share(f"{of}: scale .5 found within two rounds", sum(r <= 2 for r, _, _ in half), n, 100),
        share(f"{of}: scale .5 found and named within two rounds", sum(r <= 2 and ok for r, ok, _ in half), n, 100),
        context(f"{of}: strength that is read at scale .5, mean", sum(scale for _, _, scale in half) / n, ""),
    ]


def record(engine: Recorded, name: str, served: Served, url: str, base_as: str = "") -> None:
    """What rounds in this configuration score. base_as: a configuration in which the base was asked the same"""
    engine.add(name, connect(Address(url)), served.answers_file(name))
    if base_as:
        engine.borrow(base_as, served.config.models[0].name)
    watch, adapter = watch_of(engine, served, 0), served.adapter_name
    golden = watch.goldens[adapter]
    assert isinstance(golden, Golden), golden
    replays = [replay for canary in golden.canaries for replay in replay_pair(canary, adapter).replays]
    ask_all(watch.runner, replays, lambda: False)
    engine.save()
    console.print(f"  recorded: {name}")


def watch_of(engine: Recorded, served: Served, number: int) -> Watch:
    """number: of its first round, by which its draws differ from those of others"""
    watch = watching(served.config, SEED, lambda _address, _kind: engine)
    watch.number, watch.few = number, served.few
    return watch


def _rounds_until_page(
    engine: Recorded, served: Served, fault: str, number: int, cause: Cause
) -> tuple[int, bool, float]:
    """Rounds after which it pages (99 for never), whether it is named then, and the strength that is read."""
    engine.configuration = AS_STARTED
    watch, adapter = watch_of(engine, served, 100 * number), served.adapter_name
    for _ in range(HEALTHY_ROUNDS):
        verdict = watch.judged()[adapter]
        assert verdict.status is Status.HEALTHY, verdict.explanation
    engine.configuration = fault
    for rounds in (1, 2, 3, 4):
        verdicts = watch.judged()
        if noticed := [own for own in pages(verdicts.values()) if own.subject == adapter]:
            return rounds, noticed[0].cause is cause, noticed[0].scale
    return 99, False, verdicts[adapter].scale
