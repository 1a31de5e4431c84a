"""The toy world's recorded faults: blocks left out, fewer bits, other adapters on top, other temperatures, and more.

Modules are rows of the adapter's D, layers its columns, so that a module and a layer overlap as they do in a model.
A fault by name: "without:q_proj", "quantised:4", "stacked:rewriter", "temperature:1.3" ... see ``faulty``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from detectors.canaries.retention import PreparedReference, measure, prepare
from detectors.records import (
    CanarySplit,
    Comparison,
    Fault,
    FaultKind,
    Identity,
    Measurement,
    Recorded,
    Reference,
    Round,
)
from tests.detectors.synthetic import (
    ADAPTERS,
    EVERY_S,
    HIDDEN,
    VOCABULARY,
    Doubles,
    answers,
    drawn,
    effect,
    hidden_states,
    log_probs,
    matrix,
    normalised,
    read_out,
    reference,
    summarise,
)

MODULES = {"q_proj": slice(0, 2), "v_proj": slice(2, 5), "mlp": slice(5, HIDDEN)}
LAYERS = {f"layers.{i}": slice(2 * i, 2 * i + 2) for i in range(HIDDEN // 2)}
BITS = ("8", "6", "4", "3")
# Earlier versions of every adapter: how much of the present D they share, as a cosine.
VERSIONS = {"v2": 0.95, "v1": 0.7}
CANARIES = 24
KERNEL = 5e-4


def without(adapter: str, block: str) -> Doubles:
    """D with a module's rows or a layer's columns left out."""
    d = effect(adapter).copy()
    d[MODULES.get(block, slice(0)), :] = 0.0
    d[:, LAYERS.get(block, slice(0))] = 0.0
    return d


def version(adapter: str, name: str) -> Doubles:
    share = VERSIONS[name]
    return share * effect(adapter) + np.sqrt(1 - share**2) * effect(f"{adapter} before")


def rounded(weights: Doubles, bits: int) -> Doubles:
    """Round to nearest, symmetric, one step a column."""
    step = np.abs(weights).max(axis=0, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(weights / step) * step


def quantised(canary: int, adapter: str | None, bits: int) -> Doubles:
    """On a base whose own weights, the embedding and the head of this world, have fewer bits."""
    vocabulary = rounded(matrix("vocabulary", shape=(HIDDEN, VOCABULARY)), bits)
    return read_out(rounded(hidden_states(canary), bits), effect(adapter) if adapter else None, vocabulary)


def faulty(adapter: str, canary: int, fault: str) -> tuple[Doubles, Doubles]:
    """(served, live base) under a fault by name; names that are not here are those of ``synthetic.answers``.

    "base:0.5" is another base, so far from the golden one; "base_and_lost:0.5" the same and no adapter.
    """
    kind, _, name = fault.partition(":")
    z = log_probs(canary, None)
    made = {
        "base": lambda: (log_probs(canary, adapter, base=float(name)), log_probs(canary, None, base=float(name))),
        "base_and_lost": lambda: (log_probs(canary, None, base=float(name)),) * 2,
        "without": lambda: (_with(canary, without(adapter, name)), z),
        "version": lambda: (_with(canary, version(adapter, name)), z),
        "quantised": lambda: (quantised(canary, adapter, int(name)), quantised(canary, None, int(name))),
        "stacked": lambda: (_with(canary, effect(adapter) + _part(name, 1.0)), z),
        "averaged": lambda: (_with(canary, _average(adapter, name)), z),
        "temperature": lambda: (normalised(log_probs(canary, adapter) / float(name)), z),
        "temperature_of_all": lambda: (
            normalised(log_probs(canary, adapter) / float(name)),
            normalised(z / float(name)),
        ),
        "first_token": lambda: (_first_from(z, log_probs(canary, adapter)), z),
        "only_first_token": lambda: (_first_from(log_probs(canary, adapter), z), z),
        "merged_base": lambda: (_with(canary, effect(adapter) + effect(name)), log_probs(canary, name)),
        "warmed": lambda: (_first_from(log_probs(canary, adapter), _blended(canary, adapter, name)), z),
        "prefilled": lambda: (_first_from(log_probs(canary, name or None), _blended(canary, adapter, name)), z),
        "rendered": lambda: _rendered(canary, adapter, float(name)),
        "weak_other": lambda: (_with(canary, 0.8 * effect(name)), z),
        "dropout": lambda: (_with(canary, effect(adapter) * (matrix("drop", canary, shape=(HIDDEN, HIDDEN)) > 0)), z),
        "shard": lambda: (_with(canary, np.roll(effect(adapter), HIDDEN // 2, axis=1)), z),
        "negated": lambda: (_with(canary, -effect(adapter)), z),
    }
    return made[kind]() if kind in made else answers(adapter, canary, fault)


@cache
def recorded(adapter: str, canary: int) -> Reference:
    """The reference with its signatures, on held-out canaries only."""
    known = reference(adapter, canary)
    versions = {f"{adapter}@{name}": _kept(_with(canary, version(adapter, name)), known) for name in VERSIONS}
    if known.split is not CanarySplit.HELD_OUT:
        return replace(known, others={**known.others, **versions})
    return replace(known, others={**known.others, **versions}, faults=_faults(adapter, canary, known))


def _faults(adapter: str, canary: int, known: Reference) -> Mapping[Fault, Recorded]:
    others = [name for name in ADAPTERS if name != adapter]
    asked = [
        *((FaultKind.WITHOUT, block) for block in (*MODULES, *LAYERS)),
        *((FaultKind.QUANTISED, bits) for bits in BITS),
        *((FaultKind.STACKED, f"{name}{part}") for part in ("", "*0.5") for name in others),
        *((kind, name) for kind in (FaultKind.WARMED, FaultKind.PREFILLED) for name in ("", *others)),
        *((FaultKind.AVERAGED, f"{name}{part}") for part in ("", "*0.25") for name in others),
    ]
    found = {}
    for kind, name in asked:
        served, live = (_kept(p, known) for p in faulty(adapter, canary, f"{kind.value}:{name}"))
        found[Fault(kind, name)] = Recorded(served, live if kind is FaultKind.QUANTISED else None)
    return found


@cache
def _prepared(adapter: str, canary: int) -> PreparedReference:
    return prepare(recorded(adapter, canary))


@cache
def measured(adapter: str, canary: int, fault: str, pod: str = "") -> Measurement:
    known = recorded(adapter, canary)
    served, live = (summarise(full, known.kept) for full in noisy(faulty(adapter, canary, fault), canary))
    return measure(Comparison(adapter, _prepared(adapter, canary), 1, served, live, 0.0, pod))


def recorded_round(adapter: str, fault: str, canaries: int = CANARIES, moved: bool = False) -> Round:
    """One round on the first canaries, half of them held out. moved: does the live base have another hash?"""
    rows = tuple(_placed(measured(adapter, canary, fault)) for canary in range(canaries))
    return Round(adapter, "smol", 0, EVERY_S, rows, Identity("sha256:old", "sha256:new" if moved else "sha256:old"))


def replica_round(adapter: str, fault: str, of: int, named: bool = False) -> Round:
    """One of ``of`` replicas has the fault; each canary is answered by one of them, at random."""
    to = np.random.default_rng([of, len(fault)]).permutation(np.arange(CANARIES) % of)
    pods = [f"pod-{i}" if named else "" for i in range(of)]
    rows = [measured(adapter, c, fault if to[c] == 0 else "healthy", pods[to[c]]) for c in range(CANARIES)]
    return replace(recorded_round(adapter, "healthy"), measurements=tuple(_placed(m) for m in rows))


def forget(round: Round, kind: FaultKind, name: str = "") -> Round:
    """The round with one signature, or with all of a kind, taken out of its record: an open set.

    OTHER_ADAPTER takes them out of the other adapters' answers.
    """

    def keep(fault: Fault) -> bool:
        return fault.kind is not kind or (bool(name) and fault.name != name)

    def without_them(m: Measurement) -> Measurement:
        known = m.comparison.reference
        faults = {fault: seen for fault, seen in known.faults.items() if keep(fault)}
        others = {name: seen for name, seen in known.others.items() if keep(Fault(FaultKind.OTHER_ADAPTER, name))}
        return replace(m, comparison=replace(m.comparison, reference=replace(known, faults=faults, others=others)))

    return replace(round, measurements=tuple(without_them(m) for m in round.measurements))


def _with(canary: int, weights: Doubles) -> Doubles:
    return read_out(hidden_states(canary), weights, matrix("vocabulary", shape=(HIDDEN, VOCABULARY)))


def _first_from(first: Doubles, later: Doubles) -> Doubles:
    return np.concatenate([first[:1], later[1:]])


def _part(name: str, usual: float) -> Doubles:
    """ "rewriter*0.5" is half of the rewriter's effect."""
    other, _, part = name.partition("*")
    return float(part or usual) * effect(other)


def _average(adapter: str, name: str) -> Doubles:
    return (1.0 - float(name.partition("*")[2] or 0.5)) * effect(adapter) + _part(name, 0.5)


def _blended(canary: int, adapter: str, prompt: str) -> Doubles:
    """After a prompt that another adapter has read, "" the base: a part of its effect reaches every later position.

    "rewriter*0.6" is more of it, as after a longer prompt.
    """
    name, _, part = prompt.partition("*")
    share = float(part or 0.3)
    return _with(canary, (1 - share) * effect(adapter) + (share * effect(name) if name else 0.0))


def _rendered(canary: int, adapter: str, far: float) -> tuple[Doubles, Doubles]:
    """Another prompt: other hidden states under both names."""
    hidden = hidden_states(canary) + far * matrix("rendering", canary, shape=hidden_states(canary).shape)
    vocabulary = matrix("vocabulary", shape=(HIDDEN, VOCABULARY))
    return read_out(hidden, effect(adapter), vocabulary), read_out(hidden, None, vocabulary)


def noisy(answered: tuple[Doubles, Doubles], canary: int) -> tuple[Doubles, Doubles]:
    """Kernel noise within the recorded floor, under both names."""
    y, z = answered
    return y + KERNEL * matrix("kernel y", canary, shape=y.shape), z + KERNEL * matrix(
        "kernel z", canary, shape=z.shape
    )


def _kept(full: Doubles, known: Reference) -> np.ndarray:
    return summarise(full, known.kept).log_probs


def _placed(found: Measurement) -> Measurement:
    """Selected canaries were drawn once, held-out ones never."""
    return drawn(found, 1 if found.comparison.reference.split is CanarySplit.SELECTED else 0)
