"""Faults inside an engine, switched on behind the same address while its list of models says that all is as it was.

Letters are those of the fault classes that users of serving engines reported. Three adapters of the toy language with
vLLM's fields, .03 nats of noise on every logit of every request; records made by ``gapwatch enrol`` through the engine
alone. Each case is begun again with other draws, on each adapter in turn, which alone is watched then. What an engine
writes, streams or answers from its cache is looked at in a few cells a round, and in all of them after an event.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.config import Config
from benchmarks.engines.watched import accept, configuration, pages, watching
from benchmarks.figures import Figure, console, context, exactly, share
from detectors.records import Cause
from tests.probes.worlds import ADAPTERS, canary_set
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import Faults, ToyEngine

NOISE = 0.03  # nats: published between a trainer and vLLM in bfloat16
REPEATS, HEALTHY_ROUNDS, MOST_ROUNDS = 8, 1, 4


@dataclass(frozen=True, slots=True)
class Case:
    """begin: what becomes wrong of an adapter; causes: that name it; rounds: within which it is to be found"""

    name: str
    begin: Callable[[Server, str], None]
    causes: tuple[Cause, ...] = (Cause.ADAPTER_NOT_APPLIED,)
    rounds: int = 1


def measure(quick: bool) -> list[Figure]:
    """Share of the cases that are found, and found and named, in the first round; and how many rounds others take."""
    figures: list[Figure] = []
    with _accepted() as (server, config):
        healthy = 0
        for case in CASES:
            outcomes = [_outcome(server, config, case, number) for number in range(3 if quick else REPEATS)]
            healthy += sum(outcome.early_pages for outcome in outcomes)
            figures += _figures(case, outcomes)
            console.print(f"  {case.name}: {[(own.rounds, own.named, own.words) for own in outcomes][:3]}")
        rounds = len(CASES) * (3 if quick else REPEATS) * HEALTHY_ROUNDS
        figures.append(exactly(f"healthy rounds before the faults, of {rounds}: pages", healthy, "pages", 0))
    return figures


@dataclass(frozen=True, slots=True)
class Outcome:
    """rounds: until a page about the adapter or its base, 0 for none; named: by one of the causes of its case"""

    rounds: int
    named: bool
    words: str
    early_pages: int


def _outcome(server: Server, config: Config, case: Case, number: int) -> Outcome:
    adapter = sorted(ADAPTERS)[number % len(ADAPTERS)]
    watch = watching(config, number, only=adapter)
    try:
        early = sum(len(pages(watch.judged().values())) for _ in range(HEALTHY_ROUNDS))
        case.begin(server, adapter)
        for rounds in range(1, max(case.rounds, MOST_ROUNDS) + 1):
            verdicts = watch.judged()
            subjects = (adapter, server.engine.base)
            if noticed := [verdict for verdict in pages(verdicts.values()) if verdict.subject in subjects]:
                return Outcome(rounds, noticed[0].cause in case.causes, str(noticed[0].cause), early)
        last = verdicts[adapter]
        return Outcome(0, False, f"{last.status}: {last.explanation}"[:160], early)
    finally:
        watch.runner.close()
        server.engine.faults = Faults()
        server.engine.adapters = dict(ADAPTERS)
        server.engine.restart()


def _figures(case: Case, outcomes: list[Outcome]) -> Iterator[Figure]:
    of = f"{case.name}, of {len(outcomes)}"
    within = f"in {case.rounds} rounds" if case.rounds > 1 else "in the first round"
    within_time = [outcome for outcome in outcomes if 0 < outcome.rounds <= case.rounds]
    yield share(f"{of}: found {within}", len(within_time), len(outcomes), 100)
    yield share(f"{of}: found {within} and named", sum(outcome.named for outcome in within_time), len(outcomes), 100)
    if any(outcome.rounds for outcome in outcomes):
        slowest = max(outcome.rounds for outcome in outcomes)
        yield context(f"{of}: rounds until the page, at most of those found", slowest, "rounds")


@contextmanager
def _accepted() -> Iterator[tuple[Server, Config]]:
    """A healthy engine whose adapters are accepted."""
    engine = ToyEngine(adapters=dict(ADAPTERS), noise=NOISE)
    with tempfile.TemporaryDirectory() as place, serving(engine) as server:
        folder = Path(place)
        config = configuration(folder, server.url, engine.base, dict.fromkeys(ADAPTERS, canary_set()), "golden")
        accept(folder)
        yield server, config


def _of_adapter(fault: str, share: float = 1.0) -> Callable[[Server, str], None]:
    def begin(server: Server, adapter: str) -> None:
        other = sorted(set(ADAPTERS) - {adapter})[0]
        server.engine.faults = Faults({adapter: fault.replace("OTHER", other)}, share)

    return begin


def _dropped(server: Server, adapter: str) -> None:
    server.engine.faults = Faults({adapter: "not_applied"}, unknown_is_base=True)


def _restarted(server: Server, adapter: str) -> None:
    """The list of models is one that names what was configured, and not what was loaded."""
    server.engine.faults = Faults({adapter: "not_applied"})
    server.settings.started += 60.0
    server.engine.restart()


def _not_in_prefill_at_restart(server: Server, adapter: str) -> None:
    _restarted(server, adapter)
    server.engine.faults = Faults({adapter: "not_in_prefill"})


def _streaming(server: Server, adapter: str) -> None:  # noqa: ARG001
    server.engine.faults = Faults(streams_base=True)


def _at_chat(server: Server, adapter: str) -> None:  # noqa: ARG001
    server.engine.faults = Faults(chats_base=True)


def _reloaded(server: Server, adapter: str) -> None:
    server.engine.reload(adapter, f"{adapter}-v0")


def _stale(server: Server, adapter: str) -> None:
    """What other requests have left in the cache of prefixes, under the same name, is of an adapter that was before."""
    server.engine.restart()
    server.engine.faults = Faults(stale_cache=True)
    accepted = server.engine.adapters[adapter]
    server.engine.adapters[adapter] = f"{adapter}-v0"
    for question in [own.body for own in server.questions if own.path == "/v1/completions" and own.body]:
        if question["model"] == adapter:
            server.engine.generated(adapter, question["prompt"], 1)
    server.engine.reload(adapter, accepted)


LOST, OTHER = (Cause.ADAPTER_NOT_APPLIED,), (Cause.WRONG_ADAPTER,)
IN_PART = (*LOST, Cause.PARTLY_APPLIED, Cause.SERVING_PATH)
PATH = (Cause.SERVING_PATH,)
MIXED = (*LOST, Cause.ONE_REPLICA)
CASES = (
    Case("A3, the adapter's name is dropped on the way: the base answers, for unknown names too", _dropped),
    Case("A4, the adapter is lost where an answer is streamed", _streaming, PATH),
    Case("A4, the adapter is lost at the chat endpoint", _at_chat, PATH),
    Case("A4, the adapter is lost everywhere but where an answer is streamed", _of_adapter("not_applied")),
    Case("A7, the adapter is lost at a restart, and still listed", _restarted),
    Case("B4, the adapter is lost where a prompt is read", _of_adapter("not_in_prefill"), IN_PART),
    Case("B4, the same from a restart on", _not_in_prefill_at_restart, IN_PART),
    Case("B4, the adapter is lost after the first token", _of_adapter("not_in_decode"), IN_PART),
    Case("B5, the base answers 1 of 2 requests", _of_adapter("not_applied", 1 / 2), MIXED),
    Case("B5, the base answers 1 of 4 requests", _of_adapter("not_applied", 1 / 4), MIXED, 2),
    Case("B5, the base answers 1 of 8 requests", _of_adapter("not_applied", 1 / 8), MIXED, 6),
    Case("E1, another adapter answers under the name", _of_adapter("wrong_adapter:OTHER"), OTHER),
    Case("E2, an earlier version answers after a reload", _reloaded, (Cause.WRONG_ADAPTER, Cause.ADAPTER_REPLACED)),
    Case("E3, another adapter answers 1 of 4 requests", _of_adapter("wrong_adapter:OTHER", 1 / 4), OTHER, 2),
    Case("F1, prefixes of an earlier version in the cache", _stale, (Cause.SHARED_CACHE,)),
)
