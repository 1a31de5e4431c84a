"""Incidents of canaries between rounds: which evidence decides, when a base covers its members, what is saved."""

from __future__ import annotations

import json

from detectors.canaries.confidence_sequence import Confidence
from detectors.canaries.tolerance import Tolerances
from detectors.records import BaseRound, Evidence, Reason, Status, SubjectKind, Verdict
from detectors.registry import Detector, load
from detectors.verdicts.canary_incidents import CanaryIncidents, of_subject
from detectors.verdicts.incident import Incident, Rules
from tests.detectors.synthetic import ADAPTERS, make_base_round

RULES = Rules(Tolerances(), log_threshold=20.0)
HEALTHY, LOST = dict.fromkeys(ADAPTERS, "healthy"), dict.fromkeys(ADAPTERS, "swapped_and_lost")
ROUTER = SubjectKind.ADAPTER, "router"


def fresh() -> tuple[CanaryIncidents, list[Detector]]:
    detectors: dict[str, Detector] = {
        name: load(name).Detector(load(name).Config()) for name in ("adapter_gap", "base_shift")
    }
    return CanaryIncidents(RULES, detectors), list(detectors.values())


def decided(incidents: CanaryIncidents, detectors: list[Detector], record: BaseRound) -> dict[str, Verdict]:
    evidence = [level for detector in detectors for level in detector.update(record)]
    return {verdict.subject: verdict for verdict in incidents.decide(record, evidence)}


def level(log_e: float, stream: str, pages: bool = True, subject: str = "router") -> Evidence:
    return Evidence(SubjectKind.ADAPTER, subject, "adapter_gap", stream, 0, log_e, 16, 0.0, pages)


def test_the_highest_level_that_may_page_decides_and_all_are_reported() -> None:
    record = make_base_round({"router": "not_applied"})
    for pages, reason in ((True, Reason.ALARM), (False, Reason.EVIDENCE_GROWING)):
        evidence = [level(3.0, "a"), level(25.0, "b", pages), level(99.0, "", subject="rewriter")]
        (verdict,) = fresh()[0].decide(record, evidence)
        assert (verdict.reason, verdict.evidence) == (reason, tuple(evidence[:2]))
        assert of_subject(ROUTER, evidence) == tuple(evidence[:2])


def test_a_base_covers_its_members_while_it_is_open_and_can_be_judged() -> None:
    incidents, detectors = fresh()
    assert {v.covered_by for v in decided(incidents, detectors, make_base_round(HEALTHY, 0)).values()} == {""}
    lost = decided(incidents, detectors, make_base_round(LOST, 1))
    assert lost["smol"].reason is Reason.ALARM and {lost[name].covered_by for name in ADAPTERS} == {"smol"}
    one_left = dict.fromkeys(ADAPTERS, "blocked") | {"router": "not_applied"}
    silent = decided(incidents, detectors, make_base_round(one_left, 2))
    assert silent["smol"].status is Status.UNMONITORABLE and {silent[name].covered_by for name in ADAPTERS} == {""}
    assert incidents.is_open((SubjectKind.BASE, "smol"))


def test_retention_over_rounds_starts_again_when_an_incident_opens() -> None:
    incidents, detectors = fresh()
    decided(incidents, detectors, make_base_round({"router": "healthy"}, 0))
    assert incidents.retentions["router"].n == 8
    decided(incidents, detectors, make_base_round({"router": "not_applied"}, 1))
    assert incidents.retentions["router"] == Confidence()


def test_all_of_it_comes_back_from_json_and_an_adapter_can_be_forgotten() -> None:
    incidents, detectors = fresh()
    for number, faults in enumerate([HEALTHY, HEALTHY | {"router": "not_applied"}, HEALTHY]):
        decided(incidents, detectors, make_base_round(faults, number))
    again = fresh()[0]
    again.restore(json.loads(json.dumps(incidents.to_json(), allow_nan=False)))
    assert (again.incidents, again.retentions) == (incidents.incidents, incidents.retentions)
    assert again.incidents[ROUTER].onset_estimate == 60.0
    again.forget("router")
    assert not again.is_open(ROUTER) and "router" not in again.retentions and "rewriter" in again.retentions


def test_files_of_earlier_versions_hold_the_onsets_apart() -> None:
    incident = Incident(open=True, opened_at=60.0, first_bad_at=60.0, silent_in_a_row=2)
    row = incident.to_json()
    del row["onset_estimate"], row["silent_in_a_row"]
    stored = {
        "incidents": [{"kind": "adapter", "subject": "router", **row, "blocked_in_a_row": 2}],
        "began": [{"kind": "adapter", "subject": "router", "at": 45.0}],
    }
    again = fresh()[0]
    again.restore(stored)
    assert again.incidents[ROUTER].onset_estimate == 45.0 and again.incidents[ROUTER].silent_in_a_row == 2
    again.restore({"incidents": stored["incidents"]})
    assert again.incidents[ROUTER].onset_estimate is None
