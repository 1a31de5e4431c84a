"""The GPU benchmark, run small on the CPU, so that no GPU time is wasted on a programming error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch

from benchmarks import replay_on_gpu
from benchmarks.figures import Figure, context
from benchmarks.gpu.card import TINY, adapters, model, network, replays
from benchmarks.gpu.grouped import stacked
from probes.runner import BatchShape

SMALL = replace(TINY, adapters=2, canaries=2, limit_s=0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower by several threads than by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_stage_runs_and_its_figures_are_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    figures = replay_on_gpu.measure(SMALL, file)
    assert figures[-1] == Figure("stages that failed", 0, "stages", 0, True)
    assert all(figure.value > 0 for figure in figures[:-1])
    stages = ("ceiling", "grouped products", "replay, fp32", "replay, bf16", "PEFT", "sha256")
    assert all(any(figure.name.startswith(stage) for figure in figures) for stage in stages)
    held = orjson.loads(file.read_bytes())
    assert [figure["name"] for figure in held["figures"]] == [figure.name for figure in figures[:-1]]


def test_a_stage_that_fails_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_size: object) -> object:
        yield context("before", 1.0, "s")
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(replay_on_gpu, "STAGES", {"broken": broken, "moving": replay_on_gpu.moving})
    figures = replay_on_gpu.measure(SMALL, tmp_path / "gpu.json")
    assert [figure.name for figure in figures] == ["before", "sha256 of weights", "stages that failed"]
    assert (figures[-1].value, figures[-1].met) == (1, False)


def test_a_profiler_that_fails_costs_no_pace_in_any_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> Iterator[Figure]:
        raise RuntimeError("no counters on this card")

    monkeypatch.setattr(replay_on_gpu, "_profiled", broken)
    names = [figure.name for figure in replay_on_gpu.measure(SMALL, tmp_path / "gpu.json")]
    for precision in ("fp32", "tf32", "bf16"):
        for packing in ("packed as now", "packed by adapter, 32 rows", "packed by adapter, 64 rows"):
            assert f"replay, {precision}, 2 adapters, {packing}: tokens read a second" in names


def test_batches_of_an_adapter_hold_every_replay_once() -> None:
    asked = replays(TINY, 3)
    batches = replay_on_gpu.by_adapter(asked, 3)
    assert sorted(id(replay) for batch in batches for replay in batch) == sorted(map(id, asked))
    assert all(len({replay.target.adapter for replay in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) == 3


def test_grouped_products_add_what_the_product_adds() -> None:
    """The experiment's figures count only if it computes the same: rows of the base, then two adapters of two rows."""
    plain, fast = (network(SMALL, torch.float32) for _ in range(2))
    seats = stacked(fast, SMALL, 2, torch.float32)
    on = model(plain)
    stacks = {name: it for name, it in fast.named_modules() if hasattr(it, "seats")}
    for number, (name, made) in enumerate(adapters(plain, SMALL, torch.float32, 2)):
        fitted = on.adapters.apply(name, made)
        assert (len(fitted.modules), fitted.facts) == (len(stacks), ())
        for path, part in made.low_rank.items():
            stacks[path].a[number] = part.a.T
            stacks[path].b[number] = part.scaling * part.b.T
    asked = [replay for replay in replays(SMALL, 2) if replay.target.adapter is not None]
    length = min(len(replay.prompt) for replay in asked)
    ids = torch.tensor([replay.prompt[:length] for replay in asked])
    seats.first, seats.ends = 4, torch.tensor([2 * length, 4 * length], dtype=torch.int32)
    with torch.inference_mode():
        found = fast.base_model(input_ids=torch.cat([ids, ids]), use_cache=False).last_hidden_state
        with on.adapters.selection.for_pass((), 4):
            base = plain.base_model(input_ids=ids, use_cache=False).last_hidden_state
    cut = [replace(replay, prompt=replay.prompt[:length], kept=None) for replay in asked]
    answers = on.answer(cut, BatchShape(rows=4))
    logits = plain.get_output_embeddings()(found[4:, -1]).float().log_softmax(-1)
    assert torch.allclose(found[:4], base, atol=1e-5)
    for row, answer in enumerate(answers):
        assert answer.full is not None
        assert torch.allclose(logits[row], torch.from_numpy(answer.full[0]), atol=1e-4)


def test_without_a_card_the_whole_run_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["replay_on_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert replay_on_gpu.main() == replay_on_gpu.NO_CARD
    assert "--quick" in capsys.readouterr().out
