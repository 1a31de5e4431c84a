"""A cause as production names it: by the round of the alarm alone, then by faults replayed on the accepted files.

Signatures depend on the adapter and the fault, not on the case, so the runner's answers are remembered here: each fault
is replayed once for an adapter, however many cases have it among their candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.zoo.enrolled_base import MonitorOutcome, never
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import diagnose
from detectors.records import BaseRound, Cause, FaultReplay, Round, SubjectKind
from probes.causes.adapter_replay import AdapterReplay
from probes.causes.fault_signatures import why_no_copies
from probes.golden.record import Golden
from probes.runner import BatchShape, Breakable, Replay, Replayed, Runner, Stop, Weights


@dataclass(slots=True)
class Remembered:
    """runner: open, over the accepted files; only the methods that a replay after an alarm calls"""

    runner: Runner
    answers: dict[tuple[object, ...], Replayed] = field(default_factory=dict)

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        new = [replay for replay in replays if _key(replay) not in self.answers]
        self.answers |= {_key(answer.replay): answer for answer in self.runner.run(new, stop, shape)}
        for replay in replays:
            remembered = self.answers[_key(replay)]
            yield Replayed(replay, remembered.summary, remembered.full)

    def blocks(self, adapter: str, weights: Weights = Weights.LIVE) -> tuple[str, ...]:
        assert isinstance(self.runner, Breakable)
        return self.runner.blocks(adapter, weights)

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        assert isinstance(self.runner, Breakable)
        return self.runner.golden_hashes(adapter, scheme)


def _key(replay: Replay) -> tuple[object, ...]:
    return replay.canary, replay.prompt, replay.forced, replay.target


@dataclass(frozen=True, slots=True)
class Refined:
    """cause: of the incident, after the replay; diagnosis: of the round against the signatures; faults: replayed"""

    cause: Cause
    diagnosis: Diagnosis
    faults: int


def refined(runner: Remembered, golden: Golden, alarm: MonitorOutcome, round: Round) -> Refined:
    """The incident of an alarm after its replay. round: of the alarm; the monitor is the one that raised it."""
    assert why_no_copies(runner, golden) == ""  # type: ignore[arg-type]
    replay = AdapterReplay.of(runner, golden, round)  # type: ignore[arg-type]
    while replay.step(never):
        pass
    measured = replay.measured()
    whole = BaseRound(round.base, round.number, round.at, (round,))
    record = FaultReplay(SubjectKind.ADAPTER, round.adapter, whole, (measured,), replay.replayed, round.at + 1.0)
    (verdict,) = alarm.monitor.observe(record).verdicts
    return Refined(verdict.cause, diagnose(measured, Tolerances()), replay.replayed)
