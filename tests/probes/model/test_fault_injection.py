"""Fault injection, against PEFT and transformers with the same fault made by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, LlamaForCausalLM

from detectors.records import Fault, FaultKind, Floats
from probes.errors import Unreplayable, Unsupported
from probes.runner import BatchShape, Replay, Target, Weights
from probes.runners.in_process import Runner
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base

TEXTS = [(PROMPT, FORCED), (PROMPT[:1], FORCED[:2]), ((*PROMPT, 50, 51, 52), (*FORCED, 70)), (PROMPT[:3], FORCED[:1])]


def faulty(adapter: str | None, kind: FaultKind, name: str, **more: Any) -> Target:
    return Target(adapter, fault=Fault(kind, name), **more)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path], Runner]:
    folder = tmp_path_factory.mktemp("world")
    base = tiny_base(folder / "base")
    folders = {
        "a": tiny_adapter(folder / "a", base, seed=1),
        "b": tiny_adapter(folder / "b", base, seed=2, lora_alpha=3),
        "other": tiny_adapter(folder / "other", base, seed=3, r=2, target_modules=["k_proj", "q_proj", "up_proj"]),
        "head": tiny_adapter(folder / "head", base, seed=4, modules_to_save=["lm_head"]),
        "norm": tiny_adapter(folder / "norm", base, seed=5, modules_to_save=["norm"]),
    }
    return base, folders, opened(base, folder, folders)


World = tuple[Path, dict[str, Path], Runner]


@pytest.mark.parametrize(
    ("block", "kept"),
    [
        ("q_proj", lambda key: "q_proj" not in key),
        ("attention", lambda key: "self_attn" not in key),
        ("down_proj", lambda key: "mlp" not in key),
        ("layers.1", lambda key: "layers.1." not in key),
        ("lm_head", lambda key: "lm_head" not in key),
    ],
)
def test_without_a_block_is_peft_on_files_without_its_keys(
    world: World, tmp_path: Path, block: str, kept: Callable[[str], bool]
) -> None:
    base, folders, runner = world
    (tmp_path / "adapter_config.json").write_bytes((folders["head"] / "adapter_config.json").read_bytes())
    tensors = load_file(folders["head"] / "adapter_model.safetensors")
    rest = {key: tensor for key, tensor in tensors.items() if kept(key)}
    # PEFT refuses files without a module that the config saves: it is given the base's own instead.
    own = {"base_model.model.lm_head.weight": load_file(base / "model.safetensors")["model.embed_tokens.weight"]}
    save_file(own | rest, tmp_path / "adapter_model.safetensors")
    target = faulty("head", FaultKind.WITHOUT, block)
    answers = full(runner, [target, Target("head")])
    wanted = peft_log_probs(base, tmp_path, PROMPT, FORCED)
    assert block in runner.blocks("head")
    assert np.abs(answers[target, 0] - wanted).max() < 1e-4
    assert np.abs(answers[Target("head"), 0] - wanted).max() > 0.005


def test_the_blocks_of_an_adapter_each_answer_differently(world: World) -> None:
    runner = world[2]
    assert runner.blocks("a") == ("down_proj", "q_proj", "v_proj", "attention", "layers.0", "layers.1")
    targets = [Target("a"), *(faulty("a", FaultKind.WITHOUT, block) for block in runner.blocks("a"))]
    answers = full(runner, targets)
    for i, first in enumerate(targets):
        for second in targets[:i]:
            assert np.abs(answers[first, 0] - answers[second, 0]).max() > 1e-3, (first, second)


MIXES = [
    (FaultKind.STACKED, "", (1.0, 1.0)),
    (FaultKind.STACKED, "*0.5", (1.0, 0.5)),
    (FaultKind.AVERAGED, "", (0.5, 0.5)),
    (FaultKind.AVERAGED, "*0.25", (0.75, 0.25)),
    (FaultKind.TAKEN_AWAY, "", (1.0, -1.0)),
    (FaultKind.TAKEN_AWAY, "*0.5", (1.0, -0.5)),
]


@pytest.mark.parametrize(("kind", "part", "weights"), MIXES)
def test_two_adapters_together_are_pefts_weighted_sum(
    world: World, kind: FaultKind, part: str, weights: tuple[float, float]
) -> None:
    base, folders, runner = world
    model = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), folders["a"], "a")
    model.load_adapter(folders["b"], "b")
    model.add_weighted_adapter(["a", "b"], list(weights), "both", combination_type="cat")
    model.set_adapter("both")
    target = faulty("a", kind, f"b{part}")
    assert np.abs(full(runner, [target])[target, 0] - log_probs(model)).max() < 1e-4


@pytest.mark.parametrize(("kind", "part", "weights"), MIXES)
@pytest.mark.parametrize("pair", [("a", "other"), ("other", "head"), ("norm", "other")])
def test_adapters_on_different_modules_add_up_as_weights_do(
    world: World, kind: FaultKind, part: str, weights: tuple[float, float], pair: tuple[str, str]
) -> None:
    base, folders, runner = world
    plain = LlamaForCausalLM.from_pretrained(base).state_dict()
    summed = {key: tensor.clone() for key, tensor in plain.items()}
    for name, weight in zip(pair, weights, strict=True):
        for key, tensor in _merged(base, folders[name]).items():
            summed[key] += weight * (tensor - plain[key])
    model = LlamaForCausalLM.from_pretrained(base, tie_word_embeddings=False)
    model.load_state_dict(summed)
    target = faulty(pair[0], kind, f"{pair[1]}{part}")
    answers = full(runner, [target, Target(pair[0])])
    assert np.abs(answers[target, 0] - log_probs(model)).max() < 1e-4
    assert np.abs(answers[target, 0] - answers[Target(pair[0]), 0]).max() > 0.05


def test_two_adapters_with_modules_of_their_own_are_refused(world: World) -> None:
    with pytest.raises(Unsupported, match="modules_to_save"):
        full(world[2], [faulty("head", FaultKind.STACKED, "norm")])


@pytest.mark.parametrize("reader", ["a", "head", None])
@pytest.mark.parametrize("warmer", ["", "b", "head"])
@pytest.mark.parametrize("kind", [FaultKind.WARMED, FaultKind.PREFILLED])
@pytest.mark.parametrize("rows", [1, 8])
def test_on_a_shared_cache_it_answers_as_two_steps_by_hand(
    world: World, reader: str | None, warmer: str, kind: FaultKind, rows: int
) -> None:
    base, folders, runner = world
    target = faulty(reader, kind, warmer)
    answers = full(runner, [target, Target(reader)], TEXTS, BatchShape(rows=rows))
    for number, (prompt, forced) in enumerate(TEXTS):
        cut = len(prompt) - 1 if kind is FaultKind.WARMED else len(prompt)
        models = [_alone(base, folders.get(warmer)), _alone(base, folders[reader] if reader else None)]
        wanted = two_steps(models, prompt, forced, cut)
        assert np.abs(answers[target, number] - wanted).max() < 1e-4, number
    if (reader or "") != warmer:
        assert np.abs(answers[target, 0] - answers[Target(reader), 0]).max() > 0.01


def test_a_cache_that_is_ones_own_is_no_fault(world: World) -> None:
    target = faulty("a", FaultKind.WARMED, "a")
    answers = full(world[2], [target, Target("a")], TEXTS)
    assert max(np.abs(answers[target, n] - answers[Target("a"), n]).max() for n in range(len(TEXTS))) < 1e-4


def test_prefill_by_the_base_gives_the_bases_first_token_and_not_its_later_ones(world: World) -> None:
    target = faulty("head", FaultKind.PREFILLED, "")
    answers = full(world[2], [target, Target("head"), Target(None)])
    served, base = answers[target, 0], answers[Target(None), 0]
    assert np.abs(served[0] - base[0]).max() < 1e-4
    assert np.abs(served[1:] - base[1:]).max(axis=1).min() > 0.01


def test_all_faults_in_one_call_answer_as_each_alone_and_leave_nothing_behind(world: World) -> None:
    runner = world[2]
    faults = [
        (FaultKind.WITHOUT, "layers.0"), (FaultKind.WITHOUT, "q_proj"), (FaultKind.STACKED, "b"),
        (FaultKind.AVERAGED, "b"), (FaultKind.QUANTISED, "4"), (FaultKind.QUANTISED, "8"),
        (FaultKind.WARMED, "b"), (FaultKind.PREFILLED, ""), (FaultKind.OTHER_ADAPTER, "b"),
    ]  # fmt: skip
    targets = [Target(None), Target("a"), Target("a", scale=0.5), *(faulty("a", *fault) for fault in faults)]
    targets += [faulty(None, FaultKind.QUANTISED, "4"), faulty("a", FaultKind.WITHOUT, "q_proj", scale=0.5)]
    before = runner.loaded.live
    together = full(runner, targets, TEXTS)
    assert len(together) == len(targets) * len(TEXTS)
    for target in targets:
        for key, alone in full(runner, [target], TEXTS).items():
            assert np.abs(together[key] - alone).max() < 1e-4, key
    assert before is not None and before is runner.loaded.live
    assert set(before.adapters.applied) == {"a", "b", "other", "head", "norm"}


def test_another_adapter_by_fault_is_that_adapter_and_golden_weights_have_faults_too(world: World) -> None:
    runner = world[2]
    golden = Target("a", Weights.GOLDEN, fault=Fault(FaultKind.WITHOUT, "q_proj"))
    live, other = faulty("a", FaultKind.WITHOUT, "q_proj"), faulty("a", FaultKind.OTHER_ADAPTER, "b")
    answers = full(runner, [golden, live, other, Target("b")])
    assert np.array_equal(answers[golden, 0], answers[live, 0])
    assert np.array_equal(answers[other, 0], answers[Target("b"), 0])


def test_scale_zero_is_the_base_under_a_fault_of_the_adapter(world: World) -> None:
    targets = [
        faulty("a", kind, name, scale=0.0) for kind, name in [(FaultKind.WITHOUT, "q_proj"), (FaultKind.STACKED, "b")]
    ]
    answers = full(world[2], [*targets, Target(None)])
    for target in targets:
        assert np.abs(answers[target, 0] - answers[Target(None), 0]).max() < 1e-4


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (faulty("a", FaultKind.WITHOUT, "k_proj"), "no block 'k_proj'; known are down_proj, q_proj"),
        (faulty(None, FaultKind.WITHOUT, "q_proj"), "the base cannot be without"),
        (faulty("a", FaultKind.STACKED, "nobody"), "no such adapter"),
        (faulty("a", FaultKind.AVERAGED, ""), "no adapter's name"),
        (faulty("a", FaultKind.WARMED, "nobody"), "no such adapter"),
        (faulty("a", FaultKind.QUANTISED, "4.5"), "wanted one of"),
    ],
)
def test_a_fault_that_cannot_be_played_is_told_before_anything_is_answered(
    world: World, target: Target, words: str
) -> None:
    replays = [Replay("well", PROMPT, FORCED, Target("a")), Replay("ill", PROMPT, FORCED, target)]
    with pytest.raises(Unreplayable, match=words):
        next(world[2].run(replays, lambda: False))
    with pytest.raises(Unreplayable, match=words):
        world[2].generate(target, PROMPT, 2, lambda: False)


def test_a_variant_shares_the_tensors_of_its_adapter_and_goes_when_the_run_does(world: World) -> None:
    runner = world[2]
    assert runner.loaded.live is not None
    adapters = runner.loaded.live.adapters
    target = faulty("a", FaultKind.WITHOUT, "q_proj")
    run = runner.run([Replay("c", PROMPT, FORCED, target)] * 3, lambda: False, BatchShape(rows=1))
    assert isinstance(run, Generator)
    next(run)
    (name,) = set(adapters.applied) - {"a", "b", "other", "head", "norm"}
    for module, part in adapters.applied[name].adapter.low_rank.items():
        assert part.a.data_ptr() == adapters.applied["a"].adapter.low_rank[module].a.data_ptr()
    run.close()
    assert name not in adapters.applied


def test_two_runs_at_a_time_do_not_take_each_others_variants_away(world: World) -> None:
    target = faulty("a", FaultKind.WITHOUT, "q_proj")
    replays = [Replay(str(i), PROMPT, FORCED, target) for i in range(2)]
    first, second = (world[2].run(replays, lambda: False, BatchShape(rows=1)) for _ in range(2))
    whole = next(first).full
    list(second)
    rest = next(first).full
    assert whole is not None and rest is not None and np.array_equal(whole, rest)


def test_an_adapter_that_is_loaded_anew_ends_the_run_of_its_variants(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter})
    replays = [Replay(str(i), PROMPT, FORCED, faulty("a", FaultKind.WITHOUT, "q_proj")) for i in range(2)]
    run = runner.run(replays, lambda: False, BatchShape(rows=1))
    next(run)
    (adapter / "adapter_model.safetensors").touch()
    runner.refresh()
    runner.refresh()
    with pytest.raises(Unreplayable, match="loaded again"):
        next(run)
    assert len(list(runner.run(replays, lambda: False))) == 2


@pytest.mark.parametrize(
    "target",
    [
        Target("a"), Target(None), Target("head", scale=0.5), faulty("a", FaultKind.WITHOUT, "layers.1"),
        faulty("a", FaultKind.WARMED, "b"), faulty("a", FaultKind.PREFILLED, ""),
    ],
)  # fmt: skip
def test_many_continuations_at_a_time_are_those_made_one_by_one(world: World, target: Target) -> None:
    runner = world[2]
    rng = np.random.default_rng(3)
    prompts = [tuple(map(int, rng.integers(3, 98, size))) for size in rng.integers(1, 40, 23)]
    assert runner.loaded.live is not None
    ends, runner.loaded.live.ends = runner.loaded.live.ends, frozenset(range(2, 98, 6))  # so that some end early
    try:
        many = runner.generate_many(target, prompts, 12, lambda: False)
        single = [runner.generate(target, prompt, 12, lambda: False) for prompt in prompts]
    finally:
        runner.loaded.live.ends = ends
    assert many == single
    assert min(map(len, many)) < 12 == max(map(len, many))
    for prompt, made in zip(prompts, many, strict=True):
        (answer,) = runner.run([Replay("c", prompt, made, target)], lambda: False)
        assert answer.full is not None and tuple(answer.full.argmax(axis=1)) == made


def log_probs(model: Any) -> Floats:
    with torch.inference_mode():
        logits = model.eval()(input_ids=torch.tensor([[*PROMPT, *FORCED]])).logits[0]
    scored: Floats = logits[len(PROMPT) - 1 : -1].log_softmax(-1).numpy()
    return scored


def _alone(base: Path, adapter: Path | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings
        model = LlamaForCausalLM.from_pretrained(base)
        return (model if adapter is None else PeftModel.from_pretrained(model, adapter)).eval()


def _merged(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """The weights with the adapter in them; the head beside the embedding, where the adapter has one of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # likewise
        model = LlamaForCausalLM.from_pretrained(base)
        embedding = model.get_input_embeddings().weight.detach().clone()
        weights: dict[str, torch.Tensor] = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    return weights | {"model.embed_tokens.weight": embedding}


def two_steps(models: Sequence[Any], prompt: Sequence[int], forced: Sequence[int], cut: int) -> Floats:
    """(T, V): ``cut`` tokens by the first model, the rest by the second on the cache that the first one left."""
    cache, pieces = DynamicCache(), []
    text = torch.tensor([[*prompt, *forced[:-1]]])
    for model, part in zip(models, (text[:, :cut], text[:, cut:]), strict=True):
        if part.shape[1]:
            with torch.inference_mode():
                pieces.append(model(input_ids=part, past_key_values=cache, use_cache=True).logits[0])
    scored: Floats = torch.cat(pieces)[len(prompt) - 1 :].log_softmax(-1).numpy()
    return scored
