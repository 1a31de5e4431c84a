"""A release of a real base, put on a volume under a whole judge: what the toy language has no weights for.

The base, its adapters and golden records are those of the demo; the runner reads and replays files as in
``gapwatch run``. No topic is read, so nobody is touched.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE
from agent.alerting.judge import Judge
from agent.assemble import monitor_of
from agent.clock import HandClock
from agent.demo.stage import BASE, Stage, replace_folder, set_up, write_config
from agent.records import Notice, NoticeKind
from agent.sinks import clickhouse
from agent.worker.cause_replays import InForce
from agent.worker.watched_bases import goldens_of, runner_of
from benchmarks.incidents.screens import CLUSTER, store_all
from detectors.records import BaseRound
from examples.helpdesk.releases import make_release
from probes.canaries.round import Scheduled, replay_base_round
from probes.runner import Runner

EVERY_S, BUDGET, SEED = 60.0, 512, 11
HEALTHY_ROUNDS, FAULTY_ROUNDS, MOST_TRIES = 2, 1, 10
NOWHERE = "http://127.0.0.1:9"


def released(name: str, folder: Path, store: clickhouse.Sink | None) -> list[Notice]:
    """Triggers, in order, of rounds on the accepted base and then on a release of examples/helpdesk/releases.py.

    Raises RuntimeError where a healthy round pages, or the files never come to rest.
    """
    stage = set_up(folder / "demo")
    with _judged(stage, folder, store) as next_round:
        if healthy := [notice for _ in range(HEALTHY_ROUNDS) for notice in next_round()]:
            raise RuntimeError(f"a healthy base has sent {healthy[0].summary}")
        replace_folder(make_release(name, stage.golden, stage.base.with_name("base.release")), stage.base)
        return [notice for _ in range(FAULTY_ROUNDS) for notice in next_round()]


@contextmanager
def _judged(stage: Stage, folder: Path, store: clickhouse.Sink | None) -> Iterator[Callable[[], list[Notice]]]:
    """A function that replays and judges one round, and gives the triggers of it. Its clock ends about now."""
    config = write_config(stage, "127.0.0.1:9", NOWHERE, EVERY_S)
    runner, goldens = runner_of(config, config.models[0]), goldens_of(config, config.models[0])
    clock, numbers = HandClock(time.time() - (HEALTHY_ROUNDS + FAULTY_ROUNDS) * EVERY_S), itertools.count()
    judge = Judge(monitor_of(config), CLUSTER, StateFile(folder / "state", clock), lambda _: ALONE)

    def next_round() -> list[Notice]:
        findings = judge(_whole_round(runner, goldens, next(numbers), clock.now()), clock.now())
        clock.advance(EVERY_S)
        if store is not None:
            for finding in findings:
                store.submit(finding)
        return [own for own in findings if isinstance(own, Notice) and own.kind is NoticeKind.TRIGGER]

    runner.open()
    try:
        if store is not None:
            store.open()
        yield next_round
        if store is not None:
            store_all(store, lambda: None)
    finally:
        runner.close()


def _whole_round(runner: Runner, goldens: InForce, number: int, at: float) -> BaseRound:
    """Tried again while the files are not yet at rest. Raises RuntimeError."""
    for _ in range(MOST_TRIES):
        done = replay_base_round(runner, goldens, Scheduled(BASE, number, at, BUDGET, SEED), lambda: False)
        if done is not None and all(member.measurements for member in done.members):
            return done
    raise RuntimeError(f"no whole round: {done}")
