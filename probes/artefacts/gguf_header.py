"""What a .gguf file says that it is, read from its header alone: before anything is built from it.

The header is a magic, counts, key-value pairs and one entry a tensor; see llama.cpp's gguf.md. Plain reads, as in
safetensors_header.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from probes.artefacts.safetensors_header import check_fetched
from probes.errors import Unreplayable

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # the first had counts of another width, and no model of today is written in it
# Kinds of value by their number: how they are packed. Text and lists are read apart.
SCALARS = dict(enumerate("BbHhIif?", start=0)) | {10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
ALIGNMENT = 32
# Above any real one (a tokenizer's list has some 300,000 entries, a template some 10,000 letters).
MOST = 1 << 26
FORMER = {
    b"ggla": "a LoRA in llama.cpp's former format",
    b"ggjt": "llama.cpp's former format",
    b"ggml": "its first one",
}
# general.type -> what such a file is; "model" is what can be a base.
KINDS = {
    "adapter": "a LoRA adapter, not a base: name the base's own .gguf or folder",
    "mmproj": "the vision or audio part of a multimodal model, not a base",
    "imatrix": "an importance matrix for quantising, not a base",
    "vocab": "a vocabulary without a model",
}


@dataclass(frozen=True, slots=True)
class Header:
    """kind: general.type, "model" where nothing is said; architecture: general.architecture; parts: files that the
    model is split into; tensors: how many lie in this one; last: byte at which the last of them begins"""

    kind: str
    architecture: str
    parts: int
    tensors: int
    last: int


def read_header(path: Path) -> Header:
    """Raises Unreplayable: no such file, no .gguf, or one that ends inside its header."""
    try:
        with path.open("rb") as file:
            _check_magic(path, file.read(64))
            file.seek(len(MAGIC))
            return _header(path, file)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error
    except (struct.error, UnicodeDecodeError, KeyError) as error:
        raise Unreplayable(
            str(path), "is no .gguf model that can be read: its header is torn or half written"
        ) from error


def check_model(path: Path) -> None:
    """Raises Unreplayable, by what the file itself says, unless it is a whole language model in one file."""
    found = read_header(path)
    if found.kind != "model":
        raise Unreplayable(str(path), f"is {KINDS.get(found.kind, f'of the type {found.kind!r}, not a model')}")
    if found.architecture == "clip":  # as these files were before they named their type
        raise Unreplayable(str(path), f"is {KINDS['mmproj']}")
    if found.parts > 1:
        merge = "join them first: llama-gguf-split --merge"
        raise Unreplayable(str(path), f"is one of the {found.parts} files of a split model; {merge}")
    if not found.tensors:
        raise Unreplayable(str(path), f"is {KINDS['vocab']}")
    if found.last >= (size := path.stat().st_size):
        raise Unreplayable(str(path), f"ends after {size} bytes, before its last tensor: half written")


def _check_magic(path: Path, beginning: bytes) -> None:
    check_fetched(path, beginning)
    magic = beginning[: len(MAGIC)]
    if magic != MAGIC:
        told = FORMER.get(magic[::-1]) or FORMER.get(magic)
        raise Unreplayable(str(path), f"is no .gguf file: it begins with {magic!r}" + (f", {told}" if told else ""))


def _header(path: Path, file: BinaryIO) -> Header:
    (version,) = _numbers(file, "I")
    if version not in VERSIONS:
        swapped = " (written for big-endian machines)" if version and not version & 0xFFFF else ""
        raise Unreplayable(str(path), f"is a .gguf file of version {version}{swapped}; wanted 2 or 3, little-endian")
    tensors, pairs = _numbers(file, "QQ")
    told = dict(_pair(file) for _ in range(min(pairs, MOST)))
    starts = [_offset(file) for _ in range(min(tensors, MOST))]
    align = int(told.get("general.alignment") or ALIGNMENT)
    begin = (file.tell() + align - 1) // align * align
    kind, architecture = (str(told.get(f"general.{key}") or "") for key in ("type", "architecture"))
    return Header(
        kind or "model", architecture, int(told.get("split.count") or 0), tensors, begin + max(starts, default=0)
    )


def _pair(file: BinaryIO) -> tuple[str, Any]:
    name = _text(file)
    (kind,) = _numbers(file, "I")
    return name, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    """One value; of a list nothing is kept, it is only passed over."""
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


def _offset(file: BinaryIO) -> int:
    """Where a tensor lies among the data, of its entry: name, shape, type, offset."""
    _text(file)
    (sides,) = _numbers(file, "I")
    return int(_numbers(file, f"{sides}QIQ")[-1])


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
