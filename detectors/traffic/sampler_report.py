"""Are tokens drawn by another sampler than the requests ask for? Words for a person; it never pages."""

from __future__ import annotations

import math
from dataclasses import replace

from detectors.records import Cause, Interval, Reason, Status, Verdict
from detectors.traffic_records import Calibration

PENALTIES = "no penalties"


def sampler_in_words(seen: Calibration, log_threshold: float) -> str:
    """ "tokens are drawn as at temperature 1.19 (1.12..1.27), requests asked for 1", "" where nothing is to be said.

    The evidence has to pass the threshold of a page, and an estimate of the recent tokens has to agree: M stays high
    for a while after the sampler was put right. Requests that ask for different values have no one estimate, and
    neither have penalties: there the sampler that explains the tokens best is named.
    """
    if seen.log_e < log_threshold:
        return ""
    axes = (("temperature", seen.temperature, seen.asked_temperature), ("top-p", seen.top_p, seen.asked_top_p))
    told = [_moved(name, found, asked) for name, found, asked in axes if found is not None and _outside(found, asked)]
    if not told and (seen.leading == PENALTIES or any(_mixed(asked) for _, _, asked in axes)):
        told = [f"by another sampler ({seen.leading}), requests asked for {_all_asked(seen)}"]
    return f"tokens are drawn {' and '.join(told)}" if told else ""


def with_sampler(verdict: Verdict, words: str) -> Verdict:
    """A healthy verdict whose sampler is not the requests' says so: information for whoever owns the engine."""
    if verdict.status is not Status.HEALTHY or not words:
        return verdict
    told = replace(verdict, explanation="; ".join(filter(None, (verdict.explanation, words))))
    if verdict.reason is not Reason.WITHIN_TOLERANCE:
        return told
    return replace(told, reason=Reason.SAMPLING_CHANGED, cause=Cause.SAMPLING_CHANGED)


def _outside(found: Interval, asked: tuple[float, ...]) -> bool:
    """A bound beyond the grid is nan, and excludes nothing."""
    return bool(asked) and (found.high < asked[0] or found.low > asked[-1])


def _moved(name: str, found: Interval, asked: tuple[float, ...]) -> str:
    low, high = (f"{bound:.2f}" if math.isfinite(bound) else "" for bound in (found.low, found.high))
    return f"as at {name} {found.mean:.2f} ({low}..{high}), requests asked for {_span(asked)}"


def _mixed(asked: tuple[float, ...]) -> bool:
    return bool(asked) and asked[0] != asked[-1]


def _all_asked(seen: Calibration) -> str:
    told = (("temperature", seen.asked_temperature), ("top-p", seen.asked_top_p))
    return ", ".join(f"{name} {_span(asked)}" for name, asked in told if asked)


def _span(asked: tuple[float, ...]) -> str:
    return f"{asked[0]:g} to {asked[-1]:g}" if _mixed(asked) else f"{asked[0]:g}"
