"""Which canaries are the routes of a serving engine checked on, and what of them was accepted?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detectors.canaries.route_agreement import root_mean_square
from detectors.records import Floats, Reference
from probes.golden.record import Golden, GoldenCanary
from probes.serving.probe_check import Probe

# Canaries of a check: with 8, 3 that disagree make a route blind.
CANARIES = 8


def probes_of(golden: Golden, seed: int) -> list[Probe]:
    """Eight canaries of the record's pool, drawn at random. seed: another one for each check"""
    is_offline = not golden.made_on or bool(golden.offline)
    return [_probe(golden.pool[index], is_offline) for index in drawn(len(golden.pool), seed)]


def drawn(count: int, seed: int) -> list[int]:
    """Indices of so many as a check takes, of ``count``, at random without replacement."""
    return np.random.default_rng([seed, count]).permutation(count)[:CANARIES].tolist()


def _probe(canary: GoldenCanary, is_offline: bool) -> Probe:
    reference = canary.reference
    a, b = (of_tokens(reference, canary.forced, side) for side in ("golden_adapter", "golden_base"))
    offline = a if is_offline else np.zeros(0, np.float32)
    effect, noise = root_mean_square(a, b), reference.noise
    floor = effect * math.hypot(noise.scale, noise.distortion)
    return Probe(canary.prompt, effect, canary.forced, a, floor, offline)


def of_tokens(reference: Reference, forced: Sequence[int], side: str) -> Floats:
    """(T,) log-probabilities of the continuation's own tokens, which every record keeps. side: a golden one, by name"""
    is_forced = reference.kept == np.asarray(forced, np.int32)[:, None]
    log_probs: Floats = getattr(reference, side).log_probs
    return np.max(np.where(is_forced, log_probs, -np.inf), axis=1)
