"""Is a base that has learnt an adapter's task found, and none that has not? On the zoo's first base, by generation.

Each adapter's canaries have what its own accepted answer begins with as their check. Learnt: the adapter merged into
its base. Not learnt: the accepted base, two shares of a tune, and 4 bits. And the accepted base with another adapter in
place of this one, which fails as the base does: that must be lost, and never be taken for superfluous.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.figures import Figure, console, context, exactly, share
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import by_base, never, serving, silent
from benchmarks.zoo.members import Member, zoo
from benchmarks.zoo.world import pool
from detectors.economics.worth import CheckedAnswers, Passes, Worth, assess
from probes.golden.record import GoldenCanary
from probes.runner import Runner
from probes.worth.checked_answers import accepted_text, written

CANARIES = 48
LEARNT, BROKEN = "learnt", "broken adapter"


@dataclass(frozen=True, slots=True)
class Case:
    release: str
    adapter: str
    worth: Worth


def measure(quick: bool) -> list[Figure]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        return figures(cases(by_base(zoo())[0], Path(scratch), quick))


def figures(all_cases: Sequence[Case]) -> list[Figure]:
    learnt = [case for case in all_cases if case.release == LEARNT]
    broke = [case for case in all_cases if case.release == BROKEN]
    others = [case for case in all_cases if case not in learnt and case not in broke]
    named = Counter(case.worth for case in others)
    retired = [case for case in (*others, *broke) if case.worth is Worth.BASE_PASSES]
    for case in retired:
        console.print(f"  called superfluous: {case.adapter} on {case.release}")
    return [
        share("base that has learnt the task, found to pass alone", _count(learnt, Worth.BASE_PASSES), len(learnt), 95),
        exactly("base that has not learnt it, called sufficient", len(retired), f"of {len(others) + len(broke)}", 0),
        share("broken adapter called lost", _count(broke, Worth.LOST), len(broke), 95),
        context("pairs of an adapter and a base that has not learnt its task", len(others), "pairs"),
        context("of these: the adapter adds", named[Worth.ADDS], "pairs"),
        context("of these: lost with the release", named[Worth.LOST], "pairs"),
        context("of these: cannot tell", named[Worth.UNCLEAR], "pairs"),
    ]


def _count(all_cases: Sequence[Case], worth: Worth) -> int:
    return sum(case.worth is worth for case in all_cases)


def cases(members: Sequence[Member], scratch: Path, quick: bool) -> list[Case]:
    """Of one base: every adapter on every release."""
    chosen = members[::3] if quick else members
    with serving(members) as accepted:
        canaries = {member.name: _checked(member, accepted) for member in chosen}
        before = {member.name: _passes(accepted, None, canaries[member.name]) for member in chosen}
    done = []
    for name, folder in _releases(members, scratch).items():
        with serving(members, base=folder) as runner:
            done += [_case(name, runner, member.name, canaries[member.name], before[member.name]) for member in chosen]
    for member in chosen:
        done += _own_cases(members, member, canaries[member.name], before[member.name], scratch)
        own = [f"{case.release} {case.worth}" for case in done if case.adapter == member.name]
        console.print(f"  {member.name}: {', '.join(own)}")
    return done


def _own_cases(
    members: Sequence[Member], member: Member, canaries: Sequence[GoldenCanary], before: Passes, scratch: Path
) -> list[Case]:
    """The base with this adapter's task learnt; and the base as accepted with the adapter that another one replaced."""
    base, home = members[0].base, scratch / member.name
    ring = [*members, *members]
    other = ring[ring.index(member) + 1]
    with ExitStack() as stack:
        learnt = broken.merged(base, home / "learnt", member.folder, 1.0)
        runner = stack.enter_context(serving(members, base=learnt))
        first = _case(LEARNT, runner, member.name, canaries, before)
    with serving(members) as runner:
        accepted = np.ones(len(canaries), bool)
        wrong = _passes(runner, other.name, canaries)
        assessment = assess(CheckedAnswers(accepted, wrong, before, before))
    return [first, Case(BROKEN, member.name, assessment.worth)]


def _releases(members: Sequence[Member], scratch: Path) -> dict[str, Path]:
    base, later = members[0].base, members[0].moved
    makers = {
        "30 % of a tune": partial(broken.towards, base, later=later, share=0.3),
        "a whole tune": partial(broken.towards, base, later=later, share=1.0),
        "4 bits in groups of 32": partial(broken.rounded, base, bits=4, group=32),
    }
    made = {name: make(out=scratch / base.name / name.replace(" ", "-")) for name, make in makers.items()}
    return {"as accepted": base} | made


def _checked(member: Member, runner: Runner) -> list[GoldenCanary]:
    """Canaries whose check is the accepted answer itself. Prompts of the pool file too: 24 are too few."""
    own = [*pool(member, runner, member.canaries), *pool(member, runner, member.pool)]
    whole = []
    for canary in own:
        filled = replace(canary, golden_text=runner.decode(canary.forced))
        # What it begins with: an answer of forty tokens was cut, and nobody knows how it goes on.
        wanted = f"{re.escape(accepted_text(filled))}.*"
        whole.append(replace(filled, expect={"check": {"matches": wanted}}))
    return whole[:CANARIES]


def _case(release: str, runner: Runner, adapter: str, canaries: Sequence[GoldenCanary], before: Passes) -> Case:
    own, alone = _passes(runner, adapter, canaries), _passes(runner, None, canaries)
    assessment = assess(CheckedAnswers(np.ones(len(canaries), bool), own, alone, before))
    return Case(release, adapter, assessment.worth)


def _passes(runner: Runner, adapter: str | None, canaries: Sequence[GoldenCanary]) -> Passes:
    return written(runner, adapter, canaries, never, silent).passes
