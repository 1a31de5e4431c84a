"""Which alternative explains some responses best? Pure: a score of the alternatives and no test; it names a fault that
evidence has found.

Not every alternative is scored on every response. Base and path are on each, so that one of them leads; another one is
named in its place where, over the responses that have both, it explains the words better by ``AHEAD`` nats, and of
these the one that does so by most a response.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind
from detectors.traffic_records import TrafficScore

# Nats by which another alternative has to explain the words better than the one that leads, to be named in its place.
AHEAD = math.log(20.0)
# Scored after suspicion alone, and much like the accepted adapter, some of them: they have to explain the words better
# than that, too.
SUSPECTED = (AlternativeKind.WITHOUT, AlternativeKind.ROUNDED)


@dataclass(frozen=True, slots=True)
class Explained:
    """By one alternative. n: responses; log_l: nats, of all of them together; rivals: (F,) likewise of the alternatives
    that every response has, over these responses"""

    n: int = 0
    log_l: float = 0.0
    rivals: tuple[float, ...] = ()

    def joined(self, other: Explained) -> Explained:
        """Of the responses of both, with the same rivals."""
        rivals = tuple(a + b for a, b in zip(self.rivals, other.rivals, strict=True))
        return Explained(self.n + other.n, self.log_l + other.log_l, rivals)


@dataclass(frozen=True, slots=True)
class Explanations:
    """Of some responses. rivals: the alternatives that every one has: base and path; () of requests that name the base

    of_bad: of responses that are against what was accepted; else of all
    """

    of_bad: bool = False
    rivals: tuple[Alternative, ...] = ()
    by: Mapping[Alternative, Explained] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Sequence[TrafficScore], of_bad: bool) -> Explanations:
        """scores: with e-values"""
        whole = cls(of_bad)
        for score in scores:
            log_l = dict(zip(score.alternatives, score.log_l.tolist(), strict=True))
            rivals = tuple(who for who in log_l if is_on_all(who)) if BASE in log_l else ()
            beside = tuple(log_l[who] for who in rivals)
            whole = whole.joined(
                cls(of_bad, rivals, {who: Explained(1, value, beside) for who, value in log_l.items()})
            )
        return whole

    def joined(self, later: Explanations) -> Explanations:
        """With those of later responses. Bad ones count alone, as soon as there are any, and so do those that the
        present configuration has the same rivals of."""
        if not later.by or (self.of_bad and not later.of_bad):
            return self
        if not self.by or later.of_bad != self.of_bad or later.rivals != self.rivals:
            return later
        nothing = Explained(rivals=(0.0,) * len(self.rivals))
        names = dict.fromkeys((*self.by, *later.by))
        by = {who: self.by.get(who, nothing).joined(later.by.get(who, nothing)) for who in names}
        return Explanations(self.of_bad, self.rivals, by)

    @property
    def leading(self) -> Alternative | None:
        """None without responses; of requests that name the base also where none explains them better than it."""
        if not self.rivals:
            means = {who: own.log_l / own.n for who, own in self.by.items()}
            best = max(means, key=means.__getitem__, default=None)
            return best if best is not None and means[best] > 0 else None
        totals = [self.by[who].log_l for who in self.rivals]
        place = max(range(len(totals)), key=totals.__getitem__)
        if totals[place] - totals[0] < AHEAD:
            place = 0
        ahead = {
            who: (own.log_l - own.rivals[place]) / own.n for who, own in self.by.items() if self._is_ahead(who, place)
        }
        return max(ahead, key=ahead.__getitem__, default=self.rivals[place])

    def _is_ahead(self, who: Alternative, place: int) -> bool:
        own = self.by[who]
        better_than_accepted = who.kind not in SUSPECTED or own.log_l >= AHEAD
        return who not in self.rivals and own.log_l - own.rivals[place] >= AHEAD and better_than_accepted

    def to_json(self) -> dict[str, Any]:
        rows = [[who.text, own.n, own.log_l, list(own.rivals)] for who, own in self.by.items()]
        return {"of_bad": self.of_bad, "rivals": [who.text for who in self.rivals], "by": rows}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Explanations:
        by = {
            Alternative.from_text(text): Explained(n, log_l, tuple(rivals)) for text, n, log_l, rivals in stored["by"]
        }
        return cls(stored["of_bad"], tuple(map(Alternative.from_text, stored["rivals"])), by)


def is_on_all(who: Alternative) -> bool:
    """Is it scored on every response of an adapter?"""
    return who.kind is AlternativeKind.BASE or (who.kind is AlternativeKind.INTERPOLATION and not who.name)
