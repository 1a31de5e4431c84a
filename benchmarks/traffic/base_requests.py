"""Requests that name the base: is the bet fair, how soon does an adapter that answers them page, what does it cost?

The responses are those that base and adapters wrote to the prompts of each adapter, under the base's name. Alarms are
those of the detector as it runs, on responses drawn again and again from what was scored; with many adapters registered
each response is scored against the default number of them, drawn by its request id, and those beside the three that
there are answer like one of the two that did not write it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, at_most, context, exactly
from benchmarks.traffic.observed import Doubles
from benchmarks.traffic.served import SEED, Cell, jobs
from detectors.evidence.alternative import Alternative, interpolation, other_adapter
from detectors.kinds.base_likelihood import Config, Detector
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from probes.model.shared_prefix import read_all
from probes.runners.in_process import Runner
from probes.scoring.likelihood_ratio_torch import (
    base_null_torch,
    growth_torch,
    mean_e_torch,
    token_distribution_torch,
)
from probes.scoring.scoring_job import ScoringJob, ScoringOptions, drawn, traffic_score
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import HALFWAY, Settings

PLAIN, NUCLEUS = SamplingParameters(1.0), SamplingParameters(0.7, top_p=0.9)
# ln A of three adapters in one pod, by the default configuration.
LOG_A = math.log(8 * 525_960.0)
RUNS, A_ROUND, MOST, HEALTHY = 200, 4, 4_000, 20_000
# Responses of a cell, and how many of them are scored, and summed over exactly.
KEPT, COUNT, EXACT = 96, 24, 4
OTHERS = (3, 40)


def figures(runner: Runner, quick: bool) -> Iterator[Figure]:
    count = 4 if quick else COUNT
    yield from _exact(runner, 1 if quick else EXACT)
    scores = {name: _scored(runner, _of_base(runner, name, name, count)) for name in ADAPTERS}
    as_accepted = [score for name in ADAPTERS for score in _scored(runner, _of_base(runner, name, "base", count))]
    for adapters in OTHERS:
        yield from _delays(scores, adapters, quick)
    yield from _quiet(as_accepted, quick)
    yield from _cost(runner, 2 if quick else 8)


def _of_base(runner: Runner, adapter: str, writer: str, count: int) -> list[ScoringJob]:
    """What base or adapter wrote to that adapter's prompts, under the base's name: the first of those kept."""
    cell = Cell(adapter, "base" if writer == "base" else "healthy", PLAIN, KEPT)
    return [replace(job, adapter="the base", of_base=True) for job in jobs(runner, cell)[:count]]


def _scored(runner: Runner, responses: Sequence[ScoringJob]) -> list[TrafficScore]:
    options = ScoringOptions()
    return [traffic_score(answer, options) for answer in runner.score(responses, lambda: False, options)]


def _exact(runner: Runner, count: int) -> Iterator[Figure]:
    """Means of L and of ln L as sums over the vocabulary, at the positions that each adapter wrote."""
    highest = 0.0
    for adapter in ADAPTERS:
        for sampling in (PLAIN, NUCLEUS):
            responses = [replace(job, sampling=sampling) for job in _of_base(runner, adapter, adapter, count)]
            parts = [_of_response(runner, job, adapter) for job in responses]
            growths, kls, means = (np.concatenate(each) for each in zip(*parts, strict=True))
            highest = max(highest, float(means.max()))
            if sampling is PLAIN:
                over = float(kls.mean() / growths.mean())
                yield at_most(f"base requests answered by {adapter}: ln A / growth over ln A / KL", over, "x", 1.25)
    yield at_most("base requests: largest exact mean of L under the base and each tolerated leak", highest, "", 1.0)


def _of_response(runner: Runner, job: ScoringJob, writer: str) -> tuple[Doubles, Doubles, Doubles]:
    """(T,) mean of ln L of the writer's own alternative under the writer, its KL, and the largest mean of any L."""
    golden, settings = runner.loaded.golden_model(), Settings()
    targets: dict[str | None, tuple[str | None, float]] = {name: (name, 1.0) for name in (None, *ADAPTERS)}
    assert job.sampling is not None
    with torch.inference_mode():
        states = {
            name: read_all(golden, [(job.prompt, job.output)], target, runner.config.max_batch_tokens)[0].scored
            for name, target in targets.items()
        }
        logits = {
            name: golden.head(own, [targets[name]] * len(own)).float().log_softmax(-1) for name, own in states.items()
        }
        base = logits.pop(None)
        others: dict[Alternative, torch.Tensor] = {other_adapter(str(name)): own for name, own in logits.items()}
        null = base_null_torch(base, others, job.sampling, settings)
        bets = dict(others) | {
            interpolation(HALFWAY, a.name): torch.lerp(base, own, HALFWAY) for a, own in others.items()
        }
        drawn_by = {who: token_distribution_torch(own, job.sampling) for who, own in bets.items()}
        truths = [truth.exp() for truth in (null.golden, *null.edges)]
        means = [mean_e_torch(own, null, truths).amax(0) for own in drawn_by.values()]
        truth = drawn_by[other_adapter(writer)].exp()
        growth = growth_torch(drawn_by[other_adapter(writer)], null, truth)
        kl = (torch.xlogy(truth.double(), truth.double()) - truth.double() * null.golden.double()).sum(-1)
    return growth.numpy(), kl.numpy(), torch.stack(means).amax(0).numpy()


def _delays(scores: dict[str, list[TrafficScore]], adapters: int, quick: bool) -> Iterator[Figure]:
    for writer in ADAPTERS:
        needed = np.array([_needed(scores[writer], writer, adapters, run) for run in range(10 if quick else RUNS)])
        what = f"base requests answered by {writer}, {adapters} adapters registered: responses until the alarm"
        yield context(f"{what}, median", float(np.median(needed)), "responses")
        yield context(f"{what}, 95 %", float(np.quantile(needed, 0.95)), "responses")
        late = 100 * float((needed >= MOST).mean())
        if late:
            yield context(f"{what}: not within {MOST}", late, "%")


def _needed(scores: Sequence[TrafficScore], writer: str, adapters: int, run: int) -> int:
    rng, detector = np.random.default_rng([SEED, adapters, run]), Detector(Config(log_threshold=LOG_A))
    for number in range(MOST // A_ROUND):
        picked = [scores[i] for i in rng.integers(len(scores), size=A_ROUND)]
        responses = tuple(_among(score, writer, adapters, f"{run} {number} {i}") for i, score in enumerate(picked))
        (level,) = detector.update(TrafficRound("the base", number, float(number), ADAPTERS, responses))
        if level.log_e >= LOG_A:
            return (number + 1) * A_ROUND
    return MOST


def _among(score: TrafficScore, writer: str, adapters: int, request: str) -> TrafficScore:
    """The response as it would be scored where so many adapters are registered."""
    named = [*ADAPTERS, *(f"number {i}" for i in range(adapters - len(ADAPTERS)))]
    own = dict(zip(score.alternatives, score.log_l.tolist(), strict=True))
    chosen = drawn(request, dict.fromkeys(map(other_adapter, named), 1.0), (ScoringOptions().passes or 0) + 1)
    log_l: dict[Alternative, float] = {}
    for who in sorted(chosen, key=lambda other: other.name):
        like = who.name if who.name in ADAPTERS else next(name for name in ADAPTERS if name != writer)
        log_l[who] = own[other_adapter(like)]
        log_l[interpolation(HALFWAY, who.name)] = own[interpolation(HALFWAY, like)]
    values = np.array(list(log_l.values()), np.float32)
    return TrafficScore("the base", request, "", 0.0, ScoringMode.SAMPLED, score.tokens, tuple(log_l), values)


def _quiet(scores: Sequence[TrafficScore], quick: bool) -> Iterator[Figure]:
    rng, detector, highest = np.random.default_rng(SEED), Detector(Config(log_threshold=LOG_A)), -math.inf
    for number in range((200 if quick else HEALTHY) // A_ROUND):
        picked = tuple(scores[i] for i in rng.integers(len(scores), size=A_ROUND))
        (level,) = detector.update(TrafficRound("the base", number, float(number), ADAPTERS, picked))
        highest = max(highest, level.log_e)
    alarms = int(highest >= LOG_A)
    yield exactly(f"base requests as accepted, {HEALTHY} drawn: alarms at ln A = {LOG_A:.1f}", alarms, "alarms", 0)
    yield context("base requests as accepted: highest level", highest, "nats")


def _cost(runner: Runner, count: int) -> Iterator[Figure]:
    """Time of a response over that of one of an adapter, in the default configuration, and of each pass more."""
    base = _of_base(runner, ADAPTERS[0], "base", count)
    plain = jobs(runner, Cell(ADAPTERS[0], "base", PLAIN, KEPT))[:count]
    seconds: dict[str, list[float]] = {}
    for _ in range(2):
        for name, own, passes in (("adapter", plain, 2), ("base", base, 2), ("fewest", base, 0)):
            began = time.perf_counter()
            runner.score(own, lambda: False, ScoringOptions(passes=passes))
            seconds.setdefault(name, []).append(time.perf_counter() - began)
    best = {name: min(each) for name, each in seconds.items()}
    yield context("time of a response of the base over one of an adapter", best["base"] / best["adapter"], "x")
    further = (best["base"] - best["fewest"]) / 2 / best["adapter"]
    yield context("time of each adapter more that a response of the base is scored against, over it", further, "x")
