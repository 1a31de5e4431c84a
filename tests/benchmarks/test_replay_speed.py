"""The benchmark of replay, run small: figures of a card that is not there are never met."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import torch
from torch import nn

from benchmarks import results_page
from benchmarks.figures import save, stored_figures
from benchmarks.gpu.card import TINY, replays
from benchmarks.speed import on_card
from benchmarks.speed.on_cpu import by_length
from benchmarks.speed.precision import PRODUCTS, computed_by, in_tf32
from probes.model.packing import read_length

SMALL = replace(TINY, adapters=2, canaries=2, limit_s=0.02)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower by several threads than by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_without_a_card_every_figure_stands_as_not_measured(tmp_path: Path) -> None:
    figures = list(on_card.without_a_card())
    assert {figure.name for figure in figures} == {*on_card.names(64), *on_card.names(256)}
    assert all(figure.met is None and math.isnan(figure.value) for figure in figures)
    save(figures, 0, tmp_path / "replay_speed.json")
    assert orjson.loads((tmp_path / "replay_speed.json").read_bytes())["figures"][0]["value"] is None
    assert "*not measured*" in results_page.section(tmp_path / "replay_speed.json")
    assert [figure.name for figure in stored_figures(tmp_path / "replay_speed.json")] == [f.name for f in figures]


def test_the_stages_of_a_card_run_small_on_a_cpu() -> None:
    measured = {figure.name: figure.value for figure in on_card.figures(SMALL)}
    wanted = {name for fleet in on_card.FLEETS for name in on_card.names(fleet) if on_card.MEMORY not in name}
    assert wanted <= measured.keys() and all(value >= 0 for value in measured.values())


def test_emulated_products_lose_as_much_as_their_digits_say_and_are_taken_off_again() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(8, 64)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.bfloat16).float(), requires_grad=False)
    network = nn.Sequential(layer)
    exact, errors = network(x), {}
    exact = exact.detach()
    for name, product in PRODUCTS.items():
        with computed_by(network, product), torch.inference_mode():
            errors[name] = float((network(x) - exact).abs().max())
    assert list(errors) == sorted(errors, key=errors.__getitem__, reverse=True)
    assert errors["split_bfloat16"] < 0.05 * errors["TF32"]
    assert errors["TF32"] < 0.5 * errors["bfloat16 in, float32 out"]
    assert torch.equal(network(x), exact)
    assert float((in_tf32(x) - x).abs().max() / x.abs().max()) < 2.0**-10


def test_batches_by_length_alone_hold_every_replay_once() -> None:
    given = replays(TINY, 3)
    batches = by_length(given, 200)
    assert sorted(id(replay) for batch in batches for replay in batch) == sorted(map(id, given))
    assert max(map(len, batches)) <= 8 and all(len(b) * max(map(read_length, b)) <= 200 for b in batches if len(b) > 1)
