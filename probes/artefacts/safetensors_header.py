"""Safetensors files as stored: names, types, shapes and raw bytes, without torch; also the index of sharded models.

Plain reads: these files are watched because others overwrite them, and truncating a mapped file kills the process with
SIGBUS, where a read merely returns too few bytes. Hashes of accepted artefacts rest on ``digest`` and
``digest_json``: neither may change.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from probes.errors import Unreplayable

INDEX = "model.safetensors.index.json"
# First bytes of a Git LFS pointer, which stands for a file that is not fetched yet; the second is of its first version.
LFS_BEGINNINGS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
LFS_REASON = "is a Git LFS pointer, not the file that it stands for: run git lfs pull"
# Weights that are not read, which a folder may hold instead -> what to do.
OTHER_WEIGHTS = {
    ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"):
        "a pickle, which may run code and is never read; save the model as safetensors",
    ("*.gguf",): "name that file itself",
    ("model-*-of-*.safetensors",): f"shards without {INDEX}; copy that file too",
    ("consolidated*.safetensors", "*.safetensors"): "in another layout; convert it to one that transformers reads",
    ("*.h5", "*.msgpack", "*.npz"): "another library's format; save the model as safetensors",
}  # fmt: skip
# Far above any real header (4,096 tensors have about 0.5 MB); a random first word would ask for exabytes.
HEADER_LIMIT_BYTES = 100_000_000
# From here on memory is taken from the system, tensor by tensor, and goes back to it whole when the tensor is let go:
# what the allocator keeps of a released model would count against the next one.
OWN_PAGES_BYTES = 1 << 17
BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F4": 4,
}  # fmt: skip
DigestRow = list[Any]


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """One tensor as stored. kind: the format's own dtype name; data: its bytes, writable, little endian."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: bytearray | mmap.mmap

    @property
    def entry(self) -> TensorEntry:
        return TensorEntry(self.name, self.kind, self.shape, len(self.data))


class TensorEntry(NamedTuple):
    """What a header says of one tensor. size: bytes in the file"""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        """Numbers in it, by its shape."""
        return math.prod(self.shape)


def read_file(path: Path) -> Iterator[RawTensor]:
    """Every tensor of one file, in file order. Raises Unreplayable for a damaged file and for another format."""
    try:
        with path.open("rb") as file:
            for name, kind, shape, size in _header(path, file):
                yield RawTensor(name, kind, shape, _exactly(path, file, size, name))
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error


def read_folder(folder: Path) -> Iterator[RawTensor]:
    """Every tensor of a model folder, in one file or sharded. Raises Unreplayable, also when a shard is missing."""
    for path in weight_files(folder):
        yield from read_file(path)


def read_entries(path: Path) -> list[TensorEntry]:
    """What the header of one file says of its tensors, in the order of the data; these stay unread. Raises Unreplayable
    unless header and size are those of a complete file."""
    try:
        with path.open("rb") as file:
            return _header(path, file)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model in this folder. Raises Unreplayable when there are none."""
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise Unreplayable(str(folder), f"holds neither model.safetensors nor {INDEX}{_instead(folder)}")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise Unreplayable(str(index), "has no weight_map")
    names = sorted(set(map(str, shards.values())))
    if stray := [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]:
        raise Unreplayable(str(index), f"names {stray[0]}, which is no .safetensors file in its folder")
    return [folder / name for name in names]


def _instead(folder: Path) -> str:
    """What the folder holds instead, and what to do; "" for nothing that is recognised."""
    for patterns, advice in OTHER_WEIGHTS.items():
        if names := sorted(path.name for pattern in patterns for path in folder.glob(pattern)):
            return f", but {names[0]}: {advice}"
    return ""


def digest(tensors: Iterable[RawTensor]) -> str:
    """A "sha256:..." of tensors in any order and file: over sorted (name, type, shape, sha256 of the bytes)."""
    return digest_of_rows(digest_row(tensor) for tensor in tensors)


def digest_row(tensor: RawTensor) -> DigestRow:
    """Name, type, shape and the sha256 of the bytes: all of one tensor that ``digest`` rests on."""
    return [tensor.name, tensor.kind, list(tensor.shape), hashlib.sha256(tensor.data).hexdigest()]


def same_tensors(folder: Path, rows: Sequence[DigestRow]) -> bool:
    """Does this folder hold the tensors of these rows and no others? Headers are compared first, then bytes, and what
    comes after the first difference stays unread. Raises Unreplayable."""
    wanted = {row[0]: row for row in rows}
    headers = [entry for path in weight_files(folder) for entry in read_entries(path)]
    if sorted([entry.name, entry.kind, list(entry.shape)] for entry in headers) != sorted(row[:3] for row in rows):
        return False
    return all(digest_row(tensor) == wanted[tensor.name] for tensor in read_folder(folder))


def digest_of_rows(rows: Iterable[DigestRow]) -> str:
    """``digest`` of tensors that are no longer in memory, by their rows."""
    return digest_json(sorted(rows))


def digest_json(value: object) -> str:
    """A "sha256:..." of a JSON value in its canonical form (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises Unreplayable when it is missing, damaged or not an object."""
    try:
        content = path.read_bytes()
        check_fetched(path, content)
        value = json.loads(content)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error
    except ValueError as error:
        raise Unreplayable(str(path), f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise Unreplayable(str(path), "is not a JSON object")
    return value


def check_header(path: Path) -> None:
    """Raises Unreplayable unless this is a complete safetensors file, by its header and size; its data stay unread."""
    read_entries(path)


def lfs_pointer(beginning: bytes) -> bool:
    """Is this file a Git LFS pointer? beginning: its first 64 bytes, or more"""
    return beginning.startswith(LFS_BEGINNINGS)


def check_fetched(path: Path, beginning: bytes | bytearray) -> None:
    """Raises Unreplayable for a Git LFS pointer, by the file's first bytes."""
    if lfs_pointer(bytes(beginning[:64])):
        raise Unreplayable(str(path), LFS_REASON)


def writable(size: int) -> bytearray | mmap.mmap:
    """So many bytes of memory, on pages of their own where they are many. Raises MemoryError where there are none."""
    if size < OWN_PAGES_BYTES:
        return bytearray(size)
    try:
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{size} bytes: {error.strerror}") from error


def _header(path: Path, file: BinaryIO) -> list[TensorEntry]:
    """In the order of the data, which must have neither gap nor overlap."""
    present = os.fstat(file.fileno()).st_size
    check_fetched(path, file.read(64))
    file.seek(0)
    length = int.from_bytes(_exactly(path, file, 8, "the header's length"), "little")
    if length > min(HEADER_LIMIT_BYTES, present):
        raise Unreplayable(str(path), f"header of {length} bytes: half written, or no safetensors file")
    try:
        entries = json.loads(bytes(_exactly(path, file, length, "the header")))
        entries.pop("__metadata__", None)
        rows = [
            (*entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()
        ]
        sized = list(_sized(path, sorted(rows)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreplayable(str(path), f"header cannot be read ({error!r})") from error
    promised = 8 + length + sum(entry.size for entry in sized)
    if present != promised:
        raise Unreplayable(str(path), f"{present} bytes where its header promises {promised}: half written or replaced")
    return sized


def _sized(path: Path, rows: list[tuple[Any, ...]]) -> Iterator[TensorEntry]:
    at = 0
    for begin, end, name, kind, shape in rows:
        count = 1
        for side in shape:
            count *= side
        if begin != at or end - begin != (count * BITS[kind] + 7) // 8:
            raise Unreplayable(str(path), f"{name}: offsets do not fit its shape")
        at = end
        yield TensorEntry(name, kind, shape, end - begin)


def _exactly(path: Path, file: BinaryIO, size: int, what: str) -> bytearray | mmap.mmap:
    data = writable(size)
    if file.readinto(data) != size:  # type: ignore[attr-defined]
        raise Unreplayable(str(path), f"file ends inside {what}: half written")
    return data
