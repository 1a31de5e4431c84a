"""Golden records of a synthetic softmax adapter, for tests that need no runner."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from detectors.canaries.tolerance import Tolerances
from detectors.records import CanarySplit, Floats, NoiseFloor, Reference, Summary
from probes.canaries.log_prob_summary import keep, summarise
from probes.golden.record import Golden, GoldenCanary
from probes.golden.statistical_power import AlarmSettings, statistical_power

VOCABULARY, SCALES = 60, (0.0, 0.5, 0.9, 1.0, 1.5, 2.0)
FLEET = AlarmSettings(log_threshold=21.5, draws_per_round=12)


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))).astype(np.float32)


def reference(
    name: str, split: CanarySplit, length: int, seed: int, strength: float = 2.0, noise: float = 1e-4
) -> Reference:
    generator = np.random.default_rng(seed)
    base = 3 * generator.standard_normal((length, VOCABULARY)).astype(np.float32)
    effect = strength * generator.standard_normal((length, VOCABULARY)).astype(np.float32)
    full = {scale: log_softmax(base + np.float32(scale) * effect) for scale in SCALES}
    forced = generator.integers(VOCABULARY, size=length).astype(np.int32)
    kept = keep(full[1.0], full[0.0], forced, 5)
    curve = np.stack([summarise(full[scale], kept).log_probs for scale in SCALES])
    other: Summary = summarise(log_softmax(base + generator.standard_normal(base.shape).astype(np.float32)), kept)
    return Reference(
        canary=name,
        golden="",
        split=split,
        kept=kept,
        golden_adapter=summarise(full[1.0], kept),
        golden_base=summarise(full[0.0], kept),
        scales=np.array(SCALES, np.float32),
        curve=curve,
        others={"another": other.log_probs},
        noise=NoiseFloor(noise, 1e-3, 1e-6),
    )


def golden(
    adapter: str = "router", lengths: tuple[int, ...] = (12, 14, 16, 18, 20, 22, 24, 26), at: float = 1.0, seed: int = 0
) -> Golden:
    """Canaries of those lengths, the even ones selected and the odd ones held out."""
    canaries = []
    for index, length in enumerate(lengths):
        split = CanarySplit.HELD_OUT if index % 2 else CanarySplit.SELECTED
        made = reference(f"c{index:03d}", split, length, seed * 1000 + index)
        ids = tuple(range(length))
        canaries.append(GoldenCanary(made.canary, split, (1, 2, 3 + index), ids, f"Frage {index} ü", "answer", made))
    pool = [canary.reference for canary in canaries if canary.split is CanarySplit.SELECTED]
    return Golden(
        adapter=adapter,
        base="toy",
        base_hash="sha256:" + "b" * 64,
        tokenizer_hash="sha256:" + "c" * 64,
        adapter_hash="sha256:" + "d" * 64,
        rank=8,
        alpha=16.0,
        scales=tuple(float(np.float32(scale)) for scale in SCALES),
        canaries=tuple(canaries),
        canary_set="sha256:" + "e" * 64,
        tolerances=Tolerances(),
        noise={"one row": NoiseFloor(1e-5, 1e-4, 1e-9)},
        power=statistical_power(adapter, pool, Tolerances(), FLEET),
        created_at=at,
        why="first",
        excluded={"c999": "shorter than 12 tokens"},
        settings={"seed": seed},
    )


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, np.ndarray):
        return bool(ours.dtype == theirs.dtype and np.array_equal(ours, theirs))
    if isinstance(ours, Summary):
        return all(same(getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(Summary))
    if isinstance(ours, dict) and any(isinstance(value, np.ndarray) for value in ours.values()):
        return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    return bool(ours == theirs)


def assert_same(ours: Golden, theirs: Golden) -> None:
    for field in fields(Golden):
        if field.name not in ("canaries", "hash"):
            assert same(getattr(ours, field.name), getattr(theirs, field.name)), field.name
    assert len(ours.canaries) == len(theirs.canaries)
    for a, b in zip(ours.canaries, theirs.canaries, strict=True):
        assert (a.id, a.split, a.prompt, a.forced, a.prompt_text, a.golden_text) == (
            *(b.id, b.split, b.prompt, b.forced, b.prompt_text, b.golden_text),
        )
        for field in fields(Reference):
            if field.name != "golden":
                assert same(getattr(a.reference, field.name), getattr(b.reference, field.name)), field.name
