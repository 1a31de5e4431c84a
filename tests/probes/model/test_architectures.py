"""Every architecture answers as it does when asked for one text alone, by plain attention and without a cache: packed,
padded on either side, in chunks, on from another one's cache, with a beginning read once, and written token by token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.evidence.alternative import BASE
from detectors.records import Fault, FaultKind
from probes.model.packing import lay_out
from probes.runner import BatchShape, Replay, Target
from probes.runners.in_process import Runner
from probes.scoring.likelihood_ratio_reference import score
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from tests.probes.architectures import KINDS, architecture_base, plain_model
from tests.probes.tiny import full, opened, tiny_adapter

HEAD = tuple(range(3, 23))
TEXTS = [((*HEAD, 9, 40), (11, 60, 61, 5, 33)), ((*HEAD, 70), (12, 8)), ((50, 51), (7, 30, 31))]
NEAR = 1e-4


@dataclass(frozen=True)
class World:
    """A runner over one architecture with an adapter ``a``, and the same as transformers and PEFT run it."""

    runner: Runner
    plain: dict[str | None, Any]

    def log_probs(self, adapter: str | None, text: tuple[int, ...], first: int) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            logits = self.plain[adapter](input_ids=torch.tensor([list(text)]), use_cache=False).logits[0]
        log_probs: np.ndarray[Any, Any] = logits[first - 1 : -1].log_softmax(-1).numpy()
        return log_probs


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "recurrent_gemma"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    base = architecture_base(folder / "base", request.param)
    adapter = tiny_adapter(folder / "a", base, target_modules=list(KINDS[request.param][1]))
    runner = opened(base, folder / "cache", {"a": adapter})
    assert runner.loaded.live is not None, runner.residency.base.readiness.detail
    yield World(runner, {None: plain_model(base, None), "a": plain_model(base, adapter)})
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


def test_layers_that_begin_anew_on_several_tokens_are_found_when_they_are_built(world: World) -> None:
    """They say nothing: half a nat off, in every chunk and shared beginning."""
    assert world.runner.loaded.live is not None
    kind = world.runner.loaded.live.network.config.model_type
    assert world.runner.loaded.live.continues is (kind not in ("jamba", "mamba", "falcon_mamba"))


def test_a_model_that_keeps_its_state_in_its_modules_is_refused(tmp_path: Path) -> None:
    """Whoever is asked between two tokens of a text would go on from that text's state."""
    runner = opened(architecture_base(tmp_path / "base", "recurrent_gemma"), tmp_path / "cache")
    assert "with a cache it answers otherwise" in runner.refresh()[None].detail


@pytest.mark.parametrize("kind", ["gemma2", "bloom", "gpt_oss"])
def test_attention_that_the_quick_backend_lacks_is_refused_where_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    runner = opened(architecture_base(tmp_path / "base", kind), tmp_path / "cache", attention="sdpa")
    assert "does not support" in runner.refresh()[None].detail and "\n" not in runner.refresh()[None].detail
    runner = opened(tmp_path / "base", tmp_path / "cache", attention="eager")
    assert not runner.refresh()[None].blocked


@pytest.mark.parametrize("kind", ["jamba", "mamba"])
def test_a_part_on_a_module_whose_weights_are_read_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    """Nothing would call what is put beside it: the adapter would answer without that part, and nobody be told."""
    base = architecture_base(tmp_path / "base", kind)
    adapters = {
        name: tiny_adapter(tmp_path / name, base, target_modules=targets)
        for name, targets in {"lost": ["in_proj", "dt_proj"], "whole": ["in_proj"]}.items()
    }
    runner = opened(base, tmp_path / "cache", adapters)
    ready = runner.refresh()
    assert not ready[None].blocked and not ready["whole"].blocked
    assert ready["lost"].blocked and "mixer.dt_proj" in ready["lost"].detail.replace("mamba.dt_proj", "mixer.dt_proj")
    # And so when another base comes to lie there: the base and the others are still good.
    architecture_base(base, kind, seed=1)
    for _ in range(3):
        ready = runner.refresh()
    assert [name for name, readiness in ready.items() if readiness.blocked] == ["lost"]
