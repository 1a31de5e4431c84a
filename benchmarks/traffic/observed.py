"""What golden copies say about sampled responses, token by token: L of every alternative, its exact mean, and KL."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.traffic.served import Cell, applied_as_written, jobs, kept_file
from detectors.evidence.alternative import BASE, Alternative, AlternativeKind, interpolation
from probes.model import shared_prefix
from probes.model.response_scoring import ADAPTER, ScoredBy, joined, logits_of
from probes.model.shared_prefix import HiddenStates, read_all
from probes.runner import Target, bits
from probes.runners.in_process import Runner
from probes.scoring import likelihood_axes, likelihood_ratio_torch, token_distribution, token_scores
from probes.scoring.likelihood_ratio_torch import (
    NullTensors,
    Positions,
    growth_torch,
    mean_e_torch,
    null_of_torch,
    rank_bins_torch,
    score_torch,
    token_distribution_torch,
)
from probes.scoring.scoring_job import AdapterVersion, ScoringJob, ScoringOptions, alternatives
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import TokenScores, samplers, uniforms

Doubles = NDArray[np.float64]
WINDOW = 16
Bet = Alternative | str
"""An alternative, or the name of a sampler."""
# What the numbers here follow from: when the source of one of these files changes, they are computed again.
FORMULAS = (likelihood_axes, likelihood_ratio_torch, shared_prefix, token_distribution, token_scores)


class Exact(IntEnum):
    """What is computed beside L of the tokens that were written, as sums over the vocabulary; each takes what is before
    it, too."""

    NOTHING = 0
    GROWTH = 1  # KL, and of a fault the growth of every bet and the ranks
    MEANS = 2  # the mean of L under the null, which costs as much again


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """One cell. lengths: (R,) tokens of each response; tokens: all of them in a row

    kl: alternative or sampler -> mean KL(alternative || golden) in nats a token at these positions, at temperature
    1 without truncation; mean_e: alternative or sampler -> (N,) exact mean of L, the largest over the golden
    distribution and its two edges; both empty where ``Exact`` did not ask for them
    outputs: (R, d) embeddings of the responses
    growth: alternative or sampler -> (N,) exact mean of ln L under who wrote them, by the sampler in force; empty where
    that is not a fault, or no golden copy's answer, or not asked for
    ranks_written: (B, N) exact chance of each bin for the rank of a token, under who wrote it; empty likewise
    """

    cell: Cell
    lengths: NDArray[np.int64]
    tokens: TokenScores
    kl: Mapping[Bet, float]
    mean_e: Mapping[Bet, Doubles]
    outputs: Doubles
    growth: Mapping[Bet, Doubles] = field(default_factory=dict)
    ranks_written: Doubles = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def log_l(self) -> dict[Bet, Doubles]:
        """(N,) ln L of every token, of alternatives and of samplers."""
        return dict([*self.tokens.log_l.items(), *self.tokens.log_sampler.items()])

    def responses(self, bet: Bet) -> list[Doubles]:
        """(n,) ln L of each response's tokens."""
        return self.by_response(self.log_l[bet])

    def by_response(self, values: Doubles) -> list[Doubles]:
        """values: (N,) of all tokens"""
        return np.split(values, self.lengths.cumsum()[:-1])


def observe(runner: Runner, cell: Cell, asking: ScoringOptions, exact: Exact) -> Observed:
    """As kept from an earlier run of the same code on the same responses."""
    voices = _voices(runner, cell, asking)
    file = kept_file(runner, cell, repr((asking.tokens, voices, exact.name, WINDOW)), FORMULAS)
    if not file.exists():
        with applied_as_written(runner.loaded.golden_model(), cell):
            computed = _observed(runner, cell, asking, voices, exact)
        file.with_suffix(".new").write_bytes(pickle.dumps(computed))
        file.with_suffix(".new").replace(file)
    kept: Observed = pickle.loads(file.read_bytes())
    return kept


def _voices(runner: Runner, cell: Cell, asking: ScoringOptions) -> dict[ScoredBy, Target]:
    """Whose passes read every response of the cell: adapter, base, and the alternatives with a pass of their own."""
    names = {AdapterVersion(name): name for name in runner.config.adapters}
    sides = (ADAPTER, Target(cell.adapter)), (BASE, Target(None))
    others = alternatives(jobs(runner, cell)[0], names, asking)
    writer = cell.written_by
    if writer is not None and writer.kind is AlternativeKind.UNKNOWN:
        others[writer] = Target(cell.writer)
    return dict([*sides, *others.items()])


def _observed(
    runner: Runner, cell: Cell, asking: ScoringOptions, voices: Mapping[ScoredBy, Target], exact: Exact
) -> Observed:
    responses = jobs(runner, cell)
    with torch.inference_mode():
        readings = {name: _read(runner, target, responses) for name, target in voices.items()}
        pieces: list[TokenScores] = []
        kl: dict[Bet, list[Doubles]] = {}
        mean_e: dict[Bet, list[Doubles]] = {}
        growth: dict[Bet, list[Doubles]] = {}
        ranks_written: list[Doubles] = []
        for i, job in enumerate(responses):
            for at in range(0, len(job.output), WINDOW):
                here = slice(at, at + WINDOW)
                logits = {
                    n: logits_of(runner.loaded.golden_model(), t, readings[n][i].scored[here])
                    for n, t in voices.items()
                }
                pieces.append(_scored(job, logits, here, asking))
                if exact >= Exact.GROWTH:
                    _add(kl, _kl(logits, asking))
                if exact >= Exact.MEANS:
                    _add(mean_e, _means(logits, cell.sampling, asking))
                if exact >= Exact.GROWTH and cell.faulty and cell.written_by in voices:
                    _add(growth, _growth(logits, cell, asking))
                    ranks_written.append(_ranks_written(logits, cell, asking))
    lengths = np.array([len(job.output) for job in responses], dtype=np.int64)
    exact_means, grown = ({name: np.concatenate(rows) for name, rows in each.items()} for each in (mean_e, growth))
    mean_kl = {name: float(np.concatenate(values).mean()) for name, values in kl.items()}
    outputs = np.stack([reading.output.numpy() for reading in readings[BASE]]).astype(np.float64)
    written = np.concatenate(ranks_written, axis=1) if ranks_written else np.zeros((0, 0))
    return Observed(cell, lengths, joined(pieces), mean_kl, exact_means, outputs, grown, written)


def _read(runner: Runner, target: Target, responses: Sequence[ScoringJob]) -> list[HiddenStates]:
    golden = runner.loaded.golden_model()
    model = runner.residency.rounded(golden, bits(target.fault)) if target.fault else golden
    texts = [(job.prompt, job.output) for job in responses]
    return read_all(model, texts, (target.adapter, target.scale), runner.config.max_batch_tokens)


def _scored(
    job: ScoringJob, logits: Mapping[ScoredBy, torch.Tensor], part: slice, options: ScoringOptions
) -> TokenScores:
    assert job.sampling is not None
    device = logits[ADAPTER].device
    tokens = torch.tensor(job.output[part]).to(device)
    uniform = torch.from_numpy(uniforms(job.response)[part]).to(device)
    others = {who: own for who, own in logits.items() if who is not None and who != BASE}
    return score_torch(logits[ADAPTER], logits[BASE], others, Positions(tokens, uniform, job.sampling), options.tokens)


def distributions(
    logits: Mapping[ScoredBy, torch.Tensor], sampling: SamplingParameters, options: ScoringOptions
) -> dict[Alternative, torch.Tensor]:
    """Alternative -> (N, V) log-probabilities under the request's sampler, interpolation path included."""
    adapter, base = (logits[name].float().log_softmax(-1) for name in (ADAPTER, BASE))
    path = {interpolation(share): torch.lerp(base, adapter, share) for share in options.tokens.path}
    others = {who: own for who, own in logits.items() if who is not None and who != BASE}
    return {who: token_distribution_torch(own, sampling) for who, own in {BASE: base, **path, **others}.items()}


def _kl(logits: Mapping[ScoredBy, torch.Tensor], options: ScoringOptions) -> dict[Bet, Doubles]:
    """Of each alternative's and each sampler's distribution from the golden one at temperature 1, exact."""
    plain = SamplingParameters(1.0)
    golden = logits[ADAPTER].float().log_softmax(-1)
    by_sampler = {name: token_distribution_torch(golden, other) for name, other in samplers(plain).items()}
    distributions_of: dict[Bet, torch.Tensor] = dict(
        [*distributions(logits, plain, options).items(), *by_sampler.items()]
    )
    return {
        name: torch.xlogy(p := log_p.double().exp(), p).sub(p * golden).sum(-1).numpy()
        for name, log_p in distributions_of.items()
    }


def _means(
    logits: Mapping[ScoredBy, torch.Tensor], sampling: SamplingParameters, options: ScoringOptions
) -> dict[Bet, Doubles]:
    null, bets = _null(logits, sampling, options), _bets(logits, sampling, options)
    adapter, base = (logits[name].float().log_softmax(-1) for name in (ADAPTER, BASE))
    edges = (token_distribution_torch(torch.lerp(base, adapter, share), sampling) for share in options.tokens.edges)
    truths = [truth.exp() for truth in (null.golden, *edges)]
    return {name: mean_e_torch(bet, null, truths, options.tokens.numeric).amax(0).numpy() for name, bet in bets.items()}


def _growth(logits: Mapping[ScoredBy, torch.Tensor], cell: Cell, options: ScoringOptions) -> dict[Bet, Doubles]:
    null, bets = _null(logits, cell.sampling, options), _bets(logits, cell.sampling, options)
    truth = token_distribution_torch(logits[cell.written_by], cell.in_force or cell.sampling).exp()
    return {name: growth_torch(bet, null, truth, options.tokens.numeric).numpy() for name, bet in bets.items()}


def _ranks_written(logits: Mapping[ScoredBy, torch.Tensor], cell: Cell, options: ScoringOptions) -> Doubles:
    golden = token_distribution_torch(logits[ADAPTER], cell.sampling)
    truth = token_distribution_torch(logits[cell.written_by], cell.in_force or cell.sampling)
    (chances,) = rank_bins_torch(golden, [truth], options.tokens.rank_bins)
    return chances.numpy()  # type: ignore[no-any-return]


def _null(
    logits: Mapping[ScoredBy, torch.Tensor], sampling: SamplingParameters, options: ScoringOptions
) -> NullTensors:
    adapter, base = (logits[name].float().log_softmax(-1) for name in (ADAPTER, BASE))
    return null_of_torch(adapter, base, sampling, options.tokens)


def _bets(
    logits: Mapping[ScoredBy, torch.Tensor], sampling: SamplingParameters, options: ScoringOptions
) -> dict[Bet, torch.Tensor]:
    adapter = logits[ADAPTER].float().log_softmax(-1)
    by_sampler = {name: token_distribution_torch(adapter, other) for name, other in samplers(sampling).items()}
    return dict([*distributions(logits, sampling, options).items(), *by_sampler.items()])


def _add(held: dict[Bet, list[Doubles]], values_by_bet: Mapping[Bet, Doubles]) -> None:
    for name, values in values_by_bet.items():
        held.setdefault(name, []).append(values)
