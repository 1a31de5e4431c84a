"""Records in, evidence and verdicts out: the one place where detectors, incidents and subjects meet. Pure, no IO.

The same records give the same verdicts. ``state_json`` is what a restart goes on from: what files of earlier versions
hold has to stay readable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from detectors.canaries.tolerance import Tolerances
from detectors.records import (
    BaseRound,
    Evidence,
    FaultReplay,
    FilesReplay,
    FilesRound,
    Reason,
    Subject,
    SubjectKind,
    Verdict,
)
from detectors.registry import (
    CalibratesSampler,
    ComparesWithAdapters,
    Detector,
    EstimatesRetention,
    OwnPast,
    SeesOtherDistributions,
    SeveralStreams,
    load,
    names,
)
from detectors.saved_config import config_json, same_config
from detectors.traffic.adapter_decision import ResponseIncident
from detectors.traffic.response_incidents import ResponseIncidents
from detectors.traffic.sampler_report import with_sampler
from detectors.traffic_records import Calibration, Embedding, TrafficRound
from detectors.verdicts import fusion
from detectors.verdicts.canary_incidents import CanaryIncidents
from detectors.verdicts.exchange import exchanged
from detectors.verdicts.incident import Incident, Rules
from detectors.verdicts.three_way import files_replays


@dataclass(frozen=True, slots=True)
class Judged:
    """evidence: one level of each process that the record moved; verdicts: members in their order, then their base.

    calibrations: of the adapters whose responses say by which sampler their tokens are drawn
    files: of the adapters that were replayed from their files, how these answered
    """

    evidence: tuple[Evidence, ...]
    verdicts: tuple[Verdict, ...] = ()
    calibrations: tuple[Calibration, ...] = ()
    files: tuple[FilesReplay, ...] = ()


def default_configs(tolerances: Tolerances) -> dict[str, Any]:
    """A config for every detector there is; those that score canaries by tolerances get these."""
    return {name: _default(load(name).Config, tolerances) for name in names()}


def paging(configs: Mapping[str, Any]) -> tuple[SubjectKind, ...]:
    """What each stream that may page is about: one for every such subject in the fleet's budget."""
    detectors = [load(name).Detector(config) for name, config in configs.items()]
    return tuple(kind for detector in detectors if detector.pages for kind in [detector.about] * _streams(detector))


class Monitor:
    """Routes records to detectors by what they read, and decides.

    rules: thresholds and tolerances; configs: detector name -> its Config, every detector with its defaults when None
    Raises UnknownDetector for a name that no file has.
    """

    def __init__(self, rules: Rules, configs: Mapping[str, Any] | None = None) -> None:
        self._rules = rules
        self._configs = chosen = default_configs(rules.tolerances) if configs is None else dict(configs)
        self._detectors: dict[str, Detector] = {name: load(name).Detector(config) for name, config in chosen.items()}
        detectors = self._detectors.values()
        estimator = next((d for d in detectors if isinstance(d, EstimatesRetention)), None)
        calibrator = next((d for d in detectors if isinstance(d, CalibratesSampler)), None)
        self._canaries = CanaryIncidents(rules, self._detectors)
        omnibus = next((d for d in detectors if isinstance(d, SeesOtherDistributions)), None)
        own = next((d for d in detectors if d.about is SubjectKind.BASE_REQUESTS), None)
        self._responses = ResponseIncidents(rules, estimator, calibrator, omnibus, own=own)
        self._latest_canaries: dict[Subject, Verdict] = {}
        self._drift: dict[str, dict[str, float]] = {}

    @property
    def log_threshold(self) -> float:
        """ln A in nats: at this level evidence alarms."""
        return self._rules.log_threshold

    @property
    def incidents(self) -> Mapping[Subject, Incident]:
        """What is remembered of each subject by its canaries, open or not."""
        return dict(self._canaries.incidents)

    @property
    def open_subjects(self) -> frozenset[Subject]:
        """Those with an open incident, by canaries or by responses, also where their base's speaks for them."""
        canaries = {subject for subject, incident in self._canaries.incidents.items() if incident.open}
        adapters = {(SubjectKind.ADAPTER, name) for name, own in self._responses.incidents.items() if own.open}
        bases = {(SubjectKind.BASE, name) for name, incident in self._responses.bases.items() if incident.open}
        requests = {
            (SubjectKind.BASE_REQUESTS, name) for name, own in self._responses.base_requests.items() if own.open
        }
        return frozenset(canaries | adapters | bases | requests)

    def observe(self, record: BaseRound | TrafficRound | Embedding | FaultReplay | FilesRound) -> Judged:
        """Evidence and verdicts of one record. An embedding informs: it has evidence and no verdict, and responses have
        one where they say more than the canaries do (fusion.py). Replayed faults are no evidence: they name the cause
        of incidents that are open, and only these have a verdict. Nor is a round of the files of a base whose engine
        answers its canaries.

        A round without measurements moves no M. At an alarm, and when an incident resolves, the subject's M restarts
        at 0, after its level has been reported.
        """
        evidence = tuple(e for d in self._detectors.values() if d.reads is type(record) for e in d.update(record))
        match record:
            case BaseRound():
                return self._judge_canaries(record, evidence)
            case TrafficRound():
                return self._judge_responses(record, evidence)
            case FaultReplay():
                renamed = self._canaries.rename(record, self._latest_canaries)
                return Judged((), tuple(map(self._with_responses, renamed)))
            case FilesRound():
                return Judged((), files=files_replays(record.round, self._rules.tolerances))
            case Embedding():
                self._drift.setdefault(record.adapter, {}).update({e.stream: e.log_e for e in evidence})
                return Judged(evidence)

    def accept_new_golden(self, adapter: str) -> None:
        """A new release of the adapter was accepted by enrolment: its incident ends and its evidence starts again.

        What ``gapwatch enrol --replace`` calls; nothing else ever moves a reference.
        """
        subject = (SubjectKind.ADAPTER, adapter)
        self._canaries.forget(adapter)
        self._responses.forget(adapter)
        self._latest_canaries.pop(subject, None)
        self._drift.pop(adapter, None)
        for reads in (BaseRound, TrafficRound):
            self._restart(subject, reads)
        for detector in self._detectors.values():
            if isinstance(detector, OwnPast):
                detector.forget(adapter)
            if isinstance(detector, ComparesWithAdapters):
                detector.accept_adapter(adapter)

    def end_elsewhere(self, subject: Subject) -> None:
        """Another pod has ended the incident of this subject: as if it had ended here, with the evidence of it."""
        kind, name = subject
        if kind is SubjectKind.ADAPTER:
            self._canaries.forget(name)
            self._responses.forget(name)
        if kind is SubjectKind.BASE:
            self._responses.bases.pop(name, None)
        if kind is SubjectKind.BASE_REQUESTS:
            self._responses.base_requests.pop(name, None)
        self._canaries.incidents.pop(subject, None)
        self._latest_canaries.pop(subject, None)
        for reads in (BaseRound, TrafficRound):
            self._restart(subject, reads)

    def blank(self) -> Monitor:
        """One of the same rules and detectors that has observed nothing."""
        return Monitor(self._rules, self._configs)

    def take(self, subjects: Collection[Subject], source: Monitor) -> None:
        """What ``source``, of the same rules and detectors, knows of these subjects is what is known of them here from
        now on, to the last bit; what was known of them here is forgotten. The others stay as they are.

        So ``blank().take(subjects, monitor)`` is the part of a monitor that is about them, and
        ``monitor.take(subjects, blank())`` forgets it. What is taken is not copied: ``source`` observes no more of it.
        Guarantee: records of several bases judged by one monitor, or by one that takes a base's adapters and the base
        over from another between two records, give the same evidence and verdicts, because no detector and no incident
        joins what is of two bases. What breaks it: subjects of one base of which only some are taken.
        """
        for name, detector in self._detectors.items():
            taken = {subject for kind, subject in subjects if kind is detector.about}
            kept = detector.state.part(lambda subject, taken=taken: subject not in taken)
            detector.state = kept.joined(source._detectors[name].state.part(taken.__contains__))
        self._canaries.take(subjects, source._canaries)
        self._responses.take(subjects, source._responses)
        self._latest_canaries = exchanged(self._latest_canaries, source._latest_canaries, subjects)
        adapters = {name for kind, name in subjects if kind is SubjectKind.ADAPTER}
        self._drift = exchanged(self._drift, source._drift, adapters)

    def state_json(self) -> dict[str, Any]:
        """Everything that changes and decides, as JSON; floats to the last bit."""
        own_past = self._own_past()
        return {
            "detectors": _detectors_json({n: d for n, d in self._detectors.items() if n not in own_past}),
            **self._canaries.to_json(),
            "responses": self._responses.to_json(),
            "response_bases": self._responses.bases_json(),
            "base_requests": self._responses.base_requests_json(),
        }

    def own_past_json(self) -> dict[str, Any]:
        """What detectors with a past of their own have learnt, likewise: it only informs, and is most of the size."""
        return {"detectors": _detectors_json(self._own_past()), "drift": self._drift}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Go on from ``state_json`` as if never stopped; what earlier versions wrote has ``own_past_json`` in it, too.

        Evidence of a detector whose settings, or whose layout of the state, have changed since starts at 0. Incidents
        stay.
        """
        self._restore_detectors(self._detectors, stored["detectors"])
        self._canaries.restore(stored)
        saved = (stored.get(part, {}) for part in ("responses", "response_bases", "base_requests"))
        self._responses.restore(*saved)
        if "drift" in stored:
            self._restore_drift(stored["drift"])

    def restore_own_past(self, stored: Mapping[str, Any]) -> None:
        """Go on from ``own_past_json``, which may be of an earlier moment than ``state_json``: what came between is
        left out, whatever it was."""
        self._restore_detectors(self._own_past(), stored["detectors"])
        self._restore_drift(stored["drift"])

    def _own_past(self) -> dict[str, Detector]:
        return {name: detector for name, detector in self._detectors.items() if isinstance(detector, OwnPast)}

    def _restore_detectors(self, detectors: Mapping[str, Detector], stored: Mapping[str, Any]) -> None:
        for name, detector in detectors.items():
            saved = stored.get(name)
            if saved is not None and _is_usable(saved, detector):
                detector.state = load(name).State.from_json(saved["state"])

    def _restore_drift(self, stored: Mapping[str, Mapping[str, float]]) -> None:
        self._drift = {adapter: dict(sides) for adapter, sides in stored.items()}

    def replaces(self, before: Monitor) -> None:
        """Go on from another monitor, of other rules, with what only it remembers too: the latest verdicts."""
        self.restore(before.state_json())
        self.restore_own_past(before.own_past_json())
        self._latest_canaries = dict(before._latest_canaries)
        self._responses.keep_latest(before._responses)

    def _judge_canaries(self, record: BaseRound, evidence: tuple[Evidence, ...]) -> Judged:
        verdicts = self._canaries.decide(record, evidence)
        self._restart_decided(verdicts, BaseRound)
        files = files_replays(record, self._rules.tolerances)
        return Judged(evidence, tuple(map(self._with_responses, verdicts)), files=files)

    def _with_responses(self, canary: Verdict) -> Verdict:
        """The verdict of canaries with what responses and embeddings say beside it."""
        subject = canary.subject_kind, canary.subject
        self._latest_canaries[subject] = canary
        return replace(self._fused(canary), good_responses=self._responses.good_rounds(*subject))

    def _fused(self, canary: Verdict) -> Verdict:
        name, responses = canary.subject, self._responses
        if canary.subject_kind is SubjectKind.BASE:
            incident = responses.bases.get(name, Incident())
            return (
                fusion.by_canaries(canary, responses.latest_bases.get(name), incident, {}) if incident.open else canary
            )
        incident = responses.incidents.get(name, ResponseIncident()).incident
        sampled = with_sampler(canary, responses.sampler(name))
        both = fusion.by_canaries(sampled, responses.latest.get(name), incident, self._drift.get(name, {}))
        return replace(both, covered_by=canary.covered_by or responses.covering(canary.base))

    def _judge_responses(self, record: TrafficRound, evidence: tuple[Evidence, ...]) -> Judged:
        by_adapter: dict[str, tuple[Evidence, ...]] = {}
        for level in evidence:
            if level.subject_kind is SubjectKind.ADAPTER:
                by_adapter[level.subject] = (*by_adapter.get(level.subject, ()), level)
        verdicts = self._responses.decide(record, by_adapter)
        # A base has no evidence of its own: its verdict reports that of its members, who restart theirs.
        self._restart_decided((v for v in verdicts if v.subject_kind is SubjectKind.ADAPTER), TrafficRound)
        both = (self._with_canaries(replace(verdict, good_responses=verdict.good_in_a_row)) for verdict in verdicts)
        requests = self._judge_base_requests(record, evidence)
        decided = (*(v for v in both if v is not None), *requests)
        return Judged(evidence, decided, self._responses.calibrated(record))

    def _judge_base_requests(self, record: TrafficRound, evidence: Iterable[Evidence]) -> tuple[Verdict, ...]:
        """On requests that name the base, where some were sampled: no canary says anything beside them."""
        own = tuple(level for level in evidence if level.subject_kind is SubjectKind.BASE_REQUESTS)
        verdict = self._responses.decide_base_requests(record, own)
        if verdict is None:
            return ()
        self._restart_decided([verdict], TrafficRound)
        return (replace(verdict, good_responses=verdict.good_in_a_row),)

    def _with_canaries(self, traffic: Verdict) -> Verdict | None:
        """The verdict of responses with what canaries and embeddings say beside it; None where it adds nothing."""
        subject = (traffic.subject_kind, traffic.subject)
        drift = self._drift.get(traffic.subject, {}) if traffic.subject_kind is SubjectKind.ADAPTER else {}
        return fusion.by_traffic(traffic, self._latest_canaries.get(subject), self._canaries.is_open(subject), drift)

    def _restart_decided(self, verdicts: Iterable[Verdict], reads: type) -> None:
        """Evidence on which an incident was opened or ended is spent."""
        for verdict in verdicts:
            passed = any(e.pages and e.log_e >= self._rules.log_threshold for e in verdict.evidence)
            if passed or verdict.reason is Reason.RESOLVED:
                self._restart((verdict.subject_kind, verdict.subject), reads)

    def _restart(self, subject: Subject, reads: type) -> None:
        kind, name = subject
        for detector in self._detectors.values():
            if detector.reads is reads and detector.about is kind:
                detector.restart(name)


def _detectors_json(detectors: Mapping[str, Detector]) -> dict[str, Any]:
    return {
        name: {
            "layout": detector.state.layout,
            "config": config_json(detector.config),
            "state": detector.state.to_json(),
        }
        for name, detector in detectors.items()
    }


def _is_usable(saved: Mapping[str, Any], detector: Detector) -> bool:
    """Files of earlier versions do not name the layout, which was the first."""
    return saved.get("layout", 1) == detector.state.layout and same_config(saved["config"], detector.config)


def _streams(detector: Detector) -> int:
    """How many streams of one subject may page."""
    return detector.config.streams_per_adapter if isinstance(detector.config, SeveralStreams) else 1


def _default(config: type, tolerances: Tolerances) -> Any:
    has_tolerances = any(f.name == "tolerances" for f in fields(config))
    return config(tolerances=tolerances) if has_tolerances else config()
