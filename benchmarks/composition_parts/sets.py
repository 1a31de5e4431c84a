"""Every pair and triple of the adapters of one base, by five methods, with what is known of them beforehand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.zoo.enrolled_base import MANY, MANY_TOKENS, answered, never
from benchmarks.zoo.members import Member as ZooMember
from benchmarks.zoo.world import pool
from detectors.canaries.retention import prepare
from detectors.composition.prediction import SkillEffects
from probes.artefacts.lora_files import LoraAdapter, read_adapter
from probes.canaries.replay_pairs import ask_all, summary
from probes.composition.displacements import skill_effects
from probes.composition.forecast import Forecaster
from probes.composition.recipe import Member, Method, Recipe
from probes.golden.record import GoldenCanary
from probes.runner import Replay, Runner, Target
from probes.runners import in_process

CANARIES = 24
# Beside 0 and 1: as a golden record has them.
STRENGTHS = (0.25, 0.5, 0.75, 1.5, 2.0)
METHODS: tuple[Method, ...] = ("cat", "svd", "ties_svd", "dare_ties_svd", "magnitude_prune_svd")
DENSITY, SEED = 0.5, 11


@dataclass(frozen=True, slots=True)
class Case:
    """One composition of members of one base. key: names it in stored rows"""

    base: str
    recipe: Recipe

    @property
    def key(self) -> str:
        members = ", ".join(f"{own.adapter}*{own.weight:g}" for own in self.recipe.members)
        return f"{self.recipe.method} of {members}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(own.adapter for own in self.recipe.members)


@dataclass(eq=False)
class BaseWithSkills:
    """One base with its adapters' canaries. base: as a runner takes it; folders: adapter -> its files

    goldens: adapter -> its canaries, with the others' answers
    """

    name: str
    base: Path
    folders: dict[str, Path]
    goldens: dict[str, list[GoldenCanary]] = field(default_factory=dict)

    @cached_property
    def adapters(self) -> dict[str, LoraAdapter]:
        return {name: read_adapter(folder) for name, folder in self.folders.items()}

    @classmethod
    def measured(cls, members: Sequence[ZooMember]) -> BaseWithSkills:
        """Every adapter alone on the canaries of every other one, and on its own at other strengths."""
        own = cls(members[0].recipe.base, members[0].base, {member.name: member.folder for member in members})
        names = list(own.folders)
        with runner_over(own.base, own.folders) as runner:
            for member in members:
                canaries = pool(member, runner, member.canaries)[:CANARIES]
                others = {name: answered(runner, canaries, Target(name)) for name in names if name != member.name}
                curve = {s: answered(runner, canaries, Target(member.name, scale=s)) for s in STRENGTHS}
                own.goldens[member.name] = [_recorded(canary, others, curve) for canary in canaries]
        return own

    def effects(self, names: Sequence[str]) -> dict[str, SkillEffects]:
        known = {name: skill_effects(self.goldens[name], name, names) for name in names}
        return {name: own for name, own in known.items() if own is not None}

    def forecaster(self, names: tuple[str, ...], by_answers: bool = True) -> Forecaster:
        effects = self.effects(names) if by_answers else {}
        return Forecaster(names, [self.adapters[name] for name in names], effects, dict.fromkeys(names, 0.05))


@contextmanager
def runner_over(base: Path, adapters: dict[str, Path]) -> Iterator[Runner]:
    """A runner over these folders, open."""
    named = {name: str(folder) for name, folder in adapters.items()}
    placed: Any = {"device": "cpu", "dtype": "float32", "threads": 1}
    runner = in_process.Runner(in_process.Config(str(base), named, max_batch_tokens=MANY_TOKENS, **placed))
    runner.open()
    try:
        yield runner
    finally:
        runner.close()


def cases(base: str, names: Sequence[str], quick: bool) -> Iterator[Case]:
    """In an order in which any share of them has all kinds. quick: pairs alone"""
    groups = [group for size in ((2,) if quick else (2, 3)) for group in itertools.combinations(names, size)]
    every = [Case(base, _recipe(base, group, method)) for group in groups for method in METHODS]
    Random(f"{base} {SEED}").shuffle(every)
    return iter(every)


def _recipe(base: str, names: Sequence[str], method: Method) -> Recipe:
    """Weights of 1, equal ones that sum to 1, or drawn ones, by the names alone."""
    draw = Random(f"{base} {names} {method} {SEED}")
    kinds = (
        [1.0] * len(names),
        [round(1 / len(names), 3)] * len(names),
        [round(draw.uniform(0.2, 1.3), 2) for _ in names],
    )
    members = tuple(map(Member, names, draw.choice(kinds)))
    return Recipe(members, method, None if method in ("cat", "svd") else DENSITY, seed=SEED)


def retentions(
    runner: Runner, base: BaseWithSkills, composed: dict[str, Sequence[str]]
) -> dict[tuple[str, str], list[float]]:
    """(composition, skill) -> retention of each canary. composed: name in the runner -> its members"""
    pairs = [(name, skill) for name, skills in composed.items() for skill in skills]
    replays = {
        (name, skill): [
            Replay(own.id, own.prompt, own.forced, Target(name), own.reference.kept) for own in base.goldens[skill]
        ]
        for name, skill in pairs
    }
    answers = ask_all(runner, [replay for own in replays.values() for replay in own], never, MANY)
    return {
        (name, skill): [
            _retention(canary, summary(answers[replay]).log_probs)
            for canary, replay in zip(base.goldens[skill], replays[name, skill], strict=True)
        ]
        for name, skill in pairs
    }


def _retention(canary: GoldenCanary, log_probs: np.ndarray) -> float:
    """Over the golden base, which nothing has moved."""
    ready = prepare(canary.reference)
    return float(ready.from_base(log_probs) @ ready.delta) / ready.energy


def _recorded(canary: GoldenCanary, others: dict[str, Any], curve: dict[float, Any]) -> GoldenCanary:
    reference = canary.reference
    knots = {0.0: reference.golden_base.log_probs, 1.0: reference.golden_adapter.log_probs}
    knots |= {strength: own[canary.id].log_probs for strength, own in curve.items()}
    scales = sorted(knots)
    return replace(
        canary,
        reference=replace(
            reference,
            scales=np.array(scales, np.float32),
            curve=np.stack([knots[scale] for scale in scales]),
            others={name: own[canary.id].log_probs for name, own in others.items()},
        ),
    )
