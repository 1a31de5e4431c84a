"""What of a card this process may have: arithmetic on what the card and the allocator say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from probes.artefacts.needed_memory import LEAST_BATCH, Answering, StoredBase, WrittenConfig, memory_of
from probes.artefacts.safetensors_header import TensorEntry
from probes.card_share import CONTEXT_BYTES, allocator_share, ceiling
from probes.errors import NoMemory
from probes.model.device_memory import Card, card_of, check_available, limit

GB = 1_000_000_000
# An engine has 72 of 80 GB, this process 3, of which its tensors hold 2.
SHARED = Card("cuda:0", total=80 * GB, free=5 * GB, reserved=3 * GB, held=2 * GB, allowed=80 * GB)


def test_what_the_allocator_keeps_for_later_is_available_and_what_others_have_is_not() -> None:
    assert SHARED.available == 6 * GB


@pytest.mark.parametrize(("allowed", "available"), [(8, 6), (7, 5), (2, 0), (1, 0)])
def test_no_more_is_available_than_the_process_may_have(allowed: int, available: int) -> None:
    assert replace(SHARED, allowed=allowed * GB).available == available * GB


@pytest.mark.parametrize(("most", "wanted"), [(0.05, 4 * GB), (1.0, 80 * GB), (6e9, 6 * GB), (1e12, 80 * GB)])
def test_a_ceiling_is_a_share_of_the_card_or_bytes(most: float, wanted: int) -> None:
    assert ceiling(most, 80 * GB) == wanted


def test_the_context_counts_towards_the_ceiling() -> None:
    assert allocator_share(0.05, 80 * GB) * 80 * GB == pytest.approx(4 * GB - CONTEXT_BYTES)
    assert allocator_share(6e9, 80 * GB) * 80 * GB == pytest.approx(6 * GB - CONTEXT_BYTES)
    assert allocator_share(0.01, 8 * GB) == 0.0
    assert allocator_share(1.0, 80 * GB) == 1.0


def test_with_the_default_ceiling_a_vllm_with_its_defaults_starts_beside_it() -> None:
    """It wants .92 of the card; its own context is taken by then, and is as large as ours at most."""
    for total in (16 * GB, 24 * GB, 80 * GB, 141 * GB):
        assert total - ceiling(0.05, total) - 480_000_000 >= 0.92 * total


def test_more_than_is_available_is_refused_with_what_limits_it() -> None:
    check_available("/base", 6 * GB, SHARED)
    check_available("/base", 1 << 60, None)
    alone = replace(SHARED, free=77 * GB)
    with pytest.raises(
        NoMemory, match=r"/base: not enough memory: 79 GB requested, 78 GB free on cuda:0, 1 GB more needed$"
    ):
        check_available("/base", 79 * GB, alone)
    words = (
        r"3 GB requested, 2 GB free on cuda:0, 1 GB more needed; .* have 4 GB of its 80 GB \(probes.device_memory\)$"
    )
    with pytest.raises(NoMemory, match=words) as raised:
        check_available("/base", 3 * GB, replace(alone, allowed=4 * GB))
    assert (raised.value.requested, raised.value.free) == (3 * GB, 2 * GB)


def test_a_card_that_an_engine_fills_says_who_has_it() -> None:
    assert SHARED.others == 72 * GB
    with pytest.raises(NoMemory, match=r"others have 72 GB of its 80 GB, as an engine does: take another card"):
        check_available("/base", 9 * GB, SHARED)


@pytest.mark.parametrize("slice_gib", [9.5, 19.5])
@pytest.mark.parametrize(("kind", "bytes_each"), [("float32", 4), ("bfloat16", 2)])
def test_a_slice_of_a_card_takes_what_it_has_room_for_and_no_more(slice_gib: float, kind: str, bytes_each: int) -> None:
    """A base of eight billion parameters on the MIG slices of 10 and 20 GB, which CUDA shows as cards of that size."""
    total = int(slice_gib * 2**30)
    free = total - CONTEXT_BYTES
    card = Card("cuda:0", total, free, 0, 0, int(allocator_share(0.9, total) * total))
    answering = Answering(bytes_each, LEAST_BATCH, on_device=True)
    needed = memory_of(llama_of_8b(kind), answering).needed_on_device
    if needed <= card.available:
        check_available("/base", needed, card)
        assert (slice_gib, kind) == (19.5, "bfloat16")
        return
    with pytest.raises(NoMemory) as raised:
        check_available("/base", needed, card)
    is_larger = needed > total
    assert ("the whole card, or slice of one, has" in str(raised.value)) is is_larger
    assert " more needed; " in str(raised.value) and is_larger


def llama_of_8b(kind: str) -> StoredBase:
    """By its headers alone: no file is as large."""
    width, between, heads = 4096, 14336, {"q": 4096, "k": 1024, "v": 1024, "o": 4096}
    shapes = {f"layers.{layer}.{name}": (rows, width) for layer in range(32) for name, rows in heads.items()}
    shapes |= {f"layers.{layer}.mlp.{name}": (between, width) for layer in range(32) for name in ("up", "gate", "down")}
    shapes |= {"embed_tokens.weight": (128256, width), "lm_head.weight": (128256, width)}
    config = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": between}
    size = {"float32": 4, "bfloat16": 2}[kind]
    names = {"float32": "F32", "bfloat16": "BF16"}
    entries = [TensorEntry(name, names[kind], shape, size * math.prod(shape)) for name, shape in shapes.items()]
    return StoredBase(entries, 9_000_000, WrittenConfig(config, entries), True)


def test_a_device_that_cannot_be_asked_limits_nothing_beforehand() -> None:
    """Whoever loads a model there is told why it does not answer."""
    limit(torch.device("cpu"), 0.5)
    assert card_of(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert card_of(torch.device("cuda:0")) is None
