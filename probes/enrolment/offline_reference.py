"""A record made in process as the reference of a serving engine: what does the engine do otherwise?

A record that was made on an engine alone is blind to what that engine always gets wrong, such as a module whose update
it applies nowhere (vllm-project/vllm#48974). So the engine is measured against a record of the same adapter that was
made in process, perhaps on another machine. How far it is off is its own noise floor; where that is beyond the
tolerance there is nothing to accept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.retention import prepare
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Measurement
from probes.canaries.round import present_prompt
from probes.enrolment.noise_battery import BenignConfiguration, measured_in
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Refused
from probes.golden.record import Golden, check_identity, short
from probes.runner import BatchShape, Runner
from probes.serving.listed_summary import read_by

AGAINST = BenignConfiguration("against the record made in process", BatchShape())
STAGE = "against the record made in process"


def as_served(runner: Runner, offline: Golden) -> Golden:
    """The record made in process as this engine would have answered it. Raises Refused where the engine has other
    files, another tokenizer or another chat template than it was made with."""
    wanted = "those of the record made in process: make it again from what is served, or serve what it was made from"
    if changes := check_identity(offline, runner):
        raise Refused(f"adapter {offline.adapter}", "; ".join(changes), wanted)
    other = [canary.id for canary in offline.canaries if present_prompt(runner, canary) != canary.prompt]
    if other:
        count = f"{len(other)} of {len(offline.canaries)} prompts render to other token ids, first {other[0]}"
        raise Refused(f"adapter {offline.adapter}: the engine's chat template", count, wanted)
    canaries = tuple(read_by(runner, canary) for canary in offline.canaries)
    return replace(offline, canaries=canaries, offline=offline.hash, hash="")


def difference(context: EnrolmentContext, golden: Golden, tolerances: Tolerances) -> tuple[Measurement, ...]:
    """Every canary as the engine answers it, against the record made in process.

    golden: from ``as_served``. Raises Refused, naming what differs, where more canaries than the tolerated share are
    beyond tolerance; else that is the engine's own noise. A count over all canaries and no test: it has no null
    hypothesis and no error rate.
    """
    context.progress(STAGE, 0, 1)
    measurements = measured_in(context.runner, context.adapter, golden.canaries, AGAINST, context.stop)
    context.progress(STAGE, 1, 1)
    beyond = [measurement for measurement in measurements if _is_beyond(measurement, tolerances)]
    if len(beyond) > tolerances.share * len(measurements):
        allowed = tolerances.allowed_deviation(context.adapter)
        raise Refused(
            f"adapter {context.adapter} as the engine serves it",
            f"{what_differs(beyond)}, on {len(beyond)} of {len(measurements)} canaries",
            f"the answers of the record made in process ({short(golden.offline)}), within {allowed:.1%}",
        )
    return measurements


def _is_beyond(measurement: Measurement, tolerances: Tolerances) -> bool:
    """Beyond tolerance as on a base that may not have moved: what an engine serves is to be accepted as a whole."""
    allowed = tolerances.allowed_deviation(measurement.comparison.adapter)
    floor = math.sqrt(measurement.comparison.reference.noise.base_shift)
    on_same_base = beyond_tolerance(replace(measurement, base_shift=0.0), tolerances)
    return on_same_base or not math.sqrt(measurement.base_shift) <= allowed + floor


def what_differs(beyond: Sequence[Measurement]) -> str:
    """In words, of canaries beyond tolerance: the base, or how the adapter is applied; medians over the canaries."""

    def median(name: str) -> float:
        return float(np.median([getattr(measurement, name) for measurement in beyond]))

    figures = f"strength {median('scale'):.2f}, off its direction {math.sqrt(max(median('distortion'), 0.0)):.2f}"
    shift = math.sqrt(median("base_shift"))
    others = [_nearest_other(measurement) for measurement in beyond]
    other = max(set(others), key=others.count, default="")
    if shift > abs(median("scale") - 1) and shift > math.sqrt(max(median("distortion"), 0.0)):
        return f"another base answers (it is off by {shift:.2f} of the adapter's effect; {figures})"
    if other and others.count(other) > len(others) / 2:
        return f"the adapter {other} answers in its place ({figures})"
    if median("kl_served_base") < 0.01 * median("kl_golden_served"):
        return f"the adapter is not applied: the base answers ({figures})"
    if math.sqrt(max(median("distortion"), 0.0)) < abs(median("scale") - 1):
        return f"the adapter is applied at another strength ({figures})"
    return f"the adapter is applied in part or otherwise ({figures}, base off by {shift:.2f})"


def _nearest_other(measurement: Measurement) -> str:
    """The other adapter whose recorded answers are nearest and at most half as far as the adapter's own; "" if none."""
    ready = prepare(measurement.comparison.reference)
    served = ready.from_base(measurement.comparison.served.log_probs)
    own = float(np.sum((served - ready.delta) ** 2))
    left = {name: float(np.sum((served - ready.from_base(table)) ** 2)) for name, table in ready.others.items()}
    name = min(left, key=lambda adapter: left[adapter], default="")
    nearer = bool(name) and left[name] < own / 4 and left[name] < float(served @ served) / 4
    return name if nearer else ""
