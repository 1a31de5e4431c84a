"""Has an adapter that is within tolerance clearly changed? It is said once, and once when it is over; never a page.

Null hypothesis: the round is benign, so that its configuration is exchangeable with the n of the noise battery, and,
where the floor is pooled, its canaries with those of the sample (n is then the smaller one of the two numbers).
Guarantee: a round counts as above the noise with at most the chance 4 / (n + 1), whatever the distribution of the noise
and however canaries depend on each other. A canary exceeds one of its two floors with at most 2 / (n + 1), and more
than half of the canaries do with at most twice that, by Markov's inequality. With seven configurations that is one
half; what is said takes three such rounds in a row, and five times the floor, and how much rarer that is has been
simulated and not proved. What breaks it: benign change that the battery has not met and that stays, such as other
kernels: it is said, once. On a base that has moved nothing is counted and nothing said, because that is said of the
base.

Source: docs/mathematics.md#change-within-tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from detectors.canaries.mean_interval import mean_interval
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnose, diagnosed_canaries, on_accepted_ids
from detectors.diagnosis.wording import tolerated_change_words
from detectors.on_call_text import Text
from detectors.records import Measurement, Reason, Round, Status, Verdict

# A canary has changed clearly where |s - 1| or sqrt(rho) is above this, and above so many times its own floor of it.
LEAST_CHANGE, FLOORS = 0.005, 5.0
# Rounds in a row after which a change is said, and after which it is over.
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class ToleratedChange:
    """What is remembered of one adapter.

    is_there: is a change said of it? against: latest rounds in a row that show otherwise
    """

    is_there: bool = False
    against: int = 0

    def after(self, is_above: bool) -> ToleratedChange:
        """After one more round within tolerance. is_above: ``is_above_noise`` of it"""
        if is_above is self.is_there:
            return replace(self, against=0)
        against = self.against + 1
        return ToleratedChange(is_above) if against >= ROUNDS else replace(self, against=against)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ToleratedChange:
        return cls(stored["is_there"], stored["against"])


def next_change(before: ToleratedChange, round: Round, verdict: Verdict) -> ToleratedChange:
    """What is remembered after the adapter's verdict on that round.

    A round without measurements is not counted. One that is not healthy, and one on a base that has moved, starts the
    count again: there something else is said.
    """
    if verdict.status is Status.UNMONITORABLE:
        return before
    if verdict.status is not Status.HEALTHY or verdict.reason is Reason.BASE_MOVED:
        return replace(before, against=0)
    return before.after(is_above_noise(diagnosed_canaries(on_accepted_ids(round))))


def is_above_noise(canaries: Sequence[Measurement]) -> bool:
    """Are more than half of these canaries answered otherwise than accepted, by far more than their own noise?"""
    return 2 * sum(map(_has_changed, canaries)) > len(canaries)


def with_change(verdict: Verdict, round: Round, tolerances: Tolerances) -> Verdict:
    """A healthy verdict that says how far the adapter is from what was accepted, with the cause as far as one is known.

    The cause is that of a page, asked at the size of the change in place of the tolerance. On a base that has moved it
    would be the base's, and the figures with it.
    """
    if verdict.status is not Status.HEALTHY or verdict.reason is Reason.BASE_MOVED:
        return verdict
    words = _words(on_accepted_ids(round), tolerances)
    explanation = "; ".join(filter(None, (words.explanation, verdict.explanation)))
    return replace(verdict, tolerated_change=words.explanation, explanation=explanation, action=words.action)


def _words(round: Round, tolerances: Tolerances) -> Text:
    canaries = diagnosed_canaries(round)
    closer = Tolerances(scale=LEAST_CHANGE, after_release=LEAST_CHANGE, share=tolerances.share)
    return tolerated_change_words(
        diagnose(round, closer),
        scale=mean_interval([m.scale for m in canaries]),
        off_direction=float(np.mean([math.sqrt(m.distortion) for m in canaries])),
        noise=float(np.mean([m.comparison.reference.noise.scale for m in canaries])),
        tolerance=tolerances.allowed_deviation(round.adapter),
    )


def _has_changed(m: Measurement) -> bool:
    floor = m.comparison.reference.noise
    changes = ((abs(m.scale - 1.0), floor.scale), (math.sqrt(m.distortion), floor.distortion))
    return any(change > max(LEAST_CHANGE, FLOORS * noise) for change, noise in changes)
