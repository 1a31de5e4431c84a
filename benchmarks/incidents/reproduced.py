"""Each cause of an incident, injected into a whole agent on this machine, until the page that names it.

The agent is the product's own but for its surroundings: a broker, a clock and a language that are in memory, and a
store that is embedded. What is at fault is the base's or an adapter's files on the in-memory runner; what only an
engine can do wrong is switched on in the server of tests/serving_engines, asked over HTTP; what shows in responses
alone is written into the topic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from agent.alerting.notice_text import runbook_of
from agent.records import Notice, NoticeKind
from agent.sinks import clickhouse
from benchmarks.incidents.released_base import released
from benchmarks.incidents.screens import store_all
from benchmarks.incidents.toy_faults import FaultyRunner, Served
from detectors.records import Reason
from detectors.traffic_records import TrafficRound
from probes.golden.archive import load, newest, save
from probes.runners import memory, served
from probes.scoring.scoring_job import ScoringOptions
from tests.end_to_end.test_served import with_floors
from tests.end_to_end.test_traffic_in_memory import serve, turn
from tests.end_to_end.world import ADAPTERS, EVERY_S, PLAIN, Line, World, enrolled, new_runner
from tests.kafka_brokers import request
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

HEALTHY_ROUNDS, MOST_ROUNDS, REQUESTS = 10, 6, 40

Run = Callable[[Path, clickhouse.Sink | None], list[Notice]]


@dataclass(frozen=True, slots=True)
class Reproduction:
    """name: of the runbook, which is the cause that is to be named; what: was done, in words

    run: does it in a folder, with a sink that stores what is found, and gives the triggers that were sent, in order
    models: on which it was done
    """

    name: str
    what: str
    run: Run
    models: str = "models of a toy language"


def of_files(name: str, what: str, begin: Callable[[FaultyRunner], None]) -> Reproduction:
    """What is replayed from files is at fault from ``begin`` on."""

    def run(folder: Path, store: clickhouse.Sink | None) -> list[Notice]:
        runner = FaultyRunner(new_runner().config)
        with _agent(folder, Line(runner=runner), store) as world:
            _rounds(world, HEALTHY_ROUNDS)
            begin(runner)
            return _until_named(world, name)

    return Reproduction(name, what, run)


def of_engine(name: str, what: str, begin: Callable[[Server], None]) -> Reproduction:
    """The serving engine is."""

    def run(folder: Path, store: clickhouse.Sink | None) -> list[Notice]:
        engine = ToyEngine(adapters={adapter: f"{adapter}-v1" for adapter in ADAPTERS})
        with serving(engine) as server:
            limits = {"tokens_a_minute": 10**9, "requests_a_minute": 10**9}
            config = served.Config({"url": server.url}, engine.base, dict.fromkeys(ADAPTERS, ""), limits=limits)
            line = Line(runner=cast(memory.Runner, served.Runner(config)))
            with _agent(folder, line, store) as world:
                _rounds(world, HEALTHY_ROUNDS // 2, requests=0)
                begin(server)
                _rounds(world, MOST_ROUNDS, requests=0)  # no fault can be replayed inside it
                return _triggers(world)

    return Reproduction(name, what, run)


def _base_answered_by_adapter(folder: Path, store: clickhouse.Sink | None) -> list[Notice]:
    line = Line(replace(PLAIN, canaries=False), ScoringOptions(), runner=new_runner())
    with _agent(folder, line, store) as world:
        world.turn_until(lambda: bool(world.sink.of(TrafficRound)))
        for number in range(HEALTHY_ROUNDS + MOST_ROUNDS - 1):
            serve(world, "tiny", None if number < HEALTHY_ROUNDS else "beta")
            serve(world, "beta", "beta")
            turn(world, 16)
        return _triggers(world)


@contextmanager
def _agent(folder: Path, line: Line, store: clickhouse.Sink | None) -> Iterator[World]:
    """Its clock ends about now, because questions ask back from there."""
    enrolled(folder / "first")
    for adapter in ADAPTERS:
        save(with_floors(load(folder / "first", str(newest(folder / "first", adapter)))), folder / "golden")
    sinks = [] if store is None else [store]
    world = World(folder / "state", folder / "golden", others=sinks, line=line)
    world.clock.at = time.time() - (HEALTHY_ROUNDS + MOST_ROUNDS) * EVERY_S
    with world:
        yield world
        if store is not None:
            store_all(store, world.app.step)


def _rounds(world: World, rounds: int, requests: int = REQUESTS) -> None:
    """With requests of every adapter on two pods, so that somebody is touched; none where nothing can embed them."""
    for _ in range(rounds):
        for number in range(requests):
            record = request(number, ADAPTERS[number % len(ADAPTERS)], ts=world.clock.now())
            where = {"pod": f"engine-{number % 2}".encode()}
            world.topic.publish([replace(record, headers=where, at=world.clock.now())])
        world.turn_round()


def _until_named(world: World, name: str) -> list[Notice]:
    """MOST_ROUNDS: the fault stays, as it would at night. Of a page that does not name it faults are replayed for the
    cause."""
    if _triggers(world):
        raise RuntimeError(f"a healthy agent has sent {_triggers(world)[0].summary}")
    for _ in range(MOST_ROUNDS):
        _rounds(world, 1)
        if _triggers(world) and not _is_named(world, name):
            _wait_for_cause(world)
    return _triggers(world)


def _wait_for_cause(world: World) -> None:
    """Replays of faults, which the worker does after an alarm."""
    answered = (Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
    if not any(verdict.reason in answered for verdict in world.sink.verdicts):
        world.clock.advance(1.0)  # they take their time
        world.turn_until(lambda: any(verdict.reason in answered for verdict in world.sink.verdicts))


def _is_named(world: World, name: str) -> bool:
    return any(runbook_of(notice.verdict) == name for notice in _triggers(world))


def _triggers(world: World) -> list[Notice]:
    return [notice for notice in world.sink.notices if notice.kind is NoticeKind.TRIGGER]


def _inject(subject: str | None, fault: str) -> Callable[[FaultyRunner], None]:
    return lambda runner: runner.inject(subject, fault)


def _serve(state: Served, fault: str = "none") -> Callable[[FaultyRunner], None]:
    def begin(runner: FaultyRunner) -> None:
        runner.served = state
        runner.inject("alpha", fault)

    return begin


def _streams_base(server: Server) -> None:
    server.engine.faults.streams_base = True


def _stale_cache(server: Server) -> None:
    """What other requests have left in the cache of prefixes is of an adapter that had the name before."""
    server.engine.faults.stale_cache = True
    accepted = server.engine.adapters["alpha"]
    server.engine.restart()
    server.engine.adapters["alpha"] = "alpha-v0"
    for question in [own.body for own in server.questions if own.path == "/v1/completions" and own.body]:
        if question["model"] == "alpha":
            server.engine.generated("alpha", question["prompt"], 1)
    server.engine.reload("alpha", accepted)


REPRODUCTIONS = (
    of_files(
        "adapter_not_applied",
        "the base answers under the name of one of three adapters, and no file changes",
        _inject("alpha", "not_applied"),
    ),
    of_files("base_swapped", "another release of the base", _inject(None, "base_swapped:2")),
    of_files(
        "base_swapped_and_adapter_lost",
        "another release of the base, which no adapter fits",
        _inject(None, "swapped_and_lost"),
    ),
    of_files("wrong_strength", "an adapter at half of its strength", _inject("alpha", "scale:0.5")),
    of_files(
        "wrong_adapter",
        "the files of another registered adapter under an adapter's name",
        _inject("alpha", "wrong_adapter:beta"),
    ),
    of_files("partly_applied", "one of four parts of an adapter is left out", _inject("alpha", "without:part.0")),
    of_files("composition_interference", "another adapter on top of an adapter", _inject("alpha", "with:beta")),
    of_files(
        "sampling_changed",
        "an adapter's log-probabilities at temperature 1.6",
        _serve(Served(temperature=1.6)),
    ),
    of_files("template_changed", "a chat template that ends a prompt otherwise", _serve(Served(template=True))),
    of_files(
        "adapter_replaced",
        "other files under an adapter's name, which do something else beside what it does",
        _serve(Served(replaced="alpha"), "distorted:0.9"),
    ),
    of_files("one_replica", "the base answers every second request for any adapter", _serve(Served(from_base=0.5))),
    of_files(
        "unknown",
        "an update in a direction that is not the adapter's, with the accepted files in place",
        _inject("alpha", "distorted:0.5"),
    ),
    of_files("unmonitorable", "an adapter's files that cannot be read", _inject("alpha", "unreadable")),
    of_engine(
        "serving_path",
        "a serving engine that streams the base's answers, and scores prompts as accepted",
        _streams_base,
    ),
    of_engine(
        "shared_cache",
        "a serving engine whose cache of prefixes holds those of an earlier version of an adapter",
        _stale_cache,
    ),
    Reproduction(
        "base_answered_by_adapter",
        "responses of an adapter under the base's name, in the topic",
        _base_answered_by_adapter,
    ),
    Reproduction(
        "quantised_base",
        "a release of the base whose weights are rounded to 4 bits",
        partial(released, "requantised"),
        "a real base of 135 million parameters and the adapters of the demo",
    ),
)
