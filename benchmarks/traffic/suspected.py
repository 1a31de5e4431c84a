"""Faults of the engine alone, as the agent meets them: how many responses until the page, and until its cause is right?

Each response of the real model is scored once against all that may be at fault; what comes of each run is then played.
RUNS times responses come a round of four at a time, drawn with replacement from those KEPT of the writer, with the
alternatives that each request draws by default and those that the verdicts so far make suspect
(probes/scoring/suspicion.py); and beside that with nothing suspected. All runs have the same kept responses: they
tell what is drawn and when, and not how other responses of the writer would be. Ranks are left out: drawn again and
again, those of a few responses are a histogram by themselves, also of an adapter that is well.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, console, context, exactly, share
from benchmarks.traffic.delays import FREE
from benchmarks.traffic.observed import FORMULAS
from benchmarks.traffic.served import SEED, Cell, jobs, kept_file
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.alternative import Alternative, AlternativeKind
from detectors.monitor import Monitor
from detectors.records import Cause, Reason, Status, Verdict
from detectors.traffic.leading_alternative import SUSPECTED
from detectors.traffic_records import TrafficRound, TrafficScore
from detectors.verdicts.incident import Rules
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import AdapterVersion, ScoringJob, ScoringOptions, alternatives, traffic_score
from probes.scoring.suspicion import Suspicions, candidates
from probes.scoring.token_distribution import SamplingParameters

# ln A of three adapters in one pod, by the default configuration.
LOG_A = math.log(8 * 525_960.0)
A_ROUND, NAME, MOST, RUNS, KEPT = 4, ADAPTERS[0], 96, 20, 12
OPTIONS = ScoringOptions()
# Writer -> the cause that is right where it pages; None where the tolerance may well hold it.
FAULTS = {
    "without mlp": Cause.PARTLY_APPLIED,
    "without attention": Cause.PARTLY_APPLIED,
    "the slice of one rank lost": Cause.PARTLY_APPLIED,
    "the slices of two ranks exchanged": Cause.PARTLY_APPLIED,
    "the first slice on every rank": Cause.PARTLY_APPLIED,
    "4 bits": Cause.QUANTISED_BASE,
    "4 bits in groups of 128": Cause.QUANTISED_BASE,
    "NF4": Cause.QUANTISED_BASE,
    "FP8": Cause.QUANTISED_BASE,
    "8 bits": Cause.QUANTISED_BASE,
}


class _Played(NamedTuple):
    """Responses until the page, and until the cause after which no other came, None where there was none; cause: that
    of the last round; passes: more than usual, over all responses"""

    paged: int | None
    named: int | None
    cause: Cause
    passes: int


def figures(runner: Runner, quick: bool) -> Iterator[Figure]:
    runs = 2 if quick else RUNS
    for writer, cause in dict(list(FAULTS.items())[:1] if quick else FAULTS).items():
        scores = _scores(runner, writer)
        what = f"{writer} in the engine under {NAME}"
        yield from _gains(what, scores)
        for suspects in (True, False):
            how = what if suspects else f"{what}, nothing suspected"
            yield from _of_runs(how, [_played(runner, scores, suspects, run) for run in range(runs)], cause)
    healthy = [_played(runner, _scores(runner, "healthy"), True, run) for run in range(runs)]
    paged = sum(run.paged is not None for run in healthy)
    yield exactly(f"as accepted under {NAME}: pages in {runs} runs of {MOST} responses", paged, "pages", 0)
    further = float(np.mean([run.passes for run in healthy]))
    yield context(f"as accepted under {NAME}: further passes of {MOST} responses", further, "passes")


def _of_runs(what: str, runs: Sequence[_Played], right: Cause) -> Iterator[Figure]:
    """A cause counts in the runs that paged."""
    paged = [run for run in runs if run.paged is not None]
    yield share(f"{what}: pages within {MOST} responses", len(paged), len(runs))
    if not paged:
        return
    yield context(f"{what}: responses to the page, median", float(np.median([run.paged or 0 for run in paged])), "")
    named = [run.named or 0 for run in paged if run.cause is right]
    yield share(f"{what}: {right.value} in the end, of the pages", len(named), len(paged))
    if named:
        yield context(f"{what}: responses to that cause, median", float(np.median(named)), "")
    for cause in sorted({run.cause for run in paged} - {right}):
        wrong = sum(run.cause is cause for run in paged)
        yield share(f"{what}: {cause.value} in the end, of the pages", wrong, len(paged))


def _gains(what: str, scores: Sequence[TrafficScore]) -> Iterator[Figure]:
    """Nats a response by the fault that is suspected and explains best, and by the best of the others."""
    gains = {who: float(np.mean([_log_l(score)[who] for score in scores])) for who in scores[0].alternatives}
    suspected = {who: gain for who, gain in gains.items() if _is_suspected(who)}
    usual = {who: gain for who, gain in gains.items() if not _is_suspected(who)}
    for kind, among in (("suspected", suspected), ("usual", usual)):
        best = max(among, key=among.__getitem__)
        yield context(f"{what}: gain a response of the best {kind} alternative ({best.text})", among[best], "nats")


def _is_suspected(who: Alternative) -> bool:
    return who.kind in (*SUSPECTED, AlternativeKind.FOUR_BITS)


def _scores(runner: Runner, writer: str) -> list[TrafficScore]:
    """Of KEPT responses, against all that they may be scored against, as kept from an earlier run of the same code."""
    cell = Cell(NAME, writer, SamplingParameters(1.0), KEPT)
    everything, faults = replace(OPTIONS, passes=None), candidates(runner, NAME)
    file = kept_file(runner, cell, repr((everything, faults)), FORMULAS)
    if not file.exists():
        console.print(f"  {cell.name}")
        suspects = [replace(job, suspected=faults) for job in jobs(runner, cell)]
        answers = runner.score(suspects, lambda: False, everything)
        file.with_suffix(".new").write_bytes(pickle.dumps([traffic_score(answer, everything) for answer in answers]))
        file.with_suffix(".new").replace(file)
    kept: list[TrafficScore] = pickle.loads(file.read_bytes())
    return kept


def _played(runner: Runner, kept: Sequence[TrafficScore], suspects: bool, run: int) -> _Played:
    rng, names = np.random.default_rng([SEED, run]), {AdapterVersion(name): name for name in runner.config.adapters}
    monitor, suspicions = Monitor(Rules(Tolerances(), LOG_A)), Suspicions()
    faults = candidates(runner, NAME)
    paged, named, cause, passes = None, None, Cause.NONE, 0
    for number in range(MOST // A_ROUND):
        picked = rng.integers(len(kept), size=A_ROUND)
        batch = suspicions.applied_to([_job(f"{run} {number} {place}") for place in range(A_ROUND)])
        passes += sum(len(job.suspected) for job in batch)
        drawn = [alternatives(job, names, OPTIONS) for job in batch]
        scores = tuple(
            _of_request(kept[i], job, who) for i, job, who in zip(picked.tolist(), batch, drawn, strict=True)
        )
        suspicions.learn(scores)
        latest = _verdict(monitor, TrafficRound("smol", number, 60.0 * number, ADAPTERS, scores))
        so_far = A_ROUND * (number + 1)
        paged = so_far if paged is None and latest.reason is Reason.ALARM else paged
        if latest.cause is not cause:
            named, cause = so_far, latest.cause
        if suspects and latest.status in (Status.SUSPECT, Status.DEGRADED):
            suspicions.begin(NAME, lambda: faults)
    return _Played(paged, named, cause, passes)


def _job(request: str) -> ScoringJob:
    """What the alternatives of a request follow from."""
    return ScoringJob(NAME, request, "", 0.0, (), (), SamplingParameters(1.0))


def _of_request(whole: TrafficScore, job: ScoringJob, drawn: Collection[Alternative]) -> TrafficScore:
    """The response with the alternatives that this request has, and without ranks."""
    log_l = {who: value for who, value in _log_l(whole).items() if who.kind in FREE or who in drawn}
    values = np.array(list(log_l.values()), np.float32)
    none = np.zeros(0, np.float32)
    return replace(
        whole, request_id=job.request_id, alternatives=tuple(log_l), log_l=values,
        ranks=none, ranks_weaker=none, ranks_stronger=none,
    )  # fmt: skip


def _log_l(score: TrafficScore) -> dict[Alternative, float]:
    return dict(zip(score.alternatives, score.log_l.tolist(), strict=True))


def _verdict(monitor: Monitor, record: TrafficRound) -> Verdict:
    return next(v for v in monitor.observe(record).verdicts if v.subject == NAME)
