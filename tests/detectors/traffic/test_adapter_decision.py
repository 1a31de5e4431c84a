"""Verdicts from responses alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.response_cause import ResponseCounts
from detectors.evidence.alternative import BASE, Alternative, interpolation, without
from detectors.monitor import Monitor
from detectors.records import Cause, Evidence, Interval, Onset, Reason, ShareOf, Status, Verdict
from detectors.traffic.adapter_decision import ResponseEstimates, ResponseIncident, decide_traffic
from detectors.traffic.response_summary import summarise
from detectors.traffic_records import ScoringMode, TrafficScore
from detectors.verdicts.incident import Incident, Rules
from tests.detectors.responses import AGAINST, FOR, evidence, on_path, score, traffic_round, unscored

RULES = Rules(Tolerances(), log_threshold=20.0)


def decided(
    *scores: TrafficScore,
    told: Evidence | None = None,
    before: ResponseIncident | None = None,
    number: int = 0,
) -> tuple[Verdict, ResponseIncident]:
    reading = ResponseEstimates(Interval(0.02, 0.0, 0.1, len(scores)))
    streams = (told or evidence(0.0),)
    round = traffic_round(*scores, number=number)
    return decide_traffic(round, "router", streams, summarise(scores), reading, before or ResponseIncident(), RULES)


def alarmed(*scores: TrafficScore) -> ResponseIncident:
    return decided(*(scores or (score(AGAINST),)), told=evidence(30.0))[1]


def test_the_page_says_what_is_left_of_the_adapter_since_the_onset_and_of_how_many_responses() -> None:
    """A hundred healthy responses, then lost ones: with all of them in it the estimate would be above a half."""
    monitor, grid = Monitor(replace(RULES, log_threshold=21.5)), np.linspace(0, 1.5, 16)
    judged: list[Verdict] = []
    for number in range(40):
        share, log_l = (1.0, FOR) if number < 20 else (0.0, (2.0, 1.0, -5.0))
        likelihood = (-50.0 * (grid - share) ** 2).astype(np.float32)
        told = replace(score(log_l), path=grid.astype(np.float32), path_log_lik=likelihood)
        judged += monitor.observe(traffic_round(*[told] * 5, number=number)).verdicts
    healthy, page = judged[19], next(verdict for verdict in judged if verdict.reason is Reason.ALARM)
    assert healthy.retention is not None and healthy.retention.mean == pytest.approx(1.0, abs=1e-3)
    assert page.retention is not None and page.retention.mean == pytest.approx(0.0, abs=1e-3)
    assert page.retention.n == 5 * (page.round - 19) and page.onset is not None
    assert page.share_of is ShareOf.RESPONSES


def onset_of(*rounds: list[TrafficScore]) -> tuple[float | None, float | None]:
    """Earliest and latest at an alarm in the last of these rounds."""
    state = ResponseIncident()
    for number, scores in enumerate(rounds):
        level = evidence(30.0 if number == len(rounds) - 1 else 0.0)
        verdict, state = decided(*scores, told=level, before=state, number=number)
    assert verdict.onset is not None
    return verdict.onset.earliest, verdict.onset.latest


def test_responses_date_the_onset_by_how_many_are_against_the_adapter() -> None:
    """Twenty rounds of four good responses, then two of bad ones. That it began with the first bad one is in the
    interval; so are the last rounds before it, in which fewer good ones lie than a tenth of bad ones would allow."""
    healthy, lost = [score(FOR)] * 4, [score(AGAINST)] * 4
    earliest, latest = onset_of(*[healthy] * 20, lost, lost)
    assert earliest is not None and latest is not None
    assert earliest < 20 * 60.0 <= latest and latest <= 21 * 60.0
    assert earliest == 8 * 60.0, "a good response is .1 nats against a tenth, and 48 of them are ln(40 x 3)"
    assert onset_of(lost, lost)[0] is None, "or earlier"


def test_an_alarm_by_responses_of_which_hardly_one_is_clear_has_no_interval() -> None:
    """A weak fault of all of them: the product is evidence, and no single response is."""
    weak, healthy = [score((2.0, 1.0, -5.0))] * 4, [score(FOR)] * 4
    assert onset_of(*[healthy] * 20, *[weak] * 5) == (None, None)


def test_a_healthy_response_is_against_the_adapter_with_the_chance_that_the_interval_allows() -> None:
    """Markov at its edge: L is 20 with chance 1/20 and 0 else, so that its mean is 1 and no chance can be larger."""
    at_the_edge = np.array([20.0, 0.0])
    chance = 1.0 / at_the_edge[0]
    assert chance * at_the_edge[0] == 1.0
    exact = summarise([score((float(np.log(20.0)) + 1e-6,)), score((-50.0,))])
    assert (exact.scores.drawn, exact.scores.beyond, exact.scores.tolerated) == (2, 1, chance)


def test_responses_that_read_as_accepted_are_healthy() -> None:
    verdict, after = decided(score(FOR), score(FOR))
    assert (verdict.status, verdict.reason, after.open) == (Status.HEALTHY, Reason.WITHIN_TOLERANCE, False)
    assert "scored in this round: 2 (28 tokens), 0 clearly not from" in verdict.explanation


def test_an_alarm_opens_names_and_says_what_to_do() -> None:
    verdict, after = decided(score(AGAINST), score(AGAINST), told=evidence(30.0), number=4)
    assert (verdict.status, verdict.reason, after.open) == (Status.DEGRADED, Reason.ALARM, True)
    assert verdict.cause is Cause.ADAPTER_NOT_APPLIED and "fit the accepted base model better" in verdict.explanation
    assert verdict.action and verdict.onset is not None and verdict.onset.by == 240.0


def test_a_stream_that_informs_does_not_open_anything() -> None:
    verdict, after = decided(score(AGAINST), told=evidence(300.0, pages=False))
    assert (verdict.status, after.open) == (Status.SUSPECT, False)


def test_some_responses_of_many_are_some_replicas() -> None:
    scores = [score(AGAINST, pod="odd"), *[score(FOR, pod=f"pod-{i}") for i in range(9)]]
    verdict, _ = decided(*scores, told=evidence(30.0))
    assert verdict.cause is Cause.ONE_REPLICA
    assert "1 of 10 sampled responses" in verdict.explanation and "all from odd" in verdict.explanation


def test_it_resolves_after_two_good_rounds() -> None:
    before = alarmed()
    first, before = decided(score(FOR), score(FOR), before=before, number=1)
    second, after = decided(score(FOR), before=before, number=2)
    assert [first.reason, second.reason] == [Reason.RECOVERING, Reason.RESOLVED] and not after.open


def test_good_rounds_do_not_end_it_while_half_of_the_loss_is_still_there() -> None:
    """Nothing is against the adapter in any of these responses, and those before the repair are likeliest at .1."""
    before, reasons = alarmed(), []
    for number, share in enumerate([0.1] * 6 + [1.0, 1.0], start=1):
        verdict, before = decided(on_path(score(FOR), share), before=before, number=number)
        reasons.append(verdict.reason)
        before = ResponseIncident.from_json(json.loads(json.dumps(before.to_json())))
    assert reasons == [Reason.RECOVERING] * 7 + [Reason.RESOLVED] and before.recovery == ResponseIncident().recovery


def test_an_incident_of_an_earlier_version_ends_by_good_rounds() -> None:
    stored = alarmed().to_json()
    del stored["recovery"]
    before = ResponseIncident.from_json(json.loads(json.dumps(stored)))
    for number in (1, 2):
        verdict, before = decided(on_path(score(FOR), 0.1), before=before, number=number)
    assert verdict.reason is Reason.RESOLVED


def test_a_fault_that_comes_back_takes_twice_as_many_good_rounds_each_time() -> None:
    before, taken, number = ResponseIncident(), [], 0
    for _ in range(4):
        verdict, before = decided(score(AGAINST), told=evidence(30.0), before=before, number=number)
        assert verdict.reason is Reason.ALARM
        began = number
        while before.open:
            number += 1
            verdict, before = decided(score(FOR), score(FOR), before=before, number=number)
        taken.append(number - began)
        number += 1
        before = ResponseIncident.from_json(json.loads(json.dumps(before.to_json())))
    assert taken == [2, 4, 8, 16]


def test_one_replica_in_ten_is_not_over_because_few_responses_missed_it() -> None:
    before = alarmed(score(AGAINST), *[score(FOR)] * 9)
    reasons = []
    for number in range(1, 12):
        verdict, before = decided(*[score(FOR)] * 4, before=before, number=number)
        reasons.append(verdict.reason)
    # (9/10)^28 = .052 and (9/10)^32 = .034: the eighth round of four is the first that shows enough.
    assert reasons[:8] == [*[Reason.RECOVERING] * 7, Reason.RESOLVED]


def test_rounds_of_silence_neither_end_an_incident_nor_keep_it_open() -> None:
    before = alarmed()
    reasons = []
    for number, scores in enumerate([(score(FOR),), (), (unscored(),), (score(FOR),)], start=1):
        verdict, before = decided(*scores, before=before, number=number)
        reasons.append(verdict.reason)
    assert reasons == [Reason.RECOVERING, Reason.NO_TRAFFIC, Reason.NOT_SCORED, Reason.RESOLVED]


def test_a_bad_round_between_starts_again() -> None:
    before = alarmed()
    _, before = decided(score(FOR), score(FOR), before=before, number=1)
    verdict, before = decided(score(AGAINST), before=before, number=2)
    assert verdict.reason is Reason.STILL_DEGRADED
    assert decided(score(FOR), before=before, number=3)[0].reason is Reason.RECOVERING


@pytest.mark.parametrize(
    ("scores", "reason", "silent"),
    [((), Reason.NO_TRAFFIC, 0), ((unscored("its temperature is unknown"),), Reason.NOT_SCORED, 1)],
)
def test_silence_is_never_healthy_and_ends_nothing(
    scores: tuple[TrafficScore, ...], reason: Reason, silent: int
) -> None:
    """Without requests there was nothing to score: such a round counts as neither good nor silent."""
    verdict, after = decided(*scores)
    assert (verdict.status, verdict.reason) == (Status.UNMONITORABLE, reason) and verdict.explanation
    before = alarmed()
    verdict, after = decided(*scores, before=before)
    assert after.open and verdict.silent_in_a_row == silent
    assert silent or after == before


def test_a_round_without_requests_between_two_silent_ones_keeps_their_count() -> None:
    before, silent = ResponseIncident(), []
    for scores in [(unscored(),), (), (unscored(),), (score(FOR),), (unscored(),)]:
        verdict, before = decided(*scores, before=before)
        silent.append(verdict.silent_in_a_row)
    assert silent == [1, 1, 2, 0, 1]


def test_the_share_is_one_of_responses() -> None:
    verdict, _ = decided(score(AGAINST), *[score(FOR)] * 3)
    assert (verdict.share_beyond, verdict.share_of) == (0.25, ShareOf.RESPONSES)


def test_a_file_of_an_earlier_version_keeps_its_incident_and_not_its_count_of_quiet_rounds() -> None:
    former = {
        "incident": {
            "open": True, "opened_at": 60.0, "cause": "wrong_adapter", "last_good_at": None, "first_bad_at": 60.0,
            "good_in_a_row": 1, "blocked_in_a_row": 7, "explanation": "rewriter wrote them", "action": "look",
        },
        "began": 30.0, "heard": 6, "against": 5, "favour": 0, "fresh": 2, "bad_pods": ["a"], "pods": ["a", "b"],
    }  # fmt: skip
    incident = Incident(
        True,
        60.0,
        Cause.WRONG_ADAPTER,
        None,
        60.0,
        1,
        0,
        "rewriter wrote them",
        "look",
        onset_estimate=30.0,
        good_since_fault=1,
    )
    counts = ResponseCounts(6, 5, 0, 2, ("a",), ("a", "b"))
    assert ResponseIncident.from_json(former) == ResponseIncident(incident, counts)


def test_a_cause_once_named_does_not_become_unknown() -> None:
    unheard = replace(
        score(AGAINST), alternatives=(Alternative.from_text("something new"),), log_l=np.array([60.0], np.float32)
    )
    assert decided(unheard, told=evidence(30.0))[0].cause is Cause.UNKNOWN
    assert decided(unheard, before=alarmed(), number=1)[0].cause is Cause.ADAPTER_NOT_APPLIED


def test_what_is_remembered_survives_json() -> None:
    before = alarmed(score(AGAINST, pod="b"), score(FOR, pod="a"))
    assert ResponseIncident.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_a_cause_that_only_a_suspicion_can_name_refines_the_page_once() -> None:
    """The page goes out with the best of base and path; what is scored after it says which block is missing."""
    monitor, lost = Monitor(Rules(Tolerances(), 15.3)), without("mlp")
    path = interpolation(0.5)

    def verdict(number: int, log_l: dict[Alternative, float]) -> Verdict:
        values = np.array(list(log_l.values()), np.float32)
        score_ = TrafficScore("router", "r", "", 0.0, ScoringMode.SAMPLED, 14, tuple(log_l), values)
        judged = monitor.observe(traffic_round(*[score_] * 4, number=number)).verdicts
        return next(v for v in judged if v.subject == "router")

    alarm = verdict(0, {BASE: -13.0, path: 25.0})
    assert (alarm.reason, alarm.cause) == (Reason.ALARM, Cause.WRONG_STRENGTH)
    said = [verdict(number, {BASE: -13.0, path: 25.0, lost: 34.0}) for number in range(1, 4)]
    assert [v.reason for v in said] == [Reason.CAUSE_REFINED, Reason.STILL_DEGRADED, Reason.STILL_DEGRADED]
    assert {v.cause for v in said} == {Cause.PARTLY_APPLIED} and "router without its mlp" in said[0].explanation


def served(at: float, log_l: tuple[float, ...]) -> TrafficScore:
    return replace(score(log_l), at=at)


def judged_after(*rounds: list[TrafficScore]) -> Onset:
    """The onset at an alarm in the last of these rounds, judged a minute apart from minute 10 on."""
    state = ResponseIncident()
    for number, scores in enumerate(rounds):
        level = evidence(30.0 if number == len(rounds) - 1 else 0.0)
        verdict, state = decided(*scores, told=level, before=state, number=10 + number)
    assert verdict.onset is not None
    return verdict.onset


def test_the_onset_is_dated_by_when_responses_were_served_and_not_by_when_they_were_judged() -> None:
    """Responses wait for their round: here those of minutes 2 and 3 are judged in minutes 10 and 11."""
    onset = judged_after([served(120.0, FOR), served(125.0, FOR)], [served(180.0, AGAINST), served(185.0, AGAINST)])
    assert (onset.after, onset.by) == (125.0, 180.0)


def test_a_round_that_the_fault_cuts_in_two_dates_it_between_its_own_responses() -> None:
    cut = [served(130.0, FOR), served(185.0, AGAINST), served(140.0, FOR), served(180.0, AGAINST)]
    onset = judged_after([served(120.0, FOR)], cut)
    assert (onset.after, onset.by) == (140.0, 180.0)
    mixed = judged_after([served(120.0, FOR)], [*cut, served(190.0, FOR)])
    assert (mixed.after, mixed.by) == (120.0, 180.0), "a fault of one replica: the round before is the last good one"


def test_a_fault_that_begins_within_a_round_is_not_one_of_some_replicas() -> None:
    healthy = [replace(served(120.0 + i, FOR), pod="drained") for i in range(6)]
    lost = [replace(served(180.0 + i, AGAINST), pod="only") for i in range(7)]
    verdict, after = decided(*lost, *healthy, told=evidence(30.0))
    assert (verdict.cause, after.counts.scored, after.counts.since) == (Cause.ADAPTER_NOT_APPLIED, 7, 180.0)
    assert after.counts.pods == ("only",), "nothing is known of a pod that served before the fault alone"
    mixed, after = decided(*lost, *healthy, served(190.0, FOR), told=evidence(30.0))
    assert (mixed.cause, after.counts.scored) == (Cause.ONE_REPLICA, 14)


def test_responses_of_partitions_that_are_judged_out_of_order_give_no_onset_that_ends_before_it_begins() -> None:
    onset = judged_after([served(200.0, FOR)], [served(180.0, AGAINST)])
    assert (onset.after, onset.by) == (180.0, 180.0)


def test_the_interval_of_responses_is_dated_by_their_times_too() -> None:
    """Twenty rounds of four good responses, served two minutes before they are judged, then lost ones."""
    rounds = [[served(60.0 * (8 + n), FOR)] * 4 for n in range(20)]
    onset = judged_after(*rounds, *[[served(60.0 * (28 + n), AGAINST)] * 4 for n in range(2)])
    assert onset.earliest == 60.0 * (8 + 8) and onset.latest is not None and onset.latest <= 60.0 * 29
