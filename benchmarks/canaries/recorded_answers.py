"""Answers under a fault from golden records alone, without a model: the recorded curve says how an adapter answers at a
strength, so that days of rounds cost no replay.

The canaries are those of the helpdesk's adapters, as shipped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.demo.stage import HELPDESK
from benchmarks.zoo.enrolled_base import Measured
from detectors.canaries.retention import measure
from detectors.records import Comparison, Reference, Summary
from probes.golden.archive import load, newest
from probes.golden.record import Golden

Answer = Callable[[Reference], Summary]


def shipped(adapter: str) -> Golden:
    """The helpdesk's golden record of an adapter. Raises MissingGolden without one."""
    folder = HELPDESK / "golden"
    return load(folder, newest(folder, adapter) or "")


def answered_by(golden: Golden, answer: Answer) -> Measured:
    """Canary -> its measurement where ``answer`` is under the adapter's name, and the accepted base under the base's"""
    return {
        canary.id: measure(
            Comparison(golden.adapter, canary.reference, 1, answer(canary.reference), canary.reference.golden_base, 0.0)
        )
        for canary in golden.canaries
    }


def accepted(reference: Reference) -> Summary:
    return reference.golden_adapter


def not_applied(reference: Reference) -> Summary:
    return reference.golden_base


def elsewhere(mass: float) -> Answer:
    """The accepted answers, but for one token outside the kept ones, which has this probability at each position."""

    def answer(reference: Reference) -> Summary:
        golden = reference.golden_adapter
        rest = np.logaddexp(golden.rest + np.log1p(-mass), np.log(mass))
        return Summary(golden.log_probs + np.float32(np.log1p(-mass)), rest.astype(np.float32), golden.top1)

    return answer
