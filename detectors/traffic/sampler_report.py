"""Are tokens drawn by another sampler than the requests ask for? In words, and as the reason of a healthy verdict.

By default it never pages and never changes a status: a healthy verdict without another reason gets SAMPLING_CHANGED.
Where the detector may page, an alarm that the sampler explains has that as its cause (adapter_decision.py). The
templates are in detectors/on_call_text.py; the estimates come from detectors/kinds/token_calibration.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from detectors.on_call_text import DRAWN_AT, DRAWN_BY_ANOTHER, TOKENS_DRAWN
from detectors.records import Cause, Interval, Reason, Status, Verdict
from detectors.traffic_records import Calibration

PENALTIES = "no penalties"


@dataclass(frozen=True, slots=True)
class SamplerInForce:
    """The sampler that a round's responses show, as far as it is not the requests'.

    log_e: nats of evidence that it is another one
    words: what is said of it, "" where the evidence is below the threshold of a page or the estimates agree with it
    estimates: parameter -> its interval; requested: parameter -> smallest and largest value that was asked for
    """

    log_e: float = 0.0
    words: str = ""
    estimates: Mapping[str, Interval] = field(default_factory=dict)
    requested: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def moved(self) -> dict[str, float]:
        """Parameter -> its estimate, where its interval excludes all that was requested."""
        return {
            name: estimate.mean
            for name, estimate in self.estimates.items()
            if _outside(estimate, self.requested.get(name, ()))
        }

    def is_back(self, before: Mapping[str, float]) -> bool:
        """Does each of these parameters have an interval that contains what is requested, and not the value that it had
        before? With few responses it contains both, and nobody can tell."""
        return all(self._is_back(name, value) for name, value in before.items())

    def _is_back(self, name: str, before: float) -> bool:
        estimate, requested = self.estimates.get(name), self.requested.get(name, ())
        if estimate is None or not requested:
            return False
        return not _outside(estimate, requested) and _outside(estimate, (before, before))


def sampler_in_force(calibration: Calibration | None, log_threshold: float) -> SamplerInForce:
    """calibration: after the round, None where there is none"""
    if calibration is None:
        return SamplerInForce()
    axes = _axes(calibration)
    estimates = {name: estimate for name, estimate, _ in axes if estimate is not None}
    requested = {name: values for name, _, values in axes}
    return SamplerInForce(calibration.log_e, sampler_in_words(calibration, log_threshold), estimates, requested)


def sampler_in_words(calibration: Calibration, log_threshold: float) -> str:
    """ "tokens are drawn as at temperature 1.19 (1.12..1.27), requests asked for 1", "" where nothing is to be said.

    The evidence has to pass the threshold of a page, and an estimate of the recent tokens has to agree: M stays high
    for a while after the sampler was put right. Requests that ask for different values have no common estimate, and
    neither have penalties: there the sampler that explains the tokens best is named.
    """
    if calibration.log_e < log_threshold:
        return ""
    axes = _axes(calibration)
    moved = [
        _moved(name, estimate, requested)
        for name, estimate, requested in axes
        if estimate is not None and _outside(estimate, requested)
    ]
    if not moved and (calibration.leading == PENALTIES or any(_mixed(requested) for _, _, requested in axes)):
        moved = [DRAWN_BY_ANOTHER.format(sampler=calibration.leading, requested=_all_requested(calibration))]
    return TOKENS_DRAWN.format(how=" and ".join(moved)) if moved else ""


def with_sampler(verdict: Verdict, words: str) -> Verdict:
    """A healthy verdict whose sampler is not the requests' says so: information for whoever owns the engine."""
    if verdict.status is not Status.HEALTHY or not words:
        return verdict
    noted = replace(verdict, explanation="; ".join(filter(None, (verdict.explanation, words))))
    if verdict.reason is not Reason.WITHIN_TOLERANCE:
        return noted
    return replace(noted, reason=Reason.SAMPLING_CHANGED, cause=Cause.SAMPLING_CHANGED)


def _axes(calibration: Calibration) -> tuple[tuple[str, Interval | None, tuple[float, ...]], ...]:
    return (
        ("temperature", calibration.temperature, calibration.asked_temperature),
        ("top-p", calibration.top_p, calibration.asked_top_p),
    )


def _outside(estimate: Interval, requested: tuple[float, ...]) -> bool:
    """A bound beyond the grid is nan, and excludes nothing."""
    return bool(requested) and (estimate.high < requested[0] or estimate.low > requested[-1])


def _moved(name: str, estimate: Interval, requested: tuple[float, ...]) -> str:
    low, high = (f"{bound:.2f}" if math.isfinite(bound) else "" for bound in (estimate.low, estimate.high))
    return DRAWN_AT.format(parameter=name, mean=estimate.mean, low=low, high=high, requested=_span(requested))


def _mixed(requested: tuple[float, ...]) -> bool:
    return bool(requested) and requested[0] != requested[-1]


def _all_requested(calibration: Calibration) -> str:
    parameters = (("temperature", calibration.asked_temperature), ("top-p", calibration.asked_top_p))
    return ", ".join(f"{name} {_span(requested)}" for name, requested in parameters if requested)


def _span(requested: tuple[float, ...]) -> str:
    return f"{requested[0]:g} to {requested[-1]:g}" if _mixed(requested) else f"{requested[0]:g}"
