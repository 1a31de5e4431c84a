"""The words for what production itself tells: sampled responses, their scores and embeddings, the sampler in force.

Units as in records.py. They hold numbers and no text.
"""

from __future__ import annotations

from collections.abc import Mapping
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

    group: hash of the session or tenant that it comes from, "" where unknown; interactions of one group depend on each
    other
    """

    adapter: str
    side: Side
    request_id: str
    vector: Floats
    at: float
    group: str = ""


class ScoringMode(StrEnum):
    """How a response could be scored: which law its tokens were drawn from, as far as the record says."""

    SAMPLED = "sampled"  # temperature, top_p, top_k known: their law
    GREEDY = "greedy"  # temperature 0: which side's argmax was emitted
    NOT_SCORED = "not_scored"  # no golden copy, unknown sampling, no tokens: embeddings only


@dataclass(frozen=True, slots=True, eq=False)
class TrafficScore:
    """What one sampled response says about who wrote it, by the golden copies; it holds no text.

    tokens: response positions scored; detail: why there are none, in words
    alternatives: (A,) the base first; log_l: (A,) ln of the e-value of the whole response for each of them against
    "what wrote this keeps the tolerated share of the adapter", slack off
    samplers: (S,) names of other samplers than the request's; log_sampler: (S,) ln of their e-values
    path: (G,) shares of the way from base (0) to adapter (1); path_log_lik: (G,) ln likelihood of the response there
    temperatures, top_ps: samplers that might be in force; *_log_lik: (G,) ln likelihood there, all else as requested
    ranks: (tokens,) randomised rank of each token in the golden law, in [0, 1]; uniform while nothing is wrong
    temperature, top_p: what the request asked for; nan where unknown
    What a greedy response cannot say is empty.
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
    temperature: float = float("nan")
    top_p: float = float("nan")
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TrafficRound:
    """All responses of one base's adapters that were scored since the last one; the one call that adds the "+1".

    adapters: every adapter of the base, also those without a response; number: counts scheduled rounds from 0
    identities: adapter -> what was accepted and what lies there now, as far as the runner knows
    """

    base: str
    number: int
    at: float
    adapters: tuple[str, ...]
    scores: tuple[TrafficScore, ...]
    identities: Mapping[str, Identity] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The sampler that is in force for one adapter, as far as the recent tokens tell; for a person to look at.

    log_e: nats against "as the requests ask"; leading: the sampler that they speak for most, "" where for none
    temperature, top_p: most likely values with 95 % profile-likelihood intervals, all else as requested; None unknown,
    asked_*: smallest and largest that recent requests asked for, () unknown
    ranks: (bins,) share of tokens by their rank in the golden law, 1 / bins each while all is well: mass on the left is
    a colder sampler or a narrower nucleus, mass on the right a hotter one
    tokens: behind the histogram, as far as they are not forgotten
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
