"""A loss on real files: measured by replay, and its tensors named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detectors.canaries.tolerance import Tolerances
from probes.canaries.canary_file import Canary
from probes.compatibility.coordinates import Coordinates
from probes.compatibility.hybrid_base import bisect
from probes.compatibility.scratch_replay import measured_loss, measurements, reference, scratch_runner, summed_up
from probes.errors import Unreplayable
from tests.probes.architectures import architecture_base
from tests.probes.compatibility.releases import noisy, permuted, release
from tests.probes.tiny import tiny_adapter, tiny_base

CANARIES = [
    Canary(f"c{n}", ({"role": "user", "content": f"question {n * 37 % 101} of {chr(65 + n)}"},)) for n in range(12)
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base", tied=False)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return tiny_adapter(tmp_path / "a", base)


def test_the_accepted_base_keeps_all_and_other_coordinates_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    with scratch_runner(base, adapter, tmp_path) as runner:
        accepted = reference(runner, CANARIES)
        same = measured_loss(runner, accepted)
    assert same.retention.mean == pytest.approx(1, abs=1e-3) and same.strength.mean == pytest.approx(1, abs=1e-3)
    assert (same.beyond, same.flipped, same.is_lost(Tolerances())) == ((), (), False)
    with scratch_runner(permuted(base, tmp_path / "new"), adapter, tmp_path) as runner:
        lost = measured_loss(runner, accepted)
    assert lost.retention.mean < 0.5 and lost.is_lost(Tolerances()) is True
    assert len(lost.beyond) > 6 and lost.flipped


def test_retention_is_not_defined_across_tokenizers(base: Path, adapter: Path, tmp_path: Path) -> None:
    with scratch_runner(base, adapter, tmp_path) as runner:
        accepted = reference(runner, CANARIES[:4])
    new = release(base, tmp_path / "new", dict)
    (new / "tokenizer.json").write_text((new / "tokenizer.json").read_text().replace('"q"', '"Q "'))
    with scratch_runner(new, adapter, tmp_path) as runner, pytest.raises(Unreplayable, match="not defined"):
        measured_loss(runner, accepted)


def test_the_tensors_that_lose_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    new = noisy(noisy(base, tmp_path / "drift", 0.003), tmp_path / "new", 1.5, "layers.1.mlp.down")
    named = bisect(base, new, adapter, CANARIES, tmp_path).culprits
    assert named is not None and named.tensors == ("model.layers.1.mlp.down_proj.weight",)
    assert named.loss > 0.6 * named.whole and named.words == "this tensor, layer 1, mlp"


def test_a_change_of_coordinates_is_named_and_not_halved(base: Path, adapter: Path, tmp_path: Path) -> None:
    divided = bisect(base, permuted(base, tmp_path / "new"), adapter, CANARIES, tmp_path)
    assert divided.culprits is None and divided.changes.coordinates is Coordinates.PERMUTED
    assert "no half of them works" in divided.words
    with pytest.raises(Unreplayable, match="other tensors or shapes"):
        bisect(base, tiny_base(tmp_path / "tied", tied=True), adapter, CANARIES, tmp_path)


def test_a_bias_of_a_module_that_the_adapter_changes_is_put_in_too(tmp_path: Path) -> None:
    """It was all 0 before, which is no other shape."""
    base, name = architecture_base(tmp_path / "qwen", "qwen2"), "model.layers.1.self_attn.v_proj.bias"
    adapter = tiny_adapter(tmp_path / "a", base)

    def spoilt(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(1))
        return tensors | {name: tensors[name] + 4 * noise}

    divided = bisect(base, release(base, tmp_path / "new", spoilt), adapter, CANARIES, tmp_path)
    assert divided.culprits is not None and divided.culprits.tensors == (name,)


def test_answers_that_are_not_finite_leave_nothing_of_the_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    with scratch_runner(base, adapter, tmp_path) as runner:
        measured = measurements(runner, reference(runner, CANARIES))
    broken = [replace(own, finite=False, retention=float("nan"), scale=float("nan")) for own in measured]
    lost = summed_up(broken)
    assert lost.is_lost(Tolerances()) is True and "not finite" in lost.facts[0]
