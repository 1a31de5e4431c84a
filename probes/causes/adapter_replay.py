"""The faults of one adapter, replayed one after the other between other work, and its round measured against them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from detectors.diagnosis.root_cause import diagnosed_canaries, on_accepted_ids
from detectors.diagnosis.signature_matching import strength_to_replay
from detectors.records import Fault, Floats, Recorded, Round
from probes.causes.fault_signatures import answers_of, measured_against, signature_of, with_signatures
from probes.causes.likely_faults import likely_faults, may_say_more
from probes.errors import Unreplayable, Unsupported
from probes.golden.record import Golden
from probes.runner import Runner, Stop, Target, Weights

# Strengths that are replayed for one round at most, each where the curve through the others leads.
STRENGTHS = 4


@dataclass(slots=True, eq=False)
class AdapterReplay:
    """golden: what was accepted; round: in which the adapter was at fault

    pending: faults that are left, the next one first; signatures: of those replayed; useless: those that gave none, and
    why, in words
    strengths: answers at replayed strengths; strengths_left: how many may yet be replayed
    """

    runner: Runner
    golden: Golden
    round: Round
    pending: deque[Fault]
    signatures: dict[Fault, list[Recorded]] = field(default_factory=dict)
    strengths: dict[float, list[Floats]] = field(default_factory=dict)
    strengths_left: int = STRENGTHS
    useless: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, runner: Runner, golden: Golden, round: Round) -> AdapterReplay:
        return cls(runner, golden, round, deque(likely_faults(runner, golden, round)))

    @property
    def replayed(self) -> int:
        return len(self.signatures) + len(self.strengths)

    def step(self, stop: Stop) -> bool:
        """Replay the next fault; False where none is left. One that ``stop()`` breaks off is the next one again.

        Strengths come first: the one that fits, then those that fit by the curve with the former ones on it.
        """
        if self.strengths_left:
            return self._replay_strength(stop)
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

    def _replay_strength(self, stop: Stop) -> bool:
        measured = self.measured()
        scale = strength_to_replay(diagnosed_canaries(on_accepted_ids(measured))) if may_say_more(measured) else None
        if scale is None:
            self.strengths_left = 0
            return True
        target = Target(self.golden.adapter, Weights.GOLDEN, scale)
        try:
            answers = answers_of(self.runner, self.golden.held_out, target, stop)
        except (Unreplayable, Unsupported) as error:
            self.useless.append(f"strength {scale:.3g}: {error}")
            self.strengths_left = 0
            return True
        if answers is not None:
            self.strengths[scale] = answers
            self.strengths_left -= 1
        return True

    def signed(self) -> Golden:
        """The record with what was replayed, in memory."""
        return with_signatures(self.golden, self.signatures, self.strengths)

    def measured(self) -> Round:
        """The round against that record."""
        return measured_against(self.round, self.signed())
