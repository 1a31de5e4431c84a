"""Canaries and responses on the CPU: this packing against that of rows by length alone, and against a plain pass."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, at_least, context
from benchmarks.speed.precision import goldens
from benchmarks.traffic.scoring_speed import plain
from benchmarks.traffic.served import ELSEWHERE, Cell, jobs
from detectors.evidence.alternative import BASE
from probes.canaries.replay_pairs import replay_pair
from probes.model.packing import pack, read_length
from probes.runner import BatchShape, Replay
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters

THREADS, REPEATS = 2, 3
EIGHT = BatchShape(rows=8)
BARE = ScoringOptions(copies=(), others=False, passes=0)


@dataclass(frozen=True, slots=True)
class Scored:
    """wanted: times a plain pass; count: responses of each adapter; few: of them read the plain way"""

    wanted: float
    count: int
    few: int


MOST_RESPONSES = 12
SYSTEM_PROMPTS = {
    0: Scored(1.5, MOST_RESPONSES, 2),
    300: Scored(2.5, 8, 1),
    1000: Scored(3.0, 8, 1),
}  # tokens -> how measured


def by_length(replays: Sequence[Replay], most: int) -> list[list[Replay]]:
    """Eight rows of neighbouring lengths, whoever answers them: how batches were made before."""
    batches: list[list[Replay]] = []
    for given in sorted(replays, key=read_length, reverse=True):
        last = batches[-1] if batches else []
        if last and len(last) < EIGHT.rows and (len(last) + 1) * read_length(last[0]) <= most:
            last.append(given)
        else:
            batches.append([given])
    return [sorted(batch, key=lambda given: given.target.adapter or "") for batch in batches]


def replayed(runner: Runner, quick: bool) -> Iterator[Figure]:
    """Both ways in turn, the fastest of ``REPEATS`` each: other load on the machine slows either one down."""
    count = 2 if quick else 48
    pairs = [replay_pair(canary, golden.adapter) for golden in goldens() for canary in golden.canaries[:count]]
    replays = [given for pair in pairs for given in pair.replays]
    model = runner.loaded.golden_model()
    most, shape = model.batch_tokens, BatchShape()
    before, now = by_length(replays, most), pack(replays, shape, most, model.continues)
    torch.set_num_threads(THREADS)
    slow, fast = [], []
    for _ in range(1 if quick else REPEATS):
        slow.append(_seconds(lambda: [model.answer(batch, EIGHT) for batch in before]))
        fast.append(_seconds(lambda: [model.answer(batch, shape) for batch in now]))
    name = f"replay on {THREADS} threads"
    yield at_least(f"{name}, times rows of neighbouring lengths in eights", min(slow) / min(fast), "x", 1.5)
    yield context(f"{name}: canaries a second, under adapter and base", len(pairs) / min(fast), "1/s")


def scored(runner: Runner, quick: bool) -> Iterator[Figure]:
    """Blocks of both ways in turn, and the median of their ratios: other load slows two neighbours down alike."""
    torch.set_num_threads(THREADS)
    for tokens, case in SYSTEM_PROMPTS.items():
        yield from _scored(runner, tokens, replace(case, count=1, few=1) if quick else case, 1 if quick else REPEATS)
    yield from rest_of_the_vocabulary(runner, 1 if quick else MOST_RESPONSES)


def _scored(runner: Runner, tokens: int, case: Scored, repeats: int) -> Iterator[Figure]:
    """Ours on all responses at once and, once, four at a time; a plain pass on a few of them, by tokens read."""
    responses = with_system_prompt(runner, tokens, case.count)
    few = [job for name in ADAPTERS for job in [own for own in responses if own.adapter == name][: case.few]]
    share = sum(map(_read, responses)) / sum(map(_read, few))
    obvious, ours = [], []
    for _ in range(repeats):
        obvious.append(share * _seconds(lambda: plain(runner, few)))
        ours.append(_scoring_seconds(runner, [responses]))
    in_turns = _scoring_seconds(runner, [responses[at : at + 4] for at in range(0, len(responses), 4)])
    name = f"scored tokens a second, system prompt of {tokens} tokens"
    ratio = statistics.median(theirs / own for theirs, own in zip(obvious, ours, strict=True))
    yield at_least(f"{name}, times those of a plain pass a response", ratio, "x", case.wanted)
    yield context(f"{name}, four responses a turn, times likewise", statistics.median(obvious) / in_turns, "x")
    yield context(name, sum(len(job.output) for job in responses) / min(ours), "tokens/s")


def _scoring_seconds(runner: Runner, turns: Sequence[Sequence[ScoringJob]]) -> float:
    runner.loaded.golden_model().beginnings.clear()
    return _seconds(lambda: [runner.score(turn, lambda: False, BARE) for turn in turns])


def _read(job: ScoringJob) -> int:
    return len(job.prompt) + len(job.output)


def rest_of_the_vocabulary(runner: Runner, count: int) -> Iterator[Figure]:
    """What the formulas over likely tokens and the rest (probes/scoring/rest_bucket.py) lose beside those over the
    whole vocabulary, in ln L against the base: of responses of the adapters, and of the base in their place."""
    whole = replace(BARE, tokens=replace(BARE.tokens, kept_apart=0))
    for writer in ("healthy", "base"):
        given = [job for name in ADAPTERS for job in jobs(runner, Cell(name, writer, SamplingParameters(1.0), count))]
        kept, exact = (_against_base(runner, given, asking) for asking in (BARE, whole))
        name = f"likely tokens and the rest, written by the {'adapter' if writer == 'healthy' else 'base'}"
        yield context(f"{name}: ln L against the base, over the whole vocabulary", float(exact.mean()), "nats a token")
        yield context(f"{name}: of that lost", float((exact - kept).mean()), "nats a token")
        yield context(f"{name}: largest difference at a token", float(np.abs(exact - kept).max()), "nats")


def _against_base(runner: Runner, given: Sequence[ScoringJob], asking: ScoringOptions) -> NDArray[np.float64]:
    """(tokens of all responses,)"""
    answers = runner.score(given, lambda: False, asking)
    return np.concatenate([answer.tokens.log_l[BASE] for answer in answers if answer.tokens is not None])


def with_system_prompt(runner: Runner, tokens: int, count: int) -> list[ScoringJob]:
    """Responses of the three adapters, so many of each, whose prompts begin with so many tokens in common. They are the
    first ones of the same sample in every case, which is made once and kept."""
    text = runner.encode(" ".join(ELSEWHERE))
    head = (text * (tokens // len(text) + 1))[:tokens]
    sample = MOST_RESPONSES if count > 1 else 1
    of_each = [jobs(runner, Cell(name, "healthy", SamplingParameters(1.0), sample))[:count] for name in ADAPTERS]
    return [replace(job, prompt=(*head, *job.prompt)) for own in of_each for job in own]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
