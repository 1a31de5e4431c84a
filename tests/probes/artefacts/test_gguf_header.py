"""A .gguf file is accepted or refused by its header, before any tensor is created."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from probes.artefacts.base_files import packaged_gguf, resolve
from probes.artefacts.gguf_header import check_model, read_header
from probes.errors import Unreplayable

HUGE = 1 << 33  # 8.6 billion floats: who builds this model asks for 34 GB


def gguf(told: Mapping[str, str | int | list[str]], tensors: int = 1, version: int = 3, data: int = 64) -> bytes:
    """A file with these pairs, and tensors of four floats each that follow one another."""
    pairs = b"".join(_text(name) + _value(value) for name, value in told.items())
    entries = b"".join(_text(f"blk.{i}.weight") + struct.pack("<IQIQ", 1, 4, 0, 32 * i) for i in range(tensors))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, len(told)) + pairs + entries
    return head + bytes(-len(head) % 32) + bytes(data)


def _text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def _value(value: str | int | list[str]) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))


LLAMA: dict[str, str | int | list[str]] = {
    "general.architecture": "llama", "llama.embedding_length": HUGE, "tokenizer.ggml.tokens": ["a", "b"],
}  # fmt: skip


def test_the_header_is_read_past_lists_and_numbers(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf(LLAMA | {"general.type": "model", "split.count": 1}, tensors=2))
    found = read_header(file)
    assert (found.kind, found.architecture, found.parts, found.tensors) == ("model", "llama", 1, 2)
    assert found.last == file.stat().st_size - 64 + 32
    check_model(file)


def test_the_packaged_model_is_one() -> None:
    found = read_header(packaged_gguf())
    assert (found.kind, found.architecture, found.tensors) == ("model", "llama", 272)
    check_model(packaged_gguf())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gguf(LLAMA | {"general.type": "adapter", "adapter.type": "lora"}), "is a LoRA adapter, not a base"),
        (gguf(LLAMA | {"general.type": "mmproj"}), "multimodal"),
        (gguf({"general.architecture": "clip"}), "multimodal"),
        (gguf({"general.type": "imatrix"}), "importance matrix"),
        (gguf({"general.type": "dataset"}), "'dataset'"),
        (gguf(LLAMA | {"split.count": 3, "split.no": 0}), r"one of the 3 files .* llama-gguf-split --merge"),
        (gguf(LLAMA, tensors=0), "vocabulary without a model"),
        (gguf(LLAMA, tensors=3, data=64), "half written"),
        (gguf(LLAMA)[:70], "damaged or half written"),
        (gguf(LLAMA, version=1), "version 1"),
        (gguf(LLAMA, version=3 << 24), "big-endian"),
        (b"GGUF", "damaged or half written"),
        (b"PK\x03\x04" + bytes(60), r"no \.gguf file"),
        (b"algg" + bytes(60), "former format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "Git LFS pointer"),
        (b"", r"no \.gguf file"),
    ],
)
def test_a_gguf_that_is_no_whole_model_is_refused_with_what_it_is(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    with pytest.raises(Unreplayable, match=reason):
        resolve(str(file), tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "refused before anything of it was made"
