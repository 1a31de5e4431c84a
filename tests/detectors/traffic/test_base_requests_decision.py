from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.alternative import FOUR_BITS, Alternative, interpolation, other_adapter
from detectors.monitor import Monitor
from detectors.records import Cause, Reason, ShareOf, Status, SubjectKind, Verdict
from detectors.traffic.path_recovery import MOST_RESPONSES
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from detectors.verdicts.incident import Rules
from tests.detectors import responses

RULES = Rules(Tolerances(), 15.3)
ROUTER, TONE = other_adapter("router"), other_adapter("tone")
HALF = interpolation(0.5, "router")


def score(log_l: dict[Alternative, float], pod: str = "") -> TrafficScore:
    values = np.array(list(log_l.values()), np.float32)
    return TrafficScore("smol", "r", pod, 0.0, ScoringMode.SAMPLED, 14, tuple(log_l), values)


def bad(pod: str = "") -> TrafficScore:
    return score({ROUTER: 30.0, HALF: 12.0, TONE: -20.0}, pod)


def good(pod: str = "") -> TrafficScore:
    return score({ROUTER: -30.0, HALF: -8.0, TONE: -20.0}, pod)


def verdicts(monitor: Monitor, number: int, *scores: TrafficScore) -> dict[tuple[SubjectKind, str], Verdict]:
    record = TrafficRound("smol", number, 60.0 * number, ("router", "tone"), scores)
    return {(v.subject_kind, v.subject): v for v in monitor.observe(record).verdicts}


def own(monitor: Monitor, number: int, *scores: TrafficScore) -> Verdict:
    return verdicts(monitor, number, *scores)[SubjectKind.BASE_REQUESTS, "smol"]


def until_alarm(monitor: Monitor, *scores: TrafficScore) -> Verdict:
    for number in range(10):
        verdict = own(monitor, number, *scores)
        if verdict.reason is Reason.ALARM:
            return verdict
    raise AssertionError("no alarm")


def test_an_adapter_that_answers_for_the_base_is_named_and_its_own_requests_are_not_concerned() -> None:
    monitor = Monitor(RULES)
    alarm = until_alarm(monitor, bad(), responses.score(responses.FOR))
    assert (alarm.cause, alarm.status) == (Cause.BASE_ANSWERED_BY_ADAPTER, Status.DEGRADED)
    assert alarm.share_of is ShareOf.RESPONSES and alarm.share_beyond == 1.0
    assert "requests that name the base smol fit router better than the accepted base" in alarm.explanation
    assert "clearly not from the accepted base" in own(Monitor(RULES), 0, good()).explanation
    assert monitor.open_subjects == {(SubjectKind.BASE_REQUESTS, "smol")}
    after = verdicts(monitor, 10, bad(), responses.score(responses.FOR))
    assert after[SubjectKind.ADAPTER, "router"].status is Status.HEALTHY
    assert not after[SubjectKind.ADAPTER, "router"].covered_by
    assert after[SubjectKind.BASE, "smol"].status is Status.HEALTHY


def test_half_of_an_adapter_fewer_bits_and_some_replicas_are_told_apart() -> None:
    half = until_alarm(Monitor(RULES), score({ROUTER: 8.0, HALF: 20.0, TONE: -20.0}))
    assert half.cause is Cause.BASE_ANSWERED_BY_ADAPTER and "router at about half of its strength" in half.explanation
    bits = until_alarm(Monitor(RULES), score({ROUTER: -8.0, FOUR_BITS: 20.0}))
    assert bits.cause is Cause.QUANTISED_BASE and "a 4-bit copy of smol" in bits.explanation
    some = until_alarm(Monitor(RULES), *[bad("pod-1")] * 3, *[good("pod-2")] * 6)
    assert some.cause is Cause.ONE_REPLICA and "all from pod-1" in some.explanation


def test_it_ends_by_good_responses_and_waits_while_nobody_asks_for_the_base() -> None:
    monitor = Monitor(RULES)
    until_alarm(monitor, bad())
    assert (SubjectKind.BASE_REQUESTS, "smol") not in verdicts(monitor, 20, responses.score(responses.FOR))
    again = Monitor(RULES)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    assert (SubjectKind.BASE_REQUESTS, "smol") in again.open_subjects
    reasons = [own(again, 21 + number, *[good()] * 4).reason for number in range(2)]
    assert reasons == [Reason.RECOVERING, Reason.RESOLVED]
    assert not again.open_subjects


def test_responses_that_cannot_be_scored_are_said_to_be_that() -> None:
    monitor = Monitor(RULES)
    verdict = own(monitor, 0, responses.unscored(adapter="smol"))
    assert (verdict.status, verdict.reason) == (Status.UNMONITORABLE, Reason.NOT_SCORED)
    assert "its temperature is unknown" in verdict.explanation
    until_alarm(monitor, bad())
    assert own(monitor, 20, responses.unscored(adapter="smol")).reason is Reason.NOT_SCORED
    assert monitor.open_subjects


def test_nothing_is_said_of_a_base_that_nobody_asks_for() -> None:
    found = verdicts(Monitor(RULES), 0, responses.score(responses.FOR))
    assert {kind for kind, _ in found} == {SubjectKind.ADAPTER, SubjectKind.BASE}


def test_another_pod_that_has_ended_it_ends_it_here_and_leaves_the_base_of_the_adapters_alone() -> None:
    monitor = Monitor(RULES)
    until_alarm(monitor, bad())
    monitor.end_elsewhere((SubjectKind.BASE, "smol"))
    assert monitor.open_subjects
    monitor.end_elsewhere((SubjectKind.BASE_REQUESTS, "smol"))
    assert not monitor.open_subjects


def weak(share: float) -> TrafficScore:
    """Of which none is against the base by itself; the likeliest share of the base is that one."""
    gain = 0.5 if share < 1.0 else -0.5
    return responses.on_path(score({ROUTER: gain, HALF: gain, TONE: -0.5}), share, "router")


def test_a_weak_fault_that_stays_is_one_incident_and_ends_when_it_is_over() -> None:
    """None of its rounds is bad: by good rounds alone it was over in the second after the alarm, and alarmed again."""
    monitor = Monitor(RULES)
    reasons = [own(monitor, number, *[weak(0.7)] * 4).reason for number in range(120)]
    assert reasons.count(Reason.ALARM) == 1 and Reason.RESOLVED not in reasons
    assert set(reasons[reasons.index(Reason.ALARM) + 1 :]) == {Reason.RECOVERING}
    again = Monitor(RULES)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    assert own(again, 120, weak(0.7)).path_from == "router", "so that the next responses are scored along it"
    mended = [own(again, 121 + number, *[weak(1.0)] * 4).reason for number in range(12)]
    assert Reason.RESOLVED in mended and not again.open_subjects


def without_a_path(gain: float = 0.5) -> TrafficScore:
    return score({ROUTER: gain, HALF: gain, TONE: -0.5})


def along_the_other() -> TrafficScore:
    """As accepted, by the path from an adapter that the fault is not of."""
    return responses.on_path(without_a_path(), 1.0, "tone")


@pytest.mark.parametrize("early", [without_a_path, along_the_other])
def test_after_a_restart_no_incident_ends_by_responses_that_are_not_scored_along_its_path(
    early: Callable[[], TrafficScore],
) -> None:
    monitor = Monitor(RULES)
    for number in range(120):
        own(monitor, number, *[weak(0.7)] * 4)
    again = Monitor(RULES)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    verdicts_then = [own(again, 120 + number, *[early()] * 4) for number in range(40)]
    assert {verdict.reason for verdict in verdicts_then} == {Reason.RECOVERING}
    assert {verdict.path_from for verdict in verdicts_then} == {"router"}, "the next ones are scored along that"
    assert own(again, 160, *[without_a_path(-0.5)] * MOST_RESPONSES).reason is Reason.RESOLVED, "nothing waits for ever"


def test_a_path_from_an_adapter_that_the_base_has_no_longer_is_not_waited_for() -> None:
    monitor = Monitor(RULES)
    for number in range(120):
        own(monitor, number, *[weak(0.7)] * 4)
    alone = [TrafficRound("smol", 120 + n, 60.0 * (120 + n), ("tone",), (without_a_path(),) * 4) for n in range(4)]
    reasons = [v.reason for r in alone for v in monitor.observe(r).verdicts if v.subject == "smol"]
    assert Reason.RESOLVED in reasons


def test_without_a_path_a_weak_fault_ends_by_good_rounds_as_before() -> None:
    monitor = Monitor(RULES)
    until_alarm_of = [own(monitor, n, *[without_a_path()] * 4).reason for n in range(40)]
    assert Reason.RESOLVED in until_alarm_of


def test_it_ends_when_the_name_of_the_base_is_given_to_an_adapter() -> None:
    monitor = Monitor(RULES)
    until_alarm(monitor, bad())
    renamed = TrafficRound("smol", 20, 1200.0, ("smol", "router"), ())
    (verdict,) = [v for v in monitor.observe(renamed).verdicts if v.subject_kind is SubjectKind.BASE_REQUESTS]
    assert (verdict.status, verdict.reason) == (Status.HEALTHY, Reason.RESOLVED)
    assert "smol is the name of an adapter now" in verdict.explanation
    assert not monitor.open_subjects
    assert not [v for v in monitor.observe(renamed).verdicts if v.subject_kind is SubjectKind.BASE_REQUESTS]


def test_the_cause_is_of_all_responses_since_there_is_evidence_and_not_of_the_last_round() -> None:
    """Which alternatives a response is scored against is drawn: the round of the alarm may lack the one at fault."""
    monitor = Monitor(RULES)
    for number in range(3):
        own(monitor, number, score({ROUTER: 2.9, HALF: 0.0}), score({TONE: -4.0}))
    alarm = until_alarm(monitor, score({TONE: 1.0, ROUTER: 2.9}))
    assert "fit router better" in alarm.explanation
