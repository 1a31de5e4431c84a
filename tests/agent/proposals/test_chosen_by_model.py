"""With the model at hand the proposal holds prompts that an enrolment can use, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.config import Config
from agent.errors import Refused
from agent.proposals.chosen_by_model import STAGES, chosen_by_model
from probes.canaries.sampled_prompts import AskedPrompt, DistinctPrompts, distinct
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base


def prompts(count: int) -> DistinctPrompts:
    return distinct(
        [AskedPrompt([{"role": "user", "content": f"q {i} {i * 37 % 101} item"}]) for i in range(count)], 900
    )


def config(folder: Path, **own: Any) -> Config:
    adapters = [{"name": "a", "path": folder / "a", "canaries": None} | own]
    model = {"name": "tiny", "path": str(folder / "base"), "adapters": adapters}
    probes = {"cache_dir": folder / "cache", "golden_dir": folder / "golden", "device": "cpu", "threads": 1}
    return Config.model_validate({"models": [model], "probes": probes})


def test_half_by_information_half_at_random_of_those_that_can_be_used(tmp_path: Path) -> None:
    base = ends_now_and_then(tiny_base(tmp_path / "base", tied=False))
    tiny_adapter(tmp_path / "a", base, seed=1)
    candidates, stages = prompts(100).prompts, list[str]()
    chosen = chosen_by_model(config(tmp_path), "a", candidates, 48, 0, lambda *step: stages.append(step[0]))
    # The pool has as many tokens as 24 average prompts take, so it may hold a few more of short ones.
    assert 48 <= len(chosen) <= 60
    assert set(stages) == set(STAGES)


def test_an_adapter_whose_engine_alone_is_configured_is_left_to_the_enrolment() -> None:
    served = {"name": "m", "served": {"url": "http://localhost:8000"}, "adapters": [{"name": "a"}]}
    with pytest.raises(Refused, match="enrol --select"):
        chosen_by_model(Config.model_validate({"models": [served]}), "a", (), 48, 0, lambda *_: None)
