"""What the store holds of two windows, as columns of numbers and as texts, and in words what it does not. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.evidence.two_sample import permutation_p_values, principal_scores

Row = Mapping[str, Any]
Doubles = NDArray[np.float64]

# With fewer values in a window nothing is compared; more rows of embeddings would make the permutation test slow.
LEAST, COMPARED = 2, 400
# Directions in which embeddings of both windows together vary most.
AXES = 4
# Figure of a canary -> what it is called in the report.
OF_CANARIES = {
    "retention": "retention",
    "scale": "effective scale",
    "kl_golden_served": "KL from golden to served, nats per token",
    "kl_served_base": "KL from served to base, nats per token",
    "top1_agreement": "share of golden tokens still first",
}
OF_REQUESTS = {
    "prompt_chars": "prompt: characters",
    "output_chars": "answer: characters",
    "prompt_tokens": "prompt: tokens",
    "output_tokens": "answer: tokens",
}
# Where a record does not say, these are 0.
COUNTED = ("prompt_tokens", "output_tokens")
TEXTS = {"prompt": "prompt", "output": "answer"}
CANARIES, REQUESTS = "canaries", "requests"
# What is counted -> when the store has it.
KEPT = {
    CANARIES: "Canaries are replayed where the adapter is enrolled; their rows are kept for 60 days.",
    REQUESTS: "Requests are sampled from Kafka at sampling.rate, and kept for 30 days.",
    **dict.fromkeys(
        [f"{name} embeddings" for name in TEXTS.values()],
        "Sampled requests are embedded where their answers are scored; embeddings are kept for 30 days.",
    ),
    **dict.fromkeys(
        [f"{name}s as text" for name in TEXTS.values()],
        "Text is stored where clickhouse.store_text is set; lengths always are.",
    ),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One figure in both windows. part: CANARIES, REQUESTS, ``prompt embeddings`` or ``answer embeddings``

    healthy: (n,) finite, n >= LEAST; incident: (m,) likewise
    """

    part: str
    name: str
    healthy: Doubles
    incident: Doubles

    @property
    def title(self) -> str:
        return f"{self.part}: {self.name}"


@dataclass(frozen=True, slots=True)
class Texts:
    """What was asked, or answered, in both windows. name: ``prompt`` or ``answer``; none of them is empty."""

    name: str
    healthy: tuple[str, ...]
    incident: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cloud:
    """Embeddings of one side in both windows, before they are projected. explained: share of the variance on the axes

    p_values: by statistic, of whether both windows have one distribution
    """

    name: str
    counts: tuple[int, int]
    explained: float
    p_values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class MovedCanary:
    """One canary in a round of each window; retention, 1 intact and 0 the base."""

    name: str
    healthy: float
    incident: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Of one window, as the questions answer: ``canary_draws``, ``sampled_requests``, and ``embedded`` by side."""

    canaries: Sequence[Row] = ()
    requests: Sequence[Row] = ()
    embedded: Mapping[str, Sequence[Row]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """moved: canaries that both windows have, the most changed first; ended: how answers ended -> in how many requests
    of the healthy window and of the incident; lacking: what is not in the store"""

    columns: tuple[Column, ...]
    texts: tuple[Texts, ...]
    clouds: tuple[Cloud, ...]
    moved: tuple[MovedCanary, ...]
    ended: tuple[tuple[str, int, int], ...]
    counts: Mapping[str, tuple[int, int]]
    lacking: tuple[str, ...]


def contents_of(healthy: Rows, incident: Rows) -> Contents:
    """What can be compared of these rows."""
    columns = [
        *_columns(CANARIES, OF_CANARIES, _a_round_each(healthy.canaries), _a_round_each(incident.canaries)),
        *_columns(REQUESTS, OF_REQUESTS, healthy.requests, incident.requests),
    ]
    clouds = []
    for side, name in TEXTS.items():
        of_side = _vectors(healthy.embedded.get(side, ())), _vectors(incident.embedded.get(side, ()))
        if min(map(len, of_side)) >= LEAST and of_side[0].shape[1] == of_side[1].shape[1]:
            axes, cloud = _projected(name, *of_side)
            columns += axes
            clouds.append(cloud)
    texts = [text for side, name in TEXTS.items() for text in _texts(side, name, healthy.requests, incident.requests)]
    return Contents(
        tuple(columns),
        tuple(texts),
        tuple(clouds),
        _moved(_a_round_each(healthy.canaries), _a_round_each(incident.canaries)),
        _ended(healthy.requests, incident.requests),
        _counts(healthy, incident),
        tuple(_lacking(healthy, incident)),
    )


def _a_round_each(rows: Iterable[Row]) -> list[Row]:
    """The first row of each canary. Where a window has several spans, each of them has drawn its own."""
    return list({row["canary"]: row for row in reversed([*rows])}.values())


def _columns(part: str, names: Mapping[str, str], healthy: Sequence[Row], incident: Sequence[Row]) -> Iterable[Column]:
    """Those whose values are not all the same: such a column would only cost the others power."""
    for name, words in names.items():
        values = _finite(healthy, name), _finite(incident, name)
        if min(map(len, values)) >= LEAST and len(np.unique(np.concatenate(values))) > 1:
            yield Column(part, words, *values)


def _finite(rows: Sequence[Row], name: str) -> Doubles:
    """Without those that were not recorded; of tokens that is 0."""
    values = np.array([number_of(row[name]) for row in rows], dtype=np.float64)
    return values[np.isfinite(values) & (values > 0 if name in COUNTED else True)]


def number_of(value: Any) -> float:
    """A running agent gives its answers as JSON, in which no number is null."""
    return math.nan if value is None else float(value)


def _vectors(rows: Sequence[Row]) -> Doubles:
    """(n, d); rows of another length than the most frequent one, which another base embedded, are left out."""
    lengths = Counter(len(row["vector"]) for row in rows)
    d = max(lengths, key=lambda length: (lengths[length], length), default=0)
    kept = [row["vector"] for row in rows if len(row["vector"]) == d]
    return np.array(kept, dtype=np.float64).reshape(len(kept), d)


def _projected(name: str, healthy: Doubles, incident: Doubles) -> tuple[list[Column], Cloud]:
    before, after, explained = principal_scores(healthy, incident, AXES)
    part = f"{name} embeddings"
    axes = [Column(part, f"axis {i + 1}", before[:, i], after[:, i]) for i in range(before.shape[1])]
    p_values = permutation_p_values(_thinned(healthy), _thinned(incident))
    return axes, Cloud(name, (len(healthy), len(incident)), explained, p_values)


def _thinned(rows: Doubles) -> Doubles:
    """At most COMPARED of them, evenly: a permutation test compares every row with every other."""
    step = max(1, len(rows) // COMPARED)
    return rows[::step][:COMPARED]


def _texts(side: str, name: str, healthy: Sequence[Row], incident: Sequence[Row]) -> Iterable[Texts]:
    both = [tuple(str(row[side]) for row in rows if row[side]) for rows in (healthy, incident)]
    if min(map(len, both)) >= LEAST:
        yield Texts(name, both[0], both[1])


def _moved(healthy: Sequence[Row], incident: Sequence[Row]) -> tuple[MovedCanary, ...]:
    before, after = ({row["canary"]: number_of(row["retention"]) for row in rows} for rows in (healthy, incident))
    both = [MovedCanary(str(name), before[name], after[name]) for name in after if name in before]
    moved = [canary for canary in both if math.isfinite(canary.healthy) and math.isfinite(canary.incident)]
    return tuple(sorted(moved, key=lambda canary: -abs(canary.incident - canary.healthy)))


def _ended(healthy: Sequence[Row], incident: Sequence[Row]) -> tuple[tuple[str, int, int], ...]:
    before, after = (
        Counter(str(row["finish_reason"] or "not recorded") for row in rows) for rows in (healthy, incident)
    )
    return tuple((reason, before[reason], after[reason]) for reason in sorted(before | after))


def _counts(healthy: Rows, incident: Rows) -> dict[str, tuple[int, int]]:
    count: Mapping[str, Callable[[Rows], int]] = {
        CANARIES: lambda rows: len(_a_round_each(rows.canaries)),
        REQUESTS: lambda rows: len(rows.requests),
        **{f"{name} embeddings": _embedded_on(side) for side, name in TEXTS.items()},
        **{f"{name}s as text": _written_on(side) for side, name in TEXTS.items()},
    }
    return {what: (of(healthy), of(incident)) for what, of in count.items()}


def _embedded_on(side: str) -> Callable[[Rows], int]:
    return lambda rows: len(rows.embedded.get(side, ()))


def _written_on(side: str) -> Callable[[Rows], int]:
    return lambda rows: sum(bool(row[side]) for row in rows.requests)


def _lacking(healthy: Rows, incident: Rows) -> Iterable[str]:
    """Why a part of the report is missing, and what would have it."""
    for what, (before, after) in _counts(healthy, incident).items():
        if min(before, after) < LEAST:
            name = "sampled requests" if what == REQUESTS else what  # all are counted, and few are sampled
            yield f"{name}: {before} in the healthy window, {after} in the incident: not compared. {KEPT[what]}"
