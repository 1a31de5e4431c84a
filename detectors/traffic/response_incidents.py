"""What is remembered of the responses of all adapters and of their bases: incidents, and the latest verdict on each.

The counterpart of detectors/verdicts/canary_incidents.py. ``to_json`` and ``bases_json`` are part of the saved state.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.records import Evidence, Status, Subject, SubjectKind, Verdict
from detectors.registry import CalibratesSampler, Detector, EstimatesRetention, SeesOtherDistributions
from detectors.traffic.adapter_decision import (
    ResponseEstimates,
    ResponseIncident,
    decide_traffic,
    incident_of_responses,
)
from detectors.traffic.base_decision import decide_traffic_base
from detectors.traffic.base_requests_decision import decide_base_requests
from detectors.traffic.rank_report import with_ranks
from detectors.traffic.response_summary import summarise
from detectors.traffic.sampler_report import sampler_in_force, sampler_in_words, with_sampler
from detectors.traffic_records import Calibration, TrafficRound, TrafficScore, by_adapter
from detectors.verdicts.exchange import exchanged
from detectors.verdicts.incident import Incident, Rules


@dataclass(slots=True)
class ResponseIncidents:
    """rules: of the fleet; estimator, calibrator, omnibus: the detectors that can say so, None where they are switched
    off

    incidents: adapter -> what is remembered; latest: adapter -> the last verdict by its responses, not saved
    bases, latest_bases: likewise of bases with two adapters or more; calibrations: adapter -> the last, not saved
    own: the detector of requests that name a base, None where it is switched off; base_requests: base -> what is
    remembered of these
    """

    rules: Rules
    estimator: EstimatesRetention | None
    calibrator: CalibratesSampler | None = None
    omnibus: SeesOtherDistributions | None = None
    incidents: dict[str, ResponseIncident] = field(default_factory=dict)
    latest: dict[str, Verdict] = field(default_factory=dict)
    bases: dict[str, Incident] = field(default_factory=dict)
    latest_bases: dict[str, Verdict] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)
    own: Detector | None = None
    base_requests: dict[str, ResponseIncident] = field(default_factory=dict)

    def decide(self, record: TrafficRound, evidence: Mapping[str, tuple[Evidence, ...]]) -> list[Verdict]:
        """The verdict on each adapter of the round, in their order, then on their base where there are two or more.

        evidence: adapter -> its streams
        """
        scores = by_adapter(record.scores, record.adapters)
        members = [self._decide(record, name, scores[name], evidence.get(name, ())) for name in record.adapters]
        before = self.bases.get(record.base, Incident())
        if len(members) < 2 and not before.open:  # an open one is ended also where adapters were taken off meanwhile
            return members
        base, self.bases[record.base] = decide_traffic_base(record, members, self.incidents, before, self.rules)
        self.latest_bases[record.base] = base
        members = [replace(verdict, covered_by=self.covering(record.base)) for verdict in members]
        self.latest |= {verdict.subject: verdict for verdict in members}
        return [*members, base]

    def decide_base_requests(self, record: TrafficRound, evidence: tuple[Evidence, ...]) -> Verdict | None:
        """The verdict on requests that name the base, None where none was sampled. evidence: of these"""
        if self.own is None:
            return None
        before, onset = self.base_requests.get(record.base, ResponseIncident()), self.own.onset(record.base)
        verdict, after = decide_base_requests(
            record, evidence, summarise(record.of_base), None if onset is None else onset.at, before, self.rules
        )
        if verdict is not None:
            self.base_requests[record.base] = after
        return verdict

    def is_open(self, adapter: str) -> bool:
        return self.incidents.get(adapter, ResponseIncident()).open

    def good_rounds(self, kind: SubjectKind, subject: str) -> int | None:
        """Rounds of good responses in a row; None where responses are not judged."""
        if self.estimator is None:
            return None
        if kind is SubjectKind.BASE:
            return self.bases.get(subject, Incident()).good_in_a_row
        return self.incidents.get(subject, ResponseIncident()).incident.good_in_a_row

    def covering(self, base: str) -> str:
        """The base, while its own incident speaks for its adapters; "" else, also while it cannot be judged."""
        judged = base not in self.latest_bases or self.latest_bases[base].status is not Status.UNMONITORABLE
        return base if judged and self.bases.get(base, Incident()).open else ""

    def calibrated(self, record: TrafficRound) -> tuple[Calibration, ...]:
        """The sampler as the round's responses show it, of each adapter that had one with such figures."""
        scored = {score.adapter for score in record.scores if score.log_sampler.size}
        return tuple(
            self.calibrations[name] for name in record.adapters if name in scored and name in self.calibrations
        )

    def sampler(self, adapter: str) -> str:
        """In words, where it is not the one that requests ask for, else ""."""
        calibration = self.calibrations.get(adapter)
        return "" if calibration is None else sampler_in_words(calibration, self.rules.log_threshold)

    def forget(self, adapter: str) -> None:
        self.incidents.pop(adapter, None)
        self.latest.pop(adapter, None)
        self.calibrations.pop(adapter, None)

    def take(self, subjects: Collection[Subject], source: ResponseIncidents) -> None:
        """What ``source`` remembers of these subjects, and no more, is remembered of them from now on."""
        adapters = {name for kind, name in subjects if kind is SubjectKind.ADAPTER}
        bases = {name for kind, name in subjects if kind is SubjectKind.BASE}
        self.incidents = exchanged(self.incidents, source.incidents, adapters)
        self.latest = exchanged(self.latest, source.latest, adapters)
        self.calibrations = exchanged(self.calibrations, source.calibrations, adapters)
        own = {name for kind, name in subjects if kind is SubjectKind.BASE_REQUESTS}
        self.base_requests = exchanged(self.base_requests, source.base_requests, own)
        self.bases = exchanged(self.bases, source.bases, bases)
        self.latest_bases = exchanged(self.latest_bases, source.latest_bases, bases)

    def to_json(self) -> dict[str, Any]:
        return {adapter: incident.to_json() for adapter, incident in self.incidents.items()}

    def bases_json(self) -> dict[str, Any]:
        return {base: incident.to_json() for base, incident in self.bases.items()}

    def base_requests_json(self) -> dict[str, Any]:
        return {base: incident.to_json() for base, incident in self.base_requests.items()}

    def restore(self, stored: Mapping[str, Any], bases: Mapping[str, Any], base_requests: Mapping[str, Any]) -> None:
        """stored, bases, base_requests: of ``to_json``, ``bases_json`` and ``base_requests_json``. Where responses are
        not judged any more, nothing could end their incidents: they are dropped, and canaries alone decide. Where the
        sampler may not page any more, its incidents end by good responses alone."""
        if self.own is not None:
            self.base_requests = {base: ResponseIncident.from_json(row) for base, row in base_requests.items()}
        if self.estimator is None:
            return
        self.incidents = {adapter: ResponseIncident.from_json(row) for adapter, row in stored.items()}
        if self.calibrator is None or not self.calibrator.pages:
            self.incidents = {adapter: replace(own, drawn_at={}) for adapter, own in self.incidents.items()}
        self.bases = {base: incident_of_responses(row) for base, row in bases.items()}

    def keep_latest(self, before: ResponseIncidents) -> None:
        """What is not saved, of one of the same detectors."""
        self.latest, self.latest_bases = dict(before.latest), dict(before.latest_bases)
        self.calibrations = dict(before.calibrations)

    def _decide(
        self, record: TrafficRound, adapter: str, scores: Sequence[TrafficScore], evidence: tuple[Evidence, ...]
    ) -> Verdict:
        before = self.incidents.get(adapter, ResponseIncident())
        responses = summarise(scores)
        self._calibrate(adapter, record)
        estimates = self._estimates(adapter)
        verdict, after = decide_traffic(record, adapter, evidence, responses, estimates, before, self.rules)
        if self.calibrator is not None and any(name in estimates.sampler.moved for name in after.drawn_at):
            # What is drawn from now on shows whether it still is; the responses up to here would hide a mend.
            self.calibrator.restart(adapter)
        if self.omnibus is not None:
            verdict = with_ranks(verdict, self.omnibus.unexplained(adapter), self.calibrations.get(adapter))
            self.omnibus.restart_where_over(adapter, self.rules.log_threshold)
        verdict = with_sampler(verdict, self.sampler(adapter))
        self.incidents[adapter], self.latest[adapter] = after, verdict
        return verdict

    def _calibrate(self, adapter: str, record: TrafficRound) -> None:
        calibration = None if self.calibrator is None else self.calibrator.calibration(adapter, record)
        if calibration is None:
            self.calibrations.pop(adapter, None)
        else:
            self.calibrations[adapter] = calibration

    def _estimates(self, adapter: str) -> ResponseEstimates:
        pages = self.calibrator is not None and self.calibrator.pages
        calibration = self.calibrations.get(adapter) if pages else None
        sampler = sampler_in_force(calibration, self.rules.log_threshold)
        if self.estimator is None:
            return ResponseEstimates(sampler=sampler)
        onset = self.estimator.onset(adapter)
        return ResponseEstimates(self.estimator.retention(adapter), None if onset is None else onset.at, sampler)
