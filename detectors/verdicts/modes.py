"""What the modes of a serving engine mean for a verdict: is one of them at fault, and is its fault over? Pure.

The counterpart of the draws as they are scored, for each mode whose noise the enrolment measured
(detectors/canaries/mode_gap.py, with null hypothesis and guarantee). A mode without that decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detectors.canaries.mode_gap import base_mode_scores, faulty_mode, floors_known, mode_scores, noise_known
from detectors.canaries.tolerance import Tolerances, blocked_by
from detectors.on_call_text import DRAWS_APART, MODES, NO_PAGE_FROM_MODES
from detectors.records import BaseRound, Evidence, Mode, Round
from detectors.verdicts.incident import Rules
from detectors.verdicts.recovery import RARE, DrawCounts


def of_modes(round: Round, tolerances: Tolerances) -> dict[Mode, DrawCounts]:
    """How many draws of each mode are apart, of the modes that may decide."""
    return {
        mode: DrawCounts(len(scores), int(np.count_nonzero(scores)), tolerances.share)
        for mode, scores in mode_scores(round, tolerances).items()
        if floors_known(round, mode)
    }


def of_base_in_modes(round: BaseRound, tolerances: Tolerances) -> dict[Mode, DrawCounts]:
    """How many of the base's scores in each mode are 1, of the modes that may decide."""
    return {
        mode: DrawCounts(len(scores), int(np.count_nonzero(scores)), tolerances.share)
        for mode, scores in base_mode_scores(round, tolerances).items()
    }


def of_all_members(round: BaseRound, tolerances: Tolerances) -> dict[Mode, DrawCounts]:
    """How many draws of all measured members together are apart in each mode: what ends a base's incident."""
    members = [of_modes(member, tolerances) for member in round.members if blocked_by(member) is None]
    counts = {mode: [own[mode] for own in members if mode in own] for mode in Mode}
    return {
        mode: DrawCounts(sum(own.drawn for own in each), sum(own.beyond for own in each), tolerances.share)
        for mode, each in counts.items()
        if each
    }


def is_rare_in_a_mode(draws: DrawCounts) -> bool:
    """Are so many draws apart in one mode rare where nothing is wrong?

    Null hypothesis: given the past and the earlier draws of the round, each draw is apart with at most the chance
    ``tolerated``. Guarantee: with chance .01 at most for all modes of a round together (Bonferroni). What breaks it:
    draws that depend on the answers. Source: docs/mathematics.md#alarm-and-recovery.
    """
    return draws.is_rarer_than(RARE / len(Mode))


def mode_at_fault(round: Round, evidence: Evidence, draws: DrawCounts, rules: Rules) -> Mode | None:
    """Which mode an incident that opens now is about; None where none opens, and where the scored answers are at
    fault, which are so in every mode. One that may not decide could not end it: then it is that of the evidence.

    evidence: the highest; draws: as scored
    """
    if evidence.log_e < rules.log_threshold or not evidence.stream or draws.share > draws.tolerated:
        return None
    named = faulty_mode(noise_known(round.cells), rules.tolerances)
    return named if named is not None and floors_known(round, named) else Mode(evidence.stream)


def mode_of_base_at_fault(round: BaseRound, evidence: Evidence, own: DrawCounts, rules: Rules) -> Mode | None:
    """``mode_at_fault`` of a base, by the answers of all its members. own: its scores as its members are scored"""
    if evidence.log_e < rules.log_threshold or not evidence.stream or own.share > own.tolerated:
        return None
    cells = [m for member in round.members if blocked_by(member) is None for m in noise_known(member.cells)]
    named = faulty_mode(cells, rules.tolerances)
    return named if named in of_all_members(round, rules.tolerances) else Mode(evidence.stream)


def unwatched_in_words(round: Round) -> tuple[str, ...]:
    """The modes that the round has and that cannot page; nothing where there is none.

    Of LONG nothing: too few of a pool's prompts may be long, and another enrolment would change nothing.
    """
    had = {mode for m in round.cells for mode in m.comparison.modes}
    unwatched = [MODES[m] for m in Mode if m in had and m is not Mode.LONG and not floors_known(round, m)]
    return (NO_PAGE_FROM_MODES.format(modes=", ".join(unwatched)),) if unwatched else ()


def apart_in_words(modes: Mapping[Mode, DrawCounts]) -> tuple[str, ...]:
    """The modes in which more draws are apart than are tolerated."""
    return tuple(
        DRAWS_APART.format(mode=MODES[mode], apart=draws.beyond, draws=draws.drawn)
        for mode, draws in modes.items()
        if draws.share > draws.tolerated
    )
