"""The whole zoo, opened and enrolled on first use; shared by the parts of a benchmark."""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.zoo.enrolled_base import EnrolledBase, by_base, enrolled, never, serving
from benchmarks.zoo.members import FOLDER, Member, zoo
from probes.canaries.canary_file import read_canaries
from probes.enrolment.candidates import CanaryContinuation, continue_greedily, golden_sides
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import GoldenCanary
from probes.golden.statistical_power import strong_enough
from probes.runner import Runner

BOUNDS = EnrolSettings(base="", at=0.0)
LEAST_TOKENS = 6


class World:
    """scratch: folder for broken adapters and bases; folder: of the zoo; bases: how many of the three

    added_seed: of the zoo (members.zoo)
    """

    def __init__(self, scratch: Path, folder: Path = FOLDER, bases: int = 3, added_seed: int = 0) -> None:
        self.scratch, self._folder, self._bases, self._added_seed = scratch, folder, bases, added_seed
        self._open = ExitStack()

    def __enter__(self) -> World:
        # More threads than one are slower on models this small, and sum in another order.
        torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def members(self) -> tuple[tuple[Member, ...], ...]:
        return tuple(by_base(zoo(self._folder, self._added_seed))[: self._bases])

    @cached_property
    def enrolled_bases(self) -> tuple[EnrolledBase, ...]:
        """Every base with its adapters enrolled; a minute or two for each."""
        return tuple(enrolled(members, self._open.enter_context(serving(members))) for members in self.members)


def pool(member: Member, runner: Runner, prompts: Path, floor: float = BOUNDS.min_energy) -> list[GoldenCanary]:
    """Canaries of the prompts of a file, with both golden sides, whose |delta|^2 per position reaches the floor.

    Everyday prompts have short answers, so a continuation may have as few as 6 tokens here. Continuations are cached
    beside the prompts: they depend on weights and prompts alone.
    """
    candidates = _continued(member, runner, prompts)
    drafts = golden_sides(runner, member.name, candidates, BOUNDS.top, never)
    return [draft for draft in drafts if strong_enough(draft.reference, floor)]


def _continued(member: Member, runner: Runner, prompts: Path) -> list[CanaryContinuation]:
    cache = prompts.with_name(f"{member.name}.{prompts.name.removeprefix(member.name + '.')}.continued")
    canaries = read_canaries(prompts).canaries
    if cache.is_file():
        content = json.loads(cache.read_text())
        rows = ((canary, *content[canary.id]) for canary in canaries if canary.id in content)
        return [CanaryContinuation(canary, tuple(prompt), tuple(forced)) for canary, prompt, forced in rows]
    bounds = LEAST_TOKENS, BOUNDS.max_new_tokens
    candidates, _ = continue_greedily(runner, member.name, canaries, bounds, never)
    partial = cache.with_suffix(".writing")
    partial.write_text(json.dumps({candidate.id: [candidate.prompt, candidate.forced] for candidate in candidates}))
    partial.rename(cache)
    return candidates
