"""What runs on a GPU in production, against the plain formula and the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.records import Fault, FaultKind
from probes.canaries.log_prob_summary import summarise, summarise_torch
from probes.runner import BatchShape, Target
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import FORCED, PROMPT, full, opened, tiny_adapter, tiny_base

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
