"""A fault of a composition in production, named: a member missing, one at half of its weight, another adapter on top.

Sums of two members, weights of 1, on the bases that nothing was fitted on. Each skill is enrolled as ``gapwatch enrol``
does; then the fault's files answer one round, the faults that are likely are replayed on the accepted files, and the
cause is read from the round beside them.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import torch

from benchmarks.composition_parts.measured import file_of
from benchmarks.composition_parts.predicted import FITTED_ON, HOURS
from benchmarks.composition_parts.sets import runner_over
from benchmarks.figures import Figure, context, share
from benchmarks.zoo.enrolled_base import by_base, never, replayed, round_of, silent
from benchmarks.zoo.members import Member as ZooMember
from benchmarks.zoo.members import zoo
from detectors.canaries.composed_skills import skill_name
from detectors.canaries.tolerance import Tolerances, draw_scores
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import diagnose
from detectors.records import Cause, FaultKind
from probes.artefacts.lora_files import read_adapter
from probes.canaries.canary_file import read_canaries
from probes.causes.adapter_replay import AdapterReplay
from probes.composition.compose import compose, write
from probes.composition.recipe import Member, Recipe
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.errors import ProbeError
from probes.golden.record import Golden
from probes.runner import Runner, Target

PAIRS, SEED = 10, 17
MISSING, HALVED, STACKED = "a member is missing", "a member at half of its weight", "another adapter on top"


def measure(quick: bool) -> list[Figure]:
    fill(quick, HOURS)
    stored = [json.loads(line) for line in _file(quick).read_text().splitlines()]
    rows = [row for row in stored if row["beyond"]]
    figures = [
        share(f"planted faults of a composition that are named: {fault}", sum(r["named"] for r in own), len(own), 95.0)
        for fault in (MISSING, HALVED, STACKED)
        if (own := [row for row in rows if row["fault"] == fault])
    ]
    hidden = len(stored) - len(rows)
    return [*figures, context("planted faults that leave a skill within its tolerance", hidden, f"of {len(stored)}")]


def fill(quick: bool, seconds: float) -> int:
    """Measure what is missing for so long; how many pairs are missing still."""
    torch.set_num_threads(1)
    ends, file, missing = time.monotonic() + seconds, _file(quick), 0
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["pair"] for line in file.read_text().splitlines()} if file.is_file() else set()
    for members in by_base(zoo()):
        if members[0].recipe.base == FITTED_ON:
            continue
        for pair in _pairs(members, quick):
            if _key(pair) in done:
                continue
            if time.monotonic() >= ends:
                missing += 1
                continue
            with file.open("a") as opened:
                opened.writelines(json.dumps(row) + "\n" for row in _of_pair(members, pair))
    return missing


def _pairs(members: Sequence[ZooMember], quick: bool) -> list[tuple[ZooMember, ZooMember]]:
    pairs = list(itertools.combinations(members, 2))
    Random(f"{members[0].recipe.base} {SEED}").shuffle(pairs)
    return pairs[: 2 if quick else PAIRS]


def _of_pair(members: Sequence[ZooMember], pair: tuple[ZooMember, ZooMember]) -> Iterator[dict[str, object]]:
    """One row a fault and skill."""
    other = next(member for member in members if member not in pair)
    first, second = pair[0].name, pair[1].name
    planted = {
        MISSING: {first: 1.0},
        HALVED: {first: 1.0, second: 0.5},
        STACKED: {first: 1.0, second: 1.0, other.name: 1.0},
    }
    folders = {member.name: member.folder for member in (*pair, other)}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        made = {fault: _composed(weights, folders, home / str(i)) for i, (fault, weights) in enumerate(planted.items())}
        whole = {first: 1.0, second: 1.0}
        skills = {skill_name("both", member.name): member for member in pair}
        accepted = dict.fromkeys(skills, _composed(whole, folders, home / "whole"))
        with runner_over(pair[0].base, folders | made | accepted) as runner:
            for name, member in skills.items():
                golden = _enrolled(runner, name, member, list(folders), whole)
                for fault in made if golden else ():
                    yield {"pair": _key(pair), "skill": name, "fault": fault} | _named(
                        runner, golden, fault, planted[fault]
                    )


def _composed(weights: dict[str, float], folders: dict[str, Path], target: Path) -> Path:
    """The sum of these adapters; of one alone its own folder."""
    members = [Member(name, weight) for name, weight in weights.items()]
    if len(members) == 1:
        return folders[members[0].adapter]
    recipe = Recipe(tuple(members), "cat")
    adapters = [read_adapter(folders[member.adapter]) for member in members]
    return write(compose(recipe, adapters), folders[members[0].adapter], target)


def _enrolled(
    runner: Runner, name: str, member: ZooMember, others: list[str], weights: dict[str, float]
) -> Golden | None:
    rows = [{"adapter": own, "weight": weight} for own, weight in weights.items()]
    settings = EnrolSettings(base=member.recipe.base, at=0.0, battery=("one row",), composition={"members": rows})
    try:
        return enrol(Request(runner, name, read_canaries(member.canaries), settings, others, silent, never))
    except ProbeError:
        return None


def _named(runner: Runner, golden: Golden | None, fault: str, weights: dict[str, float]) -> dict[str, object]:
    """Is a round under the fault beyond tolerance, and which cause do the replays name?"""
    assert golden is not None
    served = replayed(runner, golden.adapter, golden.canaries, Target(fault))
    round = round_of(golden, served, 1)
    beyond = bool(draw_scores(round, Tolerances()).mean() > Tolerances().share)
    replay = AdapterReplay.of(runner, golden, round)
    while replay.step(never):
        pass
    named = diagnose(replay.measured(), Tolerances())
    match = named.match
    answer = "" if match is None else f"{match.kind} {match.names[0]} {match.value:.2f}"
    return {"beyond": beyond, "named": _is_right(named, fault, weights, golden), "cause": named.cause, "match": answer}


def _is_right(named: Diagnosis, fault: str, weights: dict[str, float], golden: Golden) -> bool:
    match, (first, second) = named.match, golden.weights
    if match is None or named.cause is not Cause.COMPOSITION_INTERFERENCE:
        # On the canaries of a member that is missing nothing may be left of the composition's effect at all.
        return fault == MISSING and named.nothing_left
    match fault, match.kind:
        case ("a member is missing", FaultKind.OTHER_ADAPTER):
            return match.names[0] == first
        case ("a member is missing", FaultKind.TAKEN_AWAY):
            return match.names[0] == second and match.value >= 0.85
        case ("a member at half of its weight", FaultKind.TAKEN_AWAY):
            return match.names[0] == second and abs(match.value - 0.5) < 0.1
        case ("another adapter on top", FaultKind.STACKED):
            return match.names[0] in weights and match.names[0] not in golden.weights
    return False


def _key(pair: Sequence[ZooMember]) -> str:
    return ", ".join(member.name for member in pair)


def _file(quick: bool) -> Path:
    return file_of(quick).with_suffix(".faults.jsonl")
