"""The likelihood ratios of likelihood_ratio_torch.py over the likely tokens and one bucket for all others.

Most of what those formulas cost is passes over a vocabulary of which nearly everything has no probability. Here the
outcome of a position is which of some tokens was written, or that it was another one (the rest). Which tokens are kept
apart follows from the golden models' answers before the position, so that it depends on nothing that was written.

Null and guarantee: those of docs/mathematics.md#traffic-likelihood-ratio, exactly. A distribution of tokens is one of
these outcomes too, by sums: those of the accepted adapter and of it at both edges of the tolerance are exact, over the
whole vocabulary, and for them the mean of L over the outcomes is at most 1. An alternative may be any distribution:
the shares of the path are interpolated between outcomes, which gives the rest a little more. What is lost is growth,
at tokens of the rest alone, by the data-processing inequality never gained on average; how little that is,
``python -m benchmarks.replay_speed --part scoring`` measures. What breaks it: kept tokens that are chosen by what was
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from detectors.evidence.alternative import BASE, Alternative, interpolation
from probes.scoring.likelihood_axes import OUTSIDE
from probes.scoring.likelihood_ratio_torch import (
    NOTHING,
    NullTensors,
    Positions,
    cut_log_likelihood,
    log_e_torch,
    path_log_likelihood_torch,
    rank_bins_in_order,
    tie_margin_torch,
    token_distribution_torch,
)
from probes.scoring.token_distribution import Doubles, SamplingParameters
from probes.scoring.token_scores import Settings, TokenScores, samplers

# A vocabulary has to be so many times larger than what is kept of it to be worth it.
WORTH_KEEPING = 4
# In place of a logit that is not summed: among all others, and in a column that repeats a token.
NOWHERE, UNCOUNTED = -1e30, -1e4
# Log-probability of such a column, whose ratios are then those of two equal numbers.
REPEATED = -80.0
AS_IT_IS = SamplingParameters(1.0)
# Neighbours among which the largest is looked for first, of which as many are then looked at one by one.
STRIDE = 8


def is_kept_apart(width: int, sampling: SamplingParameters, settings: Settings) -> bool:
    """Are responses by this sampler scored so, in a vocabulary of this width? Where nothing is cut off: a nucleus may
    reach beyond the tokens that are kept, and penalties change every token."""
    return 0 < WORTH_KEEPING * 2 * settings.kept_apart <= width and not (sampling.truncated or sampling.penalised)


@dataclass(frozen=True, slots=True, eq=False)
class KeptTokens:
    """ids: (N, K) ascending, with repeats; repeats: (N, K); place: (N,) which column was written, K for the rest"""

    ids: torch.Tensor
    repeats: torch.Tensor
    place: torch.Tensor

    @classmethod
    def of(cls, adapter: torch.Tensor, base: torch.Tensor, tokens: torch.Tensor, each: int) -> KeptTokens:
        """The ``each`` most probable tokens of either side. tokens: (N,) those that were written"""
        ids = torch.cat([most_probable(side, each) for side in (adapter, base)], dim=1).sort(-1).values
        repeats = torch.zeros_like(ids, dtype=torch.bool)
        repeats[:, 1:] = ids[:, 1:] == ids[:, :-1]
        at = torch.searchsorted(ids, tokens[:, None]).clamp(max=ids.shape[1] - 1)
        is_kept = ids.gather(1, at) == tokens[:, None]
        return cls(ids, repeats, torch.where(is_kept, at, ids.shape[1])[:, 0])

    def side(self, logits: torch.Tensor) -> Side:
        """logits: (N, V) of one model, over the temperature of the request"""
        shifted = logits.float() - logits.amax(-1, keepdim=True).float()
        apart = shifted.gather(1, self.ids).masked_fill_(self.repeats, UNCOUNTED)
        return Side(apart, shifted.scatter_(1, self.ids, NOWHERE))

    def log_probs(self, side: Side, factor: float = 1.0) -> torch.Tensor:
        """(N, K + 1) of a model at so many times the temperature: of the kept tokens, and of all others together."""
        apart, others = (side.apart, side.others) if factor == 1.0 else (side.apart / factor, side.others / factor)
        whole = torch.cat([apart, _log_sum(others)[:, None]], dim=1).log_softmax(-1)
        whole[:, :-1].masked_fill_(self.repeats, REPEATED)
        return whole


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Logits of one model, less the largest of each position.

    apart: (N, K) of the kept tokens; others: (N, V) without these
    """

    apart: torch.Tensor
    others: torch.Tensor

    def towards(self, other: Side, share: float) -> Side:
        """A share of the way to another one."""
        return Side(torch.lerp(self.apart, other.apart, share), torch.lerp(self.others, other.others, share))


def _log_sum(logits: torch.Tensor) -> torch.Tensor:
    """(N,) ln of the sum of exp, of logits that are near 0 at most."""
    return logits.exp().sum(-1).clamp(min=NOTHING).log()


def most_probable(logits: torch.Tensor, count: int) -> torch.Tensor:
    """(N, count) ids of the largest logits, in no order. Exact: such a token is the largest of its neighbours, or they
    hold a larger one that is among them too."""
    n, width = logits.shape
    whole = width // STRIDE
    if count >= whole:
        return logits.topk(count, sorted=False).indices
    columns = logits[:, : whole * STRIDE].view(n, STRIDE, whole).amax(1).topk(count, sorted=False).indices
    steps = torch.arange(STRIDE, device=logits.device) * whole
    near = (columns[:, :, None] + steps).flatten(1)
    tail = torch.arange(whole * STRIDE, width, device=logits.device).expand(n, -1)
    near = torch.cat([near, tail], dim=1)
    return near.gather(1, logits.gather(1, near).topk(count, sorted=False).indices)


def score_kept(
    adapter: torch.Tensor,
    base: torch.Tensor,
    others: Mapping[Alternative, torch.Tensor],
    positions: Positions,
    settings: Settings,
) -> TokenScores:
    """``likelihood_ratio_torch.score_torch`` over ``settings.kept_apart`` tokens of either side and the rest, for a
    sampler of which ``is_kept_apart`` says yes."""
    sampling = positions.sampling
    accepted, bare = (_over(side, sampling.temperature) for side in (adapter, base))
    kept = KeptTokens.of(accepted, bare, positions.tokens, settings.kept_apart)
    model, without = kept.side(accepted), kept.side(bare)
    golden, base_golden = kept.log_probs(model), kept.log_probs(without)
    edges = tuple(kept.log_probs(without.towards(model, share)) for share in settings.edges)
    ratios = tuple((edge - golden).exp_() for edge in edges)
    null = NullTensors(golden, None, ratios, golden.new_full((len(golden),), OUTSIDE), edges)
    drawn_by = {BASE: base_golden}
    drawn_by |= {interpolation(at): torch.lerp(base_golden, golden, at).log_softmax(-1) for at in settings.path}
    drawn_by |= {who: kept.log_probs(kept.side(_over(logits, sampling.temperature))) for who, logits in others.items()}
    hot = Samplers(kept, model, golden, sampling, tie_margin_torch(adapter, positions.spacing))
    sampled = {name: hot.log_probs(other) for name, other in samplers(sampling).items()}
    written = accepted.gather(1, positions.tokens[:, None])[:, 0].double() - accepted.amax(-1).double()
    order = _order(golden)
    return TokenScores(
        {who: _numpy(log_e_torch(own, null, kept.place, settings.numeric)) for who, own in drawn_by.items()},
        {name: _numpy(log_e_torch(own, null, kept.place, settings.numeric)) for name, own in sampled.items()},
        _numpy(path_log_likelihood_torch(golden, base_golden, kept.place, AS_IT_IS, settings.grid)),
        _numpy(hot.at_temperatures(written, settings)),
        _numpy(hot.at_top_ps(written, settings)),
        _numpy(_ranks(golden, order, kept.place, positions.uniform)),
        *(_numpy(side) for side in rank_bins_in_order(golden, edges, order, settings.rank_bins)),
    )


def _over(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits if temperature == 1.0 else logits.float() / temperature


@dataclass(frozen=True, slots=True, eq=False)
class Samplers:
    """The adapter by other samplers than that of the request. golden: (N, K + 1) by the request's; tie: (N,)"""

    kept: KeptTokens
    model: Side
    golden: torch.Tensor
    requested: SamplingParameters
    tie: torch.Tensor

    def log_probs(self, other: SamplingParameters) -> torch.Tensor:
        """(N, K + 1). The rest is in no nucleus; where one may reach into it, nothing is cut off."""
        if other.greedy:
            near = token_distribution_torch(self.model.apart * self.requested.temperature, other, self.tie)
            return torch.cat([near, torch.full_like(near[:, :1], -torch.inf)], dim=1)
        if not other.truncated:
            return self.kept.log_probs(self.model, other.temperature / self.requested.temperature)
        tokens = self.golden[:, :-1]
        high, order = tokens.sort(dim=-1, descending=True, stable=True)
        mass = high.double().exp()
        inside = torch.zeros_like(tokens, dtype=torch.bool).scatter_(1, order, mass.cumsum(-1) - mass < other.top_p)
        cut = self.golden.masked_fill(~torch.cat([inside, torch.zeros_like(inside[:, :1])], dim=1), -torch.inf)
        reaches_beyond = mass.sum(-1, keepdim=True) < other.top_p
        return torch.where(reaches_beyond, self.golden, cut.log_softmax(-1))

    def at_temperatures(self, written: torch.Tensor, settings: Settings) -> torch.Tensor:
        """``likelihood_axes.temperature_log_likelihood``, (G, N): of the token itself and not of its outcome. Below the
        request's temperature the rest counts as one token, which is too much and seldom anything.

        written: (N,) its logit, less the largest
        """
        rest, rows = _log_sum(self.model.others), []
        for t in settings.temperatures:
            factor = t / self.requested.temperature
            beyond = rest / factor if factor <= 1.0 else _log_sum(self.model.others / factor)
            level = torch.logaddexp((self.model.apart / factor).logsumexp(-1), beyond)
            rows.append(written / factor - level.double())
        return torch.stack(rows)

    def at_top_ps(self, written: torch.Tensor, settings: Settings) -> torch.Tensor:
        """``likelihood_axes.sampler_log_likelihood``, (G, N), likewise."""
        level = torch.logaddexp(self.model.apart.logsumexp(-1), _log_sum(self.model.others))
        at, high = written - level.double(), self.golden[:, :-1].topk(settings.kept_apart).values
        wider = [replace(AS_IT_IS, top_p=top_p) for top_p in settings.top_ps]
        return torch.stack([cut_log_likelihood(high, at, each, True) if each.truncated else at for each in wider])


def _order(log_probs: torch.Tensor) -> torch.Tensor:
    """(N, K + 1) columns as they rank: of equal ones the lowest id first, and the rest last."""
    tokens = log_probs[:, :-1].sort(dim=-1, descending=True, stable=True).indices
    return torch.cat([tokens, torch.full_like(tokens[:, :1], log_probs.shape[1] - 1)], dim=1)


def _ranks(golden: torch.Tensor, order: torch.Tensor, place: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """``likelihood_axes.ranks`` of the outcome: uniform too where the tokens were drawn from ``golden``."""
    mass = golden.gather(1, order).double().exp()
    at = (order == place[:, None]).double()
    above = ((mass.cumsum(-1) - mass) * at).sum(-1)
    return (above + uniform * (mass * at).sum(-1)).clamp(max=1.0)


def _numpy(values: torch.Tensor) -> Doubles:
    return values.cpu().double().numpy()  # type: ignore[no-any-return]
