"""How much of an answer should be read? Responses and processed tokens until the stream that pages alarms.

By a model and not by responses: ln L of n tokens is normal with mean g n and variance 2 g n, as a likelihood ratio of
many small steps is. g is nats a token: 1.5 as of the base in the adapter's place, .05 as of half strength, .01 as of
less. What a response costs is its prompt and as much of its output as is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure, at_most, context
from benchmarks.traffic.clipped import factors
from benchmarks.traffic.delays import LOG_A
from benchmarks.traffic.served import SEED
from detectors.evidence.e_detector import LARGEST
from probes.scoring.scoring_job import ScoringJob, ScoringOptions

Lengths = NDArray[np.int64]
PROMPTS, OUTPUTS, POOL, MOST = (50, 200, 1000), (64, 256, 512), 20_000, 3000
FAULTS = {"base": 1.5, "half strength": 0.05, "weak": 0.01}
LATE = 300


def figures(quick: bool) -> Iterator[Figure]:
    runs, rules = 20 if quick else 60, {"by default": 1, "32 tokens of most, whatever the prompt": 0}
    for fault, (rule, of_prompt) in itertools.product(FAULTS, rules.items()):
        ratios = []
        for prompt, output in itertools.product(PROMPTS, OUTPUTS):
            whole, part = (
                np.array(alarm(lengths, FAULTS[fault], prompt, runs))
                for lengths in (np.full(POOL, output), read(of_prompt * prompt, output))
            )
            ratios.append(part / whole)
        responses, tokens = np.transpose(ratios)
        for name, values in (("responses", responses), ("processed tokens", tokens)):
            figure = f"{fault}, {rule}: {name} to the alarm over those with all read"
            yield context(f"{figure}, least", float(values.min()), "x")
            yield context(f"{figure}, most", float(values.max()), "x")
    late = alarm(read(50, 512), FAULTS["base"], 50, runs, healthy=LATE)
    yield at_most(f"base from token {LATE} of an answer on: responses to the alarm", late[0], "responses", 100.0)


def alarm(lengths: Lengths, nats: float, prompt: int, runs: int, healthy: int = 0) -> tuple[float, float]:
    """Mean responses, and mean processed tokens, until the clipped mixture alarms, over so many runs.

    lengths: (R,) tokens read of the outputs that responses are drawn from; nats: a token, from token ``healthy`` on;
    before it each token is as of the healthy adapter, and pays .3 nats
    """
    rng = np.random.default_rng(SEED)
    faulty = np.maximum(lengths - healthy, 0)
    grown = nats * faulty + np.sqrt(2.0 * nats * faulty) * rng.standard_normal(len(lengths))
    table = factors(grown - 0.3 * (lengths - faulty))
    m, needed, tokens = np.zeros((runs, table.shape[1])), np.full(runs, MOST), np.zeros(runs)
    for n in range(1, MOST + 1):
        going = needed == MOST
        picked = rng.integers(len(lengths), size=runs)
        tokens += going * (lengths[picked] + prompt)
        m = np.minimum((m + 1.0) * table[picked], LARGEST)
        needed = np.where(going & (np.log(m.mean(axis=1)) >= LOG_A), n, needed)
        if (needed < MOST).all():
            break
    return float(needed.mean()), float(tokens.mean())


def read(prompt: int, output: int) -> Lengths:
    """(POOL,) tokens of outputs that are read by default, for as many request ids."""
    asking, tokens = ScoringOptions(), ((1,) * prompt, (1,) * output)
    jobs = (ScoringJob("a", f"r{i}", "", 0.0, *tokens, None) for i in range(POOL))
    return np.array([asking.scored_length(job) for job in jobs], dtype=np.int64)
