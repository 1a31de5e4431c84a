"""What runs on a GPU in production, against the plain formula and the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from detectors.records import Fault, FaultKind, Reason
from probes.artefacts.lora_files import LowRankUpdate
from probes.canaries.log_prob_summary import summarise, summarise_torch
from probes.card_share import CONTEXT_BYTES
from probes.model.adapter_parts.grouped import add_grouped, is_faster
from probes.model.adapter_parts.low_rank import LowRank
from probes.model.adapter_parts.wrapped_call import TokenLayout, WrappedCall
from probes.model.device_memory import card_of, limit
from probes.model.devices.card_check import check_card, unused_card
from probes.model.lora import row_groups
from probes.model.precision.kernels import SPLIT
from probes.model.precision.split_products import product_of
from probes.runner import BatchShape, Target
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import FORCED, PROMPT, full, in_bfloat16, opened, tiny_adapter, tiny_base

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; there is none here"),
]


@pytest.mark.parametrize("seed", range(3))
def test_the_summary_on_the_device_equals_the_plain_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    full_answer = torch.from_numpy(4 * rng.standard_normal((33, 5000))).float().log_softmax(-1)
    kept = np.stack([rng.choice(5000, 41, replace=False) for _ in range(33)]).astype(np.int32)
    kept[3, 20:] = -1
    plain, fast = summarise(full_answer.numpy(), kept), summarise_torch(full_answer.cuda(), kept)
    assert np.allclose(plain.log_probs, fast.log_probs, atol=1e-6)
    assert np.allclose(plain.rest, fast.rest, atol=1e-4)
    assert np.array_equal(plain.top1, fast.top1)


def test_split_products_are_those_of_float32_on_weights_of_two_bytes() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(70, 256), torch.randn(96, 256).to(torch.bfloat16)
    wanted = functional.linear(x.double(), weight.double())
    split = product_of(x.cuda(), weight.cuda()).cpu()
    assert split.dtype is torch.float32
    assert (split - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_a_base_in_bfloat16_is_split_on_cuda_by_default_and_answers_as_in_float32(tmp_path: Path) -> None:
    base = in_bfloat16(tiny_base(tmp_path / "base"))
    adapter = tiny_adapter(tmp_path / "a", base)
    device = Runner(Config(str(base), {"a": str(adapter)}, device="cuda", cache_dir=str(tmp_path)))
    device.open()
    assert device.loaded.live is not None and device.loaded.live.kernel == SPLIT
    targets = [Target(None), Target("a")]
    wanted = full(opened(base, tmp_path, {"a": adapter}), targets)
    for key, got in full(device, targets).items():
        assert np.abs(got - wanted[key]).max() < 2e-3, key


def test_grouped_products_add_what_each_adapter_adds_by_itself() -> None:
    made = torch.Generator("cuda").manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, generator=made)

    linear = nn.Linear(64, 128).cuda().bfloat16()
    groups = row_groups([(None, 1.0), *((name, 1.0) for name in "aabbccdd")], torch.device("cuda"))
    parts = [[LowRank(LowRankUpdate(random(16, 64), random(128, 16), 0.1), linear)] for _ in groups]
    call = WrappedCall(random(9, 5, 64), random(9, 5, 128), (), {}, TokenLayout(9, 5))
    wanted = call.y.clone()
    for group, own in zip(groups, parts, strict=True):
        wanted[group.rows] += own[0].change(call, group)
    assert is_faster(call, parts) and add_grouped(call, groups, parts)
    assert (call.y - wanted).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("shape", [BatchShape(), BatchShape(rows=3, left_pad=True), BatchShape(chunk=4)])
def test_the_runner_answers_on_cuda_as_on_the_cpu(tmp_path: Path, shape: BatchShape) -> None:
    base = tiny_base(tmp_path / "base")
    folders = {
        "a": tiny_adapter(tmp_path / "a", base, modules_to_save=["lm_head"]),
        "b": tiny_adapter(tmp_path / "b", base, seed=2, r=2, target_modules=["k_proj", "up_proj"]),
    }
    device = Runner(Config(str(base), {k: str(v) for k, v in folders.items()}, device="cuda", cache_dir=str(tmp_path)))
    device.open()
    targets = [Target(None), Target("a"), Target("b", scale=0.5)]
    texts = [(PROMPT, FORCED), (PROMPT[:2], FORCED[:3])]
    wanted = full(opened(base, tmp_path, folders), targets, texts)
    for key, got in full(device, targets, texts, shape).items():
        assert np.abs(got - wanted[key]).max() < 1e-3, key


def test_what_a_card_says_is_what_is_left_of_it() -> None:
    device = torch.device("cuda")
    before = card_of(device)
    assert before is not None and 0 < before.free < before.total and before.allowed == before.total
    kept = torch.empty(256 << 20, dtype=torch.uint8, device=device)
    after = card_of(device)
    assert after is not None and after.held - before.held == kept.numel()
    assert before.available - after.available == pytest.approx(kept.numel(), abs=64 << 20)


def test_a_card_that_works_is_not_refused_and_not_left_unused() -> None:
    check_card("/base", torch.device("cuda"), torch.float32)
    assert unused_card() == ""


def test_beyond_its_ceiling_a_base_is_refused_before_it_is_read_and_allocations_fail(tmp_path: Path) -> None:
    base, device = tiny_base(tmp_path / "base"), torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    try:
        runner = Runner(Config(str(base), device="cuda", cache_dir=str(tmp_path), device_memory=CONTEXT_BYTES / total))
        runner.open()
        ready = runner.refresh()[None]
        assert ready.blocked is Reason.NO_MEMORY and "probes.device_memory" in ready.detail
        limit(device, (CONTEXT_BYTES + (64 << 20)) / total)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(128 << 20, dtype=torch.uint8, device=device)
    finally:
        limit(device, 1.0)


def test_the_context_takes_no_more_than_is_counted_for_it(tmp_path: Path) -> None:
    """Of a process of its own, by how much less is free on the card while it answers."""
    base, free_before = tiny_base(tmp_path / "base"), torch.cuda.mem_get_info()[0]
    code = f"""
import torch
from tests.probes.tiny import full
from probes.runner import Target
from probes.runners.in_process import Config, Runner
runner = Runner(Config({str(base)!r}, device="cuda", cache_dir={str(tmp_path)!r}))
runner.open()
full(runner, [Target(None)])
print(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert free_before - int(ended.stdout.split()[-1]) <= CONTEXT_BYTES


def test_faults_are_played_on_cuda_as_on_the_cpu(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    folders = {
        "a": tiny_adapter(tmp_path / "a", base, modules_to_save=["lm_head"]),
        "b": tiny_adapter(tmp_path / "b", base, seed=2, r=2, target_modules=["k_proj", "up_proj"]),
    }
    device = Runner(Config(str(base), {k: str(v) for k, v in folders.items()}, device="cuda", cache_dir=str(tmp_path)))
    device.open()
    names = dict.fromkeys(FaultKind, "b") | {FaultKind.WITHOUT: "q_proj", FaultKind.QUANTISED: "4"}
    targets = [Target("a", fault=Fault(kind, name)) for kind, name in names.items()]
    texts = [(PROMPT, FORCED), (PROMPT[:2], FORCED[:3]), (PROMPT[:1], FORCED[:2])]
    plain = opened(base, tmp_path, folders)
    wanted = full(plain, targets, texts)
    for key, got in full(device, targets, texts).items():
        assert np.abs(got - wanted[key]).max() < 1e-3, key
    prompts = [prompt for prompt, _ in texts]
    for target in targets:
        made = [runner.generate_many(target, prompts, 8, lambda: False) for runner in (plain, device)]
        assert made[0] == made[1], target
