"""Compositions measured, a share at a time: ``python -m benchmarks.composition_parts.measured --minutes 4``.

Rows are appended to a file beside the zoo as they are measured, so that a run that ends early is gone on with; what is
predicted from the same features is computed by others of this folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.composition_parts import helpdesk
from benchmarks.composition_parts.sets import BaseWithSkills, Case, cases, retentions, runner_over
from benchmarks.zoo.enrolled_base import by_base
from benchmarks.zoo.members import FOLDER, zoo
from benchmarks.zoo.recipes import key
from probes.composition.compose import compose, write
from probes.composition.forecast import BY_ANSWERS, BY_WEIGHTS, Forecaster

AT_ONCE = 16
# Of a real base, which answers slowly: so that a run that is ended loses little.
FEW_AT_ONCE = 2
Source = tuple[tuple[str, ...], Callable[[], BaseWithSkills]]


@dataclass(frozen=True, slots=True)
class Row:
    """One skill of one composition. alone, added, crowd, rest: of the formula of detectors/composition/prediction.py

    by: BY_ANSWERS or BY_WEIGHTS -> alone, added, crowd; peers: name -> what merge tools print
    """

    base: str
    key: str
    method: str
    members: tuple[str, ...]
    weights: tuple[float, ...]
    skill: str
    retention: float
    strength: float
    rest: float
    by: dict[str, tuple[float, float, float]]
    peers: dict[str, float]


def file_of(quick: bool) -> Path:
    return FOLDER.expanduser().parent / "composition" / f"{key()}{'.quick' if quick else ''}.jsonl"


def rows(quick: bool) -> list[Row]:
    """Those that are measured."""
    file = file_of(quick)
    if not file.is_file():
        return []
    stored = [json.loads(line) for line in file.read_text().splitlines()]
    return [Row(**(own | {name: tuple(own[name]) for name in ("members", "weights")})) for own in stored]


def sensitivities() -> dict[str, float]:
    """Skill -> how sensitive it is (SkillEffects.sensitivity), measured now for those that are not known yet."""
    file = file_of(False).with_suffix(".skills.json")
    known: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    unknown = [make for names, make in _sources(quick=False).values() if not known.keys() >= set(names)]
    for make in unknown:
        base = make()
        known |= {name: own.sensitivity for name in base.goldens for own in base.effects([name]).values()}
    if unknown:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=2) + "\n")
    return known


def fill(quick: bool, seconds: float) -> int:
    """Measure what is missing for so long; how many compositions are missing still."""
    torch.set_num_threads(1)
    ends, file = time.monotonic() + seconds, file_of(quick)
    file.parent.mkdir(parents=True, exist_ok=True)
    done, bases = {row.key for row in rows(quick)}, dict[str, BaseWithSkills]()
    sources = _sources(quick)
    every = {name: list(cases(name, names, quick)) for name, (names, _) in sources.items()}
    wanted = {name: [case for case in own if case.key not in done] for name, own in every.items()}
    while any(wanted.values()) and time.monotonic() < ends:
        # The base with the fewest measured is next, so that any share of a run has all of them.
        name = min((n for n in wanted if wanted[n]), key=lambda n: len(every[n]) - len(wanted[n]))
        if name not in bases:
            bases[name] = sources[name][1]()
        count = FEW_AT_ONCE if name == helpdesk.NAME else AT_ONCE
        batch, wanted[name] = wanted[name][:count], wanted[name][count:]
        with file.open("a") as opened:
            opened.writelines(json.dumps(asdict(row)) + "\n" for row in measured(bases[name], batch))
    return sum(map(len, wanted.values()))


def _sources(quick: bool) -> dict[str, Source]:
    """Base -> its adapters, and what measures them alone. quick: the zoo's"""
    sources: dict[str, Source] = {
        members[0].recipe.base: (tuple(own.name for own in members), partial(BaseWithSkills.measured, members))
        for members in by_base(zoo())
    }
    return sources if quick else sources | {helpdesk.NAME: (helpdesk.NAMES, helpdesk.helpdesk)}


def measured(base: BaseWithSkills, batch: Sequence[Case]) -> Iterator[Row]:
    """Every skill of these compositions."""
    with tempfile.TemporaryDirectory() as scratch:
        folders: dict[str, Path] = {}
        made = {case.key: compose(case.recipe, [base.adapters[name] for name in case.names]) for case in batch}
        for case in batch:
            first = base.folders[case.names[0]]
            folders[case.key] = write(made[case.key], first, Path(scratch) / str(len(folders)))
        with runner_over(base.base, folders) as runner:
            kept = retentions(runner, base, {case.key: case.names for case in batch})
    for case in batch:
        by_answers, by_weights = (base.forecaster(case.names, by) for by in (True, False))
        strengths, rest = by_answers.strengths(case.recipe, made[case.key])
        for i, skill in enumerate(case.names):
            yield Row(
                case.base,
                case.key,
                case.recipe.method,
                case.names,
                tuple(own.weight for own in case.recipe.members),
                skill,
                float(np.mean(kept[case.key, skill])),
                float(strengths[i]),
                float(rest[i]),
                {
                    name: _features(own, i, strengths)
                    for name, own in ((BY_ANSWERS, by_answers), (BY_WEIGHTS, by_weights))
                },
                peers(by_answers, i),
            )


def _features(forecaster: Forecaster, own: int, strengths: np.ndarray) -> tuple[float, float, float]:
    effects = forecaster.effects[own]
    alone, added = effects.alone(strengths[own]), effects.added(strengths).sum()
    return float(alone), float(added), float(effects.crowd(strengths))


def peers(forecaster: Forecaster, own: int) -> dict[str, float]:
    """Of a skill beside the others of its composition: means over pairs, as merge tools print them for pairs.

    cosine: of the flattened updates; sign conflict: share of weights that two updates move in opposite directions;
    norm ratio: of the others' sizes to its own
    """
    others = [j for j in range(len(forecaster.names)) if j != own]
    return {
        "cosine of flattened weights": float(np.mean([forecaster.overlap.cosine(own, j) for j in others])),
        "sign-conflict share": float(np.mean([_sign_conflict(forecaster, own, j) for j in others])),
        "norm ratio": float(np.mean([forecaster.overlap.ratio(own, j) for j in others])),
    }


def _sign_conflict(forecaster: Forecaster, first: int, second: int) -> float:
    opposite = total = 0
    for name, (a, b) in forecaster.factors[first].items():
        if name in forecaster.factors[second]:
            other_a, other_b = forecaster.factors[second][name]
            product = (b @ a) * (other_b @ other_a)
            opposite, total = opposite + int((product < 0).sum()), total + product.numel()
    return opposite / total if total else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    left = fill(options.quick, 60 * options.minutes)
    print(f"{left} compositions are missing; {len(rows(options.quick))} skills measured")
