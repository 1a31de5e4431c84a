"""What the on-call person was last told about one subject, by whichever pod of the fleet: kept, and saved as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agent.alerting.fleet import LONGEST_WAIT_S, SentIncident
from agent.alerting.page.identity_past import IdentityPast
from agent.records import NoticeReason
from detectors.records import Cause, Reason, Status, Verdict
from detectors.verdicts.incident import GOOD_ROUNDS, SILENT_ROUNDS

# Within so many seconds of a notice that a subject cannot be judged, the next one takes twice as many silent rounds.
CANNOT_TELL_AGAIN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Reported:
    """What is known of the incident under one dedup key. Times in seconds.

    at: when it was last reported open or ended, 0.0 for never
    by: the other pod that reported it open, while that report may still lie in its outbox; "" else
    held_back: does that pod say that it cannot get it out, see SentIncident?
    held: has this pod's own verdict called the subject degraded while it was open?
    good_before: good rounds in a row from before it was known here, which say nothing of whether it is over
    ends_since: since when it might be ended from here, None where it may not
    not_judged: was it sent that it can no longer be judged?
    by_responses: by sampled responses of another pod: canaries alone do not show that it is over
    """

    is_open: bool = False
    at: float = 0.0
    by: str = ""
    held: bool = False
    good_before: int = 0
    ends_since: float | None = None
    not_judged: bool = False
    by_responses: bool = False
    held_back: bool = False

    def sent(self, at: float, held: bool = True) -> Reported:
        """Reported as open from here."""
        return replace(self, is_open=True, at=at, by="", held=held, ends_since=None, held_back=False)

    def with_sent(self, sent: SentIncident, verdict: Verdict, now: float) -> Reported:
        """With what the fleet has sent of it since.

        An end that another pod reports while it is still degraded here counts after ten minutes: one who has read a new
        golden record a little earlier ends it for all.
        """
        if sent.opened_at > self.at and self.is_open:
            return replace(self._delivered(sent), at=sent.opened_at, not_judged=self.not_judged or sent.not_judged)
        if sent.opened_at > self.at:
            opened = Reported(
                True, sent.opened_at, sent.pod, not_judged=sent.not_judged, by_responses=sent.by_responses
            )
            return replace(opened, good_before=opened.good_rounds(verdict))._delivered(sent)
        is_over = self.is_open and not sent.opened_at and sent.ended_at > self.at
        still_degraded = verdict.status is Status.DEGRADED and not verdict.covered_by
        if is_over and not (still_degraded and self.held and now - sent.ended_at < LONGEST_WAIT_S):
            return Reported(at=sent.ended_at)
        return self._delivered(sent) if sent.opened_at else self

    def _delivered(self, sent: SentIncident) -> Reported:
        by = "" if sent.delivered or not self.by else sent.pod
        return replace(self, by=by, held_back=bool(by) and sent.held_back)

    def adopted(self, pod: str) -> Reported:
        """As another pod goes on from it: what that one reported may still lie in its outbox."""
        return replace(self, by=self.by or pod, ends_since=None) if self.is_open else self

    def after(self, verdict: Verdict) -> Reported:
        """With one more round, before anything is sent about it."""
        shown = verdict.status is Status.DEGRADED and not verdict.covered_by
        before = min(self.good_before, self.good_rounds(verdict))
        return replace(self, held=self.is_open and (self.held or shown), good_before=before)

    def good_rounds(self, verdict: Verdict) -> int:
        """Good rounds in a row, of what showed the fault: canaries do not show that a served path is well again."""
        by_responses = self.by_responses and verdict.good_responses is not None
        return verdict.good_responses or 0 if by_responses else verdict.good_in_a_row

    def is_recovered(self, verdict: Verdict) -> bool:
        """Its own end, or good rounds enough where the memory of the incident was lost, or was another pod's."""
        enough = self.good_rounds(verdict) - self.good_before >= GOOD_ROUNDS
        return verdict.status is Status.HEALTHY and (verdict.reason is Reason.RESOLVED or enough)


@dataclass(frozen=True, slots=True)
class AlertState:
    """incident: that it is degraded; blindness: that it cannot be judged

    former_key: was that reported under the key of the incident, as earlier versions did?
    cause: the one that was named
    changes: what was reported as a change, by the hash of what is there now; waiting: changes that are to be, and since
    when
    cannot_tell_at: when it was reported, within a day before the latest such notice, that the subject cannot be judged
    tolerated_change: is the latest word on a change within tolerance that there is one?
    cause_refined: was that cause told as one that replayed faults gave the open incident?
    former_cause: of the incident before, where it was ended from here
    past: hashes that rounds showed, and which of them changed
    """

    incident: Reported = Reported()
    blindness: Reported = Reported()
    former_key: bool = False
    cause: str = Cause.NONE.value
    changes: tuple[str, ...] = ()
    waiting: Mapping[str, float] = field(default_factory=dict)
    cannot_tell_at: tuple[float, ...] = ()
    tolerated_change: bool = False
    cause_refined: bool = False
    former_cause: str = Cause.NONE.value
    past: IdentityPast = field(default_factory=IdentityPast)

    def silent_rounds_needed(self, at: float) -> int:
        """Rounds in a row without a measurement after which somebody is told at that time: three, doubled with each
        time that somebody was within a day before."""
        return SILENT_ROUNDS << len(self.cannot_tell_since(at))

    def cannot_tell_since(self, at: float) -> tuple[float, ...]:
        return tuple(before for before in self.cannot_tell_at if abs(at - before) < CANNOT_TELL_AGAIN_S)

    def after_notice(self, verdict: Verdict, sent: NoticeReason, now: float) -> AlertState:
        """The state once this was sent about a verdict."""
        match sent:
            case NoticeReason.CANNOT_TELL:
                times = (*self.cannot_tell_since(verdict.at), verdict.at)
                blindness = self.blindness.sent(now, held=False)
                return replace(self, blindness=blindness, former_key=False, cannot_tell_at=times)
            case NoticeReason.CAN_TELL_AGAIN:
                return replace(self, blindness=Reported(at=now), former_key=False)
            case NoticeReason.DEGRADED | NoticeReason.CAUSE_SHARPER:
                refined = verdict.reason is Reason.CAUSE_REFINED
                return replace(self, incident=self.incident.sent(now), cause=verdict.cause.value, cause_refined=refined)
            case NoticeReason.NO_LONGER_JUDGED:
                return replace(self, incident=replace(self.incident.sent(now), not_judged=True))
        over = Reported(at=now)
        return replace(self, incident=over, cause=Cause.NONE.value, cause_refined=False, former_cause=self.cause)

    def adopted(self, pod: str) -> AlertState:
        """As this pod goes on from it, where it was that of a pod that is gone."""
        return replace(self, incident=self.incident.adopted(pod), blindness=self.blindness.adopted(pod))

    def to_json(self) -> dict[str, Any]:
        """An earlier program, after a rollback, reads in ``opened_as`` what lies under the one key that it knows."""
        under_its_key = "cannot_tell" if self.former_key else ""
        return {
            "opened_as": "degraded" if self.incident.is_open else under_its_key,
            "incident": asdict(self.incident),
            "blindness": asdict(self.blindness),
            "former_key": self.former_key,
            "cause": self.cause,
            "told": self.changes,
            "waiting": dict(self.waiting),
            "cannot_tell_at": self.cannot_tell_at,
            "tolerated_change": self.tolerated_change,
            "cause_refined": self.cause_refined,
            "former_cause": self.former_cause,
            "past": self.past.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> AlertState:
        """Files of earlier versions say in ``opened_as`` which of the two is open, always under one key, and not since
        when; they hold counters of rounds too, which the verdicts have of their own, and neither when it was reported
        that a subject cannot be judged nor what was said of changes within tolerance and of causes by replay."""
        opened_as = stored.get("opened_as", "")
        former = {"incident": opened_as == "degraded", "blindness": opened_as == "cannot_tell"}
        known = {
            name: Reported(**stored[name]) if name in stored else Reported(is_open, held=is_open)
            for name, is_open in former.items()
        }
        return cls(
            **known,
            former_key=stored.get("former_key", former["blindness"]),
            cause=stored["cause"],
            changes=tuple(stored["told"]),
            waiting=dict(stored.get("waiting", {})),
            cannot_tell_at=tuple(stored.get("cannot_tell_at", ())),
            tolerated_change=stored.get("tolerated_change", False),
            cause_refined=stored.get("cause_refined", False),
            former_cause=stored.get("former_cause", Cause.NONE.value),
            past=IdentityPast.from_json(stored.get("past", {})),
        )


States = Mapping[str, AlertState]
