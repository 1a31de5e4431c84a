"""What kind of model a .gguf file is, read from its header alone, before anything is built from it.

The header is a magic number, counts, key-value pairs and one entry per tensor; see llama.cpp's gguf.md. Plain reads, no
mmap, for the reason in safetensors_header.py.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from probes.artefacts.safetensors_header import check_fetched
from probes.errors import Unreplayable

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 had counts of another width, and no current model is written in it
# Struct codes of scalar values by their type number. Text and lists are read separately.
SCALARS = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
ALIGNMENT = 32
# Upper bound on lengths and counts, above any real one (a tokenizer's list has some 300,000 entries, a template some
# 10,000 characters): a damaged header must not make the reader allocate or loop without end.
MOST = 1 << 26
FORMER_MAGICS = {
    b"ggla": "a LoRA in llama.cpp's former format",
    b"ggjt": "llama.cpp's former format",
    b"ggml": "llama.cpp's first format",
}
# general.type -> what such a file is; only "model" can be a base.
KINDS = {
    "adapter": "a LoRA adapter, not a base: name the base's own .gguf or folder",
    "mmproj": "the vision or audio part of a multimodal model, not a base",
    "imatrix": "an importance matrix for quantising, not a base",
    "vocab": "a vocabulary without a model",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says of the file.

    kind: general.type, "model" where it is absent; architecture: general.architecture, "" where it is absent
    parts: files that the model is split into; tensors: how many are in this one; parameters: numbers in them
    last: byte at which the last tensor begins
    """

    kind: str
    architecture: str
    parts: int
    tensors: int
    parameters: int
    last: int


def read_header(path: Path) -> Header:
    """Raises Unreplayable for no such file, another format, or a file that ends inside its header."""
    try:
        with path.open("rb") as file:
            _check_magic(path, file.read(64))
            file.seek(len(MAGIC))
            return _header(path, file)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise Unreplayable(
            str(path), "is no .gguf model that can be read: its header is damaged or half written"
        ) from error


def check_model(path: Path) -> None:
    """Raises Unreplayable, by what the header says, unless the file is a complete language model."""
    header = read_header(path)
    if header.kind != "model":
        raise Unreplayable(str(path), f"is {KINDS.get(header.kind, f'of the type {header.kind!r}, not a model')}")
    if header.architecture == "clip":  # vision parts were written so before general.type existed
        raise Unreplayable(str(path), f"is {KINDS['mmproj']}")
    if header.parts > 1:
        merge = "join them first: llama-gguf-split --merge"
        raise Unreplayable(str(path), f"is one of the {header.parts} files of a split model; {merge}")
    if not header.tensors:
        raise Unreplayable(str(path), f"is {KINDS['vocab']}")
    if header.last >= (size := path.stat().st_size):
        raise Unreplayable(str(path), f"ends after {size} bytes, before its last tensor: half written")


def _check_magic(path: Path, beginning: bytes) -> None:
    check_fetched(path, beginning)
    magic = beginning[: len(MAGIC)]
    if magic != MAGIC:
        former = FORMER_MAGICS.get(magic[::-1]) or FORMER_MAGICS.get(magic)
        raise Unreplayable(str(path), f"is no .gguf file: it begins with {magic!r}" + (f", {former}" if former else ""))


def _header(path: Path, file: BinaryIO) -> Header:
    (version,) = _numbers(file, "I")
    if version not in VERSIONS:
        swapped = " (written for big-endian machines)" if version and not version & 0xFFFF else ""
        raise Unreplayable(str(path), f"is a .gguf file of version {version}{swapped}; wanted 2 or 3, little-endian")
    tensors, pairs = _numbers(file, "QQ")
    metadata = dict(_pair(file) for _ in range(min(pairs, MOST)))
    entries = [_entry(file) for _ in range(min(tensors, MOST))]
    align = int(metadata.get("general.alignment") or ALIGNMENT)
    data_begin = (file.tell() + align - 1) // align * align
    kind, architecture = (str(metadata.get(f"general.{key}") or "") for key in ("type", "architecture"))
    return Header(
        kind or "model",
        architecture,
        int(metadata.get("split.count") or 0),
        tensors,
        sum(numbers for numbers, _ in entries),
        data_begin + max((start for _, start in entries), default=0),
    )


def _pair(file: BinaryIO) -> tuple[str, Any]:
    name = _text(file)
    (kind,) = _numbers(file, "I")
    return name, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    """One value; a list is skipped, and None."""
    if kind == TEXT:
        return _text(file)
    if kind != LIST:
        return _numbers(file, SCALARS[kind])[0]
    inner, count = _numbers(file, "IQ")
    if inner in SCALARS:
        file.seek(struct.calcsize(f"<{SCALARS[inner]}") * count, 1)
        return None
    if inner != TEXT:
        raise struct.error(f"a list of values of kind {inner}")
    for _ in range(min(count, MOST)):
        _text(file)
    return None


def _entry(file: BinaryIO) -> tuple[int, int]:
    """How many numbers a tensor holds, and its offset in the data, from its entry: name, shape, type, offset."""
    _text(file)
    (sides,) = _numbers(file, "I")
    *shape, _, offset = _numbers(file, f"{sides}QIQ")
    return math.prod(shape), int(offset)


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "Q")
    if length > MOST:
        raise struct.error(f"a text of {length} bytes")
    data = file.read(length)
    if len(data) != length:
        raise struct.error("the file ends inside a text")
    return data.decode("utf-8", "replace")


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))
