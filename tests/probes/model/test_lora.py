"""Adapters applied per row of a batch, against PEFT, and the facts about those that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM

from probes.artefacts.identity import NEWEST
from probes.artefacts.lora_files import LoraAdapter, LowRankUpdate, read_adapter
from probes.errors import Unsupported
from probes.model.lora import AppliedAdapters, NotCalled, RowMismatch, match_modules, row_groups
from probes.runner import BatchShape, Target
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base

FLAVOURS: list[tuple[str, dict[str, Any]]] = [
    ("plain LoRA on attention and MLP", {}),
    ("alpha / sqrt(r)", {"use_rslora": True}),
    ("ranks by pattern", {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6}}),
    ("alphas by pattern", {"alpha_pattern": {"v_proj": 3, "model.layers.0.self_attn.q_proj": 32}}),
    ("both patterns under rsLoRA", {"use_rslora": True, "rank_pattern": {"v_proj": 8}, "alpha_pattern": {"v_proj": 2}}),
    ("one layer only", {"layers_to_transform": [1]}),
    ("every linear layer", {"target_modules": "all-linear"}),
    ("the output layer itself", {"target_modules": ["q_proj", "lm_head"]}),
    ("an output layer of its own", {"modules_to_save": ["lm_head"]}),
    ("embeddings and a norm of its own", {"modules_to_save": ["embed_tokens", "norm"]}),
    ("a whole MLP of its own", {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]}),
    ("DoRA", {"use_dora": True}),
    ("DoRA under rsLoRA, with patterns", {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 2}}),
    ("a bias of B", {"lora_bias": True}),
    ("embeddings", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("rows of tokens", {"trainable_token_indices": [PROMPT[2], FORCED[1], 90]}),
    ("rows of tokens by name", {"trainable_token_indices": {"embed_tokens": [PROMPT[1]]}, "use_dora": True}),
    ("a parameter", {"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]}),
]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("flavour", [case for _, case in FLAVOURS], ids=[name for name, _ in FLAVOURS])
def test_every_supported_flavour_answers_as_peft_does(tmp_path: Path, tied: bool, flavour: dict[str, Any]) -> None:
    base = tiny_base(tmp_path / "base", tied=tied)
    adapter = tiny_adapter(tmp_path / "adapter", base, **flavour)
    runner = opened(base, tmp_path, {"a": adapter})
    answers = full(runner, [Target("a"), Target(None)])
    with_adapter, without = peft_log_probs(base, adapter, PROMPT, FORCED), peft_log_probs(base, None, PROMPT, FORCED)
    assert runner.facts("a") == ()
    assert np.abs(answers[Target("a"), 0] - with_adapter).max() < 1e-4
    assert np.abs(answers[Target(None), 0] - without).max() < 1e-4
    assert np.abs(with_adapter - without).max() > 0.05, "an adapter without effect would prove nothing"


def with_keys(adapter: Path, of: Callable[[str], str]) -> Path:
    """The adapter with its keys under other names."""
    file = adapter / "adapter_model.safetensors"
    save_file({of(key): value for key, value in load_file(file).items()}, file)
    return adapter


def test_the_name_that_peft_loads_under_may_stand_in_the_keys(tmp_path: Path) -> None:
    """As a state dict of the running model has it; PEFT applies such keys, and so it is done here."""
    base = tiny_base(tmp_path / "base")
    plain = tiny_adapter(tmp_path / "plain", base, modules_to_save=["lm_head"])
    wanted = peft_log_probs(base, plain, PROMPT, FORCED)
    named = with_keys(tiny_adapter(tmp_path / "named", base, modules_to_save=["lm_head"]), in_state_dict)
    assert np.abs(peft_log_probs(base, named, PROMPT, FORCED) - wanted).max() == 0
    runner = opened(base, tmp_path, {"a": named})
    assert runner.facts("a") == ()
    assert np.abs(full(runner, [Target("a")])[Target("a"), 0] - wanted).max() < 1e-5
    assert np.abs(wanted - peft_log_probs(base, None, PROMPT, FORCED)).max() > 0.05


def test_the_whole_state_dict_of_a_running_model_is_an_adapter_too(tmp_path: Path) -> None:
    """With the base's own weights in it, under the names of PEFT's wrappers."""
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base)
    wanted = peft_log_probs(base, adapter, PROMPT, FORCED)
    running = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), adapter)
    whole = {key: value.clone() for key, value in running.state_dict().items()}
    assert any(".base_layer." in key for key in whole) and any(".lora_A.default." in key for key in whole)
    save_file(whole, adapter / "adapter_model.safetensors")
    runner = opened(base, tmp_path, {"a": adapter})
    assert runner.facts("a") == ()
    assert np.abs(full(runner, [Target("a")])[Target("a"), 0] - wanted).max() < 1e-5


def in_state_dict(key: str) -> str:
    return key.replace(".weight", ".default.weight") if "lora_" in key else key


PEFTS_PREFIX = "base_model.model."


@pytest.mark.parametrize(
    ("of", "fact"),
    [
        (lambda key: key.removeprefix(PEFTS_PREFIX), "12 of 12 keys lack the prefix base_model.model., and PEFT"),
        (lambda key: key.replace(".weight", ".ticket.weight"), "12 of 12 keys carry the adapter's name 'ticket'"),
        (
            lambda key: PEFTS_PREFIX + key,
            "6 of 6 modules match nothing in this base (they have PEFT's prefix twice)",
        ),
        (
            lambda key: key.replace("model.layers", "_orig_mod.model.layers"),
            "6 of 6 modules match nothing in this base (torch.compile added _orig_mod.)",
        ),
        (
            lambda key: key.replace("model.layers", "model.language_model.layers"),
            "6 of 6 modules match nothing in this base (language_model. comes from a multimodal model",
        ),
        (
            lambda key: key.replace("base_model.model.model.", "base_model.model."),
            "6 of 6 modules match nothing in this base (they lack the leading model.)",
        ),
    ],
    ids=["no prefix", "another name", "twice", "compiled", "multimodal", "no model."],
)
def test_what_peft_does_not_apply_is_the_base_here_too_and_a_fact_says_why(
    tmp_path: Path, of: Callable[[str], str], fact: str
) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = with_keys(tiny_adapter(tmp_path / "a", base), of)
    bare = peft_log_probs(base, None, PROMPT, FORCED)
    assert np.abs(peft_log_probs(base, adapter, PROMPT, FORCED) - bare).max() == 0
    runner = opened(base, tmp_path, {"a": adapter})
    assert np.abs(full(runner, [Target("a")])[Target("a"), 0] - bare).max() < 1e-5
    assert [stated for stated in runner.facts("a") if fact in stated], runner.facts("a")


def test_an_adapter_of_a_fused_base_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base, target_modules=["q_proj"])
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["qkv_proj"]}))
    runner = opened(base, tmp_path, {"a": with_keys(adapter, lambda key: key.replace("q_proj", "qkv_proj"))})
    said = "(they belong to a base with qkv_proj fused, and this base has q_proj, k_proj, v_proj)"
    assert [stated for stated in runner.facts("a") if said in stated], runner.facts("a")


def test_several_adapters_of_different_ranks_share_one_batch_with_the_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    folders = {
        "a": tiny_adapter(tmp_path / "a", base, seed=1),
        "b.with.dots": tiny_adapter(tmp_path / "b", base, seed=2, r=2, target_modules=["k_proj", "up_proj"]),
        "c": tiny_adapter(tmp_path / "c", base, seed=3, r=8, use_rslora=True, modules_to_save=["lm_head"]),
    }
    texts = [(PROMPT, FORCED), (PROMPT[:2], FORCED[:1]), ((*PROMPT, 50, 51, 52), (*FORCED, 70))]
    answers = full(opened(base, tmp_path, folders), [Target(None), *map(Target, folders)], texts, BatchShape(rows=64))
    for name, folder in [(None, None), *folders.items()]:
        for number, (prompt, forced) in enumerate(texts):
            wanted = peft_log_probs(base, folder, prompt, forced)
            assert np.abs(answers[Target(name), number] - wanted).max() < 1e-4, (name, number)


def test_scale_is_a_multiple_of_alpha_and_zero_is_the_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    folders = {
        "a": tiny_adapter(tmp_path / "a", base),
        "double": tiny_adapter(tmp_path / "double", base, lora_alpha=16),
        "head": tiny_adapter(tmp_path / "head", base, modules_to_save=["lm_head"]),
    }
    scaled = [Target("a", scale=2.0), Target("a", scale=0.0), Target("head", scale=0.0), Target("double", scale=0.5)]
    answers = full(opened(base, tmp_path, folders), [*scaled, Target("a"), Target("double"), Target(None)])
    for first, second in [
        (Target("a", scale=2.0), Target("double")),
        (Target("double", scale=0.5), Target("a")),
        (Target("a", scale=0.0), Target(None)),
        (Target("head", scale=0.0), Target(None)),
    ]:
        assert np.abs(answers[first, 0] - answers[second, 0]).max() < 1e-4, (first, second)
    assert np.abs(answers[Target("a"), 0] - answers[Target("double"), 0]).max() > 0.01


def test_a_pass_without_adapter_rows_is_bitwise_the_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base, target_modules="all-linear", modules_to_save=["lm_head"])
    alone = full(opened(base, tmp_path), [Target(None)])
    beside = full(opened(base, tmp_path, {"a": adapter}), [Target(None)])
    assert np.array_equal(alone[Target(None), 0], beside[Target(None), 0])


@pytest.mark.parametrize(
    "shape", [BatchShape(left_pad=True), BatchShape(chunk=3), BatchShape(rows=1), BatchShape(2, True, 4)]
)
def test_packing_changes_the_computation_and_not_the_answer(tmp_path: Path, shape: BatchShape) -> None:
    base = tiny_base(tmp_path / "base")
    runner = opened(base, tmp_path, {"a": tiny_adapter(tmp_path / "a", base)})
    texts = [(PROMPT, FORCED), (PROMPT[:1], FORCED[:2]), ((*PROMPT, *PROMPT), FORCED)]
    plain = full(runner, [Target("a"), Target(None)], texts)
    packed = full(runner, [Target("a"), Target(None)], texts, shape)
    gaps = [np.abs(plain[key] - packed[key]).max() for key in plain]
    assert len(gaps) == 6 and max(gaps) < 1e-3


def test_left_padding_and_chunks_are_what_the_model_is_given(tmp_path: Path) -> None:
    """Tiny models answer bit for bit the same under any packing, so their answers cannot show that it happened."""
    runner = opened(tiny_base(tmp_path / "base"), tmp_path)
    assert runner.loaded.live is not None
    calls: list[dict[str, Any]] = []
    inner = runner.loaded.live.network.base_model
    inner.register_forward_pre_hook(lambda _, __, arguments: calls.append(arguments), with_kwargs=True)
    texts = [(PROMPT, FORCED), (PROMPT[:1], FORCED[:2])]
    full(runner, [Target(None)], texts, BatchShape(left_pad=True))
    assert sorted(calls[0]["attention_mask"].tolist()) == [[0] * 8 + [1] * 2, [1] * 10]
    assert sorted(calls[0]["position_ids"].tolist()) == [[0] * 9 + [1], list(range(10))]
    calls.clear()
    full(runner, [Target(None)], texts, BatchShape(chunk=4))
    assert [call["input_ids"].shape[1] for call in calls] == [4, 4, 2]
    assert [call["attention_mask"].shape[1] for call in calls] == [4, 8, 10]


def test_keys_that_match_nothing_are_counted_and_the_rest_is_applied(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    whole = tiny_adapter(tmp_path / "whole", base)
    renamed = _rewritten(whole, tmp_path / "renamed", lambda key: key.replace("q_proj", "query"))
    kept_only = _rewritten(whole, tmp_path / "kept", lambda key: None if "q_proj" in key else key)
    runner = opened(base, tmp_path, {"renamed": renamed, "kept": kept_only})
    unknown, without = runner.facts("renamed")
    assert unknown.startswith("2 of 6 modules match no target of adapter_config.json: model.layers.0.self_attn.query, ")
    assert without.startswith("2 of 6 targeted modules have no part in the files: model.layers.0.self_attn.q_proj, ")
    assert runner.facts("kept") == (without,)
    answers = full(runner, [Target("renamed"), Target("kept")])
    assert np.abs(answers[Target("renamed"), 0] - answers[Target("kept"), 0]).max() < 1e-5


def test_an_adapter_that_matches_nowhere_answers_as_the_base_and_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    lost = _rewritten(
        tiny_adapter(tmp_path / "a", base), tmp_path / "lost", lambda key: key.replace("model.layers", "other.layers")
    )
    runner = opened(base, tmp_path, {"lost": lost})
    assert runner.facts("lost")[0].startswith("6 of 6 modules match nothing in this base: ")
    answers = full(runner, [Target("lost"), Target(None)])
    assert np.abs(answers[Target("lost"), 0] - answers[Target(None), 0]).max() < 1e-5


def test_shapes_of_another_base_are_a_fact(tmp_path: Path) -> None:
    base, wider = tiny_base(tmp_path / "base"), tiny_base(tmp_path / "wider", head_dim=32)
    runner = opened(base, tmp_path, {"a": tiny_adapter(tmp_path / "a", wider)})
    (fact,) = runner.facts("a")
    assert fact.startswith(
        "4 of 6 modules do not fit: model.layers.0.self_attn.q_proj has 128 x 64 where the base has 64 x 64"
    )
    full(runner, [Target("a")])


def test_an_adapter_whose_b_is_all_zero_is_a_fact(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    silent = _rewritten(tiny_adapter(tmp_path / "a", base), tmp_path / "silent", zero="lora_B")
    assert opened(base, tmp_path, {"a": silent}).facts("a") == (
        "the effect is zero: every lora_B holds nothing but zeros",
    )


def test_a_missing_half_and_another_rank_than_configured_are_facts(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    whole = tiny_adapter(tmp_path / "a", base, rank_pattern={"v_proj": 2})
    (whole / "adapter_config.json").write_text(
        (whole / "adapter_config.json").read_text().replace('"v_proj": 2', '"v_proj": 4')
    )
    half = _rewritten(whole, tmp_path / "half", lambda key: None if "layers.0.mlp.down_proj.lora_B" in key else key)
    fact, without = opened(base, tmp_path, {"a": half}).facts("a")
    assert without == "1 of 6 targeted modules have no part in the files: model.layers.0.mlp.down_proj"
    assert fact.startswith("3 of 6 modules are not as adapter_config.json says: ")
    assert (
        "model.layers.0.mlp.down_proj has lora_A alone" in fact
        and "has rank 2 where adapter_config.json says 4" in fact
    )


def test_an_adapter_can_be_replaced_and_taken_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3))
    adapters, x = AppliedAdapters(model), torch.randn(2, 3)
    bare = model(x).detach()
    for factor in (1.0, 2.0):
        adapters.apply("a", _on("0", factor))
        with adapters.selection.for_pass(row_groups([(None, 1.0), ("a", 1.0)], torch.device("cpu")), 2):
            change = (model(x) - bare).detach()
        assert torch.equal(change[0], torch.zeros(3))
        assert torch.allclose(change[1], factor * x[1].sum() * torch.ones(3), atol=1e-5)
    adapters.remove("a")
    with adapters.selection.for_pass(row_groups([("a", 1.0)] * 2, torch.device("cpu")), 2):
        assert torch.equal(model(x), bare)


def test_a_module_that_is_not_called_rows_first_is_refused_and_not_guessed() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    adapters = AppliedAdapters(model)
    adapters.apply("a", _on("0", 1.0))
    with (
        adapters.selection.for_pass(row_groups([("a", 1.0)], torch.device("cpu")), 1),
        pytest.raises(RowMismatch, match="5 rows in a batch of 1"),
    ):
        model(torch.randn(5, 3))
    assert adapters.selection.groups == ()


class PackedLinear(nn.Module):
    """As a quantisation library has a layer: no ``nn.Linear``, and its weights packed in a buffer."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("qweight", (weight * 8).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.get_buffer("qweight").float() / 8
        return x @ weight.T


def test_a_layer_of_a_quantisation_library_is_adapted_as_any_other() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(PackedLinear(torch.randn(3, 3)), nn.LayerNorm(3)), torch.randn(2, 3)
    adapters, bare = AppliedAdapters(model), model[0](x)
    assert adapters.apply("a", _on("0", 1.0)).facts == ()
    with adapters.for_pass(model, row_groups([(None, 1.0), ("a", 1.0)], torch.device("cpu")), 2):
        change = model[0](x) - bare
    assert torch.equal(change[0], torch.zeros(3)) and torch.allclose(change[1], x[1].sum() * torch.ones(3), atol=1e-5)
    part = replace(_on("0", 1.0).low_rank["0"], magnitude=torch.ones(3))
    with pytest.raises(Unsupported, match="on weights that are stored quantised"):
        adapters.apply("dora", replace(_on("0", 1.0), low_rank={"0": part}))


class ReadsWeights(nn.Module):
    """Two layers, of which the second is called for several tokens and read by its weights for one, as some recurrent
    layers do after a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y) if x.shape[1] > 1 else nn.functional.linear(y, self.second.weight, self.second.bias)


def test_a_module_that_is_not_called_in_one_pass_fails_that_pass_and_no_other() -> None:
    torch.manual_seed(0)
    model = ReadsWeights()
    adapters = AppliedAdapters(model)
    parts = {**_on("first", 1.0).low_rank, **_on("second", 1.0).low_rank}
    adapters.apply("both", replace(_on("first", 1.0), low_rank=parts))
    adapters.apply("one", _on("first", 1.0))

    def answered(name: str | None, tokens: int) -> torch.Tensor:
        groups = row_groups([(name, 1.0)], torch.device("cpu"))
        with adapters.for_pass(model, groups, 1, tokens):
            answer: torch.Tensor = model(torch.ones(1, tokens, 3))
        return answer

    for name, tokens in (("both", 2), ("one", 2), ("one", 1), (None, 1)):
        answered(name, tokens)
    with pytest.raises(NotCalled, match=r"1 of 2 modules that both changes were not called in this pass: second: this"):
        answered("both", 1)
    adapters.apply("both", _on("first", 2.0))  # another version, without that part
    answered("both", 1)
    with adapters.for_pass(model.first, row_groups([("both", 1.0)], torch.device("cpu")), 1, 1):
        model.first(torch.ones(1, 1, 3))  # a part of the model alone


def test_tokens_of_all_rows_one_after_the_other_are_told_apart_by_their_number() -> None:
    """As mixtures call their shared experts. A number of tokens that some were picked from is not guessed at."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 3)), torch.randn(6, 3)
    adapters = AppliedAdapters(model)
    bare = model(x).detach()
    adapters.apply("a", _on("0", 1.0))
    groups = row_groups([(None, 1.0), ("a", 1.0)], torch.device("cpu"))
    with adapters.selection.for_pass(groups, 2, columns=3):
        change = (model(x) - bare).detach()
        with pytest.raises(RowMismatch, match="4 rows in a batch of 2"):
            model(x[:4])
    assert torch.equal(change[:3], torch.zeros(3, 3))
    assert torch.allclose(change[3:], x[3:].sum(dim=1, keepdim=True).expand(3, 3), atol=1e-5)


def test_a_part_on_a_module_that_is_not_called_is_refused_and_takes_the_former_with_it() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    adapters = AppliedAdapters(model, rowwise=frozenset({"0"}))
    adapters.apply("a", _on("0", 1.0))
    with pytest.raises(Unsupported, match=r"1 of 1 parts on modules that this base does not call .*: 1 is "):
        adapters.apply("a", _on("1", 1.0))
    assert adapters.applied == {}


def test_dora_on_weights_that_are_stored_quantised_is_refused() -> None:
    """Their numbers are no weights without their scales; a plain update adds to what their library answers."""
    model, plain = nn.Sequential(nn.Linear(3, 3)), _on("0", 1.0)
    model[0].weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    adapters = AppliedAdapters(model)
    part = replace(plain.low_rank["0"], magnitude=torch.ones(3))
    with pytest.raises(Unsupported, match="use_dora on weights that are stored quantised \\(1 modules: 0\\)"):
        adapters.apply("a", replace(plain, low_rank={"0": part}))
    assert adapters.applied == {}
    adapters.apply("a", plain)


def test_fitting_leaves_the_model_alone(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    runner = opened(base, tmp_path)
    before = full(runner, [Target(None)])[Target(None), 0]
    adapter = read_adapter(tiny_adapter(tmp_path / "a", base))
    assert runner.loaded.live is not None
    assert len(match_modules(adapter, runner.loaded.live.network).modules) == 6
    assert np.array_equal(full(runner, [Target(None)])[Target(None), 0], before)


def _on(module: str, factor: float) -> LoraAdapter:
    """Adds factor * sum(x) to each of three outputs."""
    part = LowRankUpdate(torch.ones(1, 3), factor * torch.ones(3, 1), 1.0)
    return LoraAdapter("nowhere", {NEWEST: "sha256:none"}, 1, 1.0, {module: part}, {})


def _rewritten(source: Path, target: Path, rename: Any = lambda key: key, zero: str = "") -> Path:
    """A copy of an adapter with keys renamed, left out (None) or zeroed."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    tensors = {rename(key): tensor for key, tensor in load_file(source / "adapter_model.safetensors").items()}
    kept = {key: torch.zeros_like(t) if zero and zero in key else t for key, t in tensors.items() if key is not None}
    save_file(kept, target / "adapter_model.safetensors")
    return target
