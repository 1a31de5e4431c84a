"""Stored rounds as the records they were made of: the inverse of canary_rows.py and traffic_rows.py. Pure.

What a golden record holds is not in the rows, so it is an argument. Figures are not read back: they are measured again
from the log-probabilities, by today's code. Rows of earlier versions lack columns; each such case is handled here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np

from agent.errors import Unreadable
from agent.store.canary_rows import JOINED
from agent.store.table_rows import ENGINES, GRIDS, HASHES, Row
from agent.store.traffic_rows import AXES
from detectors.canaries.mode_gap import beginning
from detectors.canaries.retention import PreparedReference, measure
from detectors.errors import DetectorError
from detectors.evidence.alternative import Alternative
from detectors.records import (
    BaseRound,
    Comparison,
    Floats,
    Identity,
    Measurement,
    Mode,
    Reason,
    Reference,
    Round,
    Summary,
)
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore

INCOMPLETE = "incomplete"
# Routes of comparisons, by the column of rounds that says how many rows of each there are. Other rows are of modes.
ROUTES = {"canaries": "present", "raw_canaries": "raw"}
IN_MODES = "cells"
References = Callable[[str, str, str], PreparedReference]
"""(adapter, hash of a golden record, canary) -> the reference of that canary. Raises Unreadable where it is not
available."""


def base_round(rounds: Sequence[Row], comparisons: Sequence[Row], references: References) -> BaseRound:
    """One scheduled round of one base from all its rows. Raises Unreadable where rows are missing.

    Rows of versions that stored no place are ordered by the names of their adapters.
    """
    first = rounds[0]
    stored = int(first.get("members", 0))
    if stored and stored != len(rounds):
        raise Unreadable(INCOMPLETE, f"{len(rounds)} of {stored} adapters")
    members = sorted(rounds, key=lambda row: (row.get("place", 0), row["adapter"]))
    by_adapter = {row["adapter"]: [c for c in comparisons if c["adapter"] == row["adapter"]] for row in members}
    return BaseRound(
        base=first["base"],
        number=first["round"],
        at=seconds(first["at"]),
        members=tuple(adapter_round(row, by_adapter[row["adapter"]], references) for row in members),
        tokens_scored=round(sum(row["tokens_scored"] for row in members)),
        tokens_processed=round(sum(row["tokens_processed"] for row in members)),
        duration_s=sum(row["duration_s"] for row in members),
    )


def adapter_round(row: Row, comparisons: Sequence[Row], references: References) -> Round:
    """One adapter's part of a round from its row of ``rounds`` and its rows of ``comparisons``. Raises Unreadable."""
    routes: dict[str, tuple[Measurement, ...]] = {}
    for column, route in (*ROUTES.items(), (IN_MODES, IN_MODES)):
        of_route = sorted((c for c in comparisons if _route(c) == route), key=_place)
        if column in row and (int(row.get("members", 0)) or route == "present") and row[column] != len(of_route):
            raise Unreadable(INCOMPLETE, f"{len(of_route)} of {row[column]} canaries of {row['adapter']} ({route})")
        routes[route] = tuple(_measurement(comparison, references) for comparison in of_route)
    return Round(
        adapter=row["adapter"],
        base=row["base"],
        number=row["round"],
        at=seconds(row["at"]),
        measurements=routes["present"],
        identity=replace(
            _identity([row.get(name, "") for name in HASHES], row.get("hash_scheme", 1)),
            **{name: row.get(name, "") for name in (*GRIDS, *ENGINES)},
        ),
        facts=tuple(row["facts"]),
        blocked=Reason(row["blocked"]) if row["blocked"] else None,
        detail=row["detail"],
        raw=routes["raw"],
        cells=routes[IN_MODES],
        answered_by=row.get("answered_by", ""),
    )


def traffic_round(row: Row, scores: Sequence[Row]) -> TrafficRound:
    """One round of responses from its row of ``traffic_rounds`` and those of ``traffic_scores``. Raises Unreadable."""
    if row["scores"] != len(scores):
        raise Unreadable(INCOMPLETE, f"{len(scores)} of {row['scores']} responses")
    identities = {name: _identity(hashes, scheme) for name, (*hashes, scheme) in row["identities"].items()}
    in_order = tuple(traffic_score(score) for score in sorted(scores, key=lambda score: score["place"]))
    adapters, duration_s = tuple(row["adapters"]), row.get("duration_s", 0.0)
    return TrafficRound(row["base"], row["round"], seconds(row["at"]), adapters, in_order, identities, duration_s)


def _identity(hashes: Sequence[str], scheme: int | str) -> Identity:
    """hashes: in the order of HASHES"""
    return Identity(**dict(zip(HASHES, hashes, strict=True)), scheme=int(scheme))


RESPONSE = ("adapter", "request_id", "pod", "tokens", "temperature", "top_p", "detail")


def traffic_score(row: Row) -> TrafficScore:
    """One response. The time at which it was served is in whole milliseconds, as stored."""
    alternatives: Mapping[str, float] = row["log_l"]
    samplers: Mapping[str, float] = row["log_sampler"]
    axes: dict[str, Any] = {name: _floats(row.get(name, ())) for name in AXES}
    return TrafficScore(
        **{name: row[name] for name in RESPONSE},
        at=seconds(row["at"]),
        scored=ScoringMode(row["scored"]),
        alternatives=tuple(map(Alternative.from_text, alternatives)),
        log_l=_floats(list(alternatives.values())),
        samplers=tuple(samplers),
        log_sampler=_floats(list(samplers.values())),
        rank_toll=row.get("rank_toll", 0.0),
        path_from=row.get("path_from", ""),
        **axes,
    )


def seconds(at: datetime) -> float:
    """The inverse of ``table_rows.when``."""
    return at.timestamp()


def _measurement(row: Row, references: References) -> Measurement:
    modes = () if _route(row) != IN_MODES else tuple(map(Mode, row["route"].split(JOINED)))
    shape = row["positions"], row["kept"]
    reference: Reference = references(row["adapter"], row["golden"], row["canary"])
    if modes:
        reference = beginning(reference, row["positions"])
    served, live_base = (_summary(row, side, shape) for side in ("served", "live_base"))
    replica, at = row.get("replica", ""), seconds(row["at"])
    try:
        comparison = Comparison(row["adapter"], reference, row["draws"], served, live_base, at, replica, modes)
        # The distance from the scored answer was measured against that one, through the same listing.
        return replace(measure(comparison), mode_shift=row.get("mode_shift", math.nan))
    except DetectorError as error:
        raise Unreadable("unmeasurable", f"canary {row['canary']} of {row['adapter']}: {error}") from error


def _summary(row: Row, side: str, shape: tuple[int, int]) -> Summary:
    log_probs = _floats(row[f"{side}_log_probs"])
    if log_probs.size != shape[0] * shape[1]:
        mismatch = f"{log_probs.size} numbers for {shape[0]} x {shape[1]}"
        raise Unreadable(INCOMPLETE, f"canary {row['canary']} of {row['adapter']}: {mismatch}")
    return Summary(log_probs.reshape(shape), _floats(row[f"{side}_rest"]), np.asarray(row[f"{side}_top1"], np.int32))


def _route(row: Row) -> str:
    route: str = row.get("route", "present")
    return route if route in ROUTES.values() else IN_MODES


def _place(row: Row) -> tuple[int, str]:
    return row.get("place", 0), row["canary"]


def _floats(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float32)
