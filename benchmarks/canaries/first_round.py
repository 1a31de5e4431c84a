"""How many rounds until the page, and how many tokens does a round cost? The real model, three adapters, real files.

Each fault is put on the volume as in production: the base's folder replaced by a release, or the adapter's keys renamed
so that nothing matches. The runner then checks the files, loads and replays as in ``gapwatch run``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from safetensors.numpy import load_file, save_file

from agent.alerting.incidents import step_round
from agent.assemble import monitor_of
from agent.config import Config
from agent.demo.stage import ADAPTERS, BASE, Stage, lay_base, replace_folder
from agent.records import Notice, NoticeKind
from agent.worker.watched_bases import goldens_of, runner_of
from benchmarks.figures import Figure, at_most, context, exactly
from detectors.monitor import Monitor
from detectors.records import BaseRound, Reason, Status, Verdict
from examples.helpdesk.releases import make_release
from probes.canaries.round import Scheduled, replay_base_round
from probes.runner import Runner

SEED = 11
MAX_ROUNDS = 4
BUDGET = 512


class Bench:
    """One runner over the volume, and fresh detectors for each fault."""

    def __init__(self, stage: Stage, config: Config) -> None:
        self.stage, self.config = stage, config
        self.runner: Runner = runner_of(config, config.models[0])
        self.goldens = goldens_of(config, config.models[0])
        self.number = 0
        self.rounds: list[BaseRound] = []
        self.monitor: Monitor = monitor_of(config)
        self.notices: list[Notice] = []
        self._states: dict[str, object] = {}

    def fresh(self) -> None:
        self.monitor, self.notices, self._states = monitor_of(self.config), [], {}

    def round(self) -> list[Verdict]:
        """One whole round: tried again while the files are not yet at rest."""
        for _ in range(10):
            scheduled = Scheduled(BASE, self.number, time.time(), BUDGET, SEED)
            started = time.monotonic()
            base_round = replay_base_round(self.runner, self.goldens, scheduled, lambda: False)
            self.number += 1
            if base_round is not None and all(member.measurements for member in base_round.members):
                break
        else:
            raise RuntimeError(f"no whole round: {base_round}")
        self.rounds.append(replace(base_round, duration_s=time.monotonic() - started))
        verdicts = list(self.monitor.observe(base_round).verdicts)
        self._states, sent = step_round(self._states, verdicts, base_round.at, "bench")  # type: ignore[assignment, arg-type]
        self.notices += sent
        return verdicts

    def until_all_alarm(self, names: Sequence[str]) -> tuple[dict[str, int], dict[str, str]]:
        """Round of the first alarm, from 1, and the cause named then; MAX_ROUNDS + 1 and "none" without an alarm."""
        alarm, cause = dict.fromkeys(names, MAX_ROUNDS + 1), dict.fromkeys(names, "none")
        for number in range(1, MAX_ROUNDS + 1):
            for verdict in self.round():
                if verdict.subject in alarm and verdict.reason is Reason.ALARM and alarm[verdict.subject] > MAX_ROUNDS:
                    alarm[verdict.subject], cause[verdict.subject] = number, str(verdict.cause)
            if all(round_of_alarm <= MAX_ROUNDS for round_of_alarm in alarm.values()):
                break
        return alarm, cause


def measure(stage: Stage, config: Config, quick: bool) -> list[Figure]:
    """Figures of the healthy base, of each fault, and of the tokens of a round."""
    bench = Bench(stage, config)
    bench.runner.open()
    try:
        figures = _healthy(bench, 2 if quick else 5)
        figures += _fault(bench, "adapter not applied", keys_renamed(stage), "adapter_not_applied")
        figures += _release(bench, "reparameterised", "base_swapped_and_adapter_lost")
        figures += _release(bench, "requantised", "quantised_base")
        figures += _improved(bench)
    finally:
        bench.runner.close()
    return [*figures, *_cost(bench.rounds)]


def _healthy(bench: Bench, rounds: int) -> list[Figure]:
    worst = 0.0
    for _ in range(rounds):
        for verdict in bench.round():
            if verdict.retention is not None:
                worst = max(worst, abs(verdict.retention.mean - 1))
    triggers = sum(notice.kind is NoticeKind.TRIGGER for notice in bench.notices)
    return [
        at_most(f"healthy, {rounds} live rounds of 3 adapters: largest |retention - 1|", worst, "", 1e-3),
        exactly(f"healthy, {rounds} live rounds of 3 adapters: pages", triggers, "pages", 0),
    ]


def _release(bench: Bench, name: str, cause: str) -> list[Figure]:
    return _fault(bench, f"base {name}", released(bench.stage, name), cause)


def _fault(bench: Bench, what: str, change: Callable[[], object], cause: str) -> list[Figure]:
    bench.fresh()
    with restored_after(bench.stage, change):
        alarm, causes = bench.until_all_alarm(ADAPTERS)
    figures = [at_most(f"{what}: rounds to the alarm, {name}", rounds, "rounds", 1) for name, rounds in alarm.items()]
    named = sum(rounds == cause for rounds in causes.values())
    return [*figures, exactly(f"{what}: adapters whose cause is named {cause}", named, "of 3", len(ADAPTERS))]


def _improved(bench: Bench) -> list[Figure]:
    bench.fresh()
    with restored_after(bench.stage, released(bench.stage, "improved")):
        verdicts = [verdict for _ in range(3) for verdict in bench.round()]
    triggers = sum(notice.kind is NoticeKind.TRIGGER for notice in bench.notices)
    changes = sum(notice.kind is NoticeKind.CHANGE for notice in bench.notices)
    unwell = sum(verdict.status is not Status.HEALTHY for verdict in verdicts)
    return [
        exactly("base improved, 3 rounds: pages", triggers, "pages", 0),
        exactly("base improved, 3 rounds: change events", changes, "events", 1),
        context("base improved, 3 rounds: verdicts that are not healthy", unwell, f"of {len(verdicts)}"),
    ]


def _cost(rounds: Sequence[BaseRound]) -> list[Figure]:
    members = len(ADAPTERS)
    scored = max(base_round.tokens_scored / members for base_round in rounds)
    processed = max(base_round.tokens_processed / members for base_round in rounds)
    drawn = [sum(m.comparison.draws for m in member.measurements) for each in rounds for member in each.members]
    return [
        context("canary draws per adapter and round, most of any", max(drawn), "draws"),
        at_most("canary tokens scored per adapter and round, most of any", scored, "tokens", 512),
        context("tokens processed per adapter and round (prompts, adapter and base), most of any", processed, "tokens"),
        context("a round of three adapters, median", sorted(m.duration_s for m in rounds)[len(rounds) // 2], "s"),
    ]


@contextmanager
def restored_after(stage: Stage, change: Callable[[], object]) -> Iterator[None]:
    """Make the change, and put base and adapters back afterwards."""
    accepted = {name: (_weights(stage, name)).read_bytes() for name in ADAPTERS}
    change()
    try:
        yield
    finally:
        lay_base(stage)
        for name, data in accepted.items():
            _write(_weights(stage, name), data)


def released(stage: Stage, name: str) -> Callable[[], object]:
    def change() -> None:
        replace_folder(make_release(name, stage.golden, stage.base.with_name("base.release")), stage.base)

    return change


def keys_renamed(stage: Stage) -> Callable[[], object]:
    """What a refactored wrapper does (vllm-project/vllm#34186): every key gets a prefix that no module has."""

    def change() -> None:
        for name in ADAPTERS:
            path = _weights(stage, name)
            renamed = {
                key.replace(".layers.", ".language_model.layers."): value for key, value in load_file(path).items()
            }
            save_file(renamed, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)

    return change


def _weights(stage: Stage, name: str) -> Path:
    return stage.folder / "volume" / "adapters" / name / "adapter_model.safetensors"


def _write(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)
