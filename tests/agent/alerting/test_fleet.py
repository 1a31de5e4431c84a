"""How long a pod leaves to others what the fleet says once."""

from __future__ import annotations

from agent.alerting.fleet import ALONE, Fleet, JudgedBy, spacing

ROUTER = "adapter/router"
SEEN = JudgedBy()


def test_alone_there_is_nobody_to_wait_for() -> None:
    assert (ALONE.pods_before(ROUTER), ALONE.wait_s(ROUTER)) == (0, 0.0)


def test_pods_of_other_adapters_do_not_come_before_those_that_judge_this_one() -> None:
    live = {"a": True, "b": False, "c": True, "e": True}
    fleet = Fleet("d", live, {ROUTER: {"c": SEEN, "e": SEEN}}, spacing_s=90.0)
    assert fleet.pods_before(ROUTER) == 2, "b has judged nothing yet, c judges it; a does not, and e comes later"
    assert fleet.wait_s(ROUTER) == 180.0


def test_the_wait_leaves_the_pod_before_a_whole_round_and_has_a_limit() -> None:
    assert (spacing(10.0), spacing(60.0), spacing(600.0)) == (30.0, 90.0, 900.0)
    live = {f"pod-{i:02}": False for i in range(20)}
    assert Fleet("pod-99", live, spacing_s=spacing(60.0)).wait_s(ROUTER) == 600.0
    assert Fleet("pod-99", live, spacing_s=spacing(600.0)).wait_s(ROUTER) == 3600.0
