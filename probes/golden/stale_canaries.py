"""Does a canary file ask what its golden record holds? Who edits the file and does not enrol has canaries that nobody
ever replays. Pure."""

from __future__ import annotations

from probes.canaries.canary_file import CanarySet
from probes.golden.record import Golden


def stale_canaries(golden: Golden, file: CanarySet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of the file's canaries that the record does not know, and of those that it holds with another text.

    What enrolment left out, because it is weak or was passed over, the record knows. The text of a canary is compared
    where the record has it, which records of early versions do not.
    """
    if file.content_hash == golden.canary_set:
        return (), ()
    held = {canary.id: canary for canary in golden.canaries}
    unknown = tuple(own.id for own in file.canaries if own.id not in held and own.id not in golden.excluded)
    others = tuple(
        own.id
        for own in file.canaries
        if own.id in held
        and held[own.id].messages
        and [dict(turn) for turn in own.messages] != [dict(turn) for turn in held[own.id].messages]
    )
    return unknown, others
