"""The contract of probes/runner.py, held against every file under probes/runners.

A new runner is found by its file; it is opened by the function of its name in OPENERS.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import probes.runners
from detectors.records import Fault, FaultKind
from probes.canaries.log_prob_summary import keep, summarise
from probes.errors import Unreplayable, Unsupported
from probes.model import toy_language as toy
from probes.runner import (
    BITS,
    Batching,
    BatchShape,
    Breakable,
    Comparing,
    Listing,
    LoraSettings,
    LosesDevice,
    Readiness,
    Reconfigurable,
    Replay,
    Replayed,
    Runner,
    Target,
    Weights,
)
from probes.scoring.scoring_job import Scoring
from tests.serving_engines.in_process import Engine
from tests.serving_engines.toy_engine import ToyEngine

MESSAGES = [{"role": "user", "content": "Where does ticket 17 go?"}]
ADAPTERS = ("alpha", "beta")


def in_process(folder: Path) -> Runner:
    from tests.probes.tiny import opened, tiny_adapter, tiny_base

    base = tiny_base(folder / "base")
    return opened(base, folder, {name: tiny_adapter(folder / name, base, seed=i) for i, name in enumerate(ADAPTERS)})


def memory(folder: Path) -> Runner:
    module = importlib.import_module("probes.runners.memory")
    runner: Runner = module.Runner(module.Config(adapters={name: f"{name}-v1" for name in ADAPTERS}))
    runner.open()
    return runner


def served(folder: Path) -> Runner:
    """Over an engine that lists all of its vocabulary, which those behind HTTP do not: test_served.py asks them."""
    module = importlib.import_module("probes.runners.served")
    engine = ToyEngine(adapters={name: f"{name}-v1" for name in ADAPTERS})
    config = module.Config({"url": "http://toy"}, engine.base, dict.fromkeys(ADAPTERS, ""), toy.VOCABULARY)
    runner: Runner = module.Runner(config, lambda *_: Engine(engine, toy.VOCABULARY))
    runner.open()
    return runner


OPENERS: dict[str, Callable[[Path], Runner]] = {"in_process": in_process, "memory": memory, "served": served}
NAMES = sorted(path.stem for path in Path(probes.runners.__path__[0]).glob("[!_]*.py"))


# What each fault is of where it is asked of "alpha"; the blocks are asked of the runner.
OTHERS = (
    FaultKind.OTHER_ADAPTER, FaultKind.STACKED, FaultKind.AVERAGED, FaultKind.TAKEN_AWAY, FaultKind.WARMED,
    FaultKind.PREFILLED,
)  # fmt: skip


@pytest.fixture(scope="module", params=NAMES)
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    assert request.param in OPENERS, f"say in OPENERS how probes/runners/{request.param}.py is opened for this suite"
    opened = OPENERS[request.param](tmp_path_factory.mktemp(request.param))
    yield opened
    opened.close()


@pytest.fixture
def prompt(runner: Runner) -> tuple[int, ...]:
    return runner.encode_chat(MESSAGES)


def ask(runner: Runner, replays: list[Replay], shape: BatchShape | None = None) -> list[Replayed]:
    return list(runner.run(replays, lambda: False, shape))


@pytest.mark.parametrize("name", NAMES)
def test_a_runner_file_has_the_two_public_names(name: str) -> None:
    module = importlib.import_module(f"probes.runners.{name}")
    assert module.Config.__dataclass_params__.frozen
    for verb in (
        "open",
        "close",
        "refresh",
        "run",
        "generate",
        "embed",
        "encode_chat",
        "encode",
        "decode",
        "identity",
        "facts",
    ):
        assert callable(getattr(module.Runner, verb))


def test_every_replay_is_answered_once_with_probabilities(runner: Runner, prompt: tuple[int, ...]) -> None:
    forced = runner.generate(Target("alpha"), prompt, 6, lambda: False)
    asked = [Replay(f"c{i}", prompt, forced[: i % 6 + 1], Target((None, *ADAPTERS)[i % 3])) for i in range(14)]
    answers = ask(runner, asked)
    assert sorted(id(answer.replay) for answer in answers) == sorted(map(id, asked))
    for answer in answers:
        assert answer.summary is None and answer.full is not None and answer.full.dtype == np.float32
        assert answer.full.shape[0] == len(answer.replay.forced)
        assert np.allclose(np.exp(answer.full.astype(np.float64)).sum(axis=1), 1.0, atol=1e-4)


def test_a_summary_is_that_of_the_whole_answer(runner: Runner, prompt: tuple[int, ...]) -> None:
    forced = runner.generate(Target("alpha"), prompt, 6, lambda: False)
    adapter, base = (_one(runner, prompt, forced, Target(name)) for name in ("alpha", None))
    kept = keep(adapter, base, np.array(forced, dtype=np.int32))
    (answer,) = ask(runner, [Replay("c", prompt, forced, Target("alpha"), kept)])
    assert answer.full is None and answer.summary is not None
    wanted = summarise(adapter, kept)
    assert np.allclose(answer.summary.log_probs, wanted.log_probs, atol=1e-4)
    assert np.allclose(answer.summary.rest, wanted.rest, atol=1e-3)
    assert np.array_equal(answer.summary.top1, wanted.top1)


def test_adapters_differ_from_the_base_and_from_each_other_and_scale_zero_is_the_base(
    runner: Runner, prompt: tuple[int, ...]
) -> None:
    forced = runner.generate(Target("alpha"), prompt, 6, lambda: False)
    targets = [Target(None), Target("alpha"), Target("beta"), Target("alpha", scale=0.0)]
    base, alpha, beta, zero = (_one(runner, prompt, forced, target) for target in targets)
    assert np.abs(zero - base).max() < 1e-4
    if isinstance(runner, Listing):
        with pytest.raises(Unsupported):
            _one(runner, prompt, forced, Target("alpha", scale=0.5))
        half = (base + alpha) / 2
    else:
        half = _one(runner, prompt, forced, Target("alpha", scale=0.5))
    for first, second in [(base, alpha), (alpha, beta), (half, alpha), (half, base)]:
        assert np.abs(first - second).max() > 0.01


def test_golden_and_live_answer_alike_while_nothing_has_moved(runner: Runner, prompt: tuple[int, ...]) -> None:
    if isinstance(runner, Listing):
        with pytest.raises(Unsupported):
            _one(runner, prompt, prompt[:4], Target("alpha", Weights.GOLDEN))
        return
    for name in (None, "alpha"):
        live, golden = (_one(runner, prompt, prompt[:4], Target(name, weights)) for weights in Weights)
        assert np.array_equal(live, golden)
    identity = runner.identity("alpha")
    assert identity.golden_base and identity.live_adapter
    assert not identity.base_moved and not identity.adapter_moved
    assert runner.facts("alpha") == ()


@pytest.mark.parametrize("shape", [BatchShape(rows=1), BatchShape(rows=5, left_pad=True), BatchShape(chunk=4)])
def test_packing_moves_answers_by_no_more_than_noise(
    runner: Runner, prompt: tuple[int, ...], shape: BatchShape
) -> None:
    asked = [Replay(str(i), prompt[: 5 + i], prompt[:6], Target((None, *ADAPTERS)[i % 3])) for i in range(7)]
    plain = {answer.replay.canary: answer.full for answer in ask(runner, asked)}
    for answer in ask(runner, asked, shape):
        alone = plain[answer.replay.canary]
        assert answer.full is not None and alone is not None
        assert np.abs(answer.full - alone).max() < 5e-3


def test_the_same_question_gets_the_same_answer(runner: Runner, prompt: tuple[int, ...]) -> None:
    first, second = (_one(runner, prompt, prompt[:5], Target("beta")) for _ in range(2))
    assert np.array_equal(first, second)


def test_generation_is_greedy_and_agrees_with_replay(runner: Runner, prompt: tuple[int, ...]) -> None:
    made = runner.generate(Target("alpha"), prompt, 8, lambda: False)
    assert 1 <= len(made) <= 8
    assert np.array_equal(_one(runner, prompt, made, Target("alpha")).argmax(axis=1), made)
    assert runner.generate(Target("alpha"), prompt, 3, lambda: False) == made[:3]


def test_stop_is_looked_at_between_micro_batches(runner: Runner, prompt: tuple[int, ...]) -> None:
    asked = [Replay(str(i), prompt, prompt[:3], Target(None)) for i in range(6)]
    looks: list[int] = []

    def stop_at_third_look() -> bool:
        looks.append(1)
        return len(looks) >= 3

    # An engine is asked for one answer at a time.
    answered_by_then = 2 if isinstance(runner, Listing) else 4
    assert len(list(runner.run(asked, stop_at_third_look, BatchShape(rows=2)))) == answered_by_then
    assert list(runner.run(asked, lambda: True)) == []
    assert runner.generate(Target(None), prompt, 8, lambda: True) == ()
    if not isinstance(runner, Listing):
        assert runner.embed([(prompt, prompt)], lambda: True) == []


def test_unknown_adapters_and_empty_prompts_are_unreplayable(runner: Runner, prompt: tuple[int, ...]) -> None:
    for ask_it in (
        lambda: ask(runner, [Replay("c", prompt, prompt, Target("nobody"))]),
        lambda: ask(runner, [Replay("c", (), prompt, Target(None))]),
        lambda: runner.generate(Target("nobody"), prompt, 3, lambda: False),
        lambda: runner.facts("nobody"),
    ):
        with pytest.raises(Unreplayable):
            ask_it()
    assert ask(runner, []) == []


def test_refresh_names_the_base_and_every_adapter(runner: Runner) -> None:
    assert runner.refresh() == dict.fromkeys((None, *ADAPTERS), Readiness())


def test_embeddings_are_pooled_by_side_and_do_not_depend_on_company(runner: Runner, prompt: tuple[int, ...]) -> None:
    texts = [(prompt, prompt[:3]), (prompt[:4], prompt[:9]), (prompt[:2], ())]
    if isinstance(runner, Listing):
        with pytest.raises(Unreplayable):
            runner.embed(texts, lambda: False)
        return
    together = runner.embed(texts, lambda: False)
    alone = [runner.embed([text], lambda: False)[0] for text in texts]
    for (prompt_side, output_side), (prompt_alone, output_alone) in zip(together, alone, strict=True):
        assert prompt_side.dtype == output_side.dtype == np.float32 and prompt_side.shape == output_side.shape
        assert np.allclose(prompt_side, prompt_alone, atol=1e-4)
        assert np.allclose(output_side, output_alone, atol=1e-4, equal_nan=True)
    assert np.isnan(together[2][1]).all() and np.isfinite(together[2][0]).all()
    assert not np.allclose(together[0][0], together[1][0], atol=1e-3)


def test_words_survive_encoding(runner: Runner) -> None:
    text = "Ticket 17 (urgent): refund?"
    assert runner.decode(runner.encode(text)) == text
    assert "Where does ticket 17 go?" in runner.decode(runner.encode_chat(MESSAGES))


def test_the_end_of_an_answer_is_the_token_that_the_template_writes_after_one(runner: Runner) -> None:
    if not isinstance(runner, Scoring):
        pytest.skip("it scores no responses")
    end = runner.end_of_answer()
    assert end is not None
    assert runner.encode_chat([*MESSAGES, {"role": "assistant", "content": "Desk 3"}]).count(end) > (
        runner.encode_chat(MESSAGES).count(end)
    )


def test_every_fault_is_answered_another_way_than_health_and_than_the_others(
    runner: Runner, prompt: tuple[int, ...]
) -> None:
    if not isinstance(runner, Breakable):
        with pytest.raises((Unreplayable, Unsupported)):
            _one(runner, prompt, prompt[:4], _faulty(FaultKind.QUANTISED, "4"))
        return
    faults = [Fault(FaultKind.WITHOUT, block) for block in runner.blocks("alpha")]
    faults += [Fault(kind, "beta") for kind in OTHERS] + [Fault(FaultKind.QUANTISED, name) for name in BITS]
    targets = [Target(None), Target("alpha"), *(Target("alpha", fault=fault) for fault in faults)]
    assert len(targets) > 12
    asked = [Replay("c", prompt, prompt[:6], target) for target in targets]
    answers = {answer.replay: answer.full for answer in ask(runner, asked)}
    assert set(answers) == set(asked)
    for i, first in enumerate(asked):
        for second in asked[:i]:
            one, other = answers[first], answers[second]
            assert one is not None and other is not None
            assert np.abs(one - other).max() > 1e-4, (first.target, second.target)


def test_faults_mean_what_their_names_say(runner: Runner, prompt: tuple[int, ...]) -> None:
    if not isinstance(runner, Breakable):
        pytest.skip("it answers no faults, which the test above holds it to")
    base, alpha, beta = (_one(runner, prompt, prompt[:6], Target(name)) for name in (None, *ADAPTERS))
    rounded = _one(runner, prompt, prompt[:6], _faulty(FaultKind.QUANTISED, "4", None))
    same = [
        (_faulty(FaultKind.OTHER_ADAPTER, "beta"), beta),
        (_faulty(FaultKind.AVERAGED, "alpha"), alpha),
        (_faulty(FaultKind.TAKEN_AWAY, "alpha"), base),
        (_faulty(FaultKind.WARMED, "alpha"), alpha),
        (_faulty(FaultKind.STACKED, "beta", scale=0.0), base),
        (_faulty(FaultKind.QUANTISED, "4", scale=0.0), rounded),
    ]
    for target, wanted in same:
        assert np.abs(_one(runner, prompt, prompt[:6], target) - wanted).max() < 1e-4, target
    bare = _one(runner, prompt, prompt[:6], _faulty(FaultKind.PREFILLED, ""))
    assert np.abs(bare[0] - base[0]).max() < 1e-4, "the first token comes from whoever read the prompt"
    assert np.abs(bare[-1] - base[-1]).max() > 1e-4
    assert np.abs(_one(runner, prompt, prompt[:6], Target("alpha")) - alpha).max() == 0, "nothing is left of a fault"


@pytest.mark.parametrize(
    ("kind", "name", "adapter"),
    [
        (FaultKind.WITHOUT, "no such block", "alpha"),
        (FaultKind.WITHOUT, "", "alpha"),
        (FaultKind.WITHOUT, "q_proj", None),
        (FaultKind.QUANTISED, "five", "alpha"),
        (FaultKind.STACKED, "nobody", "alpha"),
        (FaultKind.AVERAGED, "", "alpha"),
        (FaultKind.WARMED, "nobody", "alpha"),
        (FaultKind.OTHER_ADAPTER, "", "alpha"),
    ],
)
def test_a_fault_that_means_nothing_is_never_answered(
    runner: Runner, prompt: tuple[int, ...], kind: FaultKind, name: str, adapter: str | None
) -> None:
    for ask_it in (
        lambda: ask(runner, [Replay("c", prompt, prompt, _faulty(kind, name, adapter))]),
        lambda: runner.generate(_faulty(kind, name, adapter), prompt, 3, lambda: False),
    ):
        with pytest.raises((Unreplayable, Unsupported)):
            ask_it()


def test_many_continuations_are_those_made_one_by_one_in_the_order_given(
    runner: Runner, prompt: tuple[int, ...]
) -> None:
    if not isinstance(runner, Batching):
        pytest.skip("it continues one prompt at a time")
    prompts = [prompt[: 3 + 5 * i % 11] for i in range(9)]
    many = runner.generate_many(Target("alpha"), prompts, 7, lambda: False)
    assert many == [runner.generate(Target("alpha"), one, 7, lambda: False) for one in prompts]
    assert runner.generate_many(Target("alpha"), prompts, 7, lambda: True) == [()] * 9
    assert runner.generate_many(Target("alpha"), [], 7, lambda: False) == []


def test_rank_and_alpha_are_those_of_a_registered_adapter(runner: Runner) -> None:
    if not isinstance(runner, LoraSettings):
        pytest.skip("it does not read the configuration of adapters")
    rank, alpha = runner.rank_and_alpha("alpha")
    assert rank >= 1 and alpha > 0
    with pytest.raises(Unreplayable):
        runner.rank_and_alpha("nobody")


def test_a_runner_that_answers_has_not_lost_its_device(runner: Runner, prompt: tuple[int, ...]) -> None:
    if not isinstance(runner, LosesDevice):
        pytest.skip("it knows of no device")
    runner.generate(Target("alpha"), prompt, 1, lambda: False)
    assert runner.lost_device() == ""


def test_an_adapter_is_most_like_itself(runner: Runner) -> None:
    if not isinstance(runner, Comparing):
        pytest.skip("it does not compare adapters")
    assert runner.likeness("alpha", "alpha") == pytest.approx(1.0)
    assert runner.likeness("alpha", "beta") == pytest.approx(runner.likeness("beta", "alpha"))
    assert -1.0 <= runner.likeness("alpha", "beta") < 0.9
    with pytest.raises(Unreplayable):
        runner.likeness("alpha", "nobody")


def test_a_reconfigured_runner_is_a_second_one_that_answers_alike(runner: Runner, prompt: tuple[int, ...]) -> None:
    if not isinstance(runner, Reconfigurable):
        pytest.skip("it cannot be set up a second time")
    other = runner.other_attention()
    second = runner.reconfigured(attention=other)
    with pytest.raises(Unreplayable):
        _one(second, prompt, prompt[:5], Target("alpha"))
    second.open()
    try:
        assert isinstance(second, Reconfigurable) and second.other_attention() != other
        answers = [_one(each, prompt, prompt[:5], Target("alpha")) for each in (runner, second)]
    finally:
        second.close()
    assert np.abs(answers[0] - answers[1]).max() < 5e-3
    assert runner.refresh() == dict.fromkeys((None, *ADAPTERS), Readiness()), "the first one stays open"


def _faulty(kind: FaultKind, name: str, adapter: str | None = "alpha", scale: float = 1.0) -> Target:
    return Target(adapter, scale=scale, fault=Fault(kind, name))


def _one(runner: Runner, prompt: tuple[int, ...], forced: tuple[int, ...], target: Target) -> np.ndarray:
    (answer,) = ask(runner, [Replay("c", prompt, forced, target)])
    assert answer.full is not None
    return answer.full
