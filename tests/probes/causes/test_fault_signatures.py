"""Signatures by the in-process runner over tiny models, on what was accepted, whatever lies there now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from detectors.canaries.retention import measure, prepare
from detectors.records import CanarySplit, Comparison, Fault, FaultKind, Recorded, Round, Summary
from probes.canaries.canary_file import Canary
from probes.causes.fault_signatures import (
    answers_of,
    measured_against,
    signature_of,
    why_no_copies,
    with_signatures,
)
from probes.enrolment.candidates import CanaryContinuation, golden_sides
from probes.golden.record import Golden, GoldenCanary
from probes.runner import Target, Weights
from probes.runners.in_process import Runner
from tests.probes.tiny import VOCABULARY, opened, overwrite, tiny_adapter, tiny_base
from tests.probes.worlds import enrolled, never


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("signatures")


@pytest.fixture(scope="module")
def runner(folder: Path) -> Iterator[Runner]:
    """a: two kinds of modules in two layers; whole: saves its head beside that, which nobody can stack. Copies of a
    and b are kept as enrolment keeps them."""
    base = tiny_base(folder / "base", tied=False)
    modules = ["q_proj", "down_proj"]
    a, copy = (tiny_adapter(folder / name, base, target_modules=modules) for name in ("a", "copy"))
    whole = tiny_adapter(folder / "whole", base, seed=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    made = opened(
        base,
        folder,
        {"a": a, "b": tiny_adapter(folder / "b", base, seed=3), "whole": whole},
        golden_adapters={"a": str(copy)},
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def record(runner: Runner) -> Callable[[str], Golden]:
    """A golden record of an adapter with two selected and two held-out canaries; hashes and canaries are real."""

    def of(adapter: str) -> Golden:
        generator = np.random.default_rng(0)
        texts = [generator.integers(3, VOCABULARY, (2, 12)).tolist() for _ in range(4)]
        turns = ({"role": "user", "content": "?"},)
        candidates = [CanaryContinuation(Canary(f"c{i}", turns), tuple(p), tuple(f)) for i, (p, f) in enumerate(texts)]
        splits = [CanarySplit.SELECTED, CanarySplit.HELD_OUT] * 2
        canaries = [
            replace(draft, split=split, reference=replace(draft.reference, split=split))
            for draft, split in zip(golden_sides(runner, adapter, candidates, 10, never), splits, strict=True)
        ]
        identity = runner.identity(adapter)
        return replace(
            enrolled("alpha"),
            adapter=adapter,
            base_hash=identity.live_base,
            adapter_hash=identity.live_adapter,
            hash_scheme=identity.scheme,
            canaries=tuple(canaries),
        )

    return of


@pytest.fixture(scope="module")
def golden(record: Callable[[str], Golden]) -> Golden:
    return record("a")


def signatures(runner: Runner, golden: Golden, *faults: Fault) -> dict[Fault, list[Recorded]]:
    made = {fault: signature_of(runner, golden, fault, never) for fault in faults}
    assert all(isinstance(answers, list) for answers in made.values()), made
    return {fault: answers for fault, answers in made.items() if isinstance(answers, list)}


def live_answers(runner: Runner, canaries: Sequence[GoldenCanary], target: Target) -> list[np.ndarray]:
    answers = answers_of(runner, canaries, target, never)
    assert answers is not None
    return answers


def test_a_signature_is_what_the_runner_answers_under_that_fault(runner: Runner, golden: Golden) -> None:
    for fault in (Fault(FaultKind.WITHOUT, "q_proj"), Fault(FaultKind.STACKED, "b"), Fault(FaultKind.WARMED, "b")):
        (made,) = signatures(runner, golden, fault).values()
        wanted = live_answers(runner, golden.held_out, Target("a", fault=fault))
        assert len(made) == len(wanted) == 2
        for answer, now in zip(made, wanted, strict=True):
            np.testing.assert_allclose(answer.served, now, atol=1e-4)
            assert answer.live_base is None


def test_fewer_bits_move_the_base_too_and_further(runner: Runner, golden: Golden) -> None:
    made = signatures(runner, golden, *(Fault(FaultKind.QUANTISED, bits) for bits in ("8", "6", "4", "3")))
    ready = prepare(golden.held_out[0].reference)

    def away(answers: list[Recorded]) -> float:
        base = answers[0].live_base
        assert base is not None
        return float(np.linalg.norm(ready.vector(np.where(ready.mask, base, 0.0) - ready.base)))

    distances = [away(answers) for answers in made.values()]
    assert 0 < distances[0] < distances[1] < distances[2] < distances[3]


def test_what_cannot_be_replayed_says_why(runner: Runner, record: Callable[[str], Golden]) -> None:
    whole = record("whole")
    refused = signature_of(runner, whole, Fault(FaultKind.STACKED, "whole"), never)
    assert isinstance(refused, str) and "modules_to_save" in refused
    unknown = signature_of(runner, whole, Fault(FaultKind.WITHOUT, "up_proj"), never)
    assert isinstance(unknown, str) and "no block" in unknown
    assert isinstance(signature_of(runner, whole, Fault(FaultKind.QUANTISED, "4"), never), list)


def test_a_stop_gives_no_signature_and_is_no_failure(runner: Runner, golden: Golden) -> None:
    assert signature_of(runner, golden, Fault(FaultKind.WITHOUT, "q_proj"), lambda: True) is None


def test_signatures_and_strengths_lie_on_the_held_out_canaries_of_the_same_record(
    runner: Runner, golden: Golden
) -> None:
    fault = Fault(FaultKind.WITHOUT, "q_proj")
    strengths = {1.75: live_answers(runner, golden.held_out, Target("a", Weights.GOLDEN, 1.75))}
    made = signatures(runner, golden, fault)
    signed = with_signatures(golden, made, strengths)
    assert signed.hash == golden.hash and signed.faults == (fault,)
    assert signed.pool == golden.pool
    for index, canary in enumerate(signed.held_out):
        reference = canary.reference
        assert np.array_equal(reference.faults[fault].served, made[fault][index].served)
        scales = [float(scale) for scale in reference.scales]
        assert scales == sorted({*map(float, golden.held_out[index].reference.scales), 1.75})
        assert np.array_equal(reference.curve[scales.index(1.75)], strengths[1.75][index])
        assert np.array_equal(reference.curve[scales.index(0.0)], golden.held_out[index].reference.curve[0])


def test_a_round_is_measured_again_against_them(runner: Runner, golden: Golden) -> None:
    """At a strength that was replayed the curve has a knot: nothing is left over there."""
    served = live_answers(runner, golden.canaries, Target("a", scale=1.75))
    sides = [
        (canary, Summary(table, canary.reference.golden_adapter.rest, canary.reference.golden_adapter.top1))
        for canary, table in zip(golden.canaries, served, strict=True)
    ]
    rows = tuple(
        measure(Comparison("a", canary.reference, 1, now, canary.reference.golden_base, 0.0)) for canary, now in sides
    )
    at = live_answers(runner, golden.held_out, Target("a", Weights.GOLDEN, 1.75))
    again = measured_against(Round("a", "tiny", 0, 0.0, rows), with_signatures(golden, {}, {1.75: at}))
    for before, after in zip(rows, again.measurements, strict=True):
        if before.comparison.reference.split is CanarySplit.SELECTED:
            assert after is before
        else:
            assert after.scale == pytest.approx(1.75, abs=1e-3) and after.scale_misfit < 1e-6 < before.scale_misfit


def test_without_the_accepted_files_it_says_so(runner: Runner, golden: Golden) -> None:
    assert why_no_copies(runner, golden) == ""
    moved = replace(golden, base_hash="sha256:" + 64 * "0")
    assert "the accepted base 000000000000 is not at hand" in why_no_copies(runner, moved)


def test_an_adapter_whose_files_were_replaced_is_replayed_as_it_was_accepted(
    runner: Runner, golden: Golden, folder: Path
) -> None:
    """The live files have lost q_proj: the block is still one of the accepted adapter, and its fault is replayed."""
    fault = Fault(FaultKind.WITHOUT, "q_proj")
    (before,) = signatures(runner, golden, fault).values()
    lost = folder / "lost"
    lost.mkdir()
    (lost / "adapter_config.json").write_bytes((folder / "a" / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "a" / "adapter_model.safetensors")
    save_file({key: t for key, t in tensors.items() if "q_proj" not in key}, lost / "adapter_model.safetensors")
    overwrite(lost, folder / "a")
    for _ in range(2):
        runner.refresh()
    assert "q_proj" not in runner.blocks("a") and "q_proj" in runner.blocks("a", Weights.GOLDEN)
    assert why_no_copies(runner, golden) == ""
    (after,) = signatures(runner, golden, fault).values()
    for was, now in zip(before, after, strict=True):
        np.testing.assert_allclose(was.served, now.served, atol=1e-5)
