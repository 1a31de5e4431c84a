"""One incident of one subject from round to round: an alarm opens it, good rounds and evidence end it. Pure.

Two good rounds in a row are needed; twice as many with each reopening within a day of the last end, and no round
between them in which the fault showed itself again; and where the subject has draws, evidence that its fault is over
(recovery.py, with its null hypothesis and guarantee). The number of good rounds is a rule and no test: it bounds how
often a fault that comes and goes opens an incident.

The same steps serve canaries, sampled responses and the bases of both; what differs is what a caller hands in. Files of
saved state hold ``to_json`` of earlier versions, so a key that is renamed here has to be read under its old name too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from detectors.canaries.tolerance import Tolerances
from detectors.errors import Refused
from detectors.evidence.onset_interval import OnsetInterval, ScoredRound, onset_interval, with_round
from detectors.records import Cause, Mode, NamedCause, Onset, Reason, Status
from detectors.verdicts.recovery import DrawCounts, Recovery, least_fault

# Good rounds in a row that end an incident at least, and silent ones in a row after which somebody is told.
GOOD_ROUNDS, SILENT_ROUNDS = 2, 3
# Most good rounds that reopenings can ask for; seconds after an end in which another alarm is a reopening.
MOST_GOOD_ROUNDS, REOPENED_WITHIN_S = 64, 24 * 3600.0
# Rounds whose draws in modes are remembered, some 3 KB of saved state.
KEPT_IN_MODES = 32
# Causes that a diagnosis names before it reads a signature: of an adapter of which nothing is left, and of its prompts.
WITHOUT_SIGNATURES = (Cause.ADAPTER_NOT_APPLIED, Cause.BASE_SWAPPED_AND_ADAPTER_LOST, Cause.TEMPLATE_CHANGED)


@dataclass(frozen=True, slots=True)
class Rules:
    """log_threshold: ln A of the fleet, nats, > 0 (alarm_budget.py)

    suspect_fraction: of that threshold, in (0, 1]: the level from which on a round is suspect, whatever its own draws
    """

    tolerances: Tolerances
    log_threshold: float
    suspect_fraction: float = 0.5

    def __post_init__(self) -> None:
        if not self.log_threshold > 0 or not 0 < self.suspect_fraction <= 1:
            raise Refused("rules", self, "log_threshold > 0 and suspect_fraction in (0, 1]")

    @property
    def suspect_level(self) -> float:
        """Nats from which on evidence alone makes a subject suspect."""
        return self.suspect_fraction * self.log_threshold


class Outcome(StrEnum):
    """What one round says of a subject, before any evidence is looked at."""

    GOOD = "good"
    BAD = "bad"
    SILENT = "silent"  # nothing could be measured


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends an incident. good_rounds: so many in a row, of one that was not reopened

    silence_interrupts: does a silent round between two good ones start their count again?
    """

    good_rounds: int = GOOD_ROUNDS
    silence_interrupts: bool = True

    def needed(self, reopenings: int) -> int:
        """Good rounds, with no sign of the fault between them, that end an incident which was reopened so often."""
        return min(self.good_rounds << min(reopenings, MOST_GOOD_ROUNDS), MOST_GOOD_ROUNDS)


BY_CANARIES = Ending()
# An adapter with few requests may never be scored in two rounds in a row.
BY_RESPONSES = Ending(silence_interrupts=False)
# Of a base by its adapters' responses: each adapter has counted its own good rounds.
BY_MEMBERS = Ending(good_rounds=1, silence_interrupts=False)


class AnswerTimes(NamedTuple):
    """When the answers that a round judges were given, seconds since the epoch; they may have waited long for it. By
    the clocks of engines, so that one may lie after the round, which then counts as its time.

    first, last: of all of them
    first_bad: of those that speak against what was accepted, of all where none does by itself
    good_until: the last one before ``first_bad`` where all from that on speak against it; None where they are mixed
    """

    first: float
    last: float
    first_bad: float
    good_until: float | None = None


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One round of one subject, reduced to what moves its incident.

    reason: what a silent round, or a good one outside an incident, is reported as
    answers: when what it judges was answered, where that was before ``at``; None where the round itself asked
    log_e: nats, the highest level among the subject's processes that may page
    onset_at: when the fault began by that evidence, seconds since the epoch; None where it cannot tell
    may_end: were good rounds enough? False holds an incident open that its good rounds would end
    is_rare: would a bad round like this be rare where nothing is wrong? One that would not is no reason for suspicion
    draws: what was beyond tolerance, None where rounds have no draws: then no evidence is asked for to end an incident
    scores: how many of the scores that the evidence is made of are 1; None where it is made of others than 0 and 1,
    and then no interval of the onset is reported
    mode: in which alone an engine answers otherwise, where that is what an alarm is about; the scores are not its
    in_modes: the round's draws of each mode that may decide
    """

    at: float
    outcome: Outcome
    reason: Reason = Reason.WITHIN_TOLERANCE
    log_e: float = 0.0
    onset_at: float | None = None
    may_end: bool = True
    is_rare: bool = True
    draws: DrawCounts | None = None
    scores: DrawCounts | None = None
    mode: Mode | None = None
    in_modes: Mapping[Mode, DrawCounts] = field(default_factory=dict)
    answers: AnswerTimes | None = None

    @property
    def good_at(self) -> float:
        """The latest time of which a good round says that nothing was wrong: of its last answer."""
        return self.at if self.answers is None else min(self.answers.last, self.at)

    @property
    def bad_at(self) -> float:
        """The earliest time of which a bad round says that something was wrong."""
        return self.at if self.answers is None else min(self.answers.first_bad, self.at)


class RoundInModes(NamedTuple):
    """One measured round: its draws of each mode. at: seconds since the epoch"""

    at: float
    draws: Mapping[Mode, DrawCounts]


@dataclass(frozen=True, slots=True)
class Incident:
    """All that is remembered of one subject between rounds; times in seconds, None where it never happened.

    last_good_at: last good round before the bad ones; first_bad_at: first bad round after it; of responses the times at
    which they were served, not judged
    onset_estimate: when the fault began by the evidence at the alarm, which restarts at 0 there
    good_in_a_row, silent_in_a_row: rounds, the latest one included
    good_since_fault: while the incident is open, good rounds since one that was silent or showed the fault again
    recovery: evidence that the fault is over, while the incident is open
    reopenings: alarms in a row that came within a day of an incident's end; resolved_at: the latest such end
    signed: was the cause named by a round with signatures? Then only another such round names it again
    recent: the latest measured rounds since the last incident, while none is open
    onset_interval: between which rounds the fault began, by those; None where they do not date it
    mode: in which alone the engine answers otherwise; None where the fault is in the scored answers themselves
    recent_in_modes: the latest rounds that were had in modes, as ``recent``
    by_members: of a base, was it opened by the alarm of one of its adapters (shared_fault.py)? Then it ends with theirs
    """

    open: bool = False
    opened_at: float | None = None
    cause: Cause = Cause.NONE
    last_good_at: float | None = None
    first_bad_at: float | None = None
    good_in_a_row: int = 0
    silent_in_a_row: int = 0
    explanation: str = ""
    action: str = ""
    onset_estimate: float | None = None
    good_since_fault: int = 0
    recovery: Recovery | None = None
    reopenings: int = 0
    resolved_at: float | None = None
    signed: bool = False
    recent: tuple[ScoredRound, ...] = ()
    onset_interval: OnsetInterval | None = None
    mode: Mode | None = None
    recent_in_modes: tuple[RoundInModes, ...] = ()
    by_members: bool = False

    def to_json(self) -> dict[str, Any]:
        recovery = None if self.recovery is None else self.recovery.to_json()
        interval = None if self.onset_interval is None else list(self.onset_interval)
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {
            "cause": self.cause.value,
            "recovery": recovery,
            "recent": [list(round) for round in self.recent],
            "onset_interval": interval,
            "mode": None if self.mode is None else self.mode.value,
            "recent_in_modes": [_mode_rows(round) for round in self.recent_in_modes],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Incident:
        """Files of earlier versions say ``blocked_in_a_row`` for the silent rounds, have no estimate here, and hold
        neither reopenings nor evidence of recovery, which then starts with the next round, nor any rounds."""
        # Rounds that were good in a row had none between them that showed the fault.
        stored = {"good_since_fault": stored.get("good_in_a_row", 0) if stored.get("open") else 0, **stored}
        known = {f.name: stored[f.name] for f in fields(cls) if f.name in stored}
        mode = stored.get("mode")
        silent = stored.get("silent_in_a_row", stored.get("blocked_in_a_row", 0))
        recovery = None if stored.get("recovery") is None else Recovery.from_json(stored["recovery"])
        interval = None if stored.get("onset_interval") is None else OnsetInterval(*stored["onset_interval"])
        return cls(
            **known
            | {
                "cause": Cause(stored["cause"]),
                "silent_in_a_row": silent,
                "recovery": recovery,
                "recent": tuple(map(ScoredRound._make, stored.get("recent", ()))),
                "onset_interval": interval,
                "mode": None if mode is None else Mode(mode),
                "recent_in_modes": tuple(map(_from_mode_rows, stored.get("recent_in_modes", ()))),
            }
        )

    def with_cause(self, named: NamedCause, signed: bool = False) -> Incident:
        """A cause may get sharper while the incident is open; "unknown" never replaces one that was named.

        signed: by a round with signatures. One without, as after a restart, names nothing that they have named, but
        for what needs none
        """
        vaguer = named.cause is Cause.UNKNOWN and self.cause not in (Cause.NONE, Cause.UNKNOWN)
        if vaguer or (self.signed and not signed and named.cause not in WITHOUT_SIGNATURES):
            return self
        return replace(self, cause=named.cause, explanation=named.explanation, action=named.action, signed=signed)


# Any other reason of a step is why nothing was measured: unmonitorable, because silence is never healthy.
STATUS = {
    Reason.WITHIN_TOLERANCE: Status.HEALTHY,
    Reason.BASE_MOVED: Status.HEALTHY,
    Reason.TOKENIZER_CHANGED: Status.HEALTHY,
    Reason.TEMPLATE_CHANGED: Status.HEALTHY,
    Reason.ADAPTER_MOVED: Status.HEALTHY,
    Reason.ENGINE_MOVED: Status.HEALTHY,
    Reason.RESOLVED: Status.HEALTHY,
    Reason.EVIDENCE_GROWING: Status.SUSPECT,
    Reason.ALARM: Status.DEGRADED,
    Reason.STILL_DEGRADED: Status.DEGRADED,
    Reason.RECOVERING: Status.DEGRADED,
    Reason.CAUSE_REFINED: Status.DEGRADED,
    Reason.CAUSE_KEPT: Status.DEGRADED,
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one round means for a subject. before, after: what is remembered of it on either side of the round.

    good_rounds_needed: with no sign of the fault between, to end the incident that is open; 0 where none is
    """

    at: float
    reason: Reason
    before: Incident
    after: Incident
    good_rounds_needed: int = 0

    @property
    def status(self) -> Status:
        return STATUS.get(self.reason, Status.UNMONITORABLE)

    @property
    def incident(self) -> Incident:
        """The incident that the round is about: where it ended one, that one."""
        return self.before if self.reason is Reason.RESOLVED else self.after

    @property
    def shows_cause(self) -> bool:
        """Does the round show what is at fault? A good one shows an adapter that is well."""
        return self.reason in (Reason.ALARM, Reason.STILL_DEGRADED)

    @property
    def onset(self) -> Onset | None:
        """When the fault began; None where there is no incident."""
        if self.status is not Status.DEGRADED and self.reason is not Reason.RESOLVED:
            return None
        incident = self.incident
        bad = (at for at in (incident.first_bad_at, incident.opened_at) if at is not None)
        interval = incident.onset_interval
        earliest, latest = (None, None) if interval is None else interval
        return Onset(incident.last_good_at, next(bad, self.at), incident.onset_estimate, earliest, latest)

    def with_cause(self, named: NamedCause, signed: bool = False) -> Step:
        return replace(self, after=self.after.with_cause(named, signed))


def advance(before: Incident, result: RoundResult, rules: Rules, ending: Ending = BY_CANARIES) -> Step:
    """The round's reason, and what is remembered of the subject from now on."""
    reason, after = _next(before, result, rules, ending)
    return Step(result.at, reason, before, after, ending.needed(after.reopenings) if after.open else 0)


def renamed(before: Incident, named: NamedCause | None, sharper: bool, at: float, signed: bool = True) -> Step:
    """The open incident with the cause that signatures made after its alarm give it; everything else of it stays.

    named: None where there are none; sharper: does the same round without them name something else?
    at: when the last one was made; signed: are there any? Replayed strengths alone are none, and later rounds that
    measure against them may name another cause
    """
    after = before if named is None else before.with_cause(named, signed)
    refined = named is not None and sharper and named.cause is not Cause.UNKNOWN
    return Step(at, Reason.CAUSE_REFINED if refined else Reason.CAUSE_KEPT, before, after)


def _next(before: Incident, result: RoundResult, rules: Rules, ending: Ending) -> tuple[Reason, Incident]:
    if result.outcome is Outcome.SILENT:
        kept = 0 if ending.silence_interrupts else before.good_in_a_row
        clear = 0 if ending.silence_interrupts else before.good_since_fault
        silent = before.silent_in_a_row + 1
        return result.reason, replace(before, good_in_a_row=kept, good_since_fault=clear, silent_in_a_row=silent)
    good = result.outcome is Outcome.GOOD
    after = replace(before, silent_in_a_row=0, good_in_a_row=before.good_in_a_row + 1 if good else 0)
    if not good and before.first_bad_at is None:
        after = replace(after, first_bad_at=result.bad_at, last_good_at=_good_before(after, result))
    return _while_open(after, result, ending) if before.open else _while_closed(after, result, rules)


def _good_before(incident: Incident, bad: RoundResult) -> float | None:
    """The last good answer before a bad round: of that round itself where it is cut in two by the fault. Answers of
    several partitions may be judged out of order, so it is never later than the first bad one."""
    times = [incident.last_good_at, None if bad.answers is None else bad.answers.good_until]
    known = [at for at in times if at is not None]
    return min(max(known), bad.bad_at) if known else None


def _while_open(after: Incident, result: RoundResult, ending: Ending) -> tuple[Reason, Incident]:
    after = replace(after, recovery=_recovered_so_far(after.recovery, result.draws))
    if result.outcome is Outcome.BAD:
        return Reason.STILL_DEGRADED, replace(after, good_since_fault=0) if _shows_fault(after, result) else after
    after = replace(after, good_since_fault=after.good_since_fault + 1)
    enough = after.good_in_a_row >= ending.good_rounds and after.good_since_fault >= ending.needed(after.reopenings)
    shown = after.recovery is None or after.recovery.shown
    if not enough or not shown or not result.may_end:
        return Reason.RECOVERING, after
    return Reason.RESOLVED, Incident(
        last_good_at=result.good_at,
        good_in_a_row=after.good_in_a_row,
        reopenings=after.reopenings,
        resolved_at=result.at,
    )


def _shows_fault(incident: Incident, bad: RoundResult) -> bool:
    """Is a bad round as bad as the fault that is to be over? A benign outlier drawn twice is not."""
    return bad.draws is None or incident.recovery is None or bad.draws.share >= incident.recovery.still_beyond


def _recovered_so_far(before: Recovery | None, draws: DrawCounts | None) -> Recovery | None:
    """Where the share at the alarm is not known, from saved state of an earlier version, the least share is the null
    hypothesis: it contains all others."""
    if draws is None:
        return before
    return (before or Recovery.since(replace(draws, beyond=0))).after(draws)


def _while_closed(after: Incident, result: RoundResult, rules: Rules) -> tuple[Reason, Incident]:
    after = replace(
        after, recent=_with_scores(after.recent, result), recent_in_modes=_with_modes(after.recent_in_modes, result)
    )
    if result.log_e >= rules.log_threshold:
        opened = replace(
            after,
            open=True,
            opened_at=result.at,
            good_in_a_row=0,
            good_since_fault=0,
            onset_estimate=result.onset_at,
            recent=(),
            recent_in_modes=(),
            onset_interval=None if result.mode else _began_between(after.recent),
            recovery=None if result.draws is None else Recovery.since(_draws_of_fault(after, result, result.draws)),
            reopenings=_reopenings(after, result.at),
            mode=result.mode,
        )
        return Reason.ALARM, opened
    good = result.outcome is Outcome.GOOD
    if good:
        after = replace(after, last_good_at=result.good_at, first_bad_at=None)
    if (not good and result.is_rare) or result.log_e >= rules.suspect_level:
        return Reason.EVIDENCE_GROWING, after
    return result.reason, after


def _with_scores(recent: tuple[ScoredRound, ...], result: RoundResult) -> tuple[ScoredRound, ...]:
    scores = result.scores
    if scores is None:
        return recent
    at = max(result.good_at, recent[-1].at if recent else -math.inf)
    return with_round(recent, ScoredRound(at, scores.drawn, scores.beyond, scores.tolerated))


def _with_modes(recent: tuple[RoundInModes, ...], result: RoundResult) -> tuple[RoundInModes, ...]:
    return (*recent, RoundInModes(result.at, result.in_modes))[-KEPT_IN_MODES:] if result.in_modes else recent


def _draws_of_fault(incident: Incident, result: RoundResult, in_round: DrawCounts) -> DrawCounts:
    """What the share beyond at the alarm is read from: of a mode all its draws since the onset. A round has few of
    them, and those of the alarm are more often apart than the fault makes them, because they are what alarmed."""
    since = -math.inf if result.onset_at is None else result.onset_at
    rounds = [round.draws for round in incident.recent_in_modes if since <= round.at]
    draws = [own for round in rounds for mode, own in round.items() if mode is result.mode]
    comparable = [own for own in draws if own.tolerated == in_round.tolerated]
    drawn, beyond = (sum(getattr(own, name) for own in comparable) for name in ("drawn", "beyond"))
    return DrawCounts(drawn, beyond, in_round.tolerated) if drawn else in_round


def _mode_rows(round: RoundInModes) -> list[Any]:
    return [round.at, {mode.value: [own.drawn, own.beyond, own.tolerated] for mode, own in round.draws.items()}]


def _from_mode_rows(stored: Sequence[Any]) -> RoundInModes:
    return RoundInModes(stored[0], {Mode(mode): DrawCounts(*own) for mode, own in stored[1].items()})


def _began_between(recent: tuple[ScoredRound, ...]) -> OnsetInterval | None:
    return onset_interval(recent, least_fault(recent[-1].share)) if recent else None


def _reopenings(before: Incident, at: float) -> int:
    """The count with an alarm at that time: another one soon after an end, or the first."""
    soon = before.resolved_at is not None and abs(at - before.resolved_at) <= REOPENED_WITHIN_S
    return before.reopenings + 1 if soon else 0
