"""Scored tokens a second, against one plain pass of transformers a response, for adapter and base each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, at_least, context
from benchmarks.traffic.served import Cell, jobs
from probes.model.lora import row_groups
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters

REPEATS = 3


def figures(runner: Runner, quick: bool) -> Iterator[Figure]:
    """Both ways in turn, the fastest of ``REPEATS`` each: other load on the machine slows either one down."""
    count = 8 if quick else 32
    responses = [
        job for name in ADAPTERS for job in jobs(runner, Cell(name, "healthy", SamplingParameters(1.0), count))
    ]
    bare = ScoringOptions(copies=(), others=False, passes=0)
    tokens = sum(len(job.output) for job in responses)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(1 if quick else REPEATS):
        ours.append(_seconds(lambda: runner.score(responses, lambda: False, bare)))
        theirs.append(_seconds(lambda: plain(runner, responses)))
    yield at_least(
        "scored tokens a second, times those of a plain pass of transformers a response",
        min(theirs) / min(ours),
        "x",
        3.0,
    )
    yield context("scored tokens a second", tokens / min(ours), "tokens/s")
    yield context("tokens read beside each scored one", sum(len(j.prompt) for j in responses) / tokens, "tokens")


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def plain(runner: Runner, responses: Sequence[ScoringJob]) -> list[tuple[float, float]]:
    """ln likelihood of each response under adapter and base: the obvious way."""
    model = runner.loaded.golden_model()
    log_liks = []
    with torch.inference_mode():
        for job in responses:
            ids, both = torch.tensor([[*job.prompt, *job.output]]), []
            for name in (job.adapter, None):
                with model.adapters.selection.for_pass(row_groups([(name, 1.0)], model.device), 1):
                    log_probs = model.network(input_ids=ids).logits[0].log_softmax(-1)
                written = log_probs[len(job.prompt) - 1 : -1].gather(1, ids[0, len(job.prompt) :, None])
                both.append(float(written.sum()))
            log_liks.append((both[0], both[1]))
    return log_liks
