"""Which bases this pod may judge, whether pods share them out, and who knows the evidence of pods that are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.alerting.fleet import GoneState
from detectors.records import Subject

AskGone = Callable[[Mapping[str, float], float], Sequence[GoneState]]
"""(base -> of which time a state has to be later, seconds to wait) -> one state of each base that has one"""


def nobody(_: Mapping[str, float], __: float) -> Sequence[GoneState]:
    return ()


@dataclass(frozen=True, slots=True)
class JudgedBases:
    """adapters: base -> its adapters, by the configuration; what comes of a base that is not there is always judged

    shared: has each base one owner in the fleet at a time? Then a pod goes on from the newest state of a base, whoever
    saved it. Else each has evidence of its own, and goes on from that of another only where it has none
    gone: the newest states of pods that handed these bases over or are gone, each claimed for this pod
    """

    adapters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shared: bool = False
    gone: AskGone = nobody


# All that comes is judged, and nothing is handed over.
EVERYTHING = JudgedBases()


@dataclass(frozen=True, slots=True)
class Wait:
    """For a state of one base. since: when the base was gained

    later_than: when the state here was last moved, -inf without one; open: subjects whose incident was open in it
    """

    since: float
    later_than: float
    open: frozenset[Subject] = frozenset()
