"""Is the named cause right on models and severities that nobody has looked at?

The zoo is trained again from other seeds, severities are drawn at random from stated ranges
(benchmarks/zoo/severities.py), and two faults without a signature are in no grid. A case counts as in confusion.py.
This zoo and these severities are for this figure alone: once a rule is changed because of what they show, they are
development like the others, and the figure needs another seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.canaries.confusion import ROUNDS, Outcome, drawing, missed, outcomes_of
from benchmarks.figures import Figure, at_least, console, context, share
from benchmarks.zoo.enrolled_base import EnrolledBase
from benchmarks.zoo.faults import WITNESSED
from benchmarks.zoo.severities import SEED, drawn
from benchmarks.zoo.world import World
from detectors.records import Cause

WHAT = "cause, zoo of fresh seeds"
ALARMS, ALL_WANTED, PLAIN_WANTED, UNKNOWN_WANTED = 600, 97.0, 95.0, 95.0


def measure(world: World) -> list[Figure]:
    """world: of fresh seeds"""
    return figures([outcome for base in world.enrolled_bases for outcome in outcomes(base, world)])


def outcomes(enrolled_base: EnrolledBase, world: World) -> list[Outcome]:
    """Every case on one base; of each adapter's lost blocks one layer, one module and one larger part, at random."""
    cases = outcomes_of(enrolled_base, world.scratch / "fresh", drawn)
    blocks = {name: _three_blocks(name, cases) for name in enrolled_base.goldens}
    return [outcome for outcome in cases if not outcome.block or outcome.block in blocks[outcome.adapter]]


def _three_blocks(adapter: str, cases: Sequence[Outcome]) -> list[str]:
    rng = np.random.default_rng([SEED, zlib.crc32(adapter.encode())])
    lost = [outcome for outcome in cases if outcome.adapter == adapter and outcome.block]
    by_size = [[outcome.block for outcome in lost if outcome.severity == size] for size in range(3)]
    return [str(rng.choice(names)) for names in by_size if names]


def figures(cases: Sequence[Outcome]) -> list[Figure]:
    """From the outcomes of all bases; prints the tables."""
    console.print(drawing([outcome for outcome in cases if outcome.rounds is not None]))
    console.print(missed(cases))
    return [*_shares(cases), *_beside(cases)]


def _shares(cases: Sequence[Outcome]) -> Iterator[Figure]:
    closed, open_set = (
        [outcome for outcome in _alarmed(cases) if (outcome.truth is Cause.UNKNOWN) is flag] for flag in (False, True)
    )
    plain = [outcome for outcome in closed if outcome.truth not in WITNESSED]
    witnessed = [outcome for outcome in closed if outcome.truth in WITNESSED]
    yield at_least(f"{WHAT}: alarms", len(closed) + len(open_set), "alarms", ALARMS)
    yield _right("top-1 of all alarms with a signature or a witness", closed, ALL_WANTED)
    yield _right("top-1 of those that rest on log-probabilities", plain, PLAIN_WANTED)
    yield _right("top-1 of those that rest on another witness too", witnessed)
    yield _right("faults without a signature called unknown", open_set, UNKNOWN_WANTED)


def _beside(cases: Sequence[Outcome]) -> Iterator[Figure]:
    alarmed = _alarmed(cases)
    for cause in dict.fromkeys(outcome.truth for outcome in alarmed if outcome.truth is not Cause.UNKNOWN):
        yield _right(f"{cause.value} named", [outcome for outcome in alarmed if outcome.truth is cause])
    for name in dict.fromkeys(outcome.name for outcome in alarmed if outcome.truth is Cause.UNKNOWN):
        yield _right(f"{name} called unknown", [outcome for outcome in alarmed if outcome.name == name])
    blocks = [outcome for outcome in alarmed if outcome.block]
    named = sum(outcome.block == outcome.named_block for outcome in blocks)
    if blocks:
        yield share(f"{WHAT}: the lost block named, of {len(blocks)} alarms", named, len(blocks))
    silent = len(cases) - len(alarmed)
    yield context(f"{WHAT}: cases without an alarm in {ROUNDS} rounds", silent, f"of {len(cases)}")
    yield context(f"{WHAT}: adapters", len({outcome.adapter for outcome in cases}), "")


def _right(name: str, cases: Sequence[Outcome], target: float | None = None) -> Figure:
    hits = sum(outcome.is_right for outcome in cases)
    return share(f"{WHAT}: {name}, of {len(cases)} alarms", hits, len(cases), target)


def _alarmed(cases: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in cases if outcome.rounds is not None]
