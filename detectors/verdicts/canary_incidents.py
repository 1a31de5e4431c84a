"""What is remembered of the canaries of all adapters and of their bases: incidents, and retention since they changed.

The counterpart of detectors/traffic/response_incidents.py. ``to_json`` is part of the saved state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.canaries.composed_skills import is_skill, without_skills
from detectors.canaries.confidence_sequence import Confidence, held_out_retentions
from detectors.records import BaseRound, Evidence, FaultReplay, Reason, Round, Status, Subject, SubjectKind, Verdict
from detectors.registry import Detector
from detectors.saved_config import config_json, same_config
from detectors.verdicts.decision import decide, decide_again, decide_base, decide_base_again, decide_base_by_members
from detectors.verdicts.exchange import exchanged
from detectors.verdicts.incident import Incident, Rules
from detectors.verdicts.moved_base import with_moved_base
from detectors.verdicts.shared_fault import MembersOfBase, SharedChange, next_shared_change, shared_alarm
from detectors.verdicts.tolerated_change import ToleratedChange, next_change, with_change


@dataclass(slots=True)
class CanaryIncidents:
    """rules: of the fleet; detectors: name -> detector, for the onset that its evidence tells

    incidents: of each subject, open or not; retentions: adapter -> retention over all rounds since its incident last
    opened or ended; changes: adapter -> whether a change within tolerance is said of it; shared: base -> what its
    adapters share that is not as accepted, and since when
    """

    rules: Rules
    detectors: Mapping[str, Detector]
    incidents: dict[Subject, Incident] = field(default_factory=dict)
    retentions: dict[str, Confidence] = field(default_factory=dict)
    changes: dict[str, ToleratedChange] = field(default_factory=dict)
    shared: dict[str, SharedChange] = field(default_factory=dict)

    def decide(self, record: BaseRound, evidence: Sequence[Evidence]) -> list[Verdict]:
        """The verdict on each adapter of the round, in their order, then on their base where there are two or more.

        evidence: of every subject of the round
        """
        members = [
            self._decide(member, of_subject((SubjectKind.ADAPTER, member.adapter), evidence))
            for member in record.members
        ]
        of_base = of_subject((SubjectKind.BASE, record.base), evidence)
        tolerances = self.rules.tolerances
        own = without_skills(record)
        of_own = [verdict for verdict in members if not is_skill(verdict.subject)]
        self._note_shared(own)
        if len(of_own) < 2 or not of_base:
            return [with_moved_base(verdict, record.members, tolerances) for verdict in members]
        base = with_moved_base(self._decide_base(own, of_base, of_own), own.members, tolerances)
        if base.reason is not Reason.BASE_MOVED:  # by fewer members than speak for the base
            pairs = zip(members, record.members, strict=True)
            members = [with_moved_base(verdict, [member], tolerances) for verdict, member in pairs]
        # While the base's incident is open it speaks for its members, in the round of its alarm too. Not while it
        # cannot be judged itself: it would keep members silent that have something to say.
        covers = self.is_open((SubjectKind.BASE, record.base)) and base.status is not Status.UNMONITORABLE
        return [*(replace(verdict, covered_by=record.base if covers else "") for verdict in members), base]

    def rename(self, replay: FaultReplay, latest: Mapping[Subject, Verdict]) -> list[Verdict]:
        """The open incidents that the replayed faults are about, with the cause that they give them: of the adapters
        that were replayed, then of their base where it is the subject. One that opened after the round, or has ended
        since, is left as it is; so is one whose subject cannot be judged by now, which its verdict would hide: the next
        round that can be is measured against the signatures itself.

        latest: each subject's last verdict by canaries, whose evidence still holds
        """
        base = (SubjectKind.BASE, replay.round.base)
        is_base = replay.subject_kind is SubjectKind.BASE
        adapters = [(SubjectKind.ADAPTER, name) for name in (replay.replayed if is_base else (replay.subject,))]
        subjects = [*adapters, *([base] if is_base else [])]
        return [
            self._renamed(subject, replay, latest) for subject in subjects if self._is_about(subject, replay, latest)
        ]

    def is_open(self, subject: Subject) -> bool:
        return self._incident(subject).open

    def forget(self, adapter: str) -> None:
        self.incidents.pop((SubjectKind.ADAPTER, adapter), None)
        self.retentions.pop(adapter, None)
        self.changes.pop(adapter, None)

    def take(self, subjects: Collection[Subject], source: CanaryIncidents) -> None:
        """What ``source`` remembers of these subjects, and no more, is remembered of them from now on."""
        adapters = {name for kind, name in subjects if kind is SubjectKind.ADAPTER}
        self.incidents = exchanged(self.incidents, source.incidents, subjects)
        self.retentions = exchanged(self.retentions, source.retentions, adapters)
        self.changes = exchanged(self.changes, source.changes, adapters)
        bases = {name for kind, name in subjects if kind is SubjectKind.BASE}
        self.shared = exchanged(self.shared, source.shared, bases)

    def to_json(self) -> dict[str, Any]:
        return {
            "incidents": [
                {"kind": kind.value, "subject": subject, **incident.to_json()}
                for (kind, subject), incident in self.incidents.items()
            ],
            "kept": {adapter: retention.to_json() for adapter, retention in self.retentions.items()},
            "tolerated_changes": {adapter: change.to_json() for adapter, change in self.changes.items()},
            "shared_changes": {base: change.to_json() for base, change in self.shared.items()},
            "tolerances": config_json(self.rules.tolerances),
        }

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Files of earlier versions hold the onsets' estimates apart, as ``began``, or not at all; the earliest no
        retention over rounds, and many no change within tolerance and none of what adapters share, which then start
        again. Where no canaries are replayed any more, nothing could end their incidents: they are dropped, and the
        responses' word is the one that counts."""
        if not any(detector.reads is BaseRound for detector in self.detectors.values()):
            return
        began = {(row["kind"], row["subject"]): row["at"] for row in stored.get("began", ())}
        self.incidents = {
            (SubjectKind(row["kind"]), row["subject"]): Incident.from_json(
                {"onset_estimate": began.get((row["kind"], row["subject"])), **row}
            )
            for row in stored["incidents"]
        }
        if not same_config(stored.get("tolerances", ""), self.rules.tolerances):
            # Rounds that were scored against another promise do not date what breaks this one.
            self.incidents = {subject: replace(incident, recent=()) for subject, incident in self.incidents.items()}
        self.retentions = {adapter: Confidence.from_json(row) for adapter, row in stored.get("kept", {}).items()}
        changes = stored.get("tolerated_changes", {})
        self.changes = {adapter: ToleratedChange.from_json(row) for adapter, row in changes.items()}
        self.shared = {base: SharedChange(*row) for base, row in stored.get("shared_changes", {}).items()}

    def _decide(self, round: Round, evidence: tuple[Evidence, ...]) -> Verdict:
        subject = (SubjectKind.ADAPTER, round.adapter)
        highest, before = _highest(evidence, subject, round, self.rules.log_threshold), self._incident(subject)
        retention = self.retentions.get(round.adapter, Confidence()).after(held_out_retentions(round))
        verdict, after = decide(
            round,
            highest,
            before,
            self.rules,
            onset_at=self._onset(highest),
            over_rounds=retention.interval(),
        )
        self.incidents[subject] = after
        # The round that opens or ends an incident was looked at to decide so: what is new begins with the next one.
        self.retentions[round.adapter] = retention if after.open == before.open else Confidence()
        change = next_change(self.changes.get(round.adapter, ToleratedChange()), round, verdict)
        self.changes[round.adapter] = change
        verdict = with_change(verdict, round, self.rules.tolerances) if change.is_there else verdict
        return replace(verdict, evidence=evidence)

    def _decide_base(self, round: BaseRound, evidence: tuple[Evidence, ...], members: Sequence[Verdict]) -> Verdict:
        subject = (SubjectKind.BASE, round.base)
        highest, before = _highest(evidence, subject, round, self.rules.log_threshold), self._incident(subject)
        of_members = MembersOfBase(
            members, {v.subject: self._incident((SubjectKind.ADAPTER, v.subject)) for v in members}
        )
        alarm = None
        if not before.open and highest.log_e < self.rules.log_threshold:
            alarm = shared_alarm(of_members, self.shared.get(round.base))
        if alarm is not None or (before.open and before.by_members):
            verdict, after = decide_base_by_members(round, highest, of_members, before, self.rules, alarm)
        else:
            verdict, after = decide_base(round, highest, members, before, self.rules, onset_at=self._onset(highest))
        self.incidents[subject] = after
        return replace(verdict, evidence=evidence if alarm is None else (*evidence, alarm.evidence))

    def _note_shared(self, round: BaseRound) -> None:
        """What the adapters of this base share, as this round has it."""
        change = next_shared_change(self.shared.pop(round.base, None), round, self.rules.tolerances)
        if change is not None:
            self.shared[round.base] = change

    def _is_about(self, subject: Subject, replay: FaultReplay, latest: Mapping[Subject, Verdict]) -> bool:
        incident, newest = self._incident(subject), latest.get(subject)
        is_judged = newest is None or newest.status is not Status.UNMONITORABLE
        is_of_round = incident.opened_at is None or incident.opened_at <= replay.round.at
        return incident.open and is_of_round and is_judged

    def _renamed(self, subject: Subject, replay: FaultReplay, latest: Mapping[Subject, Verdict]) -> Verdict:
        kind, name = subject
        if kind is SubjectKind.BASE:
            replay = _of_base_alone(replay)
        members = [v for m in replay.round.members if (v := latest.get((SubjectKind.ADAPTER, m.adapter))) is not None]
        verdict, self.incidents[subject] = (
            decide_again(replay, name, self._incident(subject), self.rules)
            if kind is SubjectKind.ADAPTER
            else decide_base_again(replay, members, self._incident(subject), self.rules)
        )
        before = latest.get(subject)
        if before is None:
            return verdict
        over_rounds, covered = before.retention_over_rounds, before.covered_by
        return replace(verdict, evidence=before.evidence, retention_over_rounds=over_rounds, covered_by=covered)

    def _onset(self, highest: Evidence) -> float | None:
        """When the fault began, by the evidence that is furthest."""
        estimate = self.detectors[highest.detector].onset(highest.subject) if highest.detector else None
        return None if estimate is None else estimate.at

    def _incident(self, subject: Subject) -> Incident:
        return self.incidents.get(subject, Incident())


def of_subject(subject: Subject, evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The evidence about one subject, in its order."""
    return tuple(e for e in evidence if (e.subject_kind, e.subject) == subject)


def _highest(
    evidence: Sequence[Evidence], subject: Subject, round: Round | BaseRound, log_threshold: float
) -> Evidence:
    """The process that is furthest; each is a stream of its own in the budget. Level 0 where none pages. Where answers
    as they are scored alarm, that is the fault, and none of a mode."""
    nothing = Evidence(*subject, detector="", stream="", round=round.number, log_e=0.0, n=0, at=round.at)
    paging = [e for e in evidence if e.pages]
    alarmed = [e for e in paging if e.log_e >= log_threshold and not e.stream]
    return max(alarmed or paging, key=lambda e: e.log_e, default=nothing)


def _of_base_alone(replay: FaultReplay) -> FaultReplay:
    """Without the skills of compositions, of which a base's verdict knows nothing."""
    members = tuple(member for member in replay.members if not is_skill(member.adapter))
    return replace(replay, round=without_skills(replay.round), members=members)
