"""Does a base page when all, or most, of its adapters are lost, however many there are? And how many pages is that?

Members are copies of one shipped golden record under names of their own, so that each draws its own canaries; rounds go
through the real monitor. Lost: the base answers all canaries of a member, or the stated part of them.
``python -m benchmarks.canaries.base_members [--json FILE]`` runs this alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks.canaries.recorded_answers import accepted, answered_by, not_applied, shipped
from benchmarks.figures import Figure, arguments, at_most, context, exactly, report
from benchmarks.zoo.enrolled_base import SEED, Measured, round_of, rules
from detectors.monitor import Monitor
from detectors.records import BaseRound, Reason, SubjectKind
from probes.golden.record import Golden

MEMBERS = (2, 3, 4, 5, 10, 20, 40, 100, 200)
ROUNDS, QUIET_ROUNDS, PART = 20, 200, 0.6


@dataclass(frozen=True, slots=True)
class Pages:
    """rounds: until the base paged, ROUNDS + 1 where it did not; pages: of adapters until then, and of the base"""

    rounds: int
    pages: int


def measure(quick: bool) -> list[Figure]:
    """quick: bases of at most ten members."""
    return [*_figures([k for k in MEMBERS if not quick or k <= 10])]


def _figures(members: list[int]) -> Iterator[Figure]:
    golden = shipped("ticket-router")
    healthy, lost = (answered_by(golden, answer) for answer in (accepted, not_applied))
    part = {
        canary.id: (lost if place < PART * len(half) else healthy)[canary.id]
        for half in (golden.pool, golden.held_out)
        for place, canary in enumerate(half)
    }
    never = f"({ROUNDS + 1}: not within {ROUNDS})"
    for k in members:
        all_lost, most = (first_page(golden, [answers] * k) for answers in (lost, part))
        yield at_most(f"base of {k}, all lost: rounds to its page {never}", all_lost.rounds, "rounds", 1)
        yield exactly(f"base of {k}, all lost: pages until then", all_lost.pages, "pages", 1)
        what = f"base of {k}, {PART:.0%} of each one's canaries lost: rounds to its page {never}"
        yield context(what, most.rounds, "rounds")
        yield exactly(f"base of {k}, {PART:.0%} of each one's canaries lost: pages until then", most.pages, "pages", 1)
    for k in (k for k in members if k <= 10):
        half = first_page(golden, [lost] * (k // 2) + [healthy] * (k - k // 2), QUIET_ROUNDS)
        what = f"base of {k}, half of them lost for {QUIET_ROUNDS} rounds: its own pages"
        yield exactly(what, int(half.rounds <= QUIET_ROUNDS), "pages", 0)


def first_page(golden: Golden, answers: list[Measured], most: int = ROUNDS) -> Pages:
    """answers: of each member"""
    names = [f"{golden.adapter}-{place:03d}" for place in range(len(answers))]
    members = [replace(golden, adapter=name) for name in names]
    monitor, pages = Monitor(rules()), 0
    for number in range(most):
        drawn = tuple(round_of(member, measured, number) for member, measured in zip(members, answers, strict=True))
        verdicts = monitor.observe(BaseRound(golden.base, number, drawn[0].at, drawn)).verdicts
        alarms = [verdict for verdict in verdicts if verdict.reason is Reason.ALARM and not verdict.covered_by]
        pages += len(alarms)
        if any(verdict.subject_kind is SubjectKind.BASE for verdict in alarms):
            return Pages(number + 1, pages)
    return Pages(most + 1, pages)


if __name__ == "__main__":
    options = arguments(__doc__ or "")
    report(measure(options.quick), SEED, options.json)
