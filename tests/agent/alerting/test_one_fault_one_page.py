"""Is one fault of what adapters share one page, also where it does not take each of them whole, or shows in one mode?

Real monitors and the real step to notices; pages are what opens an incident at PagerDuty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import orjson
import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.incidents import step_round
from agent.records import Notice, NoticeKind, NoticeReason
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Mode, Subject, SubjectKind
from detectors.verdicts.incident import Rules
from tests.detectors.synthetic import ADAPTERS, cells, make_base_round

RULES = Rules(Tolerances(), 20.0)
HEALTHY = dict.fromkeys(ADAPTERS, "healthy")
BASE, ROUTER = (SubjectKind.BASE, "smol"), (SubjectKind.ADAPTER, "router")
Stretch = tuple[int, Mapping[str, str]]


def on_base(fault: str) -> dict[str, str]:
    return dict.fromkeys(ADAPTERS, fault)


def played(*stretches: Stretch, begin: int = 0) -> Iterator[BaseRound]:
    """So many rounds of each, with the adapters under these faults."""
    number = begin
    for rounds, faults in stretches:
        for _ in range(rounds):
            yield make_base_round(faults, number)
            number += 1


def in_mode(*stretches: Stretch, begin: int = 0) -> Iterator[BaseRound]:
    """The same where the faults show as the engine writes, and in nothing that is scored."""
    for record in played(*stretches, begin=begin):
        scored = make_base_round(HEALTHY, record.number)
        members = [
            replace(member, cells=cells(faulty, (Mode.WRITTEN,)))
            for member, faulty in zip(scored.members, record.members, strict=True)
        ]
        yield replace(scored, members=tuple(members))


def notices_of(rounds: Iterable[BaseRound], restart_before: int = -1) -> list[Notice]:
    """What is sent in these rounds, in order. restart_before: the round before which the pod is started again"""
    monitor = Monitor(RULES)
    sent: list[Notice] = []
    states: Mapping[str, AlertState] = {}
    for record in rounds:
        if record.number == restart_before:
            saved, monitor = orjson.dumps(monitor.state_json()), Monitor(RULES)
            monitor.restore(orjson.loads(saved))
        states, notices = step_round(states, monitor.observe(record).verdicts, record.at, "prod")
        sent += notices
    return sent


def pages(notices: Iterable[Notice]) -> list[Subject]:
    opened = [notice.verdict for notice in notices if notice.reason is NoticeReason.DEGRADED]
    return [(verdict.subject_kind, verdict.subject) for verdict in opened]


@pytest.mark.parametrize("begin", [0, 100, 200])
@pytest.mark.parametrize("fault", ["moved:0.5", "moved:0.4", "swapped"])
def test_another_base_on_which_each_adapter_is_partly_lost_is_one_page(fault: str, begin: int) -> None:
    assert pages(notices_of(played((2, HEALTHY), (6, on_base(fault)), begin=begin))) == [BASE]


def test_the_base_pages_no_later_than_the_first_of_its_adapters_would() -> None:
    alone = notices_of(played((2, {"extractor": "healthy"}), (8, {"extractor": "moved:0.4"})))
    together = notices_of(played((2, HEALTHY), (8, on_base("moved:0.4"))))
    assert together[-1].at <= alone[-1].at and pages(alone) == [(SubjectKind.ADAPTER, "extractor")]


def test_the_page_of_the_base_says_whose_evidence_opened_it_and_when_it_began() -> None:
    (page,) = (
        n for n in notices_of(played((2, HEALTHY), (6, on_base("moved:0.5")))) if n.reason is NoticeReason.DEGRADED
    )
    verdict = page.verdict
    assert max(e.log_e for e in verdict.evidence if e.pages) >= RULES.log_threshold
    assert "at fault since what it shares with the other adapters changed" in verdict.explanation
    assert verdict.onset is not None and (verdict.onset.after, verdict.onset.by) == (60.0, 120.0)
    assert verdict.members and set(verdict.members) <= set(ADAPTERS)


@pytest.mark.parametrize("restart_before", [-1, 5, 9])
def test_a_repair_ends_the_one_incident_once_and_opens_none_for_an_adapter(restart_before: int) -> None:
    rounds = played((2, HEALTHY), (6, on_base("moved:0.5")), (14, HEALTHY))
    sent = notices_of(rounds, restart_before)
    assert pages(sent) == [BASE]
    over = [notice for notice in sent if notice.kind is NoticeKind.RESOLVE]
    assert [(n.verdict.subject_kind, n.reason) for n in over] == [(SubjectKind.BASE, NoticeReason.RECOVERED)]


@pytest.mark.parametrize("before", ["healthy", "tuned"])
def test_a_fault_of_one_adapter_is_its_own_also_where_the_base_moved_long_ago(before: str) -> None:
    one = on_base(before) | {"router": "not_applied" if before == "healthy" else f"{before}+scale:0.3"}
    sent = notices_of(played((2, HEALTHY), (5, on_base(before)), (3, one)))
    (page,) = (n for n in sent if n.reason is NoticeReason.DEGRADED)
    assert pages(sent) == [ROUTER] and page.at == 7 * 60.0, "in its first round"


def test_adapters_that_break_one_after_the_other_are_a_page_each() -> None:
    first = HEALTHY | {"router": "not_applied"}
    sent = notices_of(played((2, HEALTHY), (6, first), (6, first | {"rewriter": "scale:0.5"})))
    assert pages(sent) == [ROUTER, (SubjectKind.ADAPTER, "rewriter")]


@pytest.mark.parametrize("begin", [0, 100, 200])
def test_a_fault_of_one_mode_of_a_whole_engine_is_one_page(begin: int) -> None:
    assert pages(notices_of(in_mode((2, HEALTHY), (8, on_base("moved:0.4")), begin=begin))) == [BASE]


def test_a_fault_of_one_mode_of_one_adapter_is_its_own() -> None:
    assert pages(notices_of(in_mode((2, HEALTHY), (6, HEALTHY | {"router": "moved:0.5"})))) == [ROUTER]
