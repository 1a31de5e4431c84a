"""Signatures recorded by the in-process runner over tiny models, and by the in-memory runner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.retention import prepare
from detectors.records import CanarySplit, Fault, FaultKind
from probes.canaries.canary_file import Canary
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.candidates import CanaryContinuation, golden_sides
from probes.enrolment.fault_signatures import NO_FAULTS, STAGE, count_by_kind, faults_of, with_signatures
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import Replay, Target
from probes.runners import memory
from probes.runners.in_process import Runner
from tests.probes.tiny import VOCABULARY, opened, tiny_adapter, tiny_base
from tests.probes.worlds import enrolled, never, silent


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """a: two kinds of modules in two layers; whole: saves its head beside that, which nobody can stack."""
    folder = tmp_path_factory.mktemp("signatures")
    base = tiny_base(folder / "base", tied=False)
    a = tiny_adapter(folder / "a", base, target_modules=["q_proj", "down_proj"])
    whole = tiny_adapter(folder / "whole", base, seed=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    made = opened(base, folder, {"a": a, "b": tiny_adapter(folder / "b", base, seed=3), "whole": whole})
    yield made
    made.close()


@pytest.fixture(scope="module")
def canaries(runner: Runner) -> list[GoldenCanary]:
    generator = np.random.default_rng(0)
    texts = [generator.integers(3, VOCABULARY, (2, 12)).tolist() for _ in range(4)]
    turns = ({"role": "user", "content": "?"},)
    candidates = [CanaryContinuation(Canary(f"c{i}", turns), tuple(p), tuple(f)) for i, (p, f) in enumerate(texts)]
    drafts = golden_sides(runner, "a", candidates, 10, never)
    splits = [CanarySplit.SELECTED, CanarySplit.HELD_OUT] * 2
    return [
        replace(draft, split=split, reference=replace(draft.reference, split=split))
        for draft, split in zip(drafts, splits, strict=True)
    ]


def test_every_fault_is_recorded_on_the_held_out_canaries_alone(runner: Runner, canaries: list[GoldenCanary]) -> None:
    steps: list[tuple[str, int, int]] = []
    signed = with_signatures(EnrolmentContext(runner, "a", ["b"], lambda *step: steps.append(step), never), canaries)
    assert signed.unrecorded == ()
    wanted = set(faults_of(runner, "a", ["b"]))
    assert {fault.kind for fault in wanted} == {
        FaultKind.WITHOUT, FaultKind.QUANTISED, FaultKind.STACKED, FaultKind.AVERAGED, FaultKind.WARMED,
        FaultKind.PREFILLED,
    }  # fmt: skip
    assert [canary.id for canary in signed.canaries] == [canary.id for canary in canaries]
    for canary in signed.canaries:
        assert set(canary.reference.faults) == (wanted if canary.split is CanarySplit.HELD_OUT else set())
        for fault, recorded in canary.reference.faults.items():
            assert (recorded.live_base is not None) == (fault.kind is FaultKind.QUANTISED)
    assert {stage for stage, _, _ in steps} == {STAGE}
    assert steps[0][1] == 0 and steps[-1][1] == steps[-1][2] == len(wanted)


def test_a_signature_is_what_the_runner_answers_under_that_fault(runner: Runner, canaries: list[GoldenCanary]) -> None:
    signed = with_signatures(EnrolmentContext(runner, "a", ["b"], silent, never), canaries)
    canary = signed.canaries[1]
    for fault in (Fault(FaultKind.WITHOUT, "q_proj"), Fault(FaultKind.STACKED, "b")):
        replay = Replay("x", canary.prompt, canary.forced, Target("a", fault=fault), canary.reference.kept)
        again = summary(ask_all(runner, [replay], never)[replay]).log_probs
        np.testing.assert_allclose(canary.reference.faults[fault].served, again, atol=1e-4)


def test_fewer_bits_move_further(runner: Runner, canaries: list[GoldenCanary]) -> None:
    signed = with_signatures(EnrolmentContext(runner, "a", [], silent, never), canaries)
    reference = signed.canaries[1].reference
    ready = prepare(reference)

    def away(bits: str) -> float:
        base = reference.faults[Fault(FaultKind.QUANTISED, bits)].live_base
        assert base is not None
        return float(np.linalg.norm(ready.vector(np.where(ready.mask, base, 0.0) - ready.base)))

    assert 0 < away("8") < away("6") < away("4") < away("3")


def test_what_cannot_be_recorded_is_said_and_the_rest_is_there(runner: Runner, canaries: list[GoldenCanary]) -> None:
    with_head = golden_sides(
        runner, "whole", [CanaryContinuation(Canary(c.id, c.messages), c.prompt, c.forced) for c in canaries], 10, never
    )
    held = [
        replace(c, split=CanarySplit.HELD_OUT, reference=replace(c.reference, split=CanarySplit.HELD_OUT))
        for c in with_head
    ]
    signed = with_signatures(EnrolmentContext(runner, "whole", ["whole"], silent, never), held)
    kinds = {fault.kind for fault in signed.canaries[0].reference.faults}
    assert FaultKind.QUANTISED in kinds and FaultKind.STACKED not in kinds
    assert any("stacked whole" in words for words in signed.unrecorded)


def test_an_earlier_release_is_neither_stacked_nor_averaged(runner: Runner) -> None:
    names = {fault.name for fault in faults_of(runner, "a", ["b", "a@0123456789ab"])}
    assert "b" in names and not any("@" in name for name in names)


def test_a_stop_leaves_no_signatures(runner: Runner, canaries: list[GoldenCanary]) -> None:
    asked = iter(range(1000))
    with pytest.raises(Unreplayable, match="stopped"):
        with_signatures(EnrolmentContext(runner, "a", ["b"], silent, lambda: next(asked) >= 5), canaries)


def test_recorded_faults_are_counted_by_kind() -> None:
    assert count_by_kind([]) == "none"
    faults = [Fault(FaultKind.WITHOUT, "q_proj"), Fault(FaultKind.WITHOUT, "mlp"), Fault(FaultKind.QUANTISED, "4")]
    assert count_by_kind(faults) == "2 without a block, 1 on a quantised base"


class Unbreakable(memory.Runner):
    """A runner of the older kind, that does not answer ``Target.fault``."""

    blocks = None  # type: ignore[assignment]


def test_a_runner_that_cannot_inject_faults_records_nothing_and_says_so() -> None:
    plain = Unbreakable(memory.Config())
    plain.open()
    canaries = enrolled("alpha").canaries
    signed = with_signatures(EnrolmentContext(plain, "alpha", ["beta"], silent, never), canaries)
    assert signed.canaries == list(canaries) and signed.unrecorded == (NO_FAULTS,)


def test_neighbours_are_mixed_in_whatever_their_names_and_earlier_releases_are_not(runner: Runner) -> None:
    others = ["a@v2", "a@0123456789ab", "b*0.5"]
    mixed = {fault.name for fault in faults_of(runner, "a", others) if fault.kind is FaultKind.STACKED}
    assert mixed == {"a@v2", "a@v2*0.5", "b*0.5*1", "b*0.5*0.5"}
