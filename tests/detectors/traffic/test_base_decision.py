"""Responses of several adapters of one base that go wrong together, through the monitor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.kinds import traffic_likelihood
from detectors.monitor import Monitor, default_configs
from detectors.records import Cause, Reason, Status, Verdict
from detectors.traffic_records import TrafficScore
from detectors.verdicts.incident import Rules
from tests.detectors.responses import AGAINST, FOR, score, traffic_round, unscored
from tests.detectors.synthetic import make_base_round

RULES = Rules(Tolerances(), log_threshold=20.0)
THREE = ("router", "rewriter", "extractor")
HALF = (-5.0, 60.0, -60.0)
WELL, LOST = dict.fromkeys(THREE, (FOR, 6)), dict.fromkeys(THREE, (AGAINST, 6))
Served = Mapping[str, tuple[tuple[float, ...], int]]


def scores(served: Served) -> list[TrafficScore]:
    return [
        score(log_l[: 3 - (name == "rewriter")], adapter=name) for name, (log_l, n) in served.items() for _ in range(n)
    ]


def play(
    monitor: Monitor, *rounds: Served, first: int = 0, adapters: tuple[str, ...] = THREE
) -> list[dict[str, Verdict]]:
    """Verdicts of each round of responses by subject."""
    records = [traffic_round(*scores(it), number=number, adapters=adapters) for number, it in enumerate(rounds, first)]
    return [{verdict.subject: verdict for verdict in monitor.observe(record).verdicts} for record in records]


def alone() -> Monitor:
    return Monitor(RULES, {"traffic_likelihood": traffic_likelihood.Config(log_threshold=20.0)})


def test_all_adapters_lost_at_once_are_one_incident_of_their_base_that_names_them() -> None:
    healthy, lost = play(alone(), WELL, LOST)
    assert {v.status for v in healthy.values()} == {Status.HEALTHY} and list(healthy) == [*THREE, "smol"]
    base = lost["smol"]
    assert (base.reason, base.cause, base.members) == (Reason.ALARM, Cause.ADAPTER_NOT_APPLIED, THREE)
    assert all(name in base.explanation for name in THREE) and base.action
    assert max(e.log_e for e in base.evidence) >= RULES.log_threshold
    assert base.onset is not None and (base.onset.after, base.onset.by) == (0.0, 60.0)
    assert {lost[name].covered_by for name in THREE} == {"smol"}
    assert {healthy[name].covered_by for name in THREE} == {""}


def test_a_base_says_which_pods_gave_the_bad_responses_of_its_adapters_and_none_once_it_is_well() -> None:
    """Two adapters lost, each on another pod; the third one's responses come from a pod of its own."""
    bad = {"router": ("engine-0", "engine-1"), "rewriter": ("engine-1",)}
    lost = [
        score(AGAINST[: 3 - (name == "rewriter")], adapter=name, pod=pod)
        for name, pods in bad.items()
        for pod in pods
        for _ in range(6)
    ]
    well = [score(FOR, adapter="extractor", pod="engine-2") for _ in range(6)]
    monitor = alone()
    verdicts = {v.subject: v for v in monitor.observe(traffic_round(*lost, *well, adapters=THREE)).verdicts}
    base = verdicts["smol"]
    assert base.reason is Reason.ALARM and base.bad_pods == base.pods == ("engine-0", "engine-1")
    assert verdicts["router"].bad_pods == ("engine-0", "engine-1") and verdicts["extractor"].bad_pods == ()
    ended = play(monitor, WELL, WELL, WELL, first=1)[-1]
    assert ended["smol"].status is Status.HEALTHY and ended["smol"].bad_pods == ended["router"].bad_pods == ()


def test_members_whose_evidence_is_still_growing_are_of_the_same_incident() -> None:
    """Two responses each are half the way to an alarm: no page of their own in the round after."""
    few = LOST | {"rewriter": (AGAINST, 2), "extractor": (AGAINST, 2)}
    _, first, second = play(alone(), WELL, few, LOST)
    assert first["smol"].reason is Reason.ALARM and "evidence growing: rewriter, extractor" in first["smol"].explanation
    assert "load all of router, rewriter, extractor again" in first["smol"].action, "not of the first one alone"
    assert first["rewriter"].status is Status.SUSPECT
    assert second["rewriter"].reason is Reason.ALARM and second["rewriter"].covered_by == "smol"
    assert second["smol"].reason is Reason.STILL_DEGRADED and "growing" not in second["smol"].explanation


def test_each_cause_is_named_and_the_base_has_the_one_of_most() -> None:
    (_, lost) = play(alone(), WELL, LOST | {"router": (HALF, 6)})
    assert lost["router"].cause is Cause.WRONG_STRENGTH
    assert lost["smol"].cause is Cause.ADAPTER_NOT_APPLIED
    assert "wrong strength: router; adapter not applied: rewriter, extractor" in lost["smol"].explanation


@pytest.mark.parametrize("others", [(FOR, 6), (AGAINST, 1)])
def test_a_single_bad_adapter_never_opens_its_base(others: tuple[tuple[float, ...], int]) -> None:
    for lost in play(alone(), WELL, *[dict.fromkeys(THREE, others) | {"router": (AGAINST, 6)}])[1:]:
        assert lost["router"].reason is Reason.ALARM and lost["router"].covered_by == ""
        assert lost["smol"].status is Status.HEALTHY


def test_half_of_the_adapters_are_not_the_base() -> None:
    four = (*THREE, "fourth")
    half = WELL | {"fourth": (FOR, 6), "router": LOST["router"], "extractor": LOST["extractor"]}
    _, lost = play(alone(), WELL | {"fourth": (FOR, 6)}, half, adapters=four)
    assert lost["extractor"].reason is Reason.ALARM and lost["extractor"].covered_by == ""
    assert lost["smol"].status is Status.HEALTHY


def test_suspicion_alone_opens_nothing_before_the_next_alarm() -> None:
    one = WELL | {"router": LOST["router"]}
    growing = one | {"rewriter": (AGAINST, 2)}
    _, _, before, alarmed = play(alone(), WELL, one, growing, growing)
    assert (before["smol"].status, before["rewriter"].status) == (Status.SUSPECT, Status.SUSPECT)
    assert before["router"].covered_by == ""
    assert alarmed["rewriter"].reason is Reason.ALARM and alarmed["smol"].reason is Reason.ALARM


def test_an_adapter_without_requests_does_not_keep_the_others_apart() -> None:
    quiet = {name: LOST[name] for name in THREE[:2]}
    (lost,) = play(alone(), quiet)
    assert lost["smol"].reason is Reason.ALARM and lost["smol"].members == THREE[:2]
    assert lost["extractor"].reason is Reason.NO_TRAFFIC


def test_responses_from_before_the_trouble_say_nothing_of_it() -> None:
    four = (*THREE, "fourth")
    lost = {name: LOST[name] for name in THREE[:2]}
    _, quiet = play(alone(), WELL | {"fourth": (FOR, 6)}, lost, adapters=four)
    assert quiet["smol"].reason is Reason.ALARM and quiet["smol"].members == THREE[:2]


def test_one_that_paged_alone_is_covered_when_the_others_follow() -> None:
    _, one, all_ = play(alone(), WELL, WELL | {"router": LOST["router"]}, LOST)
    assert one["router"].covered_by == "" and all_["smol"].reason is Reason.ALARM
    assert all_["router"].covered_by == "smol" and all_["smol"].members == THREE
    assert all_["smol"].onset is not None and all_["smol"].onset.by == 60.0, "when the first of them went wrong"


def test_it_ends_with_its_members_and_what_is_left_speaks_for_itself() -> None:
    played = play(alone(), WELL, LOST, WELL, WELL, WELL)
    assert [p["smol"].reason for p in played[1:]] == [
        Reason.ALARM, Reason.RECOVERING, Reason.RESOLVED, Reason.WITHIN_TOLERANCE,
    ]  # fmt: skip
    assert [p["router"].covered_by for p in played[1:]] == ["smol", "smol", "", ""]
    one = WELL | {"router": LOST["router"]}
    played = play(alone(), WELL, LOST, one, one)
    assert played[2]["smol"].reason is Reason.STILL_DEGRADED
    assert played[3]["smol"].reason is Reason.RESOLVED
    assert (played[3]["router"].status, played[3]["router"].covered_by) == (Status.DEGRADED, "")


def test_one_good_round_of_one_that_was_only_suspect_does_not_hand_the_page_over() -> None:
    growing = WELL | {"router": LOST["router"], "rewriter": (AGAINST, 2)}
    only_router = WELL | {"router": LOST["router"]}
    played = play(alone(), WELL, growing, only_router, only_router, only_router)
    assert [p["smol"].reason for p in played[1:]] == [
        Reason.ALARM, Reason.STILL_DEGRADED, Reason.RESOLVED, Reason.WITHIN_TOLERANCE,
    ]  # fmt: skip
    assert [p["router"].covered_by for p in played[1:]] == ["smol", "smol", "", ""]


def test_one_adapter_that_is_left_after_a_restart_can_end_it() -> None:
    monitor, again = alone(), alone()
    play(monitor, WELL, LOST)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    last = WELL["router"]
    *_, recovered, after = play(again, *[{"router": last}] * 3, first=2, adapters=("router",))
    assert recovered["smol"].reason is Reason.RESOLVED
    assert list(after) == ["router"] and after["router"].covered_by == ""


def test_an_incident_saved_by_an_earlier_version_has_the_estimated_onset_of_its_members() -> None:
    monitor, again = alone(), alone()
    lost = play(monitor, WELL, LOST)[1]["smol"].onset
    stored = json.loads(json.dumps(monitor.state_json()))
    del stored["response_bases"]["smol"]["onset_estimate"]
    again.restore(stored)
    (later,) = play(again, LOST, first=2)
    assert lost is not None and lost.estimate is not None and later["smol"].onset == lost


def test_where_responses_are_not_judged_any_more_their_incident_is_dropped() -> None:
    monitor, again = Monitor(RULES), Monitor(RULES, {"adapter_gap": default_configs(RULES.tolerances)["adapter_gap"]})
    play(monitor, LOST)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    told = again.observe(make_base_round(dict.fromkeys(THREE, "healthy"), 1)).verdicts
    assert {verdict.status for verdict in told} == {Status.HEALTHY} and {v.covered_by for v in told} == {""}


def test_silence_neither_ends_it_nor_covers_anybody() -> None:
    monitor = alone()
    play(monitor, WELL, LOST)
    (silent,) = play(monitor, {}, first=2)
    assert (silent["smol"].status, silent["smol"].reason) == (Status.UNMONITORABLE, Reason.NO_TRAFFIC)
    record = traffic_round(*[unscored(adapter=name) for name in THREE], number=3, adapters=THREE)
    assert {v.reason for v in monitor.observe(record).verdicts} == {Reason.NOT_SCORED}
    (again,) = play(monitor, LOST, first=4)
    assert again["smol"].reason is Reason.STILL_DEGRADED


def test_a_base_of_one_adapter_has_no_verdict_of_its_own() -> None:
    (lost,) = play(alone(), {"router": LOST["router"]}, adapters=("router",))
    assert list(lost) == ["router"] and lost["router"].covered_by == ""


def test_it_is_remembered_over_a_restart_also_by_the_canaries_rounds() -> None:
    monitor = Monitor(RULES)
    healthy = dict.fromkeys(THREE, "healthy")
    monitor.observe(make_base_round(healthy, 0))
    lost = play(monitor, LOST)[0]
    assert lost["smol"].reason is Reason.ALARM and "canaries are healthy" in lost["smol"].explanation
    told = {v.subject: v for v in monitor.observe(make_base_round(healthy, 1)).verdicts}
    assert (told["smol"].status, told["smol"].cause) == (Status.DEGRADED, Cause.ADAPTER_NOT_APPLIED)
    again = Monitor(RULES)
    again.restore(json.loads(json.dumps(monitor.state_json())))
    told = {v.subject: v for v in again.observe(make_base_round(healthy, 2)).verdicts}
    assert (told["smol"].status, told["smol"].reason) == (Status.DEGRADED, Reason.STILL_DEGRADED)
    assert {told[name].covered_by for name in THREE} == {"smol"}
    recovered = play(again, WELL, WELL, first=3)
    assert recovered[1]["smol"].reason is Reason.RESOLVED
    told = {v.subject: v for v in again.observe(make_base_round(healthy, 5)).verdicts}
    assert {v.status for v in told.values()} == {Status.HEALTHY}
    assert {told[name].covered_by for name in THREE} == {""}


def test_what_to_do_first_is_for_all_adapters_of_the_incident_and_not_for_one_of_them() -> None:
    """One that is at fault alone is named alone: it has an incident of its own."""
    _, lost = play(alone(), WELL, LOST)
    assert "load all of router, rewriter, extractor again" in lost["smol"].action
    assert lost["smol"].action.endswith("gapwatch query responses -p subject=smol")


def test_the_onset_of_a_base_is_that_of_its_first_adapter_by_the_times_of_responses() -> None:
    monitor = alone()
    good = [replace(one, at=30.0 + n) for n, one in enumerate(scores(WELL))]
    bad = [replace(one, at=50.0 + n) for n, one in enumerate(scores(LOST))]
    monitor.observe(traffic_round(*good, number=1, adapters=THREE))
    judged = {v.subject: v for v in monitor.observe(traffic_round(*bad, number=2, adapters=THREE)).verdicts}
    onset = judged["smol"].onset
    assert onset is not None and (onset.after, onset.by) == (35.0, 50.0), "judged at 60 and 120"
