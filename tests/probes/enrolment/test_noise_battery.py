from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Comparison, Measurement
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.enrol import enrol
from probes.enrolment.noise_battery import LEAST, configurations, largest, moved, noise_floors, replay_battery
from probes.enrolment.settings import EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.runner import Replay, Target
from probes.runners import in_process
from tests.probes import tiny
from tests.probes.architectures import architecture_base
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base
from tests.probes.worlds import canary_set, enrolled, never, opened, silent

Results = dict[str, tuple[Measurement, ...]]


@pytest.fixture(scope="module")
def noisy() -> Results:
    """A battery whose configurations differ far more than the least floors."""
    return replay_battery(opened(noise=0.05), "alpha", enrolled("alpha").canaries, silent, never)


def test_every_canary_is_replayed_in_every_configuration(noisy: Results) -> None:
    names = [configuration.name for configuration in configurations(opened())]
    assert list(noisy) == names and len(names) >= 6
    for measurements in noisy.values():
        assert [one.comparison.reference.canary for one in measurements] == [c.id for c in enrolled("alpha").canaries]


def test_the_floor_of_a_canary_is_its_worst_benign_replay(noisy: Results) -> None:
    floors = noise_floors(noisy)
    for index, canary in enumerate(enrolled("alpha").canaries):
        seen = [moved(measurements[index]) for measurements in noisy.values()]
        assert floors[canary.id].scale == max(LEAST.scale, *(one.scale for one in seen))
        assert floors[canary.id].distortion == max(LEAST.distortion, *(one.distortion for one in seen))
        assert floors[canary.id].base_shift == max(LEAST.base_shift, *(one.base_shift for one in seen))
    # Rounding noise of this toy strikes adapter and base alike: strength, read between the two, does not see it.
    assert all(floor.base_shift > LEAST.base_shift for floor in floors.values())


def test_without_noise_the_floors_are_the_least_ones_and_not_zero() -> None:
    results = replay_battery(opened(noise=0.0), "alpha", enrolled("alpha").canaries, silent, never)
    assert set(noise_floors(results).values()) == {LEAST}


def test_a_configuration_can_be_left_out_of_the_floors(noisy: Results) -> None:
    every = noise_floors(noisy)
    left_out = noise_floors(noisy, without="padded on the left")
    assert any(left_out[name].base_shift < every[name].base_shift for name in every)
    floors = [
        replace(one.comparison.reference, noise=left_out[one.comparison.reference.canary]) for one in noisy["one row"]
    ]
    assert len(floors) == 48
    tried = [
        beyond_tolerance(replace(one, comparison=replace(one.comparison, reference=reference)), Tolerances())
        for one, reference in zip(noisy["padded on the left"], floors, strict=True)
    ]
    assert not any(tried)
    with pytest.raises(Refused, match="one row"):
        noise_floors(noisy, without="no such")


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
    settings = EnrolSettings(
        base="b", at=0.0, log_threshold=21.5, per_half=8, min_pool=4, min_tokens=2, signatures=False
    )
    golden = enrol(runner, "a", canary_set(40), settings, [], silent, never)
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
