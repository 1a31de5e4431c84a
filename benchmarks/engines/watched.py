"""A base and its adapters as ``gapwatch init`` writes them down for one address, accepted, and judged round by round.

All settings are the defaults but for the address. A round is asked for when a figure wants it, by a clock that is set
forward by the cadence, so that no budget of a minute is waited for that would have come back between two rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from agent.assemble import monitor_of
from agent.cli.enrol import EnrolOptions, enrol_adapters
from agent.clock import HandClock
from agent.config import Config, load
from agent.worker.watched_bases import goldens_of
from detectors.monitor import Monitor
from detectors.records import BaseRound, Status, Verdict
from probes.canaries.canary_file import CanarySet
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.record import Golden, Unmonitorable
from probes.runners.served import Config as EngineConfig
from probes.runners.served import Runner
from probes.serving.discovery import connect
from probes.serving.engine import Address, Engine

NOWHERE = "clickhouse://default@127.0.0.1:9/gapwatch"
Connect = Callable[[Address, str], Engine]


def configuration(folder: Path, url: str, base: str, canaries: dict[str, CanarySet], golden_dir: str) -> Config:
    """The file's content is that of ``gapwatch init`` with canaries; golden_dir: where records are, or will be."""
    for name, chosen in canaries.items():
        rows = [{"id": canary.id, "messages": list(canary.messages)} for canary in chosen.canaries]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    adapters = [{"name": name, "canaries": f"{name}.jsonl"} for name in canaries]
    model = {"name": base, "served": {"url": url}, "adapters": adapters}
    settings = {"models": [model], "probes": {"golden_dir": golden_dir}, "clickhouse": {"dsn": NOWHERE}}
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return load(folder / "gapwatch.yaml")


def accept(folder: Path) -> None:
    """``gapwatch enrol --all``. Raises RuntimeError where an adapter was not recorded."""
    if enrol_adapters(folder / "gapwatch.yaml", [], EnrolOptions(), json=True):
        raise RuntimeError("an adapter was not recorded")


@dataclass
class Watch:
    """Rounds through one runner. seed: of the draws; only: the one adapter that is replayed, "" for all
    few: canaries of each half of a record that are drawn from, 0 for all of them
    """

    config: Config
    runner: Runner
    monitor: Monitor
    clock: HandClock
    seed: int
    number: int = 0
    only: str = ""
    few: int = 0

    @cached_property
    def goldens(self) -> dict[str, Golden | Unmonitorable]:
        """Adapter -> its record in force."""
        held = goldens_of(self.config, self.config.models[0])
        return {name: _with_few(own, self.few) for name, own in held.items()} if self.few else held

    def round(self) -> BaseRound:
        """The next one by the default cadence."""
        (model,) = self.config.models
        assert model.served is not None
        self.clock.advance(model.served.every)
        budget = self.config.probes.token_budget_per_round
        scheduled = Scheduled(model.name, self.number, self.clock.now(), budget, self.seed)
        self.number += 1
        goldens = {name: held for name, held in self.goldens.items() if self.only in ("", name)}
        done = replay_base_round(self.runner, goldens, scheduled, lambda: False)
        assert done is not None
        return done

    def judged(self) -> dict[str, Verdict]:
        """Subject -> its verdict on the next round."""
        return {verdict.subject: verdict for verdict in self.monitor.observe(self.round()).verdicts}


def watching(config: Config, seed: int, connected: Connect = connect, only: str = "", url: str = "") -> Watch:
    """Open. connected: how the engine is connected to; url: in place of the configuration's"""
    (model,) = config.models
    assert model.served is not None
    adapters, clock = {adapter.name: "" for adapter in model.adapters}, HandClock()
    base = model.served.base or model.name
    address = model.served.settings | ({"url": url} if url else {})
    settings = EngineConfig(address, base, adapters, limits=model.served.limits.settings)
    runner = Runner(settings, connected, clock)
    runner.open()
    return Watch(config, runner, monitor_of(config), clock, seed, only=only)


def _with_few(golden: Golden | Unmonitorable, few: int) -> Golden | Unmonitorable:
    if isinstance(golden, Unmonitorable):
        return golden
    return replace(golden, canaries=(*golden.pool[:few], *golden.held_out[:few]))


def pages(verdicts: Iterable[Verdict]) -> Sequence[Verdict]:
    return [verdict for verdict in verdicts if verdict.status is Status.DEGRADED and not verdict.covered_by]
