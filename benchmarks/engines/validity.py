"""Is the way of asking itself true? Engines that score otherwise than they write, or whose base answers as an adapter.

Each case is another adapter of the toy language, with vLLM's fields; its record was made in process. Half of the cases
have .03 nats of noise on every logit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engines.watched import Watch, configuration, pages, watching
from benchmarks.figures import Figure, console, share
from detectors.records import Status
from probes.enrolment.enrol import Request, enrol
from probes.golden.archive import save
from probes.runners import memory
from tests.probes.worlds import SETTINGS, canary_set, never, silent
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.transport import edited

CASES, BASE, ADAPTER = 10, "base-v1", "alpha"
NOISE = 0.03  # nats
BLIND = "scoring in the prompt is blind for"


def measure(quick: bool) -> list[Figure]:
    """Shares of the cases that go as they should."""
    cases = range(4 if quick else CASES)
    scored = [_scored_as_base(number) for number in cases]
    under_base = [_under_the_bases_name(number, is_listed) for number in cases for is_listed in (True, False)]
    n, wrong = len(scored), "an adapter that is served, and scored as its base in a prompt (lm_head)"
    return [
        share(
            f"{wrong}, of {n}: that way of asking called blind in the first round", sum(a for a, _, _ in scored), n, 100
        ),
        share(f"{wrong}, of {n}: healthy in the first round", sum(b for _, b, _ in scored), n, 100),
        share(f"{wrong}, of {n}: page in the first round once it is lost indeed", sum(c for _, _, c in scored), n, 100),
        share(
            f"F2, an adapter answers under the base's name, of {len(under_base)}, half of them not listed so: named in "
            "the first round, without a page",
            sum(under_base),
            len(under_base),
            100,
        ),
    ]


def _scored_as_base(number: int) -> tuple[bool, bool, bool]:
    """Is the route called blind, is the adapter healthy all the same, and does it page once it is not applied?"""
    with _world(number) as (server, watch):
        server.engine.faults.scored_as_base.add(ADAPTER)
        first = watch.round()
        is_blind = any(BLIND in fact for fact in first.members[0].facts)
        (verdict,) = [own for own in watch.monitor.observe(first).verdicts if own.subject == ADAPTER]
        server.engine.faults.of_adapter[ADAPTER] = "not_applied"
        is_paged = any(own.subject == ADAPTER for own in pages(watch.judged().values()))
        console.print(f"  {number}: blind {is_blind}, {verdict.status}, page once it is lost {is_paged}")
        return is_blind, verdict.status is Status.HEALTHY, is_paged


def _under_the_bases_name(number: int, is_listed: bool) -> bool:
    with _world(number) as (server, watch):
        server.engine.faults.base_serves = ADAPTER
        if not is_listed:
            server.transport.set(edited(_once), only="/v1/models")
            watch.runner.refresh()
        verdicts = watch.judged()
        said = verdicts[ADAPTER].explanation
        return not pages(verdicts.values()) and BASE in said and ("2 models of that name" in said or "answers" in said)


def _once(listed: dict[str, Any]) -> None:
    """Each name, as a list has it that is made of the configuration."""
    listed["data"] = list({card["id"]: card for card in reversed(listed["data"])}.values())[::-1]


@contextmanager
def _world(number: int) -> Iterator[tuple[Server, Watch]]:
    """An engine with an adapter of its own, and what was accepted of it."""
    seeds = {ADAPTER: f"case {number}", "beta": f"beside case {number}"}
    engine = ToyEngine(BASE, dict(seeds), NOISE * (number % 2))
    with tempfile.TemporaryDirectory() as place, serving(engine) as server:
        folder = Path(place)
        reference = memory.Runner(memory.Config(base=BASE, adapters=dict(seeds)))
        reference.open()
        settings = replace(SETTINGS, base=BASE)
        golden = enrol(Request(reference, ADAPTER, canary_set(), settings, list(seeds), silent, never))
        save(golden, folder / "golden")
        config = configuration(folder, server.url, BASE, {ADAPTER: canary_set()}, "golden")
        watch = watching(config, seed=number)
        try:
            yield server, watch
        finally:
            watch.runner.close()
