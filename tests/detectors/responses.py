"""Responses for tests: scored by hand, for and against what was accepted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detectors.evidence.alternative import BASE, HALF_STRENGTH, other_adapter
from detectors.records import Evidence, SubjectKind
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore

ALTERNATIVES = (BASE, HALF_STRENGTH, other_adapter("rewriter"))
FOR, AGAINST = (-50.0, -10.0, -60.0), (60.0, 20.0, -5.0)


def score(log_l: tuple[float, ...] = FOR, *, adapter: str = "router", pod: str = "", name: str = "r") -> TrafficScore:
    values = np.array(log_l, np.float32)
    return TrafficScore(adapter, name, pod, 0.0, ScoringMode.SAMPLED, 14, ALTERNATIVES[: len(values)], values)


def on_path(scored: TrafficScore, share: float, path_from: str = "") -> TrafficScore:
    """The score with a likelihood along the interpolation path that is highest at that share. path_from: of a response
    of the base"""
    grid = np.linspace(0, 1.5, 16).astype(np.float32)
    log_lik = (-50.0 * (grid - share) ** 2).astype(np.float32)
    return replace(scored, path=grid, path_log_lik=log_lik, path_from=path_from)


def unscored(why: str = "its temperature is unknown", adapter: str = "router") -> TrafficScore:
    return TrafficScore(adapter, "r", "", 0.0, ScoringMode.NOT_SCORED, 0, detail=why)


def traffic_round(*scores: TrafficScore, number: int = 0, adapters: tuple[str, ...] = ("router",)) -> TrafficRound:
    return TrafficRound("smol", number, 60.0 * number, adapters, scores)


def evidence(log_e: float, pages: bool = True) -> Evidence:
    return Evidence(SubjectKind.ADAPTER, "router", "traffic_likelihood", "replica", 0, log_e, 1, 0.0, pages)
