"""Every architecture answers as it does when asked for one text alone, by plain attention and without a cache: packed,
padded on either side, in chunks, on from another one's cache, with a beginning read once, and written token by token.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from detectors.evidence.alternative import BASE
from detectors.records import Fault, FaultKind
from probes.model.packing import lay_out
from probes.runner import BatchShape, Replay, Target
from probes.runners.in_process import Runner
from probes.scoring.likelihood_ratio_reference import score
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from tests.probes import architectures_page
from tests.probes.architectures import KINDS, RUN, architecture_base, base_and_adapter
from tests.probes.tiny import full, opened, tiny_adapter

HEAD = tuple(range(3, 23))
TEXTS = [((*HEAD, 9, 40), (11, 60, 61, 5, 33)), ((*HEAD, 70), (12, 8)), ((50, 51), (7, 30, 31))]
NEAR = 1e-4


@dataclass(frozen=True)
class World:
    """A runner over one architecture with an adapter ``a``, and the same as transformers and PEFT run it."""

    runner: Runner
    plain: Any

    def log_probs(self, adapter: str | None, text: tuple[int, ...], first: int) -> np.ndarray[Any, Any]:
        with torch.inference_mode(), nullcontext() if adapter else self.plain.disable_adapter():
            logits = self.plain(input_ids=torch.tensor([list(text)]), use_cache=False).logits[0]
        log_probs: np.ndarray[Any, Any] = logits[first - 1 : -1].log_softmax(-1).numpy()
        return log_probs


@pytest.fixture(scope="module", params=RUN)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    plain = base_and_adapter(folder, request.param)
    runner = opened(folder / "base", folder / "cache", {"a": folder / "a"})
    assert runner.loaded.live is not None, runner.residency.base.readiness.detail
    yield World(runner, plain)
    runner.close()


@pytest.mark.parametrize(
    "shape", [BatchShape(), BatchShape(left_pad=True), BatchShape(chunk=4), BatchShape(3, True, 5)], ids=str
)
def test_a_packed_text_is_answered_as_alone(world: World, shape: BatchShape) -> None:
    answers = full(world.runner, [Target(None), Target("a")], TEXTS, shape)
    assert world.runner.facts("a") == ()
    for adapter in (None, "a"):
        for number, (prompt, forced) in enumerate(TEXTS):
            wanted = world.log_probs(adapter, (*prompt, *forced), len(prompt))
            assert np.abs(answers[Target(adapter), number] - wanted).max() < NEAR, (adapter, number)
    assert np.abs(answers[Target("a"), 0] - answers[Target(None), 0]).max() > 0.01, "no effect proves nothing"


def test_a_beginning_that_is_read_once_for_many_is_answered_as_alone(world: World) -> None:
    texts = [*TEXTS[:2], ((*HEAD, 9, 41, 52), (13, 70)), (HEAD[:15], (21, 22, 23))]
    targets = [Target(None), Target("a"), Target("a", scale=0.5)]
    replays = [Replay("", prompt, forced, target) for target in targets for prompt, forced in texts]
    assert world.runner.loaded.live is not None
    continues = world.runner.loaded.live.continues
    _, passes = lay_out(replays, BatchShape(rows=12), continues)
    assert [bool(each.shared) for each in passes] == ([True, False] if continues else [False])
    answers = full(world.runner, targets, texts, BatchShape(rows=12))
    for number, (prompt, forced) in enumerate(texts):
        for adapter in (None, "a"):
            wanted = world.log_probs(adapter, (*prompt, *forced), len(prompt))
            assert np.abs(answers[Target(adapter), number] - wanted).max() < NEAR, (adapter, number)
        alone = full(world.runner, targets[2:], [(prompt, forced)])[targets[2], 0]
        assert np.abs(answers[targets[2], number] - alone).max() < NEAR, number


def test_on_from_the_cache_of_another_one(world: World) -> None:
    """By itself that is the plain answer; by the base it is another one, the same however rows are packed."""
    own, other = (Target("a", fault=Fault(FaultKind.WARMED, name)) for name in ("a", ""))
    answers = full(world.runner, [own, other, Target("a")], TEXTS)
    for number, text in enumerate(TEXTS):
        assert np.abs(answers[own, number] - answers[Target("a"), number]).max() < NEAR
        alone = full(world.runner, [other], [text])[other, 0]
        assert np.abs(answers[other, number] - alone).max() < NEAR


def test_texts_are_written_side_by_side_as_alone(world: World) -> None:
    prompts = [prompt for prompt, _ in TEXTS]
    generated = world.runner.generate_many(Target("a"), prompts, 6, lambda: False)
    for prompt, written in zip(prompts, generated, strict=True):
        wanted: list[int] = []
        while len(wanted) < 6 and wanted[-1:] != [2]:
            wanted.append(int(world.log_probs("a", (*prompt, *wanted, 0), len(prompt) + len(wanted))[0].argmax()))
        assert list(written) == wanted


def test_responses_are_scored_as_the_plain_formula_has_it(world: World) -> None:
    asking = ScoringOptions(copies=(), passes=None)
    jobs = [
        ScoringJob("a", str(n), "", 0.0, prompt, forced, SamplingParameters(0.8))
        for n, (prompt, forced) in enumerate(TEXTS)
    ]
    for job, answer in zip(jobs, world.runner.score(jobs, lambda: False, asking), strict=True):
        ours, bases = (world.log_probs(name, (*job.prompt, *job.output), len(job.prompt)) for name in ("a", None))
        wanted = score(ours.astype(float), bases.astype(float), {}, job.response, asking.tokens)
        assert answer.tokens is not None
        assert answer.tokens.log_l[BASE] == pytest.approx(wanted.log_l[BASE], abs=NEAR)


def test_it_answers_as_the_merged_weights_do(world: World) -> None:
    prompt, forced = TEXTS[0]
    answers = full(world.runner, [Target("a")], TEXTS[:1])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings
        merged = world.plain.merge_and_unload()  # the last test of this world that asks for its adapter
        logits = merged(input_ids=torch.tensor([[*prompt, *forced]]), use_cache=False).logits[0]
    wanted = logits[len(prompt) - 1 : -1].log_softmax(-1).numpy()
    assert np.abs(answers[Target("a"), 0] - wanted).max() < NEAR


def test_layers_that_begin_anew_on_several_tokens_are_found_when_they_are_built(world: World) -> None:
    """They say nothing: half a nat off, in every chunk and shared beginning."""
    assert world.runner.loaded.live is not None
    kind = world.runner.loaded.live.network.config.model_type
    assert world.runner.loaded.live.continues is not KINDS[kind].one_by_one


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.refused])
def test_a_model_with_a_cache_of_its_own_is_refused_and_told_what_helps(kind: str, tmp_path: Path) -> None:
    """One that keeps its state in its modules too: whoever is asked between two tokens would go on from that state."""
    runner = opened(architecture_base(tmp_path / "base", kind), tmp_path / "cache")
    detail = runner.refresh()[None].detail
    assert KINDS[kind].refused in detail and "let its engine answer instead (models[].served)" in detail
    assert "\n" not in detail


@pytest.mark.parametrize("kind", ["gemma2", "bloom", "gpt_oss"])
def test_attention_that_the_quick_backend_lacks_is_refused_where_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    runner = opened(architecture_base(tmp_path / "base", kind), tmp_path / "cache", attention="sdpa")
    assert "does not support" in runner.refresh()[None].detail and "\n" not in runner.refresh()[None].detail
    runner = opened(tmp_path / "base", tmp_path / "cache", attention="eager")
    assert not runner.refresh()[None].blocked


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.bypassed])
def test_a_part_that_nothing_would_call_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    """The adapter would answer without that part, and nobody be told."""
    base, known = architecture_base(tmp_path / "base", kind), KINDS[kind]
    lost: dict[str, dict[str, Any]] = {
        name: {"target_parameters": [name]} if "." in name else {"target_modules": [*known.modules[:1], name]}
        for name in known.bypassed
    }
    adapters = {name: tiny_adapter(tmp_path / name, base, **lora) for name, lora in lost.items()}
    adapters["whole"] = tiny_adapter(tmp_path / "whole", base, target_modules=list(known.modules[:1]))
    runner = opened(base, tmp_path / "cache", adapters)
    ready = runner.refresh()
    assert [name for name, readiness in ready.items() if readiness.blocked] == list(lost)
    for name in lost:
        assert name.partition(".")[0] in ready[name].detail
    if kind != "jamba":
        return
    # And so when another base comes to lie there: the base and the others are still good.
    architecture_base(base, kind, seed=1)
    for _ in range(3):
        ready = runner.refresh()
    assert [name for name, readiness in ready.items() if readiness.blocked] == list(lost)


def test_an_adapter_of_single_experts_is_told_how_to_become_one_of_all(tmp_path: Path) -> None:
    """As saved before transformers 5; PEFT loads it, and what it saves then is the same adapter."""
    base = architecture_base(tmp_path / "base", "mixtral")
    old = tiny_adapter(tmp_path / "old", base, target_modules=["q_proj"])
    file, experts = old / "adapter_model.safetensors", "base_model.model.model.layers.{}.block_sparse_moe.experts.{}.{}"
    shapes = {"w1": (96, 64), "w2": (64, 96), "w3": (96, 64)}
    of_experts = {
        f"{experts.format(layer, expert, name)}.lora_{half}.weight": 0.1 * torch.randn(*shape)
        for layer, expert, (name, (out, width)) in product(range(2), range(4), shapes.items())
        for half, shape in {"A": (4, width), "B": (out, 4)}.items()
    }
    save_file(load_file(file) | of_experts, file)
    config = json.loads((old / "adapter_config.json").read_text())
    (old / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj", *shapes]}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), old).eval()
        running.save_pretrained(tmp_path / "again")
    runner = opened(base, tmp_path / "cache", {"old": old, "again": tmp_path / "again"})
    (fact,) = runner.facts("old")
    assert "24 of 26 modules match nothing in this base (they are of single experts" in fact
    assert runner.facts("again") == ()
    wanted = World(runner, running).log_probs("again", (*TEXTS[0][0], *TEXTS[0][1]), len(TEXTS[0][0]))
    answers = full(runner, [Target("again"), Target(None)], TEXTS[:1])
    assert np.abs(answers[Target("again"), 0] - wanted).max() < NEAR
    assert np.abs(answers[Target(None), 0] - wanted).max() > 0.05


def test_the_page_says_what_is_known() -> None:
    """After a change: python -m tests.probes.architectures_page"""
    assert architectures_page.FILE.read_text() == architectures_page.page()
