"""Logit shift: are more canaries than tolerated answered with other log-probabilities than were accepted?

Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from detectors.canaries.tolerance import Tolerances, by_draw, of_members
from detectors.evidence.e_process_bank import EProcessBank, EvidenceSource, OnsetEstimate
from detectors.records import BaseRound, Bools, Evidence, Measurement, Round, SubjectKind

State = EProcessBank[str]


@dataclass(frozen=True, slots=True)
class Config:
    """tolerances: what is promised to the user; bets: number of processes in the mixture (e_detector.py)

    pages: may it alarm by itself? Its streams then count in the fleet's budget
    """

    tolerances: Tolerances = field(default_factory=Tolerances)
    bets: int = 8
    pages: bool = False


class Detector:
    """e-detector for H0: given the past, at most ``tolerances.share`` of the pool is served another distribution.

    A canary is beyond where ``sqrt(|y - a|^2 / |delta|^2)``, in any direction, exceeds the adapter's tolerance plus the
    noise floors of its scale, its distortion and its base: benign change along the adapter's direction, orthogonal to
    it, and of both endpoints alike add up to no more.
    Guarantee: average run length at least A rounds. What breaks it: canaries not drawn at random.

    It informs. What is served is compared with what was accepted, not in place with the present base: a base that
    moved, and whose adapters survive that, raises it as much as a broken one. Where nothing may change unannounced,
    ``pages`` makes every such release page.
    A round without measurements, or one without this figure, keeps its evidence, without the "+1".

    Source: docs/mathematics.md#tolerance; e_detector.py.
    """

    reads = BaseRound
    about = SubjectKind.ADAPTER

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    @property
    def pages(self) -> bool:
        return bool(self.config.pages)

    def update(self, record: BaseRound) -> tuple[Evidence, ...]:
        """One scheduled round of all adapters of a base: for each one "+1" and the factors of all its draws."""
        tolerances = self.config.tolerances
        beyond = of_members(record, lambda member: moved(member, tolerances))
        self.state.advance(beyond, tolerances.share, self.config.bets, record.at)
        source = EvidenceSource(self.about, "logit_shift", self.pages)
        return self.state.evidence(source, [m.adapter for m in record.members], record)

    def onset(self, subject: str) -> OnsetEstimate | None:
        return self.state.onset(subject)

    def restart(self, subject: str) -> None:
        self.state.restart(subject)


def moved(round: Round, tolerances: Tolerances) -> Bools:
    """(n,) is the canary beyond, draw by draw? Empty where the figure of one canary is missing."""
    if not by_draw(round, lambda m: math.isfinite(m.frozen_shift)).all():
        return np.zeros(0, dtype=np.bool_)
    tolerance = tolerances.allowed_deviation(round.adapter)
    return by_draw(round, lambda m: _is_far(m, tolerance))


def _is_far(measurement: Measurement, tolerance: float) -> bool:
    noise = measurement.comparison.reference.noise
    benign = noise.scale + noise.distortion + math.sqrt(noise.base_shift)
    return math.sqrt(measurement.frozen_shift) > tolerance + benign
