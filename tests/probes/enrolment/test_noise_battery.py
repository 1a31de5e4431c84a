from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import CanarySplit, Comparison, Measurement, NoiseFloor
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.noise_battery import (
    LEAST,
    BenignConfiguration,
    SecondRunner,
    configurations,
    largest,
    moved,
    negligible,
    own_floors,
    pooled_floor,
    replay_battery,
    sampled,
)
from probes.enrolment.settings import EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.runner import BatchShape, Replay, Runner, Target
from probes.runners import in_process, memory
from tests.probes import tiny
from tests.probes.architectures import architecture_base
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base
from tests.probes.worlds import canary_set, enrolled, never, opened, silent

Results = dict[str, tuple[Measurement, ...]]


@pytest.fixture(scope="module")
def noisy() -> Results:
    """A battery of all canaries whose configurations differ far more than the least floor."""
    return replay_battery(opened(noise=0.05), "alpha", enrolled("alpha").canaries, silent, never)


def test_every_canary_is_replayed_in_every_configuration(noisy: Results) -> None:
    names = [configuration.name for configuration in configurations(opened())]
    assert list(noisy) == names and len(names) >= 6
    for measurements in noisy.values():
        assert [one.comparison.reference.canary for one in measurements] == [c.id for c in enrolled("alpha").canaries]


def test_the_pooled_floor_is_the_worst_benign_replay_of_any_canary(noisy: Results) -> None:
    floor = pooled_floor(noisy)
    every = [moved(one) for measurements in noisy.values() for one in measurements]
    assert floor.scale == max(LEAST.scale, *(one.scale for one in every))
    assert floor.distortion == max(LEAST.distortion, *(one.distortion for one in every))
    # Rounding noise of this toy strikes adapter and base alike: strength, read between the two, does not see it.
    assert floor.base_shift == max(one.base_shift for one in every) > LEAST.base_shift


def test_the_own_floor_of_a_canary_is_its_worst_benign_replay(noisy: Results) -> None:
    floors = own_floors(noisy)
    for index, canary in enumerate(enrolled("alpha").canaries):
        own = [moved(measurements[index]) for measurements in noisy.values()]
        assert floors[canary.id].scale == max(LEAST.scale, *(one.scale for one in own))
        assert floors[canary.id].distortion == max(LEAST.distortion, *(one.distortion for one in own))
        assert floors[canary.id].base_shift == max(LEAST.base_shift, *(one.base_shift for one in own))
    left_out = own_floors(noisy, without="padded on the left")
    assert any(left_out[name].base_shift < floors[name].base_shift for name in floors)


@pytest.mark.parametrize(
    ("floor", "tolerance", "is_negligible"),
    [
        (LEAST, 0.05, True),
        (LEAST, 0.001, True),  # never worth a battery of all canaries
        (replace(LEAST, scale=0.0049), 0.05, True),
        (replace(LEAST, scale=0.0051), 0.05, False),
        (replace(LEAST, distortion=0.0051), 0.05, False),
        (replace(LEAST, scale=0.0049), 0.04, False),
        (replace(LEAST, base_shift=1.0e-5), 0.05, True),
        (replace(LEAST, base_shift=1.2e-5), 0.05, False),
        (replace(LEAST, mass_outside=0.0049), 0.05, True),
        (replace(LEAST, mass_outside=0.0051), 0.05, False),
    ],
)
def test_a_floor_is_negligible_up_to_a_tenth_of_what_is_allowed(
    floor: NoiseFloor, tolerance: float, is_negligible: bool
) -> None:
    assert negligible(floor, tolerance) is is_negligible


def test_without_noise_the_floor_is_the_least_one_and_not_zero() -> None:
    results = replay_battery(opened(noise=0.0), "alpha", enrolled("alpha").canaries, silent, never)
    assert pooled_floor(results) == LEAST


def test_a_configuration_can_be_left_out_of_the_floor(noisy: Results) -> None:
    worst = max(noisy, key=lambda name: largest(noisy[name]).base_shift)
    left_out = pooled_floor(noisy, without=worst)
    assert left_out == pooled_floor({name: replays for name, replays in noisy.items() if name != worst})
    assert left_out.base_shift < pooled_floor(noisy).base_shift
    comparisons = [(one, one.comparison) for one in noisy[worst]]
    tried = [
        beyond_tolerance(
            replace(one, comparison=replace(compared, reference=replace(compared.reference, noise=left_out))),
            Tolerances(),
        )
        for one, compared in comparisons
    ]
    assert len(tried) == 48 and not any(tried)
    with pytest.raises(Refused, match="one row"):
        pooled_floor(noisy, without="no such")


def test_the_sample_is_random_by_its_seed_and_half_from_either_split() -> None:
    references = [canary.reference for canary in enrolled("alpha").canaries]
    chosen = sampled(references, 12, seed=3)
    assert chosen == sorted(set(chosen)) == sampled(references, 12, seed=3) != sampled(references, 12, seed=4)
    assert [references[index].split for index in chosen].count(CanarySplit.HELD_OUT) == 6 == len(chosen) // 2
    assert sampled(references, 100, seed=0) == list(range(48))
    # Each canary of a split of 24 is one of the six in a quarter of the samples: 600 of 2,400 +- 4.5 sd of 21.
    counts = Counter(index for seed in range(2400) for index in sampled(references, 12, seed))
    assert len(counts) == 48 and all(abs(count - 600) < 95 for count in counts.values())


def test_a_further_canary_exceeds_the_floor_of_twelve_once_in_thirteen_at_most() -> None:
    """H0: nothing is wrong. Over 40 samples of 12 of the 48 canaries, the share of the other 36 whose worst replay
    exceeds the floor: 1/13 in the mean, and no ties."""
    noisy = replay_battery(opened(noise=0.3), "alpha", enrolled("alpha").canaries, silent, never)
    references = [canary.reference for canary in enrolled("alpha").canaries]
    worst = np.array([max(moved(noisy[name][index]).base_shift for name in noisy) for index in range(48)])
    assert len(set(worst)) == 48 and worst.min() > LEAST.base_shift
    exceeding = []
    for seed in range(40):
        sample = sampled(references, 12, seed)
        floor = pooled_floor({name: [noisy[name][index] for index in sample] for name in noisy})
        others = np.delete(worst, sample)
        exceeding.append(float(np.mean(others > floor.base_shift)))
    # One maximum of twelve uniform ranks has sd .071; of 40 samples the mean has sd .0112.
    assert abs(np.mean(exceeding) - 1 / 13) < 4 * 0.0112


@pytest.mark.parametrize(
    ("of_configurations", "of_canaries", "expected"),
    [(1.0, 0.0, 1 / 8), (0.0, 1.0, 1 / 13), (0.0, 0.0, 1 / 85)],
)
def test_a_further_canary_in_a_further_configuration_exceeds_the_floor_once_in_eight_at_most(
    noisy: Results, of_configurations: float, of_canaries: float, expected: float
) -> None:
    """H0: seven configurations and one more are exchangeable, and so are twelve canaries and one more. The bound 1/8 is
    reached where the noise is nearly that of the configuration alone."""
    sample, runs = next(iter(noisy.values()))[0], 1500
    generator = np.random.default_rng(29)
    by_row, by_column, own = (generator.standard_normal((runs, *shape)) for shape in ((8, 1), (1, 13), (8, 13)))
    noise = 0.01 * np.exp(of_configurations * by_row + of_canaries * by_column + 0.001 * own)
    exceeding = []
    for table in noise:
        battery = {str(row): [replace(sample, scale=1.0 + one) for one in table[row, :12]] for row in range(7)}
        exceeding.append(table[7, 12] > pooled_floor(battery).scale)
    assert abs(np.mean(exceeding) - expected) < 4 * np.sqrt(expected / runs)
    assert np.mean(exceeding) <= 1 / 8 + 4 * np.sqrt(1 / 8 / runs)


def test_the_largest_figures_bound_every_canary(noisy: Results) -> None:
    worst = largest(noisy["four rows"])
    assert worst.scale == max(abs(one.scale - 1) for one in noisy["four rows"])


def test_a_shorter_battery_is_chosen_by_name() -> None:
    canaries = enrolled("alpha").canaries[:2]
    results = replay_battery(opened(), "alpha", canaries, silent, never, ["padded on the left", "one row"])
    assert list(results) == ["one row", "padded on the left"]
    with pytest.raises(Refused, match="upside down"):
        replay_battery(opened(), "alpha", canaries, silent, never, ["upside down"])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_files_in_16_bits_are_computed_in_float32_and_hide_no_loss_of_a_fifth_of_a_per_cent(
    stored: torch.dtype, tmp_path: Path
) -> None:
    base = ends_now_and_then(tiny_base(tmp_path / "base", tied=False))
    adapter = tiny_adapter(tmp_path / "a", base)
    for file in (base / "model.safetensors", adapter / "adapter_model.safetensors"):
        save_file({name: tensor.to(stored) for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    runner = tiny.opened(base, tmp_path, {"a": adapter})
    settings = EnrolSettings(base="b", at=0.0, log_threshold=21.5, per_half=8, min_pool=4, min_tokens=2)
    golden = enrol(Request(runner, "a", canary_set(40), settings, [], silent, never))
    assert {canary.reference.noise.scale for canary in golden.canaries} == {LEAST.scale}
    for strength, tolerance in ((0.99, 0.005), (0.998, 0.001)):
        targets = Target("a", scale=strength), Target(None)
        for canary in golden.canaries:
            asked = [Replay(canary.id, canary.prompt, canary.forced, one, canary.reference.kept) for one in targets]
            served, base_now = (summary(answer) for answer in ask_all(runner, asked, never).values())
            now = measure(Comparison("a", canary.reference, 1, served, base_now, 0.0))
            assert beyond_tolerance(now, Tolerances(scale=tolerance)), (canary.id, now.scale)


def test_a_stop_and_bad_numbers_are_not_a_battery() -> None:
    with pytest.raises(Unreplayable, match="stopped"):
        replay_battery(opened(), "alpha", enrolled("alpha").canaries, silent, lambda: True)
    runner = opened()
    runner.inject("alpha", "not_a_number")
    with pytest.raises(Refused, match="NaN"):
        replay_battery(runner, "alpha", enrolled("alpha").canaries, silent, never)


def test_the_cache_is_used_in_one_configuration_and_not_in_the_others() -> None:
    chunked = [configuration.shape.chunk for configuration in configurations(opened())]
    assert sum(chunk > 0 for chunk in chunked) == 1


@pytest.mark.parametrize(
    ("device", "dtype", "other"),
    [("cuda", "bfloat16", "float32"), ("cuda", "auto", ""), ("cpu", "bfloat16", ""), ("cuda", "float32", "")],
)
def test_another_precision_is_tried_where_the_hardware_serves_in_half_of_it(
    device: str, dtype: str, other: str
) -> None:
    runner = in_process.Runner(in_process.Config("nowhere", device=device, dtype=dtype))
    found = [configuration for configuration in configurations(runner) if configuration.dtype]
    assert [configuration.settings for configuration in found] == ([{"dtype": other}] if other else [])


@pytest.mark.parametrize(
    ("kind", "attention", "other"),
    [("llama", "auto", "eager"), ("llama", "eager", "sdpa"), ("gemma2", "auto", ""), ("gemma2", "eager", "")],
)
def test_another_attention_is_tried_where_the_base_can_be_run_by_it(
    tmp_path: Path, kind: str, attention: str, other: str
) -> None:
    base = tiny_base(tmp_path / "base") if kind == "llama" else architecture_base(tmp_path / "base", kind)
    runner = tiny.opened(base, tmp_path / "cache", attention=attention)
    found = [configuration for configuration in configurations(runner) if configuration.attention]
    assert [configuration.settings for configuration in found] == ([{"attention": other}] if other else [])
    assert [configuration.name for configuration in found] == ([f"{other} attention"] if other else [])


def test_the_second_runner_stays_open_for_the_next_adapter_and_there_is_one_at_a_time(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    first = tiny.opened(base, tmp_path / "cache")
    kernel = BenignConfiguration("another kernel", BatchShape(), attention="eager")
    with SecondRunner(first) as second:
        assert second.of(BenignConfiguration("the same", BatchShape())) is first
        runner = second.of(kernel)
        assert runner is not first and ready(runner) and second.of(kernel) is runner
        other = second.of(BenignConfiguration("another precision", BatchShape(), dtype="float32"))
        assert other is not runner and ready(other) and not ready(runner)
        assert second.of(BenignConfiguration("a restart", BatchShape(), reopen=True)) is first
        assert ready(first) and ready(other)
    assert not ready(other) and ready(first), "the first one is its owner's to close"


class Restarts(memory.Runner):
    """Counts how often it was opened."""

    opened = 0

    def open(self) -> None:
        self.opened += 1
        super().open()


def test_one_restart_serves_all_batteries_where_all_was_recorded_before() -> None:
    restart = BenignConfiguration("after a restart", BatchShape(), reopen=True)
    runner = Restarts(memory.Config())
    each = SecondRunner(runner)
    for _ in range(3):
        assert each.of(restart) is runner
    assert runner.opened == 3
    once = SecondRunner(runner, restarts_once=True)
    for _ in range(3):
        assert once.of(restart) is runner
    assert runner.opened == 4


def ready(runner: Runner) -> bool:
    """Does it answer?"""
    try:
        return bool(runner.generate(Target(None), (5, 6, 7), 1, never))
    except Unreplayable:
        return False
