"""What is at fault, by the sampled responses of one adapter, or of requests that name the base?

The alternatives were fixed before the responses were seen; which of them leads is a score, not a test: it names a fault
that evidence has already found. The sentences are made afterwards, in wording.py. Keys of ``ResponseCounts.to_json``
are in files of saved state: they stay.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from detectors.diagnosis.record import ResponseDiagnosis
from detectors.evidence.alternative import Alternative, AlternativeKind
from detectors.records import Cause, Identity, Interval

# Of clear responses those against the adapter: from this share on all replicas are at fault, and below it some may be.
NEARLY_ALL, FEWEST_CLEAR = 0.9, 8


@dataclass(frozen=True, slots=True)
class ResponseCounts:
    """Responses of one adapter since the first bad round.

    scored: all of them but the fresh ones; against, favour: those that clearly spoke against the accepted adapter, or
    for it; fresh: scored in the good rounds since the last bad one, which count as scored with the next bad round
    bad_pods, pods: replicas of bad responses, and of all
    since: when the first of them was served, seconds since the epoch; None where that is not known
    """

    scored: int = 0
    against: int = 0
    favour: int = 0
    fresh: int = 0
    bad_pods: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    since: float | None = None

    @property
    def share(self) -> float:
        """Of them, the share that spoke against the adapter; 1 where none was counted."""
        return self.against / self.scored if self.scored and self.against else 1.0

    def to_json(self) -> dict[str, Any]:
        """Saved state names ``scored`` "heard"."""
        stored = {name: value for name, value in asdict(self).items() if value is not None}
        return {"heard": stored.pop("scored"), **stored}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ResponseCounts:
        scored, against, favour, fresh = (stored[name] for name in ("heard", "against", "favour", "fresh"))
        bad_pods, pods = (tuple(stored[name]) for name in ("bad_pods", "pods"))
        return cls(scored, against, favour, fresh, bad_pods, pods, stored.get("since"))


def diagnose_responses(
    adapter: str, counts: ResponseCounts, alternative: Alternative | None, strength: Interval | None, identity: Identity
) -> ResponseDiagnosis:
    """The cause by the alternative that explains the responses best.

    alternative: that one, None where none leads; strength: of the adapter, estimated from the responses
    """
    cause, pods = _by_replica(counts, _cause(alternative, identity))
    return ResponseDiagnosis(
        cause, adapter, alternative, counts.against, counts.scored, pods, strength, since=counts.since
    )


def diagnose_base_requests(base: str, counts: ResponseCounts, alternative: Alternative | None) -> ResponseDiagnosis:
    """The cause for requests that name the base itself, likewise."""
    cause, pods = _by_replica(counts, _cause_of_base_requests(alternative))
    against, scored, since = counts.against, counts.scored, counts.since
    return ResponseDiagnosis(cause, base, alternative, against, scored, pods, None, since, of_base=True)


def _by_replica(counts: ResponseCounts, cause: Cause) -> tuple[Cause, tuple[str, ...]]:
    """The cause, or that only some replicas are at fault, with the pods of these where they are known."""
    on_some_replicas = _is_on_some_replicas(counts)
    pods = counts.bad_pods if on_some_replicas and set(counts.bad_pods) < set(counts.pods) else ()
    return (Cause.ONE_REPLICA, pods) if on_some_replicas else (cause, pods)


def _is_on_some_replicas(counts: ResponseCounts) -> bool:
    """Are clear responses of two kinds, and not on every replica alike? Weak evidence against the adapter is no sign of
    that by itself: the others need not be as accepted."""
    clear = counts.against + counts.favour
    everywhere = len(counts.pods) > 1 and set(counts.bad_pods) == set(counts.pods)
    both_kinds = bool(counts.against and counts.favour) and counts.against / clear < NEARLY_ALL
    return both_kinds and clear >= FEWEST_CLEAR and not everywhere


def _cause_of_base_requests(alternative: Alternative | None) -> Cause:
    match alternative.kind if alternative else AlternativeKind.UNKNOWN:
        case AlternativeKind.OTHER_ADAPTER | AlternativeKind.INTERPOLATION:
            return Cause.BASE_ANSWERED_BY_ADAPTER
        case AlternativeKind.FOUR_BITS | AlternativeKind.ROUNDED:
            return Cause.QUANTISED_BASE
    return Cause.UNKNOWN


def _cause(alternative: Alternative | None, identity: Identity) -> Cause:
    match alternative.kind if alternative else AlternativeKind.UNKNOWN:
        case AlternativeKind.BASE:
            return Cause.BASE_SWAPPED_AND_ADAPTER_LOST if identity.base_moved else Cause.ADAPTER_NOT_APPLIED
        case AlternativeKind.FOUR_BITS | AlternativeKind.ROUNDED:
            return Cause.QUANTISED_BASE
        case AlternativeKind.WITHOUT:
            return Cause.PARTLY_APPLIED
        case AlternativeKind.PREVIOUS | AlternativeKind.OTHER_ADAPTER:
            return Cause.WRONG_ADAPTER
        case AlternativeKind.STRENGTH | AlternativeKind.INTERPOLATION:
            return Cause.WRONG_STRENGTH
        case AlternativeKind.UNKNOWN:
            return Cause.UNKNOWN
