"""Safetensors files: every kind of damage is reported, and no damaged file is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from probes.artefacts.lora_files import to_torch
from probes.artefacts.safetensors_header import digest, lfs_pointer, read_file, read_folder, read_json
from probes.errors import Unreplayable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones(2, np.int64),
        "empty": np.zeros((0, 4), np.float16),
    }
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_tensors_come_back_as_they_were_written(file: Path) -> None:
    read = {item.name: to_torch(item) for item in read_file(file)}
    assert torch.equal(read["b"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(read["a"], torch.ones(2, dtype=torch.int64))
    assert read["empty"].shape == (0, 4) and read["empty"].dtype == torch.float16


def _header(change: Callable[[dict[str, dict[str, object]]], None]) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return spoil


SPOILT: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("half the file", lambda data: data[: len(data) // 2], "half written"),
    ("one byte short", lambda data: data[:-1], "half written"),
    ("one byte more", lambda data: data + b"x", "half written"),
    ("empty", lambda _: b"", "half written"),
    ("zeros where the copy has not come yet", lambda data: bytes(len(data)), "header cannot be read"),
    ("a pickle", lambda _: b"\x80\x04" + b"pickle" * 50, "no safetensors file"),
    ("another type", _header(lambda header: header["b"].update(dtype="F99")), "header cannot be read"),
    ("a larger shape", _header(lambda header: header["b"].update(shape=[2, 4])), "offsets do not fit"),
    ("an overlap", _header(lambda header: header["b"].update(data_offsets=[0, 24])), "offsets do not fit"),
]


@pytest.mark.parametrize(("spoil", "words"), [case[1:] for case in SPOILT], ids=[case[0] for case in SPOILT])
def test_a_spoilt_file_is_unreplayable_and_says_why(file: Path, spoil: Callable[[bytes], bytes], words: str) -> None:
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(Unreplayable, match=words):
        list(read_file(file))


def test_a_missing_file_folder_and_shard_are_unreplayable(file: Path) -> None:
    with pytest.raises(Unreplayable, match="No such file"):
        list(read_file(file.parent / "nothing"))
    (file.parent / "bare").mkdir()
    with pytest.raises(Unreplayable, match="neither"):
        list(read_folder(file.parent / "bare"))
    index = file.parent / "bare" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(Unreplayable, match="No such file"):
        list(read_folder(file.parent / "bare"))
    index.write_text("{")
    with pytest.raises(Unreplayable, match="is not JSON"):
        list(read_folder(file.parent / "bare"))


def test_the_digest_depends_on_names_types_shapes_and_bytes_alone(file: Path) -> None:
    tensors = list(read_file(file))
    assert digest(tensors) == digest(reversed(tensors))
    whole = digest(tensors)
    tensors[0].data[0] ^= 1
    assert digest(tensors) != whole


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 4567890\n"


def test_a_git_lfs_pointer_is_named_as_what_it_is(tmp_path: Path) -> None:
    """A clone without ``git lfs pull`` has files of about 130 bytes in place of weights, tokenizers and large JSON."""
    for name in ("model.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(POINTER)
    for read in (lambda: list(read_folder(tmp_path)), lambda: read_json(tmp_path / "model.safetensors.index.json")):
        with pytest.raises(Unreplayable, match=r"is a Git LFS pointer, .* git lfs pull"):
            read()


@pytest.mark.parametrize(
    ("beginning", "pointer"),
    [
        (POINTER, True),
        (POINTER[:64], True),
        (b"version https://hawser.github.com/spec/v1\n", True),
        (b'{"version": "https://git-lfs.github.com/spec/v1"}', False),
        (b"GGUF", False),
        (b"", False),
    ],
)
def test_git_lfs_pointers_are_recognised_by_their_first_line(beginning: bytes, pointer: bool) -> None:
    assert lfs_pointer(beginning) is pointer
