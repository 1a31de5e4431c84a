"""What a base needs by its headers, and what it really takes in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.process.base_memory import a_base, in_a_process
from probes.artefacts import base_files
from probes.artefacts.gguf_header import read_header
from probes.artefacts.identity import file_hash
from probes.artefacts.needed_memory import LEAST_BATCH
from probes.errors import NoMemory, Unreplayable
from probes.model.base_memory import Room, base_memory, fitting
from probes.model.build import Placement
from probes.model.device_memory import Card
from tests.probes.tiny import tiny_base

ON_CPU = Placement(torch.device("cpu"), torch.float32, "auto", 512)


def stored_as(base: Path, dtype: torch.dtype) -> Path:
    file = base / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return base


def test_weights_are_counted_as_they_are_held_and_not_as_they_are_stored(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    parameters = sum(tensor.numel() for tensor in load_file(base / "model.safetensors").values())
    tokenizer = base_memory(base, ON_CPU).held - 4 * parameters
    assert 0 < tokenizer < 1_000_000
    half = base_memory(stored_as(base, torch.bfloat16), ON_CPU)
    assert half.held == 4 * parameters + tokenizer
    in_half = Placement(torch.device("cpu"), torch.bfloat16, "auto", 512)
    assert base_memory(base, in_half).held == 2 * parameters + tokenizer
    assert half.needed == half.held + max(half.loading, half.replay)


def test_vectors_alone_are_counted_twice_where_they_are_rounded(tmp_path: Path) -> None:
    """Matrices are rounded one by one while they are read."""
    base = tiny_base(tmp_path / "base", tied=False)
    tensors = load_file(base / "model.safetensors").values()
    vectors = sum(4 * tensor.numel() for tensor in tensors if tensor.dim() == 1)
    largest = max(2 * tensor.numel() for tensor in tensors)
    in_half = Placement(torch.device("cpu"), torch.bfloat16, "auto", 512)
    assert base_memory(base, in_half).loading - base_memory(base, ON_CPU).loading == vectors + largest
    assert vectors > 0


def test_on_a_device_the_host_holds_it_while_it_is_read_and_the_device_answers(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=False)
    here = base_memory(base, ON_CPU)
    there = base_memory(base, replace(ON_CPU, device=torch.device("cuda")))
    assert (there.held, there.loading, there.replay) == (here.held, here.loading, here.replay)
    assert there.needed == here.held + here.loading
    assert there.needed_on_device == here.weights + here.replay and here.needed_on_device == 0


@pytest.mark.parametrize("batch", [2048, 1024, 512, 256])
def test_the_batch_is_the_largest_that_there_is_room_for(tmp_path: Path, batch: int) -> None:
    base = tiny_base(tmp_path / "base")
    asked = replace(ON_CPU, batch_tokens=2048)
    need = base_memory(base, replace(asked, batch_tokens=batch))
    assert fitting(base, asked, Room(need.needed)).batch_tokens == batch
    assert fitting(base, asked, Room(None)) == asked
    on_device = replace(asked, device=torch.device("cuda"))
    need = base_memory(base, replace(on_device, batch_tokens=batch))
    card = Card("cuda:0", 1 << 36, need.needed_on_device, 0, 0, 1 << 36)
    assert fitting(base, on_device, Room(None, card)).batch_tokens == batch
    if batch == LEAST_BATCH:
        with pytest.raises(NoMemory, match=" free on cuda:0, "):
            fitting(base, on_device, Room(None, replace(card, free=card.free - 1)))
        with pytest.raises(NoMemory, match=" more needed"):
            fitting(base, asked, Room(base_memory(base, replace(asked, batch_tokens=batch)).needed - 1))


def test_a_batch_that_is_configured_below_the_least_one_is_left_alone(tmp_path: Path) -> None:
    base, asked = tiny_base(tmp_path / "base"), replace(ON_CPU, batch_tokens=128)
    assert fitting(base, asked, Room(base_memory(base, asked).needed)) == asked
    with pytest.raises(NoMemory):
        fitting(base, asked, Room(base_memory(base, asked).needed - 1))


def test_what_is_let_go_makes_room_where_it_was() -> None:
    card = Card("cuda:0", 100, 10, 60, 60, 100)
    assert Room(5, card).without(7, torch.device("cpu")) == Room(12, card)
    there = Room(5, card).without(7, torch.device("cuda:0"))
    assert there.host == 5 and there.card is not None and there.card.available == 17
    assert Room(None).without(7, torch.device("cpu")) == Room(None) == Room(None).without(7, torch.device("cuda"))


def test_no_weight_is_read_for_it(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    whole = base_memory(base, ON_CPU)
    file = base / "model.safetensors"
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    file.write_bytes(content[:header] + bytes(len(content) - header))
    assert base_memory(base, ON_CPU) == whole
    file.write_bytes(content[:-1])
    with pytest.raises(Unreplayable, match="half written"):
        base_memory(base, ON_CPU)


def test_a_gguf_file_is_converted_in_two_copies_of_its_parameters_once(tmp_path: Path) -> None:
    source = base_files.packaged_gguf()
    parameters = read_header(source).parameters
    assert parameters == 134_515_008
    assert base_files.conversion_bytes(str(source), tmp_path) == 8 * parameters
    (tmp_path / f"gguf-{file_hash(source)}").mkdir()
    assert base_files.conversion_bytes(str(source), tmp_path) == 0
    assert base_files.conversion_bytes(str(tiny_base(tmp_path / "base")), tmp_path) == 0


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_no_peak_is_above_what_was_counted(stored: torch.dtype, tmp_path: Path) -> None:
    """Loading, and then batches of the largest size, in a process without any limit."""
    measured = in_a_process(stored_as(a_base(tmp_path / "base", hidden=256, layers=6), stored))
    weights = 4 * measured["parameters"]
    assert weights < measured["loading_peak"] <= measured["loading_counted"] < weights + 200_000_000
    assert measured["peak"] <= measured["counted"]


def test_a_file_that_is_held_in_half_of_its_bytes_is_not_in_memory_beside_them(tmp_path: Path) -> None:
    """What is read is rounded tensor by tensor."""
    base = a_base(tmp_path / "base", hidden=768, layers=3)
    size = (base / "model.safetensors").stat().st_size
    measured = in_a_process(base, "bfloat16", batches=0)
    assert 250_000_000 < size < measured["loading_peak"] + size / 2
    assert measured["loading_peak"] <= measured["loading_counted"] and measured["loading_peak"] < 1.2 * size
