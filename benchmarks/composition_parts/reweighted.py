"""Do the recommended weights keep more of the worst skill than equal weights, where these lose one?

Of the bases that nothing was fitted on: every pair and triple summed with weights of 1; where a skill then loses more
than its tolerance, with the recommended weights too, and, for context, with equal ones of the same sum.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.composition_parts.measured import AT_ONCE, file_of, measured
from benchmarks.composition_parts.predicted import FITTED_ON, HOURS, TOLERATED
from benchmarks.composition_parts.sets import BaseWithSkills, Case, cases
from benchmarks.figures import Figure, context, share
from benchmarks.zoo.enrolled_base import by_base
from benchmarks.zoo.members import zoo
from probes.composition.recipe import Member, Recipe

EQUAL, RECOMMENDED, SAME_SUM = "equal", "recommended", "equal of the same sum"


def measure(quick: bool) -> list[Figure]:
    fill(quick, HOURS)
    stored = [own for own in _stored(_file(quick)) if own[EQUAL] < TOLERATED]
    if not stored:
        return []
    better = sum(own[RECOMMENDED] > own[EQUAL] for own in stored)
    than_sum = sum(own[RECOMMENDED] > own[SAME_SUM] for own in stored)
    gained = [own[RECOMMENDED] - own[EQUAL] for own in stored]
    return [
        share("conflicts in which the recommended weights keep more of the worst skill", better, len(stored), 80.0),
        share("the same against equal weights of the same sum", than_sum, len(stored)),
        context("what the worst skill gains by the recommended weights, in the median", float(np.median(gained)), ""),
        context("what the worst skill keeps with weights of 1", float(np.mean([own[EQUAL] for own in stored])), ""),
        context("what it keeps with the recommended ones", float(np.mean([own[RECOMMENDED] for own in stored])), ""),
    ]


def fill(quick: bool, seconds: float) -> int:
    """Measure what is missing for so long; how many sets are missing still."""
    torch.set_num_threads(1)
    ends, file, missing = time.monotonic() + seconds, _file(quick), 0
    done = {own["members"] for own in _stored(file)}
    for members in by_base(zoo()):
        if members[0].recipe.base == FITTED_ON:
            continue
        groups = list(
            dict.fromkeys(case.names for case in cases(members[0].recipe.base, [own.name for own in members], quick))
        )
        wanted = [group for group in groups if ", ".join(group) not in done]
        base = BaseWithSkills.measured(members) if wanted and time.monotonic() < ends else None
        while wanted and base is not None and time.monotonic() < ends:
            batch, wanted = wanted[: AT_ONCE // 2], wanted[AT_ONCE // 2 :]
            with file.open("a") as opened:
                opened.writelines(json.dumps(row) + "\n" for row in _of_sets(base, batch))
        missing += len(wanted)
    return missing


def _of_sets(base: BaseWithSkills, groups: Sequence[tuple[str, ...]]) -> list[dict[str, object]]:
    """The worst skill of each set under the three kinds of weights."""
    kinds = {group: _recipes(base, group) for group in groups}
    every = {Case(base.name, recipe) for recipes in kinds.values() for recipe in recipes.values()}
    worst: dict[str, float] = {}
    for row in measured(base, sorted(every, key=lambda case: case.key)):
        worst[row.key] = min(worst.get(row.key, 1.0), row.retention)
    return [
        {"members": ", ".join(group)}
        | {kind: worst[Case(base.name, recipe).key] for kind, recipe in recipes.items()}
        | {"weights": [own.weight for own in recipes[RECOMMENDED].members]}
        for group, recipes in kinds.items()
    ]


def _recipes(base: BaseWithSkills, group: tuple[str, ...]) -> dict[str, Recipe]:
    recommended = base.forecaster(group).recommended_weights()
    mean = round(float(np.mean([own.weight for own in recommended.members])), 3)
    equal = {EQUAL: 1.0, SAME_SUM: mean}
    recipes = {kind: Recipe(tuple(Member(name, value) for name in group), "cat") for kind, value in equal.items()}
    return recipes | {RECOMMENDED: replace(recommended, method="cat")}


def _file(quick: bool) -> Path:
    file = file_of(quick)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file.with_suffix(".reweighted.jsonl")


def _stored(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
