"""One base with its adapters enrolled, and its canaries replayed as they are or under a fault.

Every figure of the canary evidence rests on this: each fault is replayed once on each canary, by the product's own
runner from files; rounds are then drawn from those replays as the schedule draws them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.zoo.members import Member
from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Comparison, Identity, Measurement, Reason, Round, Summary, Verdict
from detectors.verdicts.incident import Rules
from probes.canaries.canary_file import read_canaries
from probes.canaries.replay_pairs import ask_all, summary
from probes.canaries.schedule import plan_round
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.errors import ProbeError
from probes.golden.record import Golden, GoldenCanary
from probes.runner import BatchShape, Replay, Runner, Target
from probes.runners import in_process

LOG_A = math.log(2.1e9)  # 1000 adapters x 4 channels x one round a minute, one false page a year
BUDGET, SEED = 512, 29
OTHERS = 3
# Small models need many rows in a batch to be fast. The product's rounds have 8; in float32 the answers are the same.
MANY, MANY_TOKENS = BatchShape(rows=64), 8192
Measured = Mapping[str, Measurement]
Answered = Mapping[str, Summary]


def never() -> bool:
    return False


def silent(*_: object) -> None:
    """Shows no progress."""


def rules(tolerance: float = 0.05, log_threshold: float = LOG_A) -> Rules:
    return Rules(Tolerances(scale=tolerance), log_threshold)


@dataclass(slots=True)
class EnrolledBase:
    """runner: open, over the base's files as accepted; goldens: member -> golden record, where it could be enrolled

    refused: member -> why it could not be enrolled or monitored; healthy: member -> its canaries without a fault
    """

    members: tuple[Member, ...]
    runner: Runner
    goldens: dict[str, Golden] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    healthy: dict[str, Measured] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.members[0].base


def by_base(members: Sequence[Member]) -> list[tuple[Member, ...]]:
    names = dict.fromkeys(member.recipe.base for member in members)
    return [tuple(member for member in members if member.recipe.base == name) for name in names]


def earlier(member: Member) -> str:
    """The name under which an earlier version of an adapter is registered."""
    return f"{member.name}@earlier"


def neighbours(member: Member, members: Sequence[Member]) -> list[Member]:
    """The three members after it, cyclically: as many others as each adapter has on a base of four."""
    ring = [*members, *members]
    start = ring.index(member) + 1
    return ring[start : start + min(OTHERS, len(members) - 1)]


@contextmanager
def serving(
    members: Sequence[Member], base: Path | None = None, extra: Mapping[str, Path] | None = None, dtype: str = "float32"
) -> Iterator[Runner]:
    """A runner over the members, their earlier versions and ``extra`` adapters. base: another one in its place."""
    adapters = {member.name: str(member.folder) for member in members}
    adapters |= {earlier(member): str(member.earlier) for member in members}
    adapters |= {name: str(folder) for name, folder in (extra or {}).items()}
    placed: Any = {"device": "cpu", "dtype": dtype, "threads": 1}
    config = in_process.Config(str(base or members[0].base), adapters, max_batch_tokens=MANY_TOKENS, **placed)
    runner = in_process.Runner(config)
    runner.open()
    try:
        yield runner
    finally:
        runner.close()


def enrolled(members: Sequence[Member], runner: Runner, settings: EnrolSettings | None = None) -> EnrolledBase:
    """Enrol every member as ``gapwatch enrol`` does, with its neighbours and its own earlier version as others."""
    enrolled_base = EnrolledBase(tuple(members), runner)
    chosen = settings or EnrolSettings(base=members[0].recipe.base, at=0.0, log_threshold=LOG_A)
    for member in members:
        others = [*(other.name for other in neighbours(member, members)), earlier(member)]
        try:
            golden = enrol(Request(runner, member.name, read_canaries(member.canaries), chosen, others, silent, never))
        except ProbeError as error:
            enrolled_base.refused[member.name] = str(error)
            continue
        if not golden.power.monitorable:
            enrolled_base.refused[member.name] = golden.power.words
        enrolled_base.goldens[member.name] = golden
        enrolled_base.healthy[member.name] = replayed(runner, member.name, golden.canaries, Target(member.name))
    return enrolled_base


def replayed(
    runner: Runner,
    adapter: str,
    canaries: Sequence[GoldenCanary],
    served: Target,
    live: Target | None = None,
    shape: BatchShape = MANY,
) -> Measured:
    """Canary -> its measurement when ``served`` answers under the adapter's name and ``live`` under the base's."""
    sides = [answered(runner, canaries, target, shape) for target in (served, live or Target(None))]
    return compared(adapter, canaries, *sides)


def answered(runner: Runner, canaries: Sequence[GoldenCanary], target: Target, shape: BatchShape = MANY) -> Answered:
    """Canary -> this target's answer over its kept tokens."""
    replays = [Replay(canary.id, canary.prompt, canary.forced, target, canary.reference.kept) for canary in canaries]
    answers = ask_all(runner, replays, never, shape)
    return {replay.canary: summary(answers[replay]) for replay in replays}


def compared(adapter: str, canaries: Sequence[GoldenCanary], served: Answered, live: Answered) -> Measured:
    """Canary -> its measurement, from answers under the adapter's name and under the base's."""
    return {
        canary.id: measure(Comparison(adapter, canary.reference, 1, served[canary.id], live[canary.id], 0.0))
        for canary in canaries
    }


def round_of(
    golden: Golden, measured: Measured, number: int, identity: Identity | None = None, budget: int = BUDGET
) -> Round:
    """One scheduled round, drawn from the replays; ``number`` decides which canaries."""
    drawn = plan_round(golden, budget, SEED, number)
    counts = {**drawn.draws, **dict.fromkeys(drawn.held_out, 0)}
    accepted = identity or Identity(golden.base_hash, golden.base_hash, golden.adapter_hash, golden.adapter_hash)
    measurements = tuple(_drawn(measured[name], times) for name, times in counts.items())
    plain = Round(golden.adapter, golden.base, number, 60.0 * number, measurements, accepted)
    return replace(plain, rank=golden.rank, alpha=golden.alpha)


def drawn_like(round: Round, measured: Measured) -> tuple[Measurement, ...]:
    """The canaries of a round in another replay of theirs: on a warm cache, or from the accepted ids."""
    draws = ((m.comparison.reference.canary, m.comparison.draws) for m in round.measurements)
    return tuple(_drawn(measured[name], times) for name, times in draws)


def _drawn(measurement: Measurement, times: int) -> Measurement:
    return replace(measurement, comparison=replace(measurement.comparison, draws=times))


@dataclass(frozen=True, slots=True)
class MonitorOutcome:
    """rounds: until the alarm, None without one; verdict: of the alarm, else of the last round; tokens: scored

    monitor: as it is after that round
    """

    rounds: int | None
    verdict: Verdict
    tokens: int
    monitor: Monitor


def monitor_rounds(rounds: Sequence[Round], by: Rules) -> MonitorOutcome:
    """One adapter's rounds through the monitor, from evidence 0 up to the alarm."""
    monitor, tokens = Monitor(by), 0
    for number, round in enumerate(rounds, start=1):
        judged = monitor.observe(BaseRound(round.base, round.number, round.at, (round,)))
        verdict = next(v for v in judged.verdicts if v.subject == round.adapter)
        tokens += sum(len(m.comparison.reference.kept) for m in round.measurements)
        if verdict.reason is Reason.ALARM:
            return MonitorOutcome(number, verdict, tokens, monitor)
    return MonitorOutcome(None, verdict, tokens, monitor)
