"""Faults of the engine alone, as the agent meets them: how many responses until the page, and until its cause is right?

Responses of the real model come a round of four at a time, in the order in which they were written, and are scored by
the runner in the default configuration; the verdicts of each round decide what the next ones are scored against
(probes/scoring/suspicion.py), and, beside that, what would have come without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, context, share
from benchmarks.traffic.served import Cell, jobs
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import Cause, Reason, Status, Verdict
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import Rules
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import ScoringOptions, traffic_score
from probes.scoring.suspicion import Suspicions, candidates
from probes.scoring.token_distribution import SamplingParameters

# ln A of three adapters in one pod, by the default configuration.
LOG_A = math.log(8 * 525_960.0)
A_ROUND, NAME = 4, ADAPTERS[0]
# Writer -> the cause that is right, and how many of its responses are played.
FAULTS = {
    "4 bits": (Cause.QUANTISED_BASE, 32),
    "without mlp": (Cause.PARTLY_APPLIED, 32),
    "without attention": (Cause.PARTLY_APPLIED, 96),
}


class _Played(NamedTuple):
    """Responses until the page and until the right cause, None where that did not come; words: the last ones said of
    the cause; passes: more than usual, over all responses"""

    paged: int | None
    named: int | None
    words: str
    passes: int


def figures(runner: Runner, quick: bool) -> Iterator[Figure]:
    options = ScoringOptions()
    for writer, (cause, count) in dict(list(FAULTS.items())[:1] if quick else FAULTS).items():
        for suspects in (True, False):
            played = _played(runner, Cell(NAME, writer, SamplingParameters(1.0), count), cause, suspects, options)
            how = "" if suspects else ", nothing suspected"
            what = f"{writer} in the engine under {NAME}{how}"
            yield share(f"{what}: pages within {count} responses", int(played.paged is not None), 1)
            yield share(f"{what}: the right cause in the end", int(played.named is not None), 1)
            for event, responses in (("page", played.paged), ("right cause", played.named)):
                if responses is not None:
                    yield context(f"{what}: responses to the {event}", responses, "responses")
            yield context(f"{what}: further passes of all responses", played.passes, "passes")
    played = _played(runner, Cell(NAME, "healthy", SamplingParameters(1.0), 32), Cause.NONE, True, options)
    yield context(f"as accepted under {NAME}: further passes of 32 responses", played.passes, "passes")


def _played(runner: Runner, cell: Cell, right: Cause, suspects: bool, options: ScoringOptions) -> _Played:
    monitor, suspicions, latest = Monitor(Rules(Tolerances(), LOG_A)), Suspicions(), None
    responses, paged, named, passes = jobs(runner, cell), None, None, 0
    for number, start in enumerate(range(0, len(responses), A_ROUND)):
        if suspects and latest is not None and latest.status in (Status.SUSPECT, Status.DEGRADED):
            suspicions.begin(NAME, partial(candidates, runner, NAME))
        batch = suspicions.applied_to(responses[start : start + A_ROUND])
        passes += sum(len(job.suspected) for job in batch)
        scores = tuple(traffic_score(answer, options) for answer in runner.score(batch, lambda: False, options))
        suspicions.learn(scores)
        latest = _verdict(monitor, TrafficRound("smol", number, 60.0 * number, ADAPTERS, scores))
        so_far = start + len(batch)
        paged = so_far if paged is None and latest.reason is Reason.ALARM else paged
        named = (named or so_far) if latest.cause is right and paged is not None else None
    words = "" if latest is None else latest.explanation
    return _Played(paged, named, words, passes)


def _verdict(monitor: Monitor, record: TrafficRound) -> Verdict:
    return next(v for v in monitor.observe(record).verdicts if v.subject == NAME)
