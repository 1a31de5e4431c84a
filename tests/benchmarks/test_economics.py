"""Are figures of economics counted from their cases, and does each part that the command names exist?"""

from __future__ import annotations

import importlib

import pytest

from benchmarks.economics import PARTS
from benchmarks.economics_parts.few_shot import figures as of_examples
from benchmarks.economics_parts.own_cost import at_pace
from benchmarks.economics_parts.retire import BROKEN, LEARNT, Case, figures
from detectors.economics.own_cost import Part, Served, Used, WatchCost
from detectors.economics.worth import Worth
from tests.agent.economics.test_worth_file import measured


@pytest.mark.parametrize("name", PARTS)
def test_each_part_can_be_measured(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.economics_parts.{name}").measure)


def test_a_base_that_has_not_learnt_the_task_and_is_called_sufficient_is_a_miss() -> None:
    right = [Case(LEARNT, "a", Worth.BASE_PASSES), Case(BROKEN, "a", Worth.LOST), Case("as accepted", "a", Worth.ADDS)]
    assert all(figure.met in (True, None) for figure in figures(right))
    for release in ("as accepted", BROKEN):
        wrong = [*right, Case(release, "b", Worth.BASE_PASSES)]
        assert any(figure.met is False and figure.value == 1 for figure in figures(wrong))


def test_examples_are_shares_of_the_held_out_canaries() -> None:
    by_name = {figure.name: figure.value for figure in of_examples(measured())}
    assert by_name["router: the base with 4 examples, right on held-out canaries"] == pytest.approx(100 * 22 / 24)
    assert by_name["router: the base with 4 examples, more tokens a request"] == 130.0


def test_at_another_pace_only_what_comes_by_the_clock_changes() -> None:
    parts = {Part.FILE_CANARIES: Used(cpu_s=60.0), Part.SCORING: Used(cpu_s=10.0), Part.AGENT: Used(cpu_s=5.0)}
    slow = at_pace(WatchCost("m", "router", parts, Served(10.0, 1.0, 1.0)), 0.1)
    assert slow.parts[Part.FILE_CANARIES].cpu_s == pytest.approx(6.0)
    assert slow.parts[Part.SCORING].cpu_s == pytest.approx(0.1) and slow.parts[Part.AGENT].cpu_s == 5.0
