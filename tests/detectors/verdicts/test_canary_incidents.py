"""Incidents of canaries between rounds: which evidence decides, when a base covers its members, what is saved."""

from __future__ import annotations

import json
from dataclasses import replace

from detectors.canaries.confidence_sequence import Confidence
from detectors.canaries.tolerance import Tolerances
from detectors.records import BaseRound, Evidence, FaultReplay, Reason, Status, SubjectKind, Verdict
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


def replay_of(record: BaseRound, *adapters: str, subject: str = "") -> FaultReplay:
    """What is replayed after an alarm, here without anything new."""
    kind = SubjectKind.BASE if subject == record.base else SubjectKind.ADAPTER
    members = tuple(member for member in record.members if member.adapter in adapters)
    return FaultReplay(kind, subject or adapters[0], record, members, 7, record.at + 30.0)


def test_replayed_faults_are_about_the_incident_that_was_open_in_their_round_and_no_other() -> None:
    incidents, detectors = fresh()
    lost, latest = dict.fromkeys(ADAPTERS, "healthy") | {"router": "not_applied"}, {}
    healthy = make_base_round(HEALTHY, 0)
    decided(incidents, detectors, healthy)
    alarm = make_base_round(lost, 1)
    verdicts = decided(incidents, detectors, alarm)
    latest = {(v.subject_kind, v.subject): v for v in verdicts.values()}
    (verdict,) = incidents.rename(replay_of(alarm, "router"), latest)
    assert (verdict.subject, verdict.reason, verdict.at) == ("router", Reason.CAUSE_KEPT, alarm.at + 30.0)
    assert verdict.evidence == verdicts["router"].evidence and verdict.cause is verdicts["router"].cause
    assert "7 faults were replayed" in verdict.explanation
    (single,) = incidents.rename(replace(replay_of(alarm, "router"), faults=1), latest)
    assert "1 fault was replayed" in single.explanation
    assert incidents.rename(replay_of(healthy, "router"), latest) == [], "it opened after that round"
    assert incidents.rename(replay_of(alarm, "rewriter"), latest) == [], "it has none"


def test_replayed_faults_say_nothing_of_a_subject_that_cannot_be_judged_by_now() -> None:
    incidents, detectors = fresh()
    decided(incidents, detectors, make_base_round(HEALTHY, 0))
    alarm = make_base_round(dict.fromkeys(ADAPTERS, "healthy") | {"router": "not_applied"}, 1)
    decided(incidents, detectors, alarm)
    blocked = decided(incidents, detectors, make_base_round(HEALTHY | {"router": "blocked"}, 2))
    latest = {(v.subject_kind, v.subject): v for v in blocked.values()}
    assert blocked["router"].status is Status.UNMONITORABLE
    assert incidents.rename(replay_of(alarm, "router"), latest) == []


def test_replayed_faults_of_a_base_are_about_its_replayed_members_and_itself() -> None:
    incidents, detectors = fresh()
    decided(incidents, detectors, make_base_round(HEALTHY, 0))
    alarm = make_base_round(LOST, 1)
    verdicts = decided(incidents, detectors, alarm)
    latest = {(v.subject_kind, v.subject): v for v in verdicts.values()}
    renamed = incidents.rename(replay_of(alarm, *ADAPTERS[:2], subject="smol"), latest)
    assert [v.subject for v in renamed] == [*ADAPTERS[:2], "smol"]
    assert {v.covered_by for v in renamed[:2]} == {"smol"} and renamed[-1].members == verdicts["smol"].members
    assert f"with 2 of {len(ADAPTERS)} adapters" in renamed[-1].explanation


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
    assert again.incidents[ROUTER].onset_interval == (None, 60.0)
    assert [scored.at for scored in again.incidents[SubjectKind.ADAPTER, "rewriter"].recent] == [0.0, 60.0, 120.0]
    again.forget("router")
    assert not again.is_open(ROUTER) and "router" not in again.retentions and "rewriter" in again.retentions


def test_under_other_tolerances_incidents_go_on_and_the_rounds_that_date_the_next_start_again() -> None:
    incidents, detectors = fresh()
    for number in range(3):
        decided(incidents, detectors, make_base_round(HEALTHY | {"router": "not_applied"}, number))
    stored = json.loads(json.dumps(incidents.to_json(), allow_nan=False))
    rewriter = SubjectKind.ADAPTER, "rewriter"
    same, other = (CanaryIncidents(Rules(Tolerances(scale), 20.0), incidents.detectors) for scale in (0.05, 0.08))
    same.restore(stored)
    other.restore(stored)
    assert len(same.incidents[rewriter].recent) == 3 and other.incidents[rewriter].recent == ()
    assert other.is_open(ROUTER) and other.incidents[ROUTER].onset_interval == (None, 0.0)


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
    assert again.incidents[ROUTER].onset_interval is None and again.incidents[ROUTER].recent == ()
