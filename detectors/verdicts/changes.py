"""What was replaced under a subject that is still well? Reported once, as what it is, and never a page.

Where several things were, the one that affects most is the verdict's reason: another base, then another tokenizer, then
another chat template, then other files of one adapter, then another engine or another source in its list. The verdict's
identity and facts hold all of them.
"""

from __future__ import annotations

from detectors.canaries.tolerance import Tolerances, base_moved, blocked_by
from detectors.diagnosis.root_cause import on_accepted_ids
from detectors.records import BaseRound, Identity, Reason, Round

OF_A_BASE = (Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED, Reason.ENGINE_MOVED)


def change_of(round: Round, tolerances: Tolerances) -> Reason | None:
    """What changed under an adapter, None where nothing did.

    Whether the base moved is measured on the accepted token ids: with another template the same base answers
    differently, because it is given other tokens.
    """
    if round.identity.base_moved or base_moved(on_accepted_ids(round), tolerances):
        return Reason.BASE_MOVED
    if round.identity.tokenizer_moved:
        return Reason.TOKENIZER_CHANGED
    if round.identity.template_moved or (round.raw and not _template_is_accepted(round.identity)):
        return Reason.TEMPLATE_CHANGED
    if round.identity.adapter_moved:
        return Reason.ADAPTER_MOVED
    return Reason.ENGINE_MOVED if round.identity.engine_moved or round.identity.source_moved else None


def change_of_base(round: BaseRound, tolerances: Tolerances) -> Reason | None:
    """What changed under a base, by more than half of its measured adapters; None where they do not agree."""
    measured = [member for member in round.members if blocked_by(member) is None]
    changes = [change_of(member, tolerances) for member in measured]
    return next((reason for reason in OF_A_BASE if 2 * changes.count(reason) > len(measured)), None)


def _template_is_accepted(identity: Identity) -> bool:
    """Is it known to be the accepted one? Then other token ids come from something that it inserts itself, such as a
    date. Records of scheme 1 do not name their template.
    """
    return identity.scheme > 1 and "" != identity.golden_template == identity.live_template
