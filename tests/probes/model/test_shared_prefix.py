"""Responses on a tiny model: batches and shared prefixes give what single texts and the runner's replays do."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.evidence.alternative import (
    DOUBLE_STRENGTH,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    other_adapter,
    rounded,
    without,
)
from detectors.records import Fault, FaultKind
from probes.artefacts.lora_files import read_adapter
from probes.errors import NoMemory
from probes.model.cache import KeptBeginnings
from probes.model.forward import Model
from probes.model.response_scoring import GoldenModels, answers, chunks
from probes.model.shared_prefix import batches, read, shared
from probes.runner import Target
from probes.runners.in_process import Runner
from probes.scoring.likelihood_ratio_reference import score, score_base
from probes.scoring.scoring_job import (
    COPIES,
    AdapterVersion,
    ScoringAnswer,
    ScoringJob,
    ScoringOptions,
)
from probes.scoring.token_distribution import SamplingParameters
from tests.probes.tiny import full, opened, tiny_adapter, tiny_base

ALL = ScoringOptions(copies=COPIES, passes=None)
HEAD = tuple(range(3, 24))
SAMPLERS = (
    SamplingParameters(1.0),
    SamplingParameters(0.7, top_p=0.9),
    SamplingParameters(0.0),
    SamplingParameters(1.0, presence=0.5, frequency=0.2, repetition=1.2),
)


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reading")
    base = tiny_base(folder / "base")
    return {"base": base} | {name: tiny_adapter(folder / name, base, seed) for seed, name in enumerate(("a", "b"), 1)}


@pytest.fixture(scope="module")
def runner(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner_ = opened(folders["base"], tmp_path_factory.mktemp("cache"), {n: folders[n] for n in "ab"})
    yield runner_
    runner_.close()


def jobs(count: int = 9) -> list[ScoringJob]:
    """Of both adapters and all samplers, most with a beginning in common, lengths that differ."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        prompt = (*(HEAD if i % 4 else HEAD[::-1]), *map(int, rng.integers(3, 90, 2 + i % 5)))
        output = tuple(map(int, rng.integers(3, 90, 1 + i % 7)))
        made.append(ScoringJob("ab"[i % 2], f"r{i}", "", 0.0, prompt, output, SAMPLERS[i % 4]))
    return made


def same(answer: ScoringAnswer, other: ScoringAnswer) -> None:
    assert answer.tokens is not None and other.tokens is not None
    for alternative, values in answer.tokens.log_l.items():
        assert other.tokens.log_l[alternative] == pytest.approx(values, abs=2e-3), alternative
    for name, values in answer.tokens.log_sampler.items():
        assert other.tokens.log_sampler[name] == pytest.approx(values, abs=2e-3), name
    assert other.tokens.path_log_lik == pytest.approx(answer.tokens.path_log_lik, abs=5e-3, nan_ok=True)
    assert other.tokens.ranks == pytest.approx(answer.tokens.ranks, abs=1e-3, nan_ok=True)


def test_packed_with_shared_beginnings_equals_one_by_one(runner: Runner) -> None:
    together = runner.score(jobs(), never, ALL)
    assert len(together) == 9
    for job, packed in zip(jobs(), together, strict=True):
        (alone,) = runner.score([job], never, ALL)
        same(alone, packed)
        assert packed.prompt == pytest.approx(alone.prompt, abs=1e-4)
        assert packed.output == pytest.approx(alone.output, abs=1e-4)


def test_equals_the_plain_formula_on_what_replays_say(runner: Runner) -> None:
    """Half strength, 4 bits and the other adapter too: the same targets through ``run``, scored in numpy."""
    assert_as_replayed(runner)


@pytest.mark.parametrize("head", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_with_a_head_of_its_own_is_read_by_that_head(head: dict[str, list[str]], tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    names = {name: tiny_adapter(tmp_path / name, base, seed, **head) for seed, name in enumerate("ab", 1)}
    runner = opened(base, tmp_path / "cache", names)
    assert runner.loaded.golden is not None and runner.loaded.golden.plain_head
    assert all("lm_head" in fitted.modules for fitted in runner.loaded.golden.adapters.applied.values())
    assert_as_replayed(runner)
    runner.close()


def test_a_base_that_caps_its_logits_is_read_by_its_own_head(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    base = tiny_base(tmp_path / "base")  # for its tokenizer
    config = Gemma2Config(
        vocab_size=98, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, final_logit_softcapping=2.0, initializer_range=0.3,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(base)
    names = {name: tiny_adapter(tmp_path / name, base, seed) for seed, name in enumerate("ab", 1)}
    runner = opened(base, tmp_path / "cache", names, attention="eager")
    assert runner.loaded.golden is not None and not runner.loaded.golden.plain_head
    assert all(fitted.facts == () for fitted in runner.loaded.golden.adapters.applied.values())
    assert_as_replayed(runner)
    # Of a long response in a large vocabulary, logits would be gigabytes; what is kept of it are states.
    (states,) = read(runner.loaded.golden, [((1, 5, 6), (7, 8))], ("a", 1.0))
    assert states.scored.shape == (2, config.hidden_size)
    runner.close()


def assert_as_replayed(runner: Runner) -> None:
    for job in jobs(4):
        other = "b" if job.adapter == "a" else "a"
        others = {
            HALF_STRENGTH: Target(job.adapter, scale=0.5),
            DOUBLE_STRENGTH: Target(job.adapter, scale=2.0),
            FOUR_BITS: Target(job.adapter, fault=Fault(FaultKind.QUANTISED, "4")),
            other_adapter(other): Target(other),
        }
        targets = [Target(job.adapter), Target(None), *others.values()]
        if job.sampling is not None and job.sampling.repetition != 1.0:
            continue  # replays give log-probabilities, and that penalty needs raw logits
        answers = full(runner, targets, [(job.prompt, job.output)])
        adapter, base, *rest = (answers[target, 0].astype(np.float64) for target in targets)
        wanted = score(adapter, base, dict(zip(others, rest, strict=True)), job.response, ALL.tokens)
        (answer,) = runner.score([job], never, ALL)
        same(ScoringAnswer(job, wanted, answer.prompt, answer.output), answer)


def test_a_lost_block_and_another_rounding_equal_the_plain_formula_and_leave_nothing_behind(runner: Runner) -> None:
    block, job = runner.blocks("a")[0], jobs(1)[0]
    faults = {without(block): Fault(FaultKind.WITHOUT, block), rounded("3"): Fault(FaultKind.QUANTISED, "3")}
    few = replace(ALL, copies=(), others=False)
    before = set(runner.loaded.golden_model().adapters.applied)
    (answer,) = runner.score([replace(job, suspected=tuple(faults))], never, few)
    assert set(runner.loaded.golden_model().adapters.applied) == before
    targets = [Target("a"), Target(None), *(Target("a", fault=fault) for fault in faults.values())]
    replayed = full(runner, targets, [(job.prompt, job.output)])
    adapter, base, *rest = (replayed[target, 0].astype(np.float64) for target in targets)
    wanted = score(adapter, base, dict(zip(faults, rest, strict=True)), job.response, ALL.tokens)
    assert answer.tokens is not None and set(faults) < set(answer.tokens.log_l)
    same(ScoringAnswer(job, wanted, answer.prompt, answer.output), answer)


def test_a_copy_that_does_not_fit_leaves_its_alternative_out_and_scores_the_response(runner: Runner) -> None:
    def no_room(bits: int, group: int) -> Model:
        raise NoMemory("the base", requested=bits + group)

    golden, few = runner.loaded.golden_model(), replace(ALL, copies=(), others=False)
    models = GoldenModels(golden, runner.loaded.golden_name, no_room, lambda target: target)
    job = replace(jobs(1)[0], suspected=(rounded("3"),))
    (answer,) = answers(models, [job], runner.loaded.scorers, few, 512)
    (plain,) = runner.score([replace(job, suspected=())], never, few)
    assert answer.tokens is not None and rounded("3") not in answer.tokens.log_l
    same(plain, answer)


def test_a_response_of_the_base_equals_the_plain_formula_beside_those_of_adapters(runner: Runner) -> None:
    of_base = [replace(job, adapter="the-base", of_base=True) for job in jobs(3)]
    answers = runner.score([*of_base, *jobs(3)], never, ALL)
    targets = [Target(None), Target("a"), Target("b"), Target(None, fault=Fault(FaultKind.QUANTISED, "4"))]
    others = (other_adapter("a"), other_adapter("b"), FOUR_BITS)
    for job, answer in zip(of_base, answers, strict=False):
        replayed = full(runner, targets, [(job.prompt, job.output)])
        base, *rest = (replayed[target, 0].astype(np.float64) for target in targets)
        wanted = score_base(base, dict(zip(others, rest, strict=True)), job.response, ALL.tokens)
        assert answer.tokens is not None and len(wanted.log_l) == 5
        assert list(answer.tokens.log_l) == list(wanted.log_l)
        same(ScoringAnswer(job, wanted, answer.prompt, answer.output), answer)
    for job, answer in zip(jobs(3), answers[3:], strict=True):
        same(runner.score([job], never, ALL)[0], answer)


def test_embeddings_are_those_of_embed(runner: Runner) -> None:
    scored = runner.score(jobs(), never, ALL)
    texts = [(job.prompt, job.output) for job in jobs()]
    for answer, (prompt, output) in zip(scored, runner.embed(texts, never), strict=True):
        assert answer.prompt == pytest.approx(prompt, abs=1e-4)
        assert answer.output == pytest.approx(output, abs=1e-4)


def test_windows_and_chunks_change_nothing(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = runner.score(jobs(), never, ALL)
    monkeypatch.setattr("probes.model.response_scoring.WINDOW_LOGITS", {"cpu": 300})
    for answer, other in zip(whole, runner.score(jobs(), never, ALL), strict=True):
        same(answer, other)


def test_a_long_system_prompt_does_not_make_small_batches() -> None:
    """Bounded by what each text reads by itself: 30 rows of 12 tokens beside 200 that are read once."""
    texts = [((*range(200), 300 + i, i), tuple(range(10))) for i in range(30)]
    assert [len(batch) for batch in batches(texts, 1024)] == [30]
    assert [len(batch) for batch in batches(texts, 1024, continues=False)] == [4] * 7 + [2]


def test_a_beginning_that_was_read_is_kept_and_read_no_more(runner: Runner) -> None:
    model = runner.loaded.golden_model()
    first, second = (
        [replace(job, adapter="a", prompt=(*HEAD, *HEAD, 40 + i + row)) for row, job in enumerate(jobs(3))]
        for i in (0, 10)
    )
    alone = [runner.score([job], never, ALL)[0] for job in second]
    model.beginnings.clear()
    runner.score(first, never, ALL)
    kept = list(model.beginnings.kept)
    assert len({(entry.read_by, entry.scale) for entry in kept}) == len(kept) >= 3
    assert all(entry.tokens == (*HEAD, *HEAD) for entry in kept)
    together = runner.score(second, never, ALL)
    assert {id(entry) for entry in model.beginnings.kept} == {id(entry) for entry in kept}, "none was read anew"
    for one_by_one, packed in zip(alone, together, strict=True):
        same(one_by_one, packed)
        assert packed.prompt == pytest.approx(one_by_one.prompt, abs=1e-4)


def test_no_adapter_goes_on_from_what_the_one_before_it_read(folders: dict[str, Path], tmp_path: Path) -> None:
    runner = opened(folders["base"], tmp_path, {"a": folders["a"]})
    model, job = runner.loaded.golden_model(), replace(jobs(1)[0], adapter="a", prompt=(*HEAD, 50))
    texts = [(job.prompt, job.output), ((*HEAD, 51), job.output)]
    before = read(model, texts, ("a", 1.0))
    model.adapters.apply("a", read_adapter(folders["b"]))
    after = read(model, texts, ("a", 1.0))
    model.beginnings.clear()
    fresh = read(model, texts, ("a", 1.0))
    assert torch.allclose(after[0].scored, fresh[0].scored, atol=1e-5)
    assert not torch.allclose(after[0].scored, before[0].scored, atol=1e-2)
    runner.close()


def test_responses_that_come_one_by_one_share_what_their_prompts_begin_with(runner: Runner) -> None:
    model = runner.loaded.golden_model()
    model.beginnings.clear()
    texts = [((*HEAD, *HEAD, 60 + i), (5, 6)) for i in range(3)]
    alone = [read(model, [text], ("a", 1.0))[0] for text in texts]
    assert [entry.tokens for entry in model.beginnings.kept] == [(*HEAD, *HEAD)]
    model.beginnings.clear()
    for text, states in zip(texts, alone, strict=True):
        model.beginnings.clear()
        assert torch.allclose(read(model, [text], ("a", 1.0))[0].scored, states.scored, atol=1e-5)


def test_so_many_tokens_are_kept_and_those_used_longest_ago_are_dropped(runner: Runner) -> None:
    model = runner.loaded.golden_model()
    kept = KeptBeginnings(most_tokens=50)
    texts = [[((*(start + at for at in range(20)), i), (5,)) for i in (90, 91)] for start in (3, 23, 43)]
    model.beginnings, before = kept, model.beginnings
    for pair in (texts[0], texts[1], texts[0], texts[2]):
        read(model, pair, (None, 1.0))
    model.beginnings = before
    assert [entry.tokens[0] for entry in kept.kept] == [3, 43]


def test_chunks_count_a_beginning_in_common_once() -> None:
    long = [replace(job, prompt=(*range(3, 60), i)) for i, job in enumerate(jobs(9) * 4)]
    assert [len(chunk) for chunk in chunks(long, 32)] == [36]
    assert len(list(chunks([replace(job, prompt=(i, *job.prompt, *range(50))) for i, job in enumerate(long)], 32))) > 4


def test_an_unscored_response_is_embedded_and_its_reason_told(runner: Runner) -> None:
    first, second = jobs(2)
    scored = runner.score([replace(first, sampling=None), replace(second, adapter="nobody"), first], never, ALL)
    assert [answer.tokens is None for answer in scored] == [True, True, False]
    assert "temperature" in scored[0].detail and "nobody" in scored[1].detail
    assert np.isfinite(scored[0].prompt).all()


def test_the_accepted_adapter_scores_after_its_files_were_replaced(folders: dict[str, Path], tmp_path: Path) -> None:
    """With a kept copy; without one the response is not scored, and says why."""
    live = shutil.copytree(folders["a"], tmp_path / "live")
    kept = {"a": str(folders["a"])}
    for golden_adapters, scored in ((kept, True), ({}, False)):
        runner = opened(folders["base"], tmp_path / "cache", {"a": live}, golden_adapters=golden_adapters)
        of_a = [replace(job, adapter="a") for job in jobs(1)]
        (before,) = runner.score(of_a, never, ALL)
        for file in folders["b"].iterdir():
            shutil.copy(file, live / file.name)
        for _ in range(3):
            runner.refresh()
        (after,) = runner.score(of_a, never, ALL)
        if scored:
            same(before, after)
        else:
            assert after.tokens is None and "no golden copy" in after.detail
        runner.close()
        shutil.rmtree(live)
        shutil.copytree(folders["a"], live)


def test_the_version_before_is_read_by_its_own_files(folders: dict[str, Path], tmp_path: Path) -> None:
    """``b``'s files as the version before ``a``: its numbers are those of ``b`` as another registered adapter."""
    of_a = [replace(job, adapter="a") for job in jobs(4)]
    runner = opened(folders["base"], tmp_path / "cache", {n: folders[n] for n in "ab"})
    runner.accept_adapter(AdapterVersion("a", previous=True), str(folders["b"]))
    for answer in runner.score(of_a, never, ALL):
        assert answer.tokens is not None
        assert answer.tokens.log_l[PREVIOUS] == pytest.approx(answer.tokens.log_l[other_adapter("b")], abs=2e-3)
    runner.accept_adapter(AdapterVersion("a", previous=True), None)
    assert all(PREVIOUS not in answer.tokens.log_l for answer in runner.score(of_a, never, ALL) if answer.tokens)
    assert runner.loaded.golden is not None and set(runner.loaded.golden.adapters.applied) == {"a", "b"}
    runner.close()


@pytest.mark.parametrize("damage", ["other shapes", "gone"])
def test_a_version_before_that_cannot_be_read_whole_is_left_out(
    folders: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    earlier = tmp_path / "earlier"
    if damage == "other shapes":
        tiny_adapter(earlier, tiny_base(tmp_path / "wide", head_dim=32))
    runner = opened(folders["base"], tmp_path / "cache", {"a": folders["a"]})
    runner.accept_adapter(AdapterVersion("a", previous=True), str(earlier))
    for answer in runner.score([replace(job, adapter="a") for job in jobs(2)], never, ALL):
        assert (
            answer.tokens is not None and HALF_STRENGTH in answer.tokens.log_l and PREVIOUS not in answer.tokens.log_l
        )
    runner.close()


def test_what_prompts_have_in_common_ends_before_their_last_token() -> None:
    long = tuple(range(20))
    assert shared([(long, (1,)), (long, (2,))]) == 19
    assert shared([((*long, 5), (1,)), ((*long, 6), (2,))]) == 20
    assert shared([(long, (1,))]) == 0
    assert shared([(long[:10], (1,)), (long[:10], (1,))]) == 0
