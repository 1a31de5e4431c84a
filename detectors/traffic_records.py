"""Records of production traffic: scores and embeddings of sampled responses, and the sampler in force.

Units as in records.py. They hold numbers and never production text; stored rows have their field names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.alternative import Alternative
from detectors.records import Floats, Identity, Interval


class Side(StrEnum):
    """Which end of an interaction an embedding is of."""

    PROMPT = "prompt"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Pooled hidden state of the golden base for one side of one sampled interaction. vector: (d,) float32.

    group: hash of the session or tenant that it comes from, "" where unknown; interactions of one group are dependent
    """

    adapter: str
    side: Side
    request_id: str
    vector: Floats
    at: float
    group: str = ""


class ScoringMode(StrEnum):
    """How a response could be scored, by what its record says of the distribution of its tokens."""

    SAMPLED = "sampled"  # temperature, top_p, top_k known: drawn from the distribution that they give
    GREEDY = "greedy"  # temperature 0: whose most probable token was written
    NOT_SCORED = "not_scored"  # no golden copy, unknown sampling, no tokens: embeddings only


@dataclass(frozen=True, slots=True, eq=False)
class TrafficScore:
    """The evidence of one sampled response about who wrote it, by the golden copies.

    tokens: response positions scored; detail: why there are none
    alternatives: (A,) the base first; log_l: (A,) ln of the e-value of the whole response for each of them against
    "what wrote this keeps the tolerated share of the adapter", slack off
    samplers: (S,) names of other samplers than the request's; log_sampler: (S,) ln of their e-values
    path: (G,) shares on the interpolation path from base (0) to adapter (1), of a response of the base from the adapter
    that is suspected (0) to the base (1), () while none is; path_log_lik: (G,) ln likelihood there; path_from: of a
    response of the base that adapter, "" where there is no path, and in rows of earlier versions
    temperatures, top_ps: samplers that might be in force; *_log_lik: (G,) ln likelihood there, all else as requested
    ranks: (tokens,) randomised rank of each token in the golden distribution, in [0, 1]; uniform under the null
    ranks_weaker, ranks_stronger: (B,) how many of the tokens have a rank in each of so many equal parts of [0, 1], on
    average, where what wrote them is at the lower or at the upper edge of the adapter's tolerance
    rank_toll: nats taken off an e-value that is made of the ranks, for numerics and for ids made from text
    temperature, top_p: of the request; nan where unknown
    Arrays that a greedy response has no numbers for are empty.
    """

    adapter: str
    request_id: str
    pod: str
    at: float
    scored: ScoringMode
    tokens: int
    alternatives: tuple[Alternative, ...] = ()
    log_l: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    samplers: tuple[str, ...] = ()
    log_sampler: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    path: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    path_log_lik: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    temperatures: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    temperature_log_lik: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    top_ps: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    top_p_log_lik: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    ranks: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    ranks_weaker: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    ranks_stronger: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    rank_toll: float = 0.0
    temperature: float = float("nan")
    top_p: float = float("nan")
    detail: str = ""
    path_from: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TrafficRound:
    """All responses of one base's adapters that were scored since the last round; each round adds one "+1" to M.

    adapters: every adapter of the base, also those without a response; number: counts scheduled rounds from 0
    scores: of its adapters, and of requests that name the base itself, whose name is then their ``adapter``
    identities: adapter -> hashes of what was accepted and of the present files, as far as the runner knows
    duration_s: that the models spent on them; 0 in rounds of earlier versions
    """

    base: str
    number: int
    at: float
    adapters: tuple[str, ...]
    scores: tuple[TrafficScore, ...]
    identities: Mapping[str, Identity] = field(default_factory=dict)
    duration_s: float = 0.0

    @property
    def of_base(self) -> tuple[TrafficScore, ...]:
        """Those of requests that name the base itself. A base that has the name of an adapter has none."""
        return () if self.base in self.adapters else tuple(s for s in self.scores if s.adapter == self.base)


def by_adapter(scores: Iterable[TrafficScore], adapters: Sequence[str]) -> dict[str, list[TrafficScore]]:
    """Each of these adapters -> its scores, in their order; [] where it has none. Scores of others are left out."""
    own: dict[str, list[TrafficScore]] = {adapter: [] for adapter in adapters}
    for score in scores:
        if score.adapter in own:
            own[score.adapter].append(score)
    return own


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The sampler in force for one adapter, estimated from its recent tokens; for a person to look at.

    log_e: nats against "as the requests ask"; leading: the sampler with the highest level, "" where none is above 0
    temperature, top_p: most likely values with 95 % profile-likelihood intervals, all else as requested; None unknown
    asked_*: smallest and largest value of the recent requests, () unknown
    ranks: (bins,) share of tokens by their rank in the golden distribution, 1 / bins each under the null: more on the
    left is a colder sampler or a smaller top-p, more on the right a hotter sampler
    tokens: behind the histogram, older ones weighing less
    """

    adapter: str
    base: str
    round: int
    at: float
    log_e: float
    leading: str
    temperature: Interval | None
    top_p: Interval | None
    asked_temperature: tuple[float, ...]
    asked_top_p: tuple[float, ...]
    ranks: NDArray[np.float64]
    tokens: float
