"""Target modules, compared with PEFT: a rewritten config may apply fewer of a file's keys, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from probes.artefacts.lora_files import read_adapter
from probes.artefacts.target_modules import TargetModules
from probes.errors import Unreplayable, Unsupported
from probes.model.lora import match_modules
from probes.runner import Target
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base

HELPDESK = Path(__file__).parents[3] / "examples" / "helpdesk" / "adapters"
NAMES = [
    f"{prefix}.{number}.{module}"
    for prefix in ("model.layers", "vision.blocks")
    for number in (0, 1, 11)
    for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.experts.1.up_proj")
] + ["lm_head", "q_proj", "model.embed_tokens", "model.my_q_proj"]
RULES: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "down_proj"]},
    {"target_modules": []},
    {"target_modules": r".*\.1\..*_proj"},
    {"target_modules": "q_proj"},
    {"target_modules": ["self_attn.q_proj", "lm_head"]},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
    {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*layers\.0.*"},
    {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1, 11], "layers_pattern": "blocks"},
    {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ["layers", "experts"]},
    {"target_modules": ["q_proj", "model.layers.0.mlp.down_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["mlp"]},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_rule_is_peft_s(rule: dict[str, Any]) -> None:
    config = LoraConfig(**rule)
    wanted = [name for name in NAMES if _matched(config, name)]
    targets = TargetModules.read(Path("adapter_config.json"), json.loads(json.dumps(rule)))
    assert [name for name in NAMES if targets.takes(name)] == wanted


def _matched(config: LoraConfig, name: str) -> bool:
    """An expression gives a match, an excluded module an object that is false."""
    return bool(check_target_module_exists(config, name))


REWRITTEN: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"]},
    {"exclude_modules": ["down_proj", "v_proj"]},
    {"layers_to_transform": [1]},
    {"target_modules": r".*layers\.1\.mlp\.down_proj"},
]


@pytest.mark.parametrize("rewritten", REWRITTEN, ids=str)
def test_keys_that_are_not_targeted_have_no_effect_and_are_stated(tmp_path: Path, rewritten: dict[str, Any]) -> None:
    base = tiny_base(tmp_path / "base")
    whole, less = (tiny_adapter(tmp_path / name, base) for name in ("whole", "less"))
    _configure(less, **rewritten)
    runner = opened(base, tmp_path, {"whole": whole, "less": less})
    answers = full(runner, [Target("whole"), Target("less")])
    assert np.abs(answers[Target("less"), 0] - peft_log_probs(base, less, PROMPT, FORCED)).max() < 1e-4
    assert np.abs(answers[Target("less"), 0] - answers[Target("whole"), 0]).max() > 0.01
    assert runner.facts("whole") == ()
    assert "of 6 modules match no target of adapter_config.json" in runner.facts("less")[0]


def test_a_config_that_targets_nothing_leaves_the_base_and_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    none = tiny_adapter(tmp_path / "none", base)
    _configure(none, exclude_modules=r".*")
    runner = opened(base, tmp_path, {"none": none})
    answers = full(runner, [Target("none"), Target(None)])
    assert np.array_equal(answers[Target("none"), 0], answers[Target(None), 0])
    assert runner.facts("none")[0].startswith("6 of 6 modules match no target of adapter_config.json: ")


def test_targeted_modules_without_keys_are_stated(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base)
    _configure(adapter, target_modules=["q_proj", "v_proj", "down_proj", "k_proj"])
    assert opened(base, tmp_path, {"a": adapter}).facts("a") == (
        "2 of 8 targeted modules have no part in the files: "
        "model.layers.0.self_attn.k_proj, model.layers.1.self_attn.k_proj",
    )


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_all_linear_is_all_but_the_output_layer(tmp_path: Path, tied: bool) -> None:
    base = tiny_base(tmp_path / "base", tied=tied)
    every = tiny_adapter(tmp_path / "every", base, target_modules="all-linear")
    _configure(every, target_modules="all-linear")
    headed = tiny_adapter(tmp_path / "headed", base, target_modules=["q_proj", "lm_head"])
    _configure(headed, target_modules="all-linear")
    runner = opened(base, tmp_path, {"every": every, "headed": headed})
    assert runner.facts("every") == ()
    left_out, without = runner.facts("headed")
    assert left_out == "lm_head is the output layer, which all-linear leaves out"
    assert without.startswith("12 of 14 targeted modules have no part in the files: ")
    answers = full(runner, [Target("every"), Target("headed")])
    for name, folder in (("every", every), ("headed", headed)):
        assert np.abs(answers[Target(name), 0] - peft_log_probs(base, folder, PROMPT, FORCED)).max() < 1e-4


def test_targets_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "a", tiny_base(tmp_path / "base"))
    _configure(adapter, target_modules=None)
    with pytest.raises(Unsupported, match="target_modules"):
        read_adapter(adapter)
    for wrong in (
        {"target_modules": "q_proj("},
        {"target_modules": 7},
        {"target_modules": "q", "layers_to_transform": 1},
    ):
        _configure(adapter, **wrong)
        with pytest.raises(Unreplayable, match=r"adapter_config\.json"):
            read_adapter(adapter)


@pytest.mark.parametrize("folder", sorted(HELPDESK.iterdir()), ids=lambda folder: folder.name)
def test_the_shipped_adapters_target_every_key_they_have(folder: Path) -> None:
    adapter = read_adapter(folder)
    assert adapter.problems == () and adapter.low_rank
    bare = torch.nn.Module()
    for name, part in adapter.low_rank.items():
        owner = bare
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in dict(owner.named_children()):
                owner.add_module(parent, torch.nn.Module())
            owner = owner.get_submodule(parent)
        owner.add_module(last, torch.nn.Linear(part.a.shape[1], part.b.shape[0], device="meta"))
    assert match_modules(adapter, bare).facts == ()


def _configure(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
