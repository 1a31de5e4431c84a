"""Whose is the alarm of an adapter: its own, or that of the base which it shares with others? Pure.

The base detector waits until enough adapters are beyond tolerance in the same draw. Where a fault of the base takes a
part of each adapter, the adapters alarm first, one by one. So a base's incident opens at an adapter's alarm too, where

- what the adapters share is known to be another (weights, tokenizer, chat template), no good round of the adapter came
  in between, and its cause is one of the base; or
- more than half of the measured adapters, at least two, show the fault since it began on the one that alarms.

It is no test of its own and adds no page: it decides whose page a member's alarm is, so that of the expected number of
pages the fleet's budget holds as before. What it may get wrong is the name. Null hypothesis of the second rule: at most
half of the members are broken, each of the others keeps its own null (tolerance.py), and members draw independently of
each other. Guarantee: given a true alarm, more than half are counted with chance .01 at most, because the onset is read
from the alarming member's draws alone and each of the n others is counted with chance .01 / n at most (Bonferroni).
What breaks it: members whose draws depend on each other. The first rule has no chance: it is wrong where an adapter
breaks by itself in the round in which its base changes, and its cause is not distinguished from the base's.

Source: docs/mathematics.md#base-detector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.canaries.tolerance import Tolerances, blocked_by
from detectors.records import BaseRound, Cause, Evidence, Mode, Reason, Status, SubjectKind, Verdict
from detectors.verdicts.changes import change_of_base
from detectors.verdicts.incident import Incident
from detectors.verdicts.recovery import RARE, DrawCounts

# What adapters share, and causes that lie in it.
SHARED = (Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED)
CAUSES_OF_A_BASE = (
    *(Cause.BASE_SWAPPED, Cause.BASE_SWAPPED_AND_ADAPTER_LOST),
    *(Cause.QUANTISED_BASE, Cause.TEMPLATE_CHANGED),
)


@dataclass(frozen=True, slots=True)
class SharedChange:
    """What of a base is not as accepted, by reason and hashes, and the first measured round in which it was so.

    since: seconds since the epoch
    """

    what: str
    since: float

    def to_json(self) -> list[Any]:
        return [self.what, self.since]


def next_shared_change(before: SharedChange | None, round: BaseRound, tolerances: Tolerances) -> SharedChange | None:
    """What is not as accepted after this round, for more than half of the measured members; None where all is. Another
    change is dated by its own first round; a round without measurements leaves what is known."""
    measured = [member for member in round.members if blocked_by(member) is None]
    if not measured:
        return before
    reason = change_of_base(round, tolerances)
    if reason not in SHARED:
        return None
    live = measured[0].identity
    rendered = any(member.raw for member in measured)
    what = "/".join([reason.value, live.live_base, live.live_tokenizer, live.live_template, str(rendered)])
    return before if before is not None and before.what == what else SharedChange(what, round.at)


@dataclass(frozen=True, slots=True)
class MembersOfBase:
    """The adapters of a base after a round: their verdicts, and what is remembered of each from now on."""

    verdicts: Sequence[Verdict]
    incidents: Mapping[str, Incident]

    @property
    def any_open(self) -> bool:
        """Is the incident of one still open?"""
        return any(self.incidents[verdict.subject].open for verdict in self.verdicts)

    @property
    def any_bad(self) -> bool:
        """Did one with an open incident show its fault in this round?"""
        return any(verdict.reason in (Reason.ALARM, Reason.STILL_DEGRADED) for verdict in self.verdicts)

    @property
    def at_fault(self) -> tuple[str, ...]:
        """Those with an open incident, and those that are suspect in this round."""
        bad = (Status.DEGRADED, Status.SUSPECT)
        return tuple(verdict.subject for verdict in self.verdicts if verdict.status in bad)

    @property
    def alarmed(self) -> list[Verdict]:
        """Those whose incident opened in this round, the one with the most evidence first."""
        opened = [verdict for verdict in self.verdicts if verdict.reason is Reason.ALARM]
        return sorted(opened, key=lambda verdict: -_strongest(verdict).log_e)


@dataclass(frozen=True, slots=True)
class SharedAlarm:
    """An adapter's alarm that is its base's.

    evidence: the adapter's; began: its incident, from which the onset is read; mode: in which alone it shows
    known: is it by what is known to have changed? Else by how many show it
    showing: the adapters that show it, in their order
    """

    evidence: Evidence
    began: Incident
    known: bool
    showing: tuple[str, ...]

    @property
    def adapter(self) -> str:
        return self.evidence.subject

    @property
    def mode(self) -> Mode | None:
        return self.began.mode


def shared_alarm(members: MembersOfBase, change: SharedChange | None) -> SharedAlarm | None:
    """The alarm of this round that is the base's; None where there is none, or each is its adapter's own."""
    for verdict in members.alarmed:
        began = members.incidents[verdict.subject]
        known = verdict.cause in CAUSES_OF_A_BASE and change is not None and _began_with(began, change)
        measured = _measured(members)
        showing = _showing(verdict.subject, members, measured)
        if known or (len(showing) >= 2 and 2 * len(showing) > len(measured)):
            return SharedAlarm(_strongest(verdict), began, known, showing)
    return None


def _began_with(incident: Incident, change: SharedChange) -> bool:
    """Did the fault begin no later than what the adapters share changed? By the last good round, which a fault of few
    canaries may let pass, or by the evidence."""
    never_good_since = incident.last_good_at is None or incident.last_good_at < change.since
    estimate = incident.onset_estimate
    return never_good_since or (estimate is not None and estimate <= change.since)


def _measured(members: MembersOfBase) -> list[str]:
    return [verdict.subject for verdict in members.verdicts if not math.isnan(verdict.share_beyond)]


def _showing(adapter: str, members: MembersOfBase, measured: Sequence[str]) -> tuple[str, ...]:
    """The one that alarms, and of the other measured ones those that show its fault."""
    began, chance = members.incidents[adapter], RARE / max(1, len(measured) - 1)
    return tuple(name for name in measured if name == adapter or _shows(members.incidents[name], began, chance))


def _shows(other: Incident, began: Incident, chance: float) -> bool:
    """Does another member show the same fault: by an alarm since it began, or by more draws since then than chance
    makes?"""
    since = _since(began)
    if other.open:
        return other.mode is began.mode and _opened_after(other, began, since)
    draws = _draws_since(other, began.mode, since)
    return draws is not None and draws.is_rarer_than(chance)


def _since(began: Incident) -> float:
    """From when on the fault may have been there, by the alarming member's draws alone."""
    known = (began.onset_estimate, began.first_bad_at, began.opened_at)
    return min((at for at in known if at is not None), default=-math.inf)


def _opened_after(other: Incident, began: Incident, since: float) -> bool:
    """Did the other's open after the fault may have begun? One that was open for longer is another fault."""
    if other.opened_at is None:
        return False
    earliest = began.onset_interval
    may_be_earlier = earliest is not None and (earliest.after is None or other.opened_at > earliest.after)
    return other.opened_at >= since or may_be_earlier


def _draws_since(other: Incident, mode: Mode | None, since: float) -> DrawCounts | None:
    if mode is None:
        kept = [DrawCounts(row.drawn, row.beyond, row.share) for row in other.recent if row.at >= since]
    else:
        kept = [own for row in other.recent_in_modes if row.at >= since for at, own in row.draws.items() if at is mode]
    same = [own for own in kept if own.tolerated == kept[-1].tolerated]
    if not same:
        return None
    return DrawCounts(sum(own.drawn for own in same), sum(own.beyond for own in same), same[-1].tolerated)


def _strongest(verdict: Verdict) -> Evidence:
    nothing = Evidence(SubjectKind.ADAPTER, verdict.subject, "", "", verdict.round, 0.0, 0, verdict.at)
    return max((e for e in verdict.evidence if e.pages), key=lambda e: e.log_e, default=nothing)
