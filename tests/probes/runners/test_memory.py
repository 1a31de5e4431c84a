"""Faults of the in-memory runner: each changes what it names and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.records import Fault, FaultKind, Floats, Reason
from probes.errors import Unreplayable
from probes.runner import BatchShape, Replay, Target, Weights
from probes.runners.memory import FAULTS, Config, Runner


def answer(runner: Runner, target: Target, shape: BatchShape | None = None) -> Floats:
    prompt = runner.encode_chat([{"role": "user", "content": "Where does ticket 17 go?"}])
    forced = runner.encode("to the billing team")
    (replayed,) = runner.run([Replay("c", prompt, forced, target)], lambda: False, shape)
    assert replayed.full is not None
    return replayed.full


def opened(**faults: str) -> Runner:
    runner = Runner(Config())
    runner.open()
    for subject, fault in faults.items():
        runner.inject(None if subject == "base" else subject, fault)
    return runner


WELL = opened()
BASE, ALPHA, BETA = (answer(WELL, Target(name)) for name in (None, "alpha", "beta"))


def test_a_lost_adapter_answers_as_the_base_and_the_others_go_on() -> None:
    runner = opened(alpha="not_applied")
    assert np.array_equal(answer(runner, Target("alpha")), BASE)
    assert np.array_equal(answer(runner, Target("beta")), BETA)
    assert np.array_equal(answer(runner, Target("alpha", Weights.GOLDEN)), ALPHA)


def test_a_wrong_strength_is_that_scale() -> None:
    assert np.array_equal(answer(opened(alpha="scale:0.5"), Target("alpha")), answer(WELL, Target("alpha", scale=0.5)))


def test_a_wrong_adapter_is_the_other_one_and_its_hash_shows_it() -> None:
    runner = opened(alpha="wrong_adapter:beta")
    assert np.array_equal(answer(runner, Target("alpha")), BETA)
    assert runner.identity("alpha").adapter_moved


def test_a_swapped_base_moves_both_and_the_gap_survives_it_unless_it_is_lost() -> None:
    """Log-probabilities differ from logits by a constant a position, so the gap is compared without its mean."""
    runner = opened(base="base_swapped:0.3")
    base, alpha = answer(runner, Target(None)), answer(runner, Target("alpha"))
    assert np.abs(base - BASE).max() > 0.1 and runner.identity("alpha").base_moved
    assert np.allclose(centred(alpha - base), centred(ALPHA - BASE), atol=1e-3)
    lost = opened(base="swapped_and_lost")
    assert np.array_equal(answer(lost, Target("alpha")), answer(lost, Target(None)))
    assert np.abs(answer(lost, Target(None)) - BASE).max() > 0.1
    assert np.array_equal(answer(lost, Target(None, Weights.GOLDEN)), BASE)


def test_a_distorted_adapter_keeps_its_own_direction_and_gains_another() -> None:
    change = centred(answer(opened(alpha="distorted:0.5"), Target("alpha")) - ALPHA)
    assert np.abs(change).max() > 0.1


def test_a_mismatch_answers_as_the_base_and_is_a_fact() -> None:
    runner = opened(alpha="mismatched")
    assert np.array_equal(answer(runner, Target("alpha")), BASE)
    assert "match nothing" in runner.facts("alpha")[0] and runner.facts("beta") == ()


def test_bad_numbers_are_bad_numbers() -> None:
    assert np.isnan(answer(opened(alpha="not_a_number"), Target("alpha"))).all()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("unreadable", Reason.UNREADABLE), ("files_changing", Reason.FILES_CHANGING), ("failing", None)],
)
def test_blocked_subjects_say_so_and_cannot_be_replayed(fault: str, reason: Reason | None) -> None:
    runner = opened(alpha=fault)
    assert runner.refresh()["alpha"].blocked is reason and runner.refresh()["beta"].blocked is None
    with pytest.raises(Unreplayable):
        answer(runner, Target("alpha"))
    assert np.array_equal(answer(runner, Target("beta")), BETA)
    runner.inject("alpha", "none")
    assert np.array_equal(answer(runner, Target("alpha")), ALPHA)


def test_a_base_that_is_away_takes_its_adapters_with_it() -> None:
    with pytest.raises(Unreplayable):
        answer(opened(base="unreadable"), Target("beta"))


def test_another_packing_brings_the_noise_of_the_config_and_always_the_same() -> None:
    shape = BatchShape(rows=1)
    noisy = answer(WELL, Target("alpha"), shape)
    assert 0 < np.abs(noisy - ALPHA).max() < 10 * Config().noise
    assert np.array_equal(noisy, answer(opened(), Target("alpha"), shape))


def test_answers_end_by_themselves() -> None:
    prompt = WELL.encode_chat([{"role": "user", "content": "hello"}])
    made = WELL.generate(Target("alpha"), prompt, 200, lambda: False)
    assert 12 <= len(made) <= 60
    assert WELL.decode(made).endswith("<end>")


def test_faults_of_the_config_hold_from_the_start_and_nonsense_is_refused() -> None:
    runner = Runner(Config(faults={"alpha": "not_applied"}))
    runner.open()
    assert np.array_equal(answer(runner, Target("alpha")), BASE)
    for faults in ({"nobody": "not_applied"}, {"alpha": "sleepy"}, {"alpha": "wrong_adapter:nobody"}):
        with pytest.raises(ValueError, match="fault"):
            Config(faults=faults)
    assert "none" in FAULTS


def faulty(kind: FaultKind, name: str, adapter: str | None = "alpha") -> Target:
    return Target(adapter, fault=Fault(kind, name))


def test_its_blocks_add_up_to_the_adapter() -> None:
    gaps = [centred(answer(WELL, faulty(FaultKind.WITHOUT, block)) - BASE) for block in WELL.blocks("alpha")]
    assert len(gaps) == 3
    assert np.allclose(sum(gaps), 2 * centred(ALPHA - BASE), atol=1e-3), "each part is missing once, and there twice"


def test_two_adapters_together_add_up() -> None:
    both = centred(ALPHA - BASE) + centred(BETA - BASE)
    assert np.allclose(centred(answer(WELL, faulty(FaultKind.STACKED, "beta")) - BASE), both, atol=1e-3)
    assert np.allclose(centred(answer(WELL, faulty(FaultKind.AVERAGED, "beta")) - BASE), both / 2, atol=1e-3)


def test_fewer_bits_are_further_from_the_base_and_leave_the_adapter_alone() -> None:
    few = [answer(WELL, faulty(FaultKind.QUANTISED, bits, None)) for bits in ("8", "6", "4", "3")]
    away = [float(np.square(centred(answer - BASE)).mean()) for answer in few]
    assert away == sorted(away) and away[0] > 0
    served = answer(WELL, faulty(FaultKind.QUANTISED, "3"))
    assert np.allclose(centred(served - few[-1]), centred(ALPHA - BASE), atol=1e-3)


def test_anothers_cache_fades_with_the_letters_that_follow_it() -> None:
    warmed = answer(WELL, faulty(FaultKind.WARMED, "beta"))
    ours, theirs = (np.square(centred(warmed - answer)).sum(axis=1) for answer in (ALPHA, BETA))
    assert theirs[0] < ours[0] and ours[-1] < theirs[-1]
    prefilled = answer(WELL, faulty(FaultKind.PREFILLED, "beta"))
    assert np.allclose(prefilled[0], BETA[0], atol=1e-5) and not np.allclose(warmed[0], BETA[0], atol=1e-3)


def test_what_is_injected_is_there_under_a_fault_too() -> None:
    half = answer(opened(alpha="scale:0.5"), faulty(FaultKind.WITHOUT, "part.1"))
    assert np.array_equal(half, answer(WELL, Target("alpha", scale=0.5, fault=Fault(FaultKind.WITHOUT, "part.1"))))
    with pytest.raises(Unreplayable):
        answer(opened(beta="unreadable"), faulty(FaultKind.STACKED, "beta"))


def centred(gap: Floats) -> Floats:
    return gap - gap.mean(axis=1, keepdims=True)
