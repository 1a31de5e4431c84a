"""What is another one than accepted under a subject that is well: told once, as what it is, and never a page.

The order is that of how much it takes with it: another base, then another tokenizer, then another chat template, then
other files of one adapter. Every one of them is in the verdict's identity and facts beside the one that is its reason.
"""

from __future__ import annotations

from detectors.canaries.tolerance import Tolerances, base_moved, blocked_by
from detectors.diagnosis.root_cause import on_accepted_ids
from detectors.records import BaseRound, Identity, Reason, Round

OF_A_BASE = (Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED)


def change_of(round: Round, tolerances: Tolerances) -> Reason | None:
    """What changed under an adapter, None where nothing did.

    Whether the base moved is read from the accepted token ids: a base answers otherwise to what another template makes
    of the same messages, and is the same one.
    """
    if round.identity.base_moved or base_moved(on_accepted_ids(round), tolerances):
        return Reason.BASE_MOVED
    if round.identity.tokenizer_moved:
        return Reason.TOKENIZER_CHANGED
    if round.identity.template_moved or (round.raw and not _template_stands(round.identity)):
        return Reason.TEMPLATE_CHANGED
    return Reason.ADAPTER_MOVED if round.identity.adapter_moved else None


def change_of_base(round: BaseRound, tolerances: Tolerances) -> Reason | None:
    """What more than half of the measured adapters of a base say that changed under it."""
    measured = [member for member in round.members if blocked_by(member) is None]
    found = [change_of(member, tolerances) for member in measured]
    return next((reason for reason in OF_A_BASE if 2 * found.count(reason) > len(measured)), None)


def _template_stands(identity: Identity) -> bool:
    """Is it known to be the accepted one? Then it writes something that differs by itself: a date. Records of scheme 1
    do not name theirs."""
    return identity.scheme > 1 and "" != identity.golden_template == identity.live_template
