"""What is at fault, by the sampled responses of one adapter?

The alternatives were written down before the words were; which of them leads is a score, not a test: it names a fault
that evidence has already found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind
from detectors.records import Cause, Identity, Interval, NamedCause

# Of responses against it: below this share the others are as accepted, and some replicas are not at fault.
NEARLY_ALL = 0.9
STRENGTHS = (AlternativeKind.STRENGTH, AlternativeKind.INTERPOLATION)


@dataclass(frozen=True, slots=True)
class ResponseCounts:
    """Responses of one adapter since the first bad round.

    heard: scored; against, favour: those that clearly spoke against it, or for it; fresh: good ones in a row, which
    count as heard with the next bad round
    bad_pods, pods: replicas heard since then
    """

    heard: int = 0
    against: int = 0
    favour: int = 0
    fresh: int = 0
    bad_pods: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Of them, the share that spoke against it; 1 where none was counted."""
        return self.against / self.heard if self.heard and self.against else 1.0


def name_response_cause(
    adapter: str, seen: ResponseCounts, leading: Alternative | None, strength: Interval | None, identity: Identity
) -> NamedCause:
    """Cause, what was seen and the first thing to do, by the alternative that explains the words best.

    leading: that alternative, None where there is none

    The alternatives were written down before the words were; which of them leads is a score, not a test.
    """
    wrote = _writer(adapter, leading, strength)
    share = f"{seen.against} of {seen.heard} sampled responses"
    if _some_replicas(seen):
        where = (
            f", all from {', '.join(seen.bad_pods)}" if seen.bad_pods and set(seen.bad_pods) < set(seen.pods) else ""
        )
        do = f"take {', '.join(seen.bad_pods) or 'the odd replicas'} out of rotation, then reload {adapter} there"
        return NamedCause(
            Cause.ONE_REPLICA, f"{share} of {adapter} read as if {wrote}{where}; the others as accepted", do
        )
    what = f"responses of {adapter} read as if {wrote} ({share} speak against what was accepted)"
    if leading == BASE and identity.base_moved:
        do = f"put the former base back, or retrain {adapter} on the new one; until then do not serve it"
        return NamedCause(
            Cause.BASE_SWAPPED_AND_ADAPTER_LOST, f"{what}; and the weights of the base are other ones", do
        )
    return _named(adapter, leading, what)


def _some_replicas(seen: ResponseCounts) -> bool:
    """Do clear responses fall into two kinds, and not within every replica alike? Weak evidence against it alone is no
    sign of that: the others need not read as accepted."""
    clear = seen.against + seen.favour
    everywhere = len(seen.pods) > 1 and set(seen.bad_pods) == set(seen.pods)
    return bool(seen.against and seen.favour) and seen.against / clear < NEARLY_ALL and clear >= 8 and not everywhere


def _named(adapter: str, leading: Alternative | None, what: str) -> NamedCause:
    kind = AlternativeKind.UNKNOWN if leading is None else leading.kind
    look = f"compare what the engine serves under the name {adapter} with what was accepted"
    if kind is AlternativeKind.BASE:
        return NamedCause(
            Cause.ADAPTER_NOT_APPLIED,
            what,
            f"check that the engine loads {adapter}: key names, requested name, reload",
        )
    if kind is AlternativeKind.FOUR_BITS:
        return NamedCause(
            Cause.QUANTISED_BASE,
            what,
            "compare dtype and quantisation of the served base with the last good release",
        )
    if kind is AlternativeKind.PREVIOUS:
        do = f"unload {adapter} and load its present files again; restart the engine if it still serves the old ones"
        return NamedCause(Cause.WRONG_ADAPTER, what, do)
    if kind is AlternativeKind.OTHER_ADAPTER:
        return NamedCause(Cause.WRONG_ADAPTER, what, f"check what is routed and cached under the name {adapter}")
    if kind in STRENGTHS:
        return NamedCause(
            Cause.WRONG_STRENGTH,
            what,
            f"compare alpha, r and use_rslora of {adapter} with the scale the engine applies",
        )
    return NamedCause(Cause.UNKNOWN, what, look)


def _writer(adapter: str, leading: Alternative | None, strength: Interval | None) -> str:
    kind = AlternativeKind.UNKNOWN if leading is None else leading.kind
    left = ""
    if strength is not None and math.isfinite(strength.low):
        left = f", {strength.mean:.2f} of the way from base to adapter ({strength.low:.2f}..{strength.high:.2f})"
    if kind is AlternativeKind.BASE:
        return f"the accepted base wrote them{left}"
    if kind is AlternativeKind.PREVIOUS:
        return f"the version of {adapter} accepted before wrote them"
    if leading is not None and kind is AlternativeKind.OTHER_ADAPTER:
        return f"{leading.name} wrote them"
    if kind is AlternativeKind.FOUR_BITS:
        return f"{adapter} on a base of 4-bit weights wrote them"
    if kind in STRENGTHS:
        return f"{adapter} at another strength wrote them{left}"
    return f"something else than {adapter} wrote them{left}"
