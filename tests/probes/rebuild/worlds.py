"""A tiny base, an adapter on it and its golden record, made once for all tests of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from probes.canaries.canary_file import Canary, CanarySet
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import Golden
from probes.model.build import AUTO, Placement
from probes.rebuild.rebuild import MakeRunner
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import ends_now_and_then, opened, tiny_adapter, tiny_base
from tests.probes.worlds import never, silent

PLACEMENT = Placement(torch.device("cpu"), torch.float32, AUTO)
ADAPTER = "router"
FEW = EnrolSettings(
    base="tiny", at=1_700_000_000.0, per_half=8, min_pool=6, battery=("one row",), battery_canaries=4, whole_share=1.0,
    max_new_tokens=16, min_tokens=6,
)  # fmt: skip
CANARIES = CanarySet(
    tuple(Canary(f"router-{i}", ({"role": "user", "content": f"q {i} {i * 37 % 101} item"},)) for i in range(40))
)


def base_and_adapter(folder: Path) -> tuple[Path, Path]:
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    return base, tiny_adapter(folder / "adapter", base)


def record_of(base: Path, adapter: Path, cache: Path) -> Golden:
    runner = opened(base, cache, {ADAPTER: adapter})
    try:
        return enrol(Request(runner, ADAPTER, CANARIES, FEW, (), silent, never))
    finally:
        runner.close()


def runner_over(cache: Path) -> MakeRunner:
    """``probes.rebuild.rebuild.MakeRunner`` over the CPU."""

    def make(base: Path, adapters: Mapping[str, Path]) -> Runner:
        named = {name: str(path) for name, path in adapters.items()}
        return Runner(Config(str(base), named, device="cpu", cache_dir=str(cache)))

    return make
