"""What is computed of each token of a response, and the record that it comes back in.

Shared by the reference formulas (likelihood_ratio_reference.py) and those that run on a device
(likelihood_ratio_torch.py): a new alternative or axis is added in both, and tests hold them equal. The names of
``samplers`` are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from detectors.evidence.alternative import Alternative
from probes.scoring.token_distribution import Doubles, SamplingParameters

# Share of the ratio that is replaced by a constant where a token can be impossible: no token ends an alternative.
HELD_BACK = 0.05
# Nats per token that cover the rounding of float32 sums over a vocabulary.
ROUNDING = 1e-4


# Share of the way from the base to an adapter that is an alternative of the base's own responses, beside the adapter.
HALFWAY = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """What is computed of each token.

    tolerance: share of the adapter's effect whose loss or surplus is benign
    numeric: nats a token taken off every ratio, for differences between kernels
    path: shares on the interpolation path that are alternatives; grid: shares at which the likelihood is recorded
    temperatures, top_ps: at which it is recorded too, for the estimates of the sampler that is in force
    rank_bins: equal parts of [0, 1] in which the ranks of a healthy adapter's tokens are expected
    kept_apart: most probable tokens of adapter and of base each that are kept apart where the formulas allow it, all
    others being one outcome (rest_bucket.py); 0 for the whole vocabulary
    """

    tolerance: float = 0.05
    numeric: float = 0.0
    path: tuple[float, ...] = (0.25, 0.5, 0.75)
    grid: tuple[float, ...] = tuple(round(0.1 * step, 1) for step in range(16))
    temperatures: tuple[float, ...] = (0.25, 0.5, 0.7, 0.85, 1.0, 1.15, 1.35, 1.6, 2.0)
    top_ps: tuple[float, ...] = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99, 1.0)
    rank_bins: int = 20
    kept_apart: int = 512

    @property
    def edges(self) -> tuple[float, float]:
        """Shares of the adapter between which what is served counts as healthy."""
        return 1.0 - self.tolerance, 1.0 + self.tolerance

    @property
    def leaks(self) -> tuple[float, float]:
        """Shares of an adapter between which what is served under the base's own name counts as the base."""
        return -self.tolerance, self.tolerance

    def widened(self, requested: SamplingParameters) -> list[SamplingParameters]:
        """The request's sampler with each of ``top_ps``."""
        return [replace(requested, top_p=p) for p in self.top_ps]


def samplers(requested: SamplingParameters) -> dict[str, SamplingParameters]:
    """Name -> a sampler that might be in force instead of the request's: one of its parameters has another value.

    Temperature 1 is that of an engine that ignores the parameter, 0 that of one that treats it as a switch.
    """
    t = requested.temperature
    heat = (
        {"temperature 1": 1.0, "temperature 0.3": 0.3}
        if requested.greedy
        else {"temperature 1": 1.0, "temperature 0": 0.0, "temperature x0.8": 0.8 * t, "temperature x1.2": 1.2 * t}
    )
    others = {name: replace(requested, temperature=other) for name, other in heat.items() if other != t}
    if not requested.greedy:  # top-p changes nothing for a greedy sampler
        others |= {f"top_p {p:g}": replace(requested, top_p=p) for p in (0.9, 1.0) if p != requested.top_p}
    if requested.penalised:
        others["no penalties"] = replace(requested, presence=0.0, frequency=0.0, repetition=1.0)
    return others


# Every name that ``samplers`` can give.
SAMPLERS = tuple(samplers(SamplingParameters(0.0))) + tuple(
    name for name in samplers(SamplingParameters(0.7, top_p=0.8, presence=1.0)) if name != "temperature 1"
)


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """tokens: (T,) ids of the output; prompt: ids before it; seed: of the randomised ranks (``seed_of``)"""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    sampling: SamplingParameters
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """The numbers of N positions, in nats.

    log_l: alternative -> (N,) ln of the e-value; log_sampler: sampler -> (N,) likewise
    path_log_lik: (G, N) ln likelihood along ``Settings.grid``; temperature_log_lik, top_p_log_lik: along
    ``Settings.temperatures`` and ``Settings.top_ps``
    ranks: (N,) randomised rank of the token in the golden token distribution, in [0, 1] and not in nats
    ranks_weaker, ranks_stronger: (B, N) chance of each of ``Settings.rank_bins`` bins for that rank, where the token is
    drawn at the lower or at the upper edge of the tolerance
    Greedy responses have nan in path_log_lik, top_p_log_lik and all of the ranks: their tokens are not drawn.
    Responses of the base itself have ``log_l`` and at most a path, see ``of_alternatives``.
    """

    log_l: Mapping[Alternative, Doubles]
    log_sampler: Mapping[str, Doubles]
    path_log_lik: Doubles
    temperature_log_lik: Doubles
    top_p_log_lik: Doubles
    ranks: Doubles
    ranks_weaker: Doubles
    ranks_stronger: Doubles

    @classmethod
    def of_alternatives(cls, log_l: Mapping[Alternative, Doubles], path: Doubles | None = None) -> TokenScores:
        """Without samplers, other axes and ranks; path: (G, N) from an adapter to the base, None where not wanted"""
        n = len(next(iter(log_l.values())))
        none = np.zeros((0, n))
        return cls(log_l, {}, none if path is None else path, none, none, np.full(n, np.nan), none, none)

    def part(self, where: slice) -> TokenScores:
        """Some of the positions."""
        log_l = {alternative: values[where] for alternative, values in self.log_l.items()}
        log_sampler = {name: values[where] for name, values in self.log_sampler.items()}
        path, hot, wide = (rows[:, where] for rows in (self.path_log_lik, self.temperature_log_lik, self.top_p_log_lik))
        edges = (rows[:, where] for rows in (self.ranks_weaker, self.ranks_stronger))
        return TokenScores(log_l, log_sampler, path, hot, wide, self.ranks[where], *edges)


def uniforms(response: Response) -> Doubles:
    """(T,) in [0, 1), from the request alone, so that scoring a response again gives the same ranks."""
    return np.random.default_rng(response.seed).random(len(response.tokens))


def seed_of(request_id: str, at: float = 0.0) -> int:
    """A seed that follows from the request alone. at: when it was served, because some clients use an id again: the
    same numbers at the same positions of many responses would be a pattern that no adapter has"""
    return int.from_bytes(hashlib.blake2b(f"{request_id} {at!r}".encode(), digest_size=8).digest())
