"""The faults of one adapter, replayed one after the other between other work, and its round measured against them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from detectors.records import Fault, Floats, Recorded, Round
from probes.causes.fault_signatures import measured_against, signature_of, with_signatures
from probes.causes.likely_faults import likely_faults
from probes.golden.record import Golden
from probes.runner import Runner, Stop


@dataclass(slots=True, eq=False)
class AdapterReplay:
    """golden: what was accepted; round: in which the adapter was at fault

    pending: faults that are left, the next one first; signatures: of those replayed; useless: those that gave none, and
    why, in words
    """

    runner: Runner
    golden: Golden
    round: Round
    pending: deque[Fault]
    signatures: dict[Fault, list[Recorded]] = field(default_factory=dict)
    strengths: dict[float, list[Floats]] = field(default_factory=dict)
    useless: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, runner: Runner, golden: Golden, round: Round) -> AdapterReplay:
        return cls(runner, golden, round, deque(likely_faults(runner, golden, round)))

    @property
    def replayed(self) -> int:
        return len(self.signatures) + len(self.strengths)

    def step(self, stop: Stop) -> bool:
        """Replay the next fault; False where none is left. One that ``stop()`` breaks off is the next one again."""
        if not self.pending:
            return False
        fault = self.pending[0]
        answers = signature_of(self.runner, self.golden, fault, stop)
        if answers is None:
            return True
        self.pending.popleft()
        if isinstance(answers, str):
            self.useless.append(f"{fault.kind.value} {fault.name}: {answers}")
        else:
            self.signatures[fault] = answers
        return True

    def signed(self) -> Golden:
        """The record with what was replayed, in memory."""
        return with_signatures(self.golden, self.signatures, self.strengths)

    def measured(self) -> Round:
        """The round against that record."""
        return measured_against(self.round, self.signed())
