"""What is lost where an engine lists k tokens of a position and no more: ``python -m benchmarks.listed_canaries``.

Canaries of the toy language are answered under each fault over the whole vocabulary and measured twice: as they are,
and through a listing of k tokens, which the golden record is read through as well. Printed is by how much the figures
of any canary differ at most. Published in docs/mathematics.md#served-canaries, held by
tests/probes/serving/test_listed_summary.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from benchmarks.figures import console
from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Comparison, Floats, Ints, Measurement, Reference
from probes.canaries.canary_file import Canary, CanarySet
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import Golden, GoldenCanary
from probes.runner import Replay, Target
from probes.runners.memory import Config, Runner
from probes.serving.engine import Listed
from probes.serving.listed_summary import summary_of, through

ADAPTERS = {name: f"{name}-v1" for name in ("alpha", "beta", "gamma")}
LISTED = (20, 10, 5)
CANARIES = 24


@dataclass(frozen=True, slots=True)
class Case:
    """One fault of the memory runner (probes/runners/memory.py::FAULTS). subject: an adapter, "" for the base"""

    name: str
    subject: str = "alpha"
    fault: str = "none"


CASES = (
    Case("nothing"),
    Case("not applied", "alpha", "not_applied"),
    Case("strength .5", "alpha", "scale:0.5"),
    Case("strength .8", "alpha", "scale:0.8"),
    Case("strength 2", "alpha", "scale:2"),
    Case("another adapter", "alpha", "wrong_adapter:beta"),
    Case("one part missing", "alpha", "without:part.0"),
    Case("another on top", "alpha", "with:beta"),
    Case("off its direction", "alpha", "distorted:0.5"),
    Case("base moved by .1", "", "base_swapped:0.1"),
    Case("base moved, adapter lost", "", "swapped_and_lost:0.3"),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one canary. distortion: sqrt(rho); is_beyond: beyond tolerance, by the default one and the record's noise"""

    retention: float
    distortion: float
    scale: float
    mass_outside: float
    is_beyond: bool


COMPARED = ("retention", "distortion", "scale", "mass_outside")


def opened(case: Case) -> Runner:
    runner = Runner(Config(adapters=dict(ADAPTERS), faults={case.subject: case.fault}))
    runner.open()
    return runner


@lru_cache
def golden(top: int) -> Golden:
    questions = [Canary(f"q{i}", ({"role": "user", "content": f"Where is item {i * 37} of {i}?"},)) for i in range(64)]
    settings = EnrolSettings(base="toy", at=0.0, per_half=24, min_pool=24, top=top)
    request = Request(opened(CASES[0]), "alpha", CanarySet(tuple(questions)), settings, list(ADAPTERS), _quiet, _never)
    return enrol(request)


def canaries(top: int = 20) -> tuple[GoldenCanary, ...]:
    return golden(top).canaries[:CANARIES]


@lru_cache
def answered(case: Case) -> tuple[tuple[Floats, Floats], ...]:
    """Of each canary the whole answers under the adapter's name and under the base's."""
    runner = opened(case)
    targets = Target("alpha"), Target(None)
    replays = [Replay(canary.id, canary.prompt, canary.forced, each) for canary in canaries() for each in targets]
    answers = {answer.replay: answer.full for answer in runner.run(replays, _never)}
    full = [answers[replay] for replay in replays]
    return tuple((_whole(full[i]), _whole(full[i + 1])) for i in range(0, len(full), 2))


def listing(full: Floats, forced: Sequence[int], k: int) -> Listed:
    """What an engine would have listed of an answer."""
    tokens = np.asarray(forced, np.int32)
    ids = np.argsort(-full, axis=1, kind="stable")[:, :k].astype(np.int32)
    of_tokens = np.take_along_axis(full, tokens[:, None], axis=1)[:, 0]
    return Listed(ids, np.take_along_axis(full, ids, axis=1), tokens, of_tokens)


def figures(case: Case, k: int) -> list[Figures]:
    """Of each canary, through a listing of k tokens; 0: from the whole vocabulary."""
    return [_of(measured) for measured in measurements(case, k)]


def measurements(case: Case, k: int) -> list[Measurement]:
    """The same, before they are figures."""
    return [_measured(canary, sides, k) for canary, sides in zip(canaries(), answered(case), strict=True)]


def reference_of(top: int) -> tuple[Reference, tuple[Floats, Floats], Ints]:
    """The first canary of a record that kept so many tokens of either side, its golden answers and its continuation."""
    (canary, *_), (sides, *_) = canaries(top), answered(CASES[0])
    return canary.reference, sides, np.asarray(canary.forced, np.int32)


def _measured(canary: GoldenCanary, sides: tuple[Floats, Floats], k: int) -> Measurement:
    vocabulary = sides[0].shape[1]
    read = through(canary.reference, canary.forced, k) if k else canary.reference
    served, base = (summary_of(listing(side, canary.forced, k or vocabulary), read.kept) for side in sides)
    return measure(Comparison("alpha", read, 1, served, base, 0.0))


def _of(measured: Measurement) -> Figures:
    distortion = math.sqrt(max(measured.distortion, 0.0))
    is_beyond = beyond_tolerance(measured, Tolerances())
    return Figures(measured.retention, distortion, measured.scale, measured.mass_outside, is_beyond)


def _whole(full: Floats | None) -> Floats:
    assert full is not None
    return full


def row(case: Case) -> tuple[float, ...]:
    """Share of canaries beyond tolerance, by the whole vocabulary and by each listing; then, for each listing, how far
    the two readings of a canary are apart at most: retention, sqrt(rho), s, mass outside."""
    whole = figures(case, 0)
    read = [figures(case, k) for k in LISTED]
    shares = [float(np.mean([each.is_beyond for each in some])) for some in (whole, *read)]
    return (*shares, *(gap for some in read for gap in _apart(whole, some)))


def _apart(whole: Sequence[Figures], listed: Sequence[Figures]) -> list[float]:
    pairs = list(zip(whole, listed, strict=True))
    return [max(abs(getattr(exact, name) - getattr(read, name)) for exact, read in pairs) for name in COMPARED]


def _quiet(*_: object) -> None: ...


def _never() -> bool:
    return False


def table() -> str:
    titles = ("fault", "beyond: all", *(f"k = {k}" for k in LISTED), *(f"apart, k = {k}" for k in LISTED))
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for case in CASES:
        values = [f"{value:.2f}" for value in row(case)]
        shares, apart = values[: 1 + len(LISTED)], values[1 + len(LISTED) :]
        width = len(COMPARED)
        cells = [" / ".join(apart[i : i + width]) for i in range(0, len(apart), width)]
        lines.append(f"| {case.name} | {' | '.join((*shares, *cells))} |")
    return "\n".join(lines)


def main() -> None:
    # As text: the console would take a cell for markup.
    console.print(table(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
