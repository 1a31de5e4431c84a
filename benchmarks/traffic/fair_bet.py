"""Is every bet fair? The exact mean of L at recorded positions, over the vocabulary and not by drawing tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.figures import Figure, at_least, at_most, context
from benchmarks.traffic.observed import Bet, Observed, distributions
from benchmarks.traffic.served import Cell, jobs, open_runner
from detectors.evidence.alternative import BASE
from probes.model.response_scoring import ADAPTER, ScoredBy, logits_of
from probes.model.shared_prefix import read
from probes.runner import Target
from probes.runners.in_process import Runner
from probes.scoring.likelihood_ratio_torch import mean_e_torch, null_of_torch, token_distribution_torch
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters

ENOUGH = 20_000


def figures(cells: Sequence[Observed], quick: bool) -> Iterator[Figure]:
    """Exact means of L under the golden distribution and both edges: every alternative and sampler, all prompts."""
    largest: dict[Bet, float] = {}
    for observed in cells:
        for name, values in observed.mean_e.items():
            largest[name] = max(largest.get(name, 0.0), float(values.max()))
    positions = sum(int(observed.lengths.sum()) for observed in cells)
    yield at_most("fair bet: largest exact mean of L at any position", max(largest.values()), "", 1.0)
    yield at_least("fair bet: positions looked at", positions, "positions", 1000 if quick else ENOUGH)
    yield context("fair bet: kinds of bets", len(largest), "")


def numerics(runner: Runner, adapter: str, asking: ScoringOptions, quick: bool) -> Iterator[Figure]:
    """The same bets where the truth is another kernel's golden distribution: read one by one, and in bfloat16."""
    cell = Cell(adapter, "healthy", SamplingParameters(1.0), 4 if quick else 16)
    own = _logits(runner, cell, alone=False)
    yield from _against("another batch shape", own, _logits(runner, cell, alone=True), asking)
    other = open_runner("bfloat16")
    try:
        yield from _against("bfloat16", own, _logits(other, cell, alone=True), asking)
    finally:
        other.close()


def _logits(runner: Runner, cell: Cell, alone: bool) -> dict[ScoredBy, torch.Tensor]:
    texts = [(job.prompt, job.output) for job in jobs(runner, cell)]
    golden = runner.loaded.golden_model()
    logits: dict[ScoredBy, torch.Tensor] = {}
    voices: dict[ScoredBy, Target] = {ADAPTER: Target(cell.adapter), BASE: Target(None)}
    with torch.inference_mode():
        for voice, target in voices.items():
            groups = [[text] for text in texts] if alone else [texts]
            states = [
                reading.scored for some in groups for reading in read(golden, some, (target.adapter, target.scale))
            ]
            logits[voice] = logits_of(golden, target, torch.cat(states)).float()
    return logits


def _against(
    what: str, own: dict[ScoredBy, torch.Tensor], truth: dict[ScoredBy, torch.Tensor], asking: ScoringOptions
) -> Iterator[Figure]:
    adapter, base = (own[name].log_softmax(-1) for name in (ADAPTER, BASE))
    served = token_distribution_torch(truth[ADAPTER], SamplingParameters(1.0)).exp()
    null = null_of_torch(adapter, base, SamplingParameters(1.0), asking.tokens)
    for numeric in (0.0, 0.005):
        means = [
            mean_e_torch(bet, null, [served], numeric)[0].numpy()
            for bet in distributions(own, SamplingParameters(1.0), asking).values()
        ]
        logs = np.log(np.concatenate(means))
        name = f"served by {what}, {numeric:g} nats a token for numerics"
        yield at_most(
            f"{name}: largest mean ln of the mean of L, of all bets",
            max(float(np.log(m).mean()) for m in means),
            "nats",
            0.0,
        )
        yield context(f"{name}: positions where the mean of L is above 1", 100 * float((logs > 0).mean()), "%")
        yield context(f"{name}: largest ln of the mean of L at any position", float(logs.max()), "nats")
