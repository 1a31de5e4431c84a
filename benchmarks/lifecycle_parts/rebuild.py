"""A successor of each helpdesk adapter on other releases of its base, from its golden record and its copies alone.

On the release that permutes hidden units nothing is trained. On the one that merges the whole upstream tune, and on one
whose weights were all trained further, a successor is trained, beside one that is trained in as many steps on the
original data. The task's own check is that of held-out exercises, which no training reads. What is measured is kept
(``rebuilt.py``); GAPWATCH_REBUILD_MINUTES says for how long more may be, and the figures are of what there is by then.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.figures import Figure, at_least, at_most, context
from benchmarks.lifecycle_parts.rebuilt import (
    ACCEPTED,
    EXERCISES,
    ORIGINAL_DATA,
    PERMUTED,
    REBUILT,
    STEPS,
    Case,
    Row,
    cases,
    fill,
    rows,
)

# The task's own check may fall by so many of a hundred.
POINTS = 3.0


def measure(quick: bool) -> list[Figure]:
    """quick: of one adapter on the permuted base alone."""
    minutes = float(os.environ.get("GAPWATCH_REBUILD_MINUTES", "inf"))
    fill(60 * minutes, cases()[:1] if quick else cases())
    return figures(rows())


def figures(measured: Sequence[Row]) -> list[Figure]:
    """Of these rows; a case that is missing has none."""
    by_case = {row.case: row for row in measured}
    made = [row for row in measured if row.how == REBUILT]
    return [
        replace(own, commit=row.commit)
        for row in made
        for own in (_permuted if row.release == PERMUTED else _trained)(row, by_case)
    ]


def _permuted(row: Row, by_case: Mapping[Case, Row]) -> list[Figure]:
    on = f"Rebuild, {row.adapter} on a permuted base"
    return [
        at_least(f"{on}: retention of the re-expressed adapter, lower end of 95 %", row.effect_low, "", 0.99),
        at_most(f"{on}: flips of held-out canaries", row.flips, "", 0),
        context(f"{on}: retention of the adapter as it is", row.plain, ""),
        *_task(on, row, by_case),
        *_spent(on, row),
    ]


def _trained(row: Row, by_case: Mapping[Case, Row]) -> list[Figure]:
    on = f"Rebuild, {row.adapter} on a base with {row.release}, {STEPS} steps"
    return [
        at_least(f"{on}: retention, lower end of 95 %", row.low, "", 0.9),
        context(f"{on}: retention of the effect alone, lower end of 95 %", row.effect_low, ""),
        context(f"{on}: flips of {row.checked} held-out canaries", row.flips, ""),
        context(f"{on}: retention of the adapter as it is", row.plain, ""),
        context(f"{on}: texts trained on", row.texts, ""),
        *_task(on, row, by_case),
        *_spent(on, row),
        *_beside(on, by_case.get(Case(row.adapter, row.release, ORIGINAL_DATA))),
    ]


def _task(on: str, row: Row, by_case: Mapping[Case, Row]) -> list[Figure]:
    """Right answers to exercises: of the accepted adapter, and of the successor, within some points of it."""
    accepted = by_case.get(Case(row.adapter, "", ACCEPTED))
    if accepted is None:
        return []
    least = accepted.right - POINTS * EXERCISES / 100
    return [
        at_least(f"{on}: right answers to {EXERCISES} exercises", row.right, "", least),
        context(f"{on}: right answers of the accepted adapter on its own base", accepted.right, ""),
    ]


def _spent(on: str, row: Row) -> list[Figure]:
    return [
        context(f"{on}: time, with the acceptance tests", row.seconds, "s"),
        context(f"{on}: memory of the process at its highest", row.peak / 1e9, "GB"),
    ]


def _beside(on: str, row: Row | None) -> list[Figure]:
    """What is trained on the original data instead."""
    if row is None or math.isnan(row.low):
        return []
    return [
        context(f"{on}, {ORIGINAL_DATA} instead: retention, lower end of 95 %", row.low, ""),
        context(f"{on}, {ORIGINAL_DATA} instead: right answers to {EXERCISES} exercises", row.right, ""),
        context(f"{on}, {ORIGINAL_DATA} instead: time", row.seconds, "s"),
    ]
