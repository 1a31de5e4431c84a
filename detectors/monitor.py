"""Records in, evidence and verdicts out: the one place where detectors, incidents and subjects meet. Pure, no IO.

Yesterday's records through ``observe`` give yesterday's verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from detectors.canaries.confidence_sequence import Confidence, held_out_retentions
from detectors.canaries.tolerance import Tolerances
from detectors.records import BaseRound, Evidence, Reason, Round, Status, SubjectKind, Verdict
from detectors.registry import Detector, OwnPast, load, names
from detectors.traffic.adapter_decision import ResponseIncident
from detectors.traffic.response_incidents import ResponseIncidents
from detectors.traffic.sampler_report import with_sampler
from detectors.traffic_records import Calibration, Embedding, TrafficRound
from detectors.verdicts import fusion
from detectors.verdicts.decision import Incident, Rules, decide, decide_base

Subject = tuple[SubjectKind, str]


@dataclass(frozen=True, slots=True)
class Judged:
    """evidence: one level of each process that the record moved; verdicts: members in their order, then their base.

    calibrations: of the adapters whose responses say by which sampler their tokens are drawn
    """

    evidence: tuple[Evidence, ...]
    verdicts: tuple[Verdict, ...]
    calibrations: tuple[Calibration, ...] = ()


def default_configs(tolerances: Tolerances) -> dict[str, Any]:
    """A config for every detector there is; those that score canaries by tolerances get these."""
    return {name: _default(load(name).Config, tolerances) for name in names()}


def paging(configs: Mapping[str, Any]) -> tuple[SubjectKind, ...]:
    """What each stream that may page is about: one for every such subject in the fleet's budget."""
    detectors = (load(name).Detector(config) for name, config in configs.items())
    return tuple(kind for d in detectors if d.pages for kind in [d.about] * getattr(d.config, "streams_per_adapter", 1))


class Monitor:
    """Routes records to detectors by what they read, and decides.

    rules: thresholds and tolerances; configs: detector name -> its Config, every detector with its defaults when None
    Raises UnknownDetector for a name that no file has.
    """

    def __init__(self, rules: Rules, configs: Mapping[str, Any] | None = None) -> None:
        self._rules = rules
        chosen = default_configs(rules.tolerances) if configs is None else dict(configs)
        self._detectors: dict[str, Detector] = {name: load(name).Detector(config) for name, config in chosen.items()}
        self._incidents: dict[Subject, Incident] = {}
        self._began: dict[Subject, float] = {}
        self._kept: dict[str, Confidence] = {}
        self._drift: dict[str, dict[str, float]] = {}
        self._canaries: dict[Subject, Verdict] = {}
        likelihood: Any = self._detectors.get("traffic_likelihood")
        samplers: Any = self._detectors.get("token_calibration")
        self._responses = ResponseIncidents(rules, likelihood, samplers)

    @property
    def incidents(self) -> Mapping[Subject, Incident]:
        """What is remembered of each subject, open or not."""
        return dict(self._incidents)

    def observe(self, record: BaseRound | TrafficRound | Embedding) -> Judged:
        """Evidence and verdicts of one record. An embedding informs: it has evidence and no verdict, and responses have
        one where they say more than the canaries do (fusion.py).

        A round without measurements moves no M. At an alarm, and when an incident resolves, the subject's M restarts
        at 0, after its level has been reported.
        """
        evidence = self._update(record)
        if isinstance(record, Embedding):
            self._drift.setdefault(record.adapter, {}).update({e.stream: e.log_e for e in evidence})
            return Judged(evidence, ())
        if isinstance(record, TrafficRound):
            told = tuple(self._by_responses(record, evidence))
            return Judged(evidence, told, self._responses.calibrated(record))
        verdicts = [self._decide(member, evidence) for member in record.members]
        if len(record.members) >= 2:
            base = self._decide_base(record, evidence, verdicts)
            if base is not None:
                verdicts = [*self._covered(base, verdicts), base]
        for verdict in verdicts:
            self._restart_if_told(verdict, BaseRound)
        return Judged(evidence, tuple(map(self._by_canaries, verdicts)))

    def _by_canaries(self, canary: Verdict) -> Verdict:
        """The verdict of canaries with what responses and embeddings say beside it."""
        name, heard = canary.subject, self._responses
        self._canaries[canary.subject_kind, name] = canary
        if canary.subject_kind is SubjectKind.BASE:
            held = heard.bases.get(name, Incident())
            return fusion.by_canaries(canary, heard.latest_bases.get(name), True, {}, held) if held.open else canary
        drift, held = self._drift.get(name, {}), heard.incidents.get(name, ResponseIncident()).incident
        sampled = with_sampler(canary, heard.sampler(name))
        told = fusion.by_canaries(sampled, heard.latest.get(name), heard.is_open(name), drift, held)
        return replace(told, covered_by=canary.covered_by or heard.speaking(canary.base))

    def _by_responses(self, record: TrafficRound, evidence: tuple[Evidence, ...]) -> Iterator[Verdict]:
        mine = {name: _of((SubjectKind.ADAPTER, name), evidence) for name in record.adapters}
        for traffic in self._responses.decide(record, mine):
            subject = (traffic.subject_kind, traffic.subject)
            is_base = traffic.subject_kind is SubjectKind.BASE
            if not is_base:
                self._restart_if_told(traffic, TrafficRound)
            drift = {} if is_base else self._drift.get(traffic.subject, {})
            told = fusion.by_traffic(traffic, self._canaries.get(subject), self._incident(subject).open, drift)
            if told is not None:
                yield told

    def accept_new_golden(self, adapter: str) -> None:
        """A new release of the adapter was accepted by enrolment: its incident ends and its evidence starts again.

        What ``gapwatch enrol --replace`` calls; nothing else ever moves a reference.
        """
        subject = (SubjectKind.ADAPTER, adapter)
        self._incidents.pop(subject, None)
        self._began.pop(subject, None)
        self._kept.pop(adapter, None)
        self._canaries.pop(subject, None)
        self._drift.pop(adapter, None)
        self._responses.forget(adapter)
        for reads in (BaseRound, TrafficRound):
            self._restart(subject, reads)
        for detector in self._detectors.values():
            if isinstance(detector, OwnPast):
                detector.forget(adapter)

    def state_json(self) -> dict[str, Any]:
        """Everything that changes, as JSON; floats to the last bit."""
        return {
            "detectors": {
                name: {"config": repr(detector.config), "state": detector.state.to_json()}
                for name, detector in self._detectors.items()
            },
            "incidents": [
                {"kind": kind.value, "subject": subject, **incident.to_json()}
                for (kind, subject), incident in self._incidents.items()
            ],
            "began": [
                {"kind": kind.value, "subject": subject, "at": at} for (kind, subject), at in self._began.items()
            ],
            "kept": {adapter: kept.to_json() for adapter, kept in self._kept.items()},
            "responses": self._responses.to_json(),
            "response_bases": self._responses.bases_json(),
            "drift": self._drift,
        }

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Go on from ``state_json`` as if never stopped.

        Evidence of a detector whose config has changed since starts at 0: it speaks of another promise. Incidents stay.
        A file of an earlier version has no onsets and no retention over rounds; both begin anew.
        """
        for name, detector in self._detectors.items():
            saved = stored["detectors"].get(name)
            if saved is not None and saved["config"] == repr(detector.config):
                detector.state = load(name).State.from_json(saved["state"])
        self._incidents = {}
        for row in stored["incidents"]:
            facts = {key: value for key, value in row.items() if key not in ("kind", "subject")}
            self._incidents[SubjectKind(row["kind"]), row["subject"]] = Incident.from_json(facts)
        self._began = {(SubjectKind(row["kind"]), row["subject"]): row["at"] for row in stored.get("began", ())}
        self._kept = {adapter: Confidence.from_json(kept) for adapter, kept in stored.get("kept", {}).items()}
        self._responses.restore(stored.get("responses", {}), stored.get("response_bases", {}))
        self._drift = {adapter: dict(sides) for adapter, sides in stored.get("drift", {}).items()}

    def _update(self, record: BaseRound | TrafficRound | Embedding) -> tuple[Evidence, ...]:
        return tuple(e for d in self._detectors.values() if d.reads is type(record) for e in d.update(record))

    def _decide(self, round: Round, evidence: tuple[Evidence, ...]) -> Verdict:
        subject = (SubjectKind.ADAPTER, round.adapter)
        mine = _of(subject, evidence)
        loudest, before = _loudest(mine, subject, round), self._incident(subject)
        kept = self._kept.get(round.adapter, Confidence()).after(held_out_retentions(round))
        verdict, after = decide(
            round,
            loudest,
            before,
            self._rules,
            onset_at=self._onset(subject, loudest),
            over_rounds=kept.interval(),
        )
        self._incidents[subject] = after
        # The round that opens or ends an incident was looked at to decide so: what is new begins with the next one.
        self._kept[round.adapter] = kept if after.open == before.open else Confidence()
        return replace(verdict, evidence=mine)

    def _decide_base(self, round: BaseRound, evidence: tuple[Evidence, ...], members: list[Verdict]) -> Verdict | None:
        subject = (SubjectKind.BASE, round.base)
        mine = _of(subject, evidence)
        if not mine:
            return None
        loudest = _loudest(mine, subject, round)
        onset_at = self._onset(subject, loudest)
        verdict, after = decide_base(round, loudest, members, self._incident(subject), self._rules, onset_at=onset_at)
        self._incidents[subject] = after
        return replace(verdict, evidence=mine)

    def _onset(self, subject: Subject, loudest: Evidence) -> float | None:
        """When the fault began, by the evidence that is furthest. The alarm's answer is kept until the incident ends:
        M starts again at 0 then, and the twin with it."""
        if self._incident(subject).open:
            return self._began.get(subject)
        found = self._detectors[loudest.detector].onset(subject[1]) if loudest.detector else None
        if found is not None and loudest.log_e >= self._rules.log_threshold:
            self._began[subject] = found.at
        return None if found is None else found.at

    def _covered(self, base: Verdict, verdicts: list[Verdict]) -> list[Verdict]:
        """While the base's incident is open it speaks for its members, in the round of its alarm too.

        Not while the base itself cannot be judged: it would keep members silent that have something to say.
        """
        speaks = self._incident((SubjectKind.BASE, base.subject)).open and base.status is not Status.UNMONITORABLE
        return [replace(v, covered_by=base.subject if speaks else "") for v in verdicts]

    def _restart_if_told(self, verdict: Verdict, reads: type) -> None:
        subject = (verdict.subject_kind, verdict.subject)
        if verdict.reason is Reason.RESOLVED:
            self._began.pop(subject, None)
        passed = any(e.pages and e.log_e >= self._rules.log_threshold for e in verdict.evidence)
        if passed or verdict.reason is Reason.RESOLVED:
            self._restart(subject, reads)

    def _restart(self, subject: Subject, reads: type) -> None:
        kind, name = subject
        for detector in self._detectors.values():
            if detector.reads is reads and detector.about is kind:
                detector.restart(name)

    def _incident(self, subject: Subject) -> Incident:
        return self._incidents.get(subject, Incident())


def _of(subject: Subject, evidence: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    return tuple(e for e in evidence if (e.subject_kind, e.subject) == subject)


def _loudest(mine: tuple[Evidence, ...], subject: Subject, round: Round | BaseRound) -> Evidence:
    """The process that is furthest; each is a stream of its own in the budget. Level 0 where none pages."""
    kind, name = subject
    silent = Evidence(kind, name, "", "", round.number, 0.0, 0, round.at)
    return max((e for e in mine if e.pages), key=lambda e: e.log_e, default=silent)


def _default(config: type, tolerances: Tolerances) -> Any:
    has_tolerances = any(f.name == "tolerances" for f in fields(config))
    return config(tolerances=tolerances) if has_tolerances else config()
