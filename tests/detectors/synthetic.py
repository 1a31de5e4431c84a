"""A toy softmax world in which every fault is known: what the tests of the mathematics measure against.

A canary is a row of hidden states; the base reads its vocabulary from ``tanh(h)``, an adapter from ``tanh(h + s h D)``,
so that the effect bends with the scale as a real one does. A new base moves h. The faults that enrolment records are in
faulty_answers.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from detectors.canaries.retention import PreparedReference, measure, prepare
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import (
    BaseRound,
    CanarySplit,
    Comparison,
    Identity,
    Measurement,
    Mode,
    NoiseFloor,
    Reason,
    Reference,
    Round,
    Summary,
)
from detectors.traffic_records import Embedding, Side

Doubles = NDArray[np.float64]
VOCABULARY, HIDDEN, POSITIONS, TOP = 48, 16, 6, 8
SCALES = np.array([0, 0.125, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 8], np.float32)
ADAPTERS = ("router", "rewriter", "extractor")
RELEASES = (
    "reparameterised",
    "partly_reparameterised",
    "swapped",
    "swapped_and_lost",
    "improved",
    "tuned",
    "int8",
    "requantised",
)
# How far the hidden states of another base are from the golden one's. Base shift: of "improved" about .0006, of
# "tuned", a harmless release of the base, .0015, of "int8" 3e-5.
BASES = {"swapped": 0.8, "swapped_and_lost": 0.8, "improved": 0.03, "requantised": 0.03, "tuned": 0.045, "int8": 0.0068}
EVERY_S = 60.0
NOISE = NoiseFloor(scale=1e-3, distortion=1e-3, base_shift=1e-5)
POOL = 20  # one canary of it is exactly the tolerated share


@cache
def matrix(*key: object, shape: tuple[int, ...]) -> Doubles:
    """Standard normal numbers that belong to a name; the same array each time, not to be written to."""
    numbers = np.random.default_rng(zlib.crc32(repr(key).encode())).standard_normal(shape)
    numbers.flags.writeable = False
    return numbers


def log_probs(canary: int, adapter: str | None, scale: float = 1.0, base: float = 0.0) -> Doubles:
    """(T, V) of one canary. base: how far another base's hidden states are from the golden one's."""
    weights = scale * effect(adapter) if adapter is not None else None
    return read_out(hidden_states(canary, base), weights, matrix("vocabulary", shape=(HIDDEN, VOCABULARY)))


def effect(adapter: str) -> Doubles:
    """D of an adapter: all that it adds to the hidden states."""
    return matrix("adapter", adapter, shape=(HIDDEN, HIDDEN))


def hidden_states(canary: int, base: float = 0.0) -> Doubles:
    hidden = matrix("canary", canary, shape=(POSITIONS, HIDDEN))
    return hidden + base * matrix("release", canary, shape=(POSITIONS, HIDDEN))


def read_out(hidden: Doubles, weights: Doubles | None, vocabulary: Doubles) -> Doubles:
    """(T, V) log-probabilities; weights: of the adapter on these hidden states, None for the base."""
    if weights is not None:
        hidden = hidden + 0.3 * hidden @ weights
    logits = 1.5 * np.tanh(hidden) @ vocabulary / np.sqrt(HIDDEN) * 2
    return normalised(logits)


def normalised(logits: Doubles) -> Doubles:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def summarise(full: Doubles, kept: NDArray[np.int32]) -> Summary:
    mask = kept >= 0
    chosen = np.where(mask, np.take_along_axis(full, np.where(mask, kept, 0), axis=-1), -np.inf)
    inside = np.exp(chosen).sum(axis=-1)
    rest = np.log(np.maximum(1.0 - inside, 1e-300))
    return Summary(chosen.astype(np.float32), rest.astype(np.float32), full.argmax(axis=-1).astype(np.int32))


def elsewhere(full: Doubles, kept: NDArray[np.int32], mass: float) -> Doubles:
    """The answers with that share of the probability on one token that is not kept, and all others less by as much."""
    given = full + np.log1p(-mass)
    token = [next(k for k in range(VOCABULARY) if k not in row) for row in kept]
    rows = np.arange(len(kept))
    given[rows, token] = np.logaddexp(given[rows, token], np.log(mass))
    return given


@cache
def kept_tokens(adapter: str, canary: int) -> NDArray[np.int32]:
    """(T, 2 TOP + 1): the union of both top tokens, padded with -1."""
    rows = []
    for a, b in zip(log_probs(canary, adapter), log_probs(canary, None), strict=True):
        union = sorted(set(np.argsort(-a)[:TOP]) | set(np.argsort(-b)[:TOP]))
        rows.append([*union, *[-1] * (2 * TOP + 1 - len(union))])
    return np.array(rows, np.int32)


@cache
def reference(adapter: str, canary: int) -> Reference:
    """Even canaries were selected, odd ones are held out."""
    kept = kept_tokens(adapter, canary)
    curve = np.stack([summarise(log_probs(canary, adapter, float(s)), kept).log_probs for s in SCALES])
    others = {name: summarise(log_probs(canary, name), kept).log_probs for name in ADAPTERS if name != adapter}
    return Reference(
        canary=f"{adapter}-{canary}",
        golden="sha256:golden",
        split=CanarySplit.HELD_OUT if canary % 2 else CanarySplit.SELECTED,
        kept=kept,
        golden_adapter=summarise(log_probs(canary, adapter), kept),
        golden_base=summarise(log_probs(canary, None), kept),
        scales=SCALES,
        curve=curve,
        others=others,
        noise=NOISE,
    )


@cache
def prepared(adapter: str, canary: int) -> PreparedReference:
    return prepare(reference(adapter, canary))


def answers(adapter: str, canary: int, fault: str) -> tuple[Doubles, Doubles]:
    """(served, live base) log-probabilities over the vocabulary under a fault by name ("scale:0.5", "adapter:x").

    "improved+scale:0.5" is the second on the base of the first; "moved:0.07", a base that has moved so far (BASES).
    """
    release, _, what = fault.rpartition("+")
    name, _, value = what.partition(":")
    kind, _, far = (release or what).partition(":")
    base = float(far) if kind == "moved" else BASES.get(kind, 0.0)
    z = log_probs(canary, None, base=base)
    if name in ("not_applied", "swapped_and_lost", "reparameterised"):
        return z, z
    if name == "adapter":
        return log_probs(canary, value, base=base), z
    if name == "edge":  # exactly the tolerated share of the pool is beyond tolerance
        return log_probs(canary, adapter, 0.5 if canary == 0 else 1.0), z
    scale = float(value) if name == "scale" else 1.0
    if name in ("requantised", "partly_reparameterised"):  # weaker, and not on every canary alike
        scale = 0.45 + 0.036 * float(matrix("scatter", canary, shape=(1,))[0])
    y = log_probs(canary, adapter, scale, base)
    if name == "requantised":
        y = y + 0.3 * matrix("rounding", canary, shape=y.shape)
    if name == "junk":
        y = y + matrix("junk", canary, shape=y.shape)
    if name == "elsewhere":
        y = elsewhere(y, kept_tokens(adapter, canary), float(value))
    if name == "nan":
        y = np.full_like(y, np.nan)
    return y, z


@cache
def measurement(adapter: str, canary: int, fault: str) -> Measurement:
    known = reference(adapter, canary)
    served, live_base = (summarise(full, known.kept) for full in answers(adapter, canary, fault))
    return measure(Comparison(adapter, prepared(adapter, canary), 1, served, live_base, 0.0))


def drawn(found: Measurement, draws: int) -> Measurement:
    return replace(found, comparison=replace(found.comparison, draws=draws))


def make_round(adapter: str, fault: str = "healthy", number: int = 0, draws: int = 16, held_out: int = 8) -> Round:
    """Draws with replacement from the selected pool (even canaries), and the first held-out ones (odd canaries)."""
    at = number * EVERY_S
    if fault == "blocked":
        return Round(adapter, "smol", number, at, (), blocked=Reason.UNREADABLE, detail="adapter file is gone")
    generator = np.random.default_rng([number, zlib.crc32(adapter.encode())])
    times = np.bincount(generator.integers(POOL, size=draws), minlength=POOL)
    chosen = [drawn(measurement(adapter, 2 * i, fault), int(k)) for i, k in enumerate(times) if k]
    kept_back = [drawn(measurement(adapter, 2 * i + 1, fault), 0) for i in range(held_out)]
    moved = fault.partition("+")[0] in RELEASES
    identity = Identity("sha256:old", "sha256:new" if moved else "sha256:old")
    return Round(adapter, "smol", number, at, (*chosen, *kept_back), identity)


def make_base_round(faults: Mapping[str, str], number: int = 0, draws: int = 16) -> BaseRound:
    """One round of the base with the named adapters, each under its own fault."""
    members = tuple(make_round(adapter, fault, number, draws) for adapter, fault in faults.items())
    return BaseRound("smol", number, number * EVERY_S, members)


def with_cells(record: BaseRound, modes: tuple[Mode, ...] = (Mode.WRITTEN,), floor: float = 0.0) -> BaseRound:
    """The round with every drawn canary had in these modes too: apart where it is beyond tolerance as scored.

    floor: of each of the modes
    """
    return replace(record, members=tuple(replace(m, cells=cells(m, modes, floor)) for m in record.members))


def cells(member: Round, modes: tuple[Mode, ...], floor: float = 0.0) -> tuple[Measurement, ...]:
    floors = dict.fromkeys(modes, floor)
    return tuple(
        replace(
            m,
            comparison=replace(
                m.comparison, modes=modes, reference=replace(m.comparison.reference, mode_floors=floors)
            ),
            mode_shift=float(beyond_tolerance(m, Tolerances())),
        )
        for m in member.measurements
        if m.comparison.draws
    )


def embedding(seed: int, number: int, moved: float = 0.0, width: int = 24) -> Embedding:
    vector = np.random.default_rng([seed, number]).standard_normal(width) + moved
    return Embedding("router", Side.PROMPT, f"{seed}-{number}", vector.astype(np.float32), float(number))
