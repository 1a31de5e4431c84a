"""The likelihood ratios that run in production: likelihood_ratio_reference.py on a device, many responses at once.

Each function says which reference formula it computes; tests hold the two equal, so a formula changes in both files.
Probabilities are summed themselves and not by their logarithms: one matrix product gives, for each alternative, its
mass within the golden nucleus and its mean ratio at each edge. Where that mass is below ``NOTHING`` the alternative
counts as having none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind, interpolation
from probes.scoring.likelihood_axes import LEAST, NEAR, OUTSIDE
from probes.scoring.token_distribution import FLOAT32, LAST_DIGITS, TIE, Doubles, SamplingParameters
from probes.scoring.token_scores import HALFWAY, HELD_BACK, ROUNDING, Settings, TokenScores, samplers

NOTHING = 1e-30
# Most probable tokens among which a nucleus is looked for before the whole vocabulary is sorted.
FIRST_LOOK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """N positions with the same sampling parameters.

    tokens: (N,) int64; uniform: (N,) in [0, 1), for the ranks
    plain: (N, V) log-probabilities or logits of the golden adapter without the request's penalties, in the dtype of the
    model, None where the request has none
    spacing: relative, of the dtype that the engine is assumed to compute in (``Model.spacing``)
    """

    tokens: torch.Tensor
    uniform: torch.Tensor
    sampling: SamplingParameters
    plain: torch.Tensor | None = None
    spacing: float = FLOAT32


@dataclass(frozen=True, slots=True, eq=False)
class NullTensors:
    """The null at N positions: ``likelihood_ratio_reference.Null``, and all that does not depend on the alternative.

    golden: (N, V) log-probabilities; inside: (N, V) 1 in the golden nucleus, None where nothing is cut off
    weights: of each edge, (N, V) ratio of its probabilities to the golden ones
    m: (N,) largest probability that an edge puts outside the nucleus; edges: of each, (N, V) log-probabilities
    greedy: nothing was drawn within the nucleus
    """

    golden: torch.Tensor
    inside: torch.Tensor | None
    weights: tuple[torch.Tensor, ...]
    m: torch.Tensor
    edges: tuple[torch.Tensor, ...]
    greedy: bool = False


def score_torch(
    adapter: torch.Tensor,
    base: torch.Tensor,
    others: Mapping[Alternative, torch.Tensor],
    positions: Positions,
    settings: Settings,
) -> TokenScores:
    """``likelihood_ratio_reference.score``. Logits: (N, V), penalties applied, in the dtype of the model where no
    ``plain`` ones have it; only (N,) numbers leave the device."""
    tie = tie_margin_torch(adapter if positions.plain is None else positions.plain, positions.spacing)
    sampling, tokens = positions.sampling, positions.tokens
    adapter, base = adapter.float().log_softmax(-1), base.float().log_softmax(-1)
    plain = adapter if positions.plain is None else positions.plain.float()
    null = null_of_torch(adapter, base, sampling, settings, tie)
    alternatives = {BASE: base} | {interpolation(share): torch.lerp(base, adapter, share) for share in settings.path}
    alternatives |= others
    log_l = {
        who: log_e_torch(token_distribution_torch(own, sampling, tie), null, tokens, settings.numeric)
        for who, own in alternatives.items()
    }
    log_sampler = {
        name: log_e_torch(
            token_distribution_torch(adapter if other.penalised else plain, other, tie), null, tokens, settings.numeric
        )
        for name, other in samplers(sampling).items()
    }
    hot = temperature_log_likelihood_torch(adapter, null.golden, tokens, sampling, settings.temperatures)
    if sampling.greedy:
        sizes = (len(settings.grid), len(settings.top_ps), settings.rank_bins, settings.rank_bins)
        path, wide, *edges = (hot.new_full((size, len(tokens)), torch.nan) for size in sizes)
        ranked = hot.new_full((len(tokens),), torch.nan)
    else:
        path = path_log_likelihood_torch(adapter, base, tokens, sampling, settings.grid)
        wide = sampler_log_likelihood_torch(adapter, tokens, settings.widened(sampling))
        ranked = ranks_torch(null.golden, tokens, positions.uniform)
        edges = rank_bins_torch(null.golden, null.edges, settings.rank_bins)
    return TokenScores(
        {who: _numpy(values) for who, values in log_l.items()},
        {name: _numpy(values) for name, values in log_sampler.items()},
        *map(_numpy, (path, hot, wide, ranked, *edges)),
    )


def score_base_torch(
    base: torch.Tensor,
    others: Mapping[Alternative, torch.Tensor],
    positions: Positions,
    settings: Settings,
    path_from: Alternative | None = None,
) -> TokenScores:
    """``likelihood_ratio_reference.score_base``. Logits as of ``score_torch``; ``positions.plain`` is the base's."""
    tie = tie_margin_torch(base if positions.plain is None else positions.plain, positions.spacing)
    sampling, log_l = positions.sampling, dict[Alternative, Doubles]()
    base = base.float().log_softmax(-1)
    ready = {who: logits.float().log_softmax(-1) for who, logits in others.items()}
    null = base_null_torch(base, ready, sampling, settings, tie)
    for who, logits in ready.items():
        points = {who: logits}
        if who.kind is AlternativeKind.OTHER_ADAPTER:
            points[interpolation(HALFWAY, who.name)] = torch.lerp(base, logits, HALFWAY)
        for point, own in points.items():
            drawn_by = token_distribution_torch(own, sampling, tie)
            log_l[point] = _numpy(log_e_torch(drawn_by, null, positions.tokens, settings.numeric))
    if path_from not in ready or sampling.greedy:
        return TokenScores.of_alternatives(log_l)
    path = path_log_likelihood_torch(base, ready[path_from], positions.tokens, sampling, settings.grid)
    return TokenScores.of_alternatives(log_l, _numpy(path))


def base_null_torch(
    base: torch.Tensor,
    others: Mapping[Alternative, torch.Tensor],
    sampling: SamplingParameters,
    settings: Settings,
    tie: torch.Tensor | None = None,
) -> NullTensors:
    """``likelihood_ratio_reference.null_of_base``, of (N, V) log-probabilities."""
    adapters = [logits for who, logits in others.items() if who.kind is AlternativeKind.OTHER_ADAPTER]
    edges = [torch.lerp(base, logits, share) for logits in adapters for share in settings.leaks]
    return _null_torch(base, edges or [base], sampling, tie)


def tie_margin_torch(logits: torch.Tensor, spacing: float = FLOAT32) -> torch.Tensor:
    """``token_distribution.tie_margin``, (N,), in the coarser of these logits' dtype and one of this ``spacing``."""
    _, exponent = torch.frexp(logits.amax(-1).abs().float())
    coarsest = max(torch.finfo(logits.dtype).eps, spacing)
    unit = torch.full_like(exponent, coarsest, dtype=torch.float32)
    return (torch.ldexp(unit, exponent - 1) + LAST_DIGITS).clamp(min=TIE)


def token_distribution_torch(
    logits: torch.Tensor, sampling: SamplingParameters, tie: torch.Tensor | None = None
) -> torch.Tensor:
    """``token_distribution.token_distribution`` in float32. tie: (N,) of ``tie_margin_torch``, None for ``TIE``"""
    logits = logits.float()
    if sampling.greedy:
        near = logits >= logits.amax(-1, keepdim=True) - (TIE if tie is None else tie[:, None])
        return torch.where(near, 0.0, -torch.inf).log_softmax(-1)
    cold = (logits if sampling.temperature == 1.0 else logits / sampling.temperature).log_softmax(-1)
    if not sampling.truncated:
        return cold
    return cold.masked_fill(~nucleus_torch(cold, sampling), -torch.inf).log_softmax(-1)


def nucleus_torch(log_probs: torch.Tensor, sampling: SamplingParameters) -> torch.Tensor:
    """``token_distribution.nucleus``: of the most probable tokens, of the whole vocabulary where those are too few.

    Of equally probable tokens at its end those of the lowest ids are inside, as in the reference; in which order
    ``topk`` gives them is the device's choice.
    """
    width = log_probs.shape[-1]
    look = min(width, max(FIRST_LOOK, sampling.top_k))
    high, kept, enough = _kept(log_probs, sampling, look)
    if look < width and not enough:
        high, kept, _ = _kept(log_probs, sampling, width)
    n = kept.sum(-1, keepdim=True)
    lowest = high.gather(1, n - 1)
    inside, tied = log_probs > lowest, log_probs == lowest
    wanted = n - inside.sum(-1, keepdim=True)
    if bool((tied.sum(-1, keepdim=True) > wanted).any()):
        tied &= tied.cumsum(-1) <= wanted
    return inside | tied


def _kept(log_probs: torch.Tensor, sampling: SamplingParameters, look: int) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """(N, look) the highest log-probabilities, in descending order, and which of them are kept, those at its beginning;
    and is the nucleus surely within them?"""
    high = log_probs.topk(look, dim=-1).values
    kept = _kept_of(high.clone(), sampling)
    return high, kept, not bool(kept[:, -1].any())


def _kept_of(high: torch.Tensor, sampling: SamplingParameters) -> torch.Tensor:
    """(N, look) which of the highest log-probabilities, in descending order, the sampler keeps. Overwrites ``high``."""
    if 0 < sampling.top_k < high.shape[-1]:
        high[:, sampling.top_k :] = -torch.inf
    if 0 < sampling.top_k <= high.shape[-1]:
        high = high.log_softmax(-1)
    kept = high.isfinite()
    if sampling.top_p < 1.0:
        mass = high.exp().double()
        kept &= mass.cumsum(-1) - mass < sampling.top_p
    if sampling.min_p > 0:
        kept &= high >= high[:, :1] + math.log(sampling.min_p)
    kept[:, 0] = True
    return kept


def null_of_torch(
    adapter: torch.Tensor,
    base: torch.Tensor,
    sampling: SamplingParameters,
    settings: Settings,
    tie: torch.Tensor | None = None,
) -> NullTensors:
    """``likelihood_ratio_reference.null_of``."""
    return _null_torch(adapter, [torch.lerp(base, adapter, share) for share in settings.edges], sampling, tie)


def _null_torch(
    accepted: torch.Tensor, at_edges: Sequence[torch.Tensor], sampling: SamplingParameters, tie: torch.Tensor | None
) -> NullTensors:
    """(N, V) log-probabilities, of what is accepted and of it at each edge of the tolerance, before the sampler."""
    golden = token_distribution_torch(accepted, sampling, tie)
    edges = [token_distribution_torch(logits, sampling, tie) for logits in at_edges]
    if not sampling.truncated:
        ratios = tuple((edge - golden).exp_() for edge in edges)
        return NullTensors(golden, None, ratios, golden.new_full((len(golden),), OUTSIDE), tuple(edges))
    inside = golden.isfinite()
    level = torch.where(inside, golden, 0.0)
    weights, outside = [], []
    for edge in edges:
        mass = torch.where(inside, edge.exp(), 0.0).sum(-1)
        outside.append(1.0 - mass)
        ratio = torch.where(inside, (edge - level).exp_(), 0.0)
        weights.append(ratio / mass.clamp(min=NOTHING)[:, None])
    m = torch.stack(outside).amax(0).clamp(OUTSIDE, 1.0 - OUTSIDE)
    return NullTensors(golden, inside.float(), tuple(weights), m, tuple(edges), sampling.greedy)


def log_e_torch(
    alternative: torch.Tensor, null: NullTensors, tokens: torch.Tensor, numeric: float = 0.0
) -> torch.Tensor:
    """``likelihood_ratio_reference.log_e``."""
    return _log_e(_at(alternative, tokens), _at(null.golden, tokens), alternative, null, numeric)


def mean_e_torch(
    alternative: torch.Tensor, null: NullTensors, truths: Sequence[torch.Tensor], numeric: float = 0.0
) -> torch.Tensor:
    """(K, N) the mean of L where tokens are drawn by each of K truths: exact sums over the vocabulary.

    truths: (N, V) probabilities each
    """
    each = _log_e(alternative, null.golden, alternative, null, numeric).float().exp()
    return torch.stack([torch.linalg.vecdot(truth, each) for truth in truths]).double()


def growth_torch(
    alternative: torch.Tensor, null: NullTensors, truth: torch.Tensor, numeric: float = 0.0
) -> torch.Tensor:
    """(N,) the mean of ln L in nats where tokens are drawn by ``truth``, (N, V) probabilities: exact sums likewise."""
    each = _log_e(alternative, null.golden, alternative, null, numeric).float()
    return torch.where(truth > 0, truth * each, 0.0).sum(-1, dtype=torch.float64)


def _log_e(
    at_alternative: torch.Tensor, at_golden: torch.Tensor, alternative: torch.Tensor, null: NullTensors, numeric: float
) -> torch.Tensor:
    """Of one token a position, (N,), or of every token, (N, V)."""
    mass, truncated = alternative.exp(), null.inside is not None
    means = torch.stack([torch.linalg.vecdot(mass, ratio) for ratio in null.weights]).amax(0).double()
    share = torch.ones_like(means) if null.inside is None else torch.linalg.vecdot(mass, null.inside).double()
    share, m = share.clamp(0.0, 1.0), null.m.double()
    some = share > NOTHING
    log_share = torch.where(some, share, 1.0).log()
    slack = torch.where(some, means.clamp(min=NOTHING).log() - log_share, 0.0).clamp(min=0.0)
    pi = torch.maximum(1.0 - share, m).clamp(max=1.0 - OUTSIDE)
    if at_golden.dim() > 1:
        some, log_share, slack, pi, m = (
            column[:, None].to(column.dtype if column.dtype == torch.bool else at_golden.dtype)
            for column in (some, log_share, slack, pi, m)
        )
    inside = at_golden.isfinite()
    safe = torch.where(inside, at_golden, 0.0)
    ratio = torch.where(some, at_alternative - log_share - safe - slack - numeric - ROUNDING, -torch.inf)
    if truncated or bool(alternative.amin() == -torch.inf):
        ratio = torch.logaddexp(ratio + math.log1p(-HELD_BACK), torch.full_like(ratio, math.log(HELD_BACK)))
    within = torch.log1p(-pi) - torch.log1p(-m) + (torch.zeros_like(ratio) if null.greedy else ratio)
    without = torch.where(at_alternative.isfinite(), pi.log() - m.log() - ROUNDING, math.log(HELD_BACK))
    return torch.where(inside, within, without)


def path_log_likelihood_torch(
    adapter: torch.Tensor, base: torch.Tensor, tokens: torch.Tensor, sampling: SamplingParameters, grid: Sequence[float]
) -> torch.Tensor:
    """``likelihood_axes.path_log_likelihood``, (G, N)."""
    cold_a, cold_b = (
        side if sampling.temperature == 1.0 else (side / sampling.temperature).log_softmax(-1)
        for side in (adapter, base)
    )
    ids, repeats = _near(cold_a, cold_b, tokens)
    few_a, few_b = (_with_rest(side, ids, repeats) for side in (cold_a, cold_b))
    place, at_once = (ids < tokens[:, None]).sum(-1), replace(sampling, temperature=1.0)
    rows = []
    for share in grid:
        # A repeated token is -inf on both sides, and 0 times that would be nan.
        whole = torch.where(few_a.isfinite(), torch.lerp(few_b, few_a, share), -torch.inf).log_softmax(-1)
        rows.append(_tolerant(_at(token_distribution_torch(whole, at_once), place), _at(whole, place)))
    return torch.stack(rows)


def _near(a: torch.Tensor, b: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) ids, ascending, of the tokens that either side ranks highest and of the one written; which are repeats."""
    look = min(NEAR, a.shape[-1])
    ids = torch.cat([a.topk(look).indices, b.topk(look).indices, tokens[:, None]], dim=1).sort(-1).values
    return ids, torch.cat([torch.zeros_like(ids[:, :1], dtype=torch.bool), ids[:, 1:] == ids[:, :-1]], dim=1)


def _with_rest(log_probs: torch.Tensor, ids: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """(N, K + 1): the chosen tokens, -inf for repeats, then the remaining probability."""
    few = log_probs.gather(1, ids).masked_fill(repeats, -torch.inf)
    rest = 1.0 - few.double().exp().sum(-1, keepdim=True)
    return torch.cat([few, rest.clamp(min=LEAST).log().float()], dim=1)


def temperature_log_likelihood_torch(
    adapter: torch.Tensor,
    golden: torch.Tensor,
    tokens: torch.Tensor,
    sampling: SamplingParameters,
    temperatures: Sequence[float],
) -> torch.Tensor:
    """``likelihood_axes.temperature_log_likelihood``, (G, N). golden: (N, V) log-probabilities under the
    request's sampler"""
    cut = sampling.truncated and not sampling.greedy
    within = adapter.masked_fill(~golden.isfinite(), -torch.inf) if cut else adapter
    written = _at(within, tokens)
    rows = torch.stack([written / t - (within / t).logsumexp(-1).double() for t in temperatures])
    return torch.where(written.isfinite(), rows, 0.0)


def sampler_log_likelihood_torch(
    adapter: torch.Tensor, tokens: torch.Tensor, samplings: Sequence[SamplingParameters]
) -> torch.Tensor:
    """``likelihood_axes.sampler_log_likelihood``, (G, N), of samplers that are not greedy, whose nuclei are looked for
    among the ``FIRST_LOOK`` most probable tokens. Tokens have the same order at every temperature."""
    high = adapter.topk(min(FIRST_LOOK, adapter.shape[-1])).values
    here = _at(adapter, tokens)
    level = torch.stack([(adapter / t).logsumexp(-1) for t in sorted({s.temperature for s in samplings})])
    place = sorted({s.temperature for s in samplings}).index
    rows = []
    for sampling in samplings:
        z = level[place(sampling.temperature)]
        whole = here / sampling.temperature - z.double()
        cold = high / sampling.temperature - z[:, None]
        is_part = cold.shape[-1] < adapter.shape[-1]
        rows.append(cut_log_likelihood(cold, whole, sampling, is_part) if sampling.truncated else whole)
    return torch.stack(rows)


def cut_log_likelihood(
    high: torch.Tensor, whole: torch.Tensor, sampling: SamplingParameters, is_part: bool
) -> torch.Tensor:
    """(N,) ln likelihood after truncation. high: (N, look) the highest log-probabilities, in descending order; is_part:
    are there others? whole: (N,) before it"""
    kept = _kept_of(high.clone(), sampling)
    share = torch.where(kept, high.double().exp(), 0.0).sum(-1)
    lowest = torch.where(kept, high, torch.inf).amin(-1).double()
    cut = torch.where(whole >= lowest - 1e-6, whole - share.log(), -torch.inf)
    # A nucleus that may reach beyond the tokens looked at counts as the whole vocabulary.
    return _tolerant(torch.where(kept[:, -1], whole, cut) if is_part else cut, whole)


def ranks_torch(golden: torch.Tensor, tokens: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """``likelihood_axes.ranks``."""
    written = golden.gather(1, tokens[:, None])
    earlier = torch.arange(golden.shape[1], device=golden.device)[None, :] < tokens[:, None]
    ahead = (golden > written) | ((golden == written) & earlier)
    above = torch.where(ahead, golden.exp(), 0.0).sum(-1, dtype=torch.float64)
    rank = (above + uniform * written[:, 0].double().exp()).clamp(max=1.0)
    return torch.where(written[:, 0].isfinite(), rank, 1.0)


def rank_bins_torch(golden: torch.Tensor, drawn_by: Sequence[torch.Tensor], bins: int) -> list[torch.Tensor]:
    """``likelihood_axes.rank_bins``, (bins, N) for each of ``drawn_by``: from the most probable tokens alone where all
    others lie in the last bin, from the whole vocabulary at other positions."""
    ids = _in_order(golden, min(golden.shape[-1], FIRST_LOOK))
    chances = rank_bins_in_order(golden, drawn_by, ids, bins)
    flat = (_running(golden, ids)[:, -1] < 1.0 - 1.0 / bins).nonzero()[:, 0]
    if len(flat) and ids.shape[-1] < golden.shape[-1]:
        rows = golden[flat]
        order = rows.sort(dim=-1, descending=True, stable=True).indices
        sides = [side[flat] for side in drawn_by]
        for some, whole in zip(chances, rank_bins_in_order(rows, sides, order, bins), strict=True):
            some[:, flat] = whole
    return chances


def rank_bins_in_order(
    golden: torch.Tensor, drawn_by: Sequence[torch.Tensor], ids: torch.Tensor, bins: int
) -> list[torch.Tensor]:
    """(bins, N) for each of ``drawn_by``. ids: (N, look) as they rank, with all that lies before the last bin"""
    ahead = _running(golden, ids)
    points = (torch.arange(1, bins, device=golden.device, dtype=ahead.dtype) / bins).expand(len(golden), -1)
    upper = torch.searchsorted(ahead, points.contiguous()).clamp(max=ids.shape[-1] - 1)
    high, low = ahead.gather(1, upper), torch.where(upper > 0, ahead.gather(1, (upper - 1).clamp(min=0)), 0.0)
    within = ((points - low) / (high - low).clamp(min=NOTHING)).clamp(0.0, 1.0)
    return [_binned(_running(side, ids), upper, within) for side in drawn_by]


def _binned(mass: torch.Tensor, upper: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """(bins, N). mass: (N, look) running sums; upper, within: (N, bins - 1) in which token's part of [0, 1] a bin ends,
    and how far in it"""
    before = torch.where(upper > 0, mass.gather(1, (upper - 1).clamp(min=0)), 0.0)
    below = torch.lerp(before, mass.gather(1, upper), within)
    ends = below.new_tensor([[0.0], [1.0]]).expand(-1, len(below))
    return torch.cat([ends[:1], below.T, ends[1:]]).diff(dim=0)


def _in_order(golden: torch.Tensor, look: int) -> torch.Tensor:
    """(N, look) ids of the most probable tokens, as they rank: of equal ones the lowest id first."""
    ids = golden.topk(look, dim=-1).indices.sort(-1).values
    return ids.gather(1, golden.gather(1, ids).sort(dim=-1, descending=True, stable=True).indices)


def _running(log_probs: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return log_probs.gather(1, ids).double().exp().cumsum(-1)


def _at(log_probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return log_probs.gather(1, tokens[:, None])[:, 0].double()


def _tolerant(cut: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(cut + math.log1p(-OUTSIDE), whole + math.log(OUTSIDE))


def _numpy(values: torch.Tensor) -> Doubles:
    return values.cpu().double().numpy()  # type: ignore[no-any-return]
