"""Weights in a few bits, against rounding by hand and against a release that was quantised again."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM

from detectors.records import Fault, FaultKind, Floats
from examples.helpdesk.releases import make_release
from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable, Unsupported
from probes.model.lora import AppliedAdapters, LoraModule
from probes.model.quantise import levels, rounded_rows, with_weights
from probes.runner import BITS, Replay, Target
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base


def in_bits(name: str, adapter: str | None = None) -> Target:
    return Target(adapter, fault=Fault(FaultKind.QUANTISED, name))


def by_hand(weight: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Row by row and number by number, the nearest of all levels."""
    rounded = np.empty_like(weight)
    for row, numbers in enumerate(weight):
        top = 2 ** (bits - 1) - 1
        steps = np.arange(-top, top + 1) * (np.abs(numbers).max() / top)
        rounded[row] = [steps[np.abs(steps - number).argmin()] for number in numbers]
    return rounded


@pytest.mark.parametrize(("bits", "wanted"), [(8, 127), (6, 31), (4, 7), (3, 3), (2, 1)])
def test_levels_are_those_of_signed_numbers_without_the_odd_one(bits: int, wanted: int) -> None:
    assert levels(bits) == wanted


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="wanted 2 to 8"):
        levels(bits)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_every_number_goes_to_the_nearest_level_of_its_row(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 40) * torch.tensor([[1e-3], [1.0], [50.0], [1.0], [1.0], [0.0]])
    rounded = rounded_rows(weight, bits)
    assert np.allclose(rounded.numpy(), by_hand(weight.numpy(), bits), rtol=1e-5, atol=1e-9)
    assert torch.allclose(rounded.abs().amax(dim=1), weight.abs().amax(dim=1)), "the largest stays"
    assert rounded_rows(weight.half(), bits).dtype == torch.float16


@pytest.mark.parametrize("group", [8, 12, 40, 64])
def test_each_group_of_a_row_has_a_scale_of_its_own(group: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 40) * torch.logspace(-2, 1, 40)
    rounded = rounded_rows(weight, 4, group)
    for start in range(0, 40, group):
        cells = slice(start, start + group)
        assert np.allclose(rounded[:, cells].numpy(), by_hand(weight[:, cells].numpy(), 4), rtol=1e-5, atol=1e-9)


def quantised_by_hand(base: Path, folder: Path, bits: int) -> Path:
    model = LlamaForCausalLM.from_pretrained(base)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight.data = torch.from_numpy(by_hand(module.weight.detach().numpy(), bits))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bits", [8, 4, 3])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_base_and_adapter_answer_as_on_weights_that_were_rounded_by_hand(tmp_path: Path, bits: int, tied: bool) -> None:
    base = tiny_base(tmp_path / "base", tied=tied)
    adapter = tiny_adapter(tmp_path / "a", base, modules_to_save=["lm_head"])
    rounded = quantised_by_hand(base, tmp_path / "rounded", bits)
    targets = {in_bits(str(bits)): None, in_bits(str(bits), "a"): adapter}
    answers = full(opened(base, tmp_path, {"a": adapter}), [*targets, Target(None), Target("a")])
    for target, folder in targets.items():
        assert np.abs(answers[target, 0] - peft_log_probs(rounded, folder, PROMPT, FORCED)).max() < 1e-4
        assert np.abs(answers[target, 0] - answers[Target(target.adapter), 0]).max() > 1e-3
        exact = peft_log_probs(base, folder, PROMPT, FORCED)
        assert np.abs(answers[Target(target.adapter), 0] - exact).max() < 1e-4, "the base itself is as it was"


def test_four_bits_are_what_the_requantised_release_has(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    released = make_release("requantised", base, tmp_path / "released")
    wanted = full(opened(released, tmp_path), [Target(None)])[Target(None), 0]
    assert np.array_equal(full(opened(base, tmp_path), [in_bits("4")])[in_bits("4"), 0], wanted)


def test_fewer_bits_are_further_away(tmp_path: Path) -> None:
    answers = full(opened(tiny_base(tmp_path / "base"), tmp_path), [Target(None), *map(in_bits, BITS)])
    away = [float(np.square(answers[in_bits(bits), 0] - answers[Target(None), 0]).mean()) for bits in BITS]
    assert away == sorted(away) and away[0] > 0


def test_only_linear_layers_are_copied_and_adapters_are_left_behind(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    model = LlamaForCausalLM.from_pretrained(base).requires_grad_(False)
    adapter = read_adapter(tiny_adapter(tmp_path / "a", base, modules_to_save=["lm_head", "norm"]))
    AppliedAdapters(model).apply("a", adapter)
    twin = with_weights(model, partial(rounded_rows, bits=4), "to 4 bits")
    assert not any(isinstance(module, LoraModule) for module in twin.modules())
    assert any(isinstance(module, LoraModule) for module in model.modules())
    originals = {tensor.data_ptr() for tensor in model.parameters()}
    copied = {name for name, tensor in twin.named_parameters() if tensor.data_ptr() not in originals}
    assert copied == {name for name, _ in twin.named_parameters() if "_proj" in name}


def test_a_model_without_linear_layers_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=98, n_embd=16, n_layer=1, n_head=2))  # its own class of layer
    with pytest.raises(Unsupported, match="rounding to 4 bits"):
        with_weights(model, partial(rounded_rows, bits=4), "to 4 bits")


def test_one_copy_is_kept_until_other_bits_or_other_files_come(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter})

    def copy_in_use(*bits: str) -> object:
        full(runner, [in_bits(name, "a") for name in bits])
        return runner.residency.quantised and runner.residency.quantised.model

    first = copy_in_use("4")
    assert copy_in_use("4") is first
    assert copy_in_use("8", "3") is not first
    assert runner.residency.quantised is not None and runner.residency.quantised.bits == 3
    (adapter / "adapter_model.safetensors").touch()
    runner.refresh()
    runner.refresh()
    assert runner.residency.quantised is None
    copy_in_use("4")
    runner.close()
    assert runner.residency.quantised is None


def test_bits_that_are_none_are_told(tmp_path: Path) -> None:
    runner = opened(tiny_base(tmp_path / "base"), tmp_path)
    with pytest.raises(Unreplayable, match="wanted one of 8, 6, 4, 3"):
        full(runner, [in_bits("5")])


def test_text_is_made_in_few_bits_as_it_is_scored(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    runner = opened(base, tmp_path)
    made = runner.generate(in_bits("3"), PROMPT, 6, lambda: False)
    (answer,) = runner.run([Replay("c", PROMPT, made, in_bits("3"))], lambda: False)
    scored: Floats | None = answer.full
    assert scored is not None and tuple(scored.argmax(axis=1)) == made
