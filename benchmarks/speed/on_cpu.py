"""Canaries and responses on the CPU: this packing against that of rows by length alone, and against a plain pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, at_least, context
from benchmarks.speed.precision import goldens
from benchmarks.traffic.scoring_speed import plain
from benchmarks.traffic.served import ELSEWHERE, Cell, jobs
from probes.canaries.replay_pairs import replay_pair
from probes.model.packing import pack, read_length
from probes.runner import BatchShape, Replay
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters

THREADS, REPEATS = 2, 3
EIGHT = BatchShape(rows=8)
SYSTEM_PROMPTS = {0: 1.5, 300: 2.5, 1000: 3.0}  # tokens -> wanted times a plain pass


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
    torch.set_num_threads(THREADS)
    for tokens, wanted in SYSTEM_PROMPTS.items():
        yield from _scored(runner, tokens, wanted, quick)


def _scored(runner: Runner, tokens: int, wanted: float, quick: bool) -> Iterator[Figure]:
    """Ours on all responses at once and, once more, four at a time; a plain pass on a few of them."""
    few = 1 if quick else 4
    responses = with_system_prompt(runner, tokens, 2 if quick else 32)
    bare = ScoringOptions(copies=(), others=False, passes=0)
    n_few = [job for name in ADAPTERS for job in [own for own in responses if own.adapter == name][:few]]
    ours = min(_scoring_seconds(runner, [responses], bare) for _ in range(1 if quick else 2))
    turns = [responses[at : at + 4] for at in range(0, len(responses), 4)]
    in_turns = _scoring_seconds(runner, turns, bare)
    obvious = _seconds(lambda: plain(runner, n_few)) * len(responses) / len(n_few)
    name = f"scored tokens a second, system prompt of {tokens} tokens"
    yield at_least(f"{name}, times those of a plain pass a response", obvious / ours, "x", wanted)
    yield context(f"{name}, four responses a turn, times likewise", obvious / in_turns, "x")
    yield context(name, sum(len(job.output) for job in responses) / ours, "tokens/s")


def _scoring_seconds(runner: Runner, turns: Sequence[Sequence[ScoringJob]], asking: ScoringOptions) -> float:
    runner.loaded.golden_model().beginnings.clear()
    return _seconds(lambda: [runner.score(turn, lambda: False, asking) for turn in turns])


def with_system_prompt(runner: Runner, tokens: int, count: int) -> list[ScoringJob]:
    """Responses of the three adapters, so many of each, whose prompts begin with so many tokens in common."""
    text = runner.encode(" ".join(ELSEWHERE))
    head = (text * (tokens // len(text) + 1))[:tokens]
    of_all = [job for name in ADAPTERS for job in jobs(runner, Cell(name, "healthy", SamplingParameters(1.0), count))]
    return [replace(job, prompt=(*head, *job.prompt)) for job in of_all]


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
