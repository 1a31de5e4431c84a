"""All of the zoo at once, opened and enrolled when first asked for; what the parts of a benchmark share."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.zoo.members import FOLDER, Member, zoo
from benchmarks.zoo.stall import Stall, by_base, enrolled, never, serving
from probes.canaries.canary_file import read_canaries
from probes.enrolment.candidates import CanaryContinuation, continue_greedily, golden_sides
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import GoldenCanary
from probes.golden.statistical_power import strong_enough
from probes.runner import Runner

BOUNDS = EnrolSettings(base="", at=0.0)
LEAST_TOKENS = 6


class World:
    """folder: where the zoo lies; scratch: for files of broken adapters and bases; bases: how many of the three"""

    def __init__(self, scratch: Path, folder: Path = FOLDER, bases: int = 3) -> None:
        self.scratch, self._folder, self._bases = scratch, folder, bases
        self._open = ExitStack()

    def __enter__(self) -> World:
        # More threads than one are slower on models this small, and sum in another order.
        torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def members(self) -> tuple[tuple[Member, ...], ...]:
        return tuple(by_base(zoo(self._folder))[: self._bases])

    @cached_property
    def stalls(self) -> tuple[Stall, ...]:
        """Every base with its adapters enrolled; a minute or two for each."""
        return tuple(enrolled(mine, self._open.enter_context(serving(mine))) for mine in self.members)


def pool(member: Member, runner: Runner, prompts: Path, floor: float = BOUNDS.min_energy) -> list[GoldenCanary]:
    """Canaries over the prompts of a file with both golden sides, those left out whose |delta|^2 is under the floor.

    Everyday prompts have short answers, so that a continuation may be of 6 tokens here. Continuations are kept beside
    the prompts: they follow from weights and prompts alone.
    """
    candidates = _continued(member, runner, prompts)
    drafts = golden_sides(runner, member.name, candidates, BOUNDS.top, never)
    return [draft for draft in drafts if strong_enough(draft.reference, floor)]


def _continued(member: Member, runner: Runner, prompts: Path) -> list[CanaryContinuation]:
    kept = prompts.with_name(f"{member.name}.{prompts.name.removeprefix(member.name + '.')}.continued")
    canaries = read_canaries(prompts).canaries
    if kept.is_file():
        told = json.loads(kept.read_text())
        rows = ((canary, *told[canary.id]) for canary in canaries if canary.id in told)
        return [CanaryContinuation(canary, tuple(prompt), tuple(forced)) for canary, prompt, forced in rows]
    bounds = LEAST_TOKENS, BOUNDS.max_new_tokens
    candidates, _ = continue_greedily(runner, member.name, canaries, bounds, never)
    half = kept.with_suffix(".writing")
    half.write_text(json.dumps({one.id: [one.prompt, one.forced] for one in candidates}))
    half.rename(kept)
    return candidates
