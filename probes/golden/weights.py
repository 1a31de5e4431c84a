"""Weights as accepted, kept beside the golden records under their own hash: the base's where asked, adapters' always.

An adapter is small, and its copy is what a later enrolment recognises the earlier version by.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.artefacts.identity import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    NEWEST,
    adapter_hash,
    base_hash,
    base_hashes,
)
from probes.artefacts.safetensors_header import digest, read_folder
from probes.errors import Unreplayable
from probes.golden.record import Golden, short

TEMPLATES = "additional_chat_templates/*.jinja"  # the one folder that a tokenizer reads beside its own


def keep(base: Path, golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path:
    """Hard-link, or copy, a base folder to ``golden_dir/weights/<hex>``; returns that folder. Done once per hash.

    base: folder with safetensors, config and tokenizer; accepted: the hash that the golden record names; scheme: of it
    Raises Unreplayable when it cannot be read or copied, or has another hash once it lies there: it changed since it
    was recorded.
    A link costs nothing while the file it was made of stays, and survives a release that replaces the file; on another
    file system it is a copy, as large as the base. A release that writes *into* the file would change both, and the
    hash in the name then gives it away. What is kept already under its hash by another scheme is not kept twice: its
    new name leads there.
    """
    target = folder_of(golden_dir, accepted)
    if find(golden_dir, accepted, scheme) is not None or _renamed(base, golden_dir, accepted, scheme):
        return target
    with _laid_out(target, lambda: find(golden_dir, accepted, scheme) is not None) as fresh:
        for file in _files(base):
            place = fresh / file.relative_to(base)
            place.parent.mkdir(exist_ok=True)
            _link(file.resolve(), place)
        _check(base, fresh, lambda folder: base_hash(folder, scheme), accepted)
    return target


def find(golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path | None:
    """The kept weights of that hash, None when they were not kept, are torn or no longer have it."""
    folder = folder_of(golden_dir, accepted)
    try:
        return folder if folder.is_dir() and base_hash(folder, scheme) == accepted else None
    except Unreplayable:
        return None


def folder_of(golden_dir: Path, accepted: str) -> Path:
    """Where a base of that hash would lie."""
    return golden_dir / "weights" / short(accepted)


def _renamed(base: Path, golden_dir: Path, accepted: str, scheme: int) -> bool:
    """Is the base kept by its hash of another scheme, and does the name of this one lead there from now on?"""
    if not (golden_dir / "weights").is_dir():
        return False
    by_scheme = base_hashes(base, digest(read_folder(base)))
    if by_scheme[scheme] != accepted:
        return False
    target = folder_of(golden_dir, accepted)
    for other, named in by_scheme.items():
        if other != scheme and (kept := find(golden_dir, named, other)) is not None:
            with contextlib.suppress(OSError):  # somebody else was quicker, or something damaged lies there
                target.symlink_to(kept.name)
            return find(golden_dir, accepted, scheme) is not None
    return False


def keep_adapter(adapter: Path, golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path:
    """Copy an adapter's config and weights to ``golden_dir/adapters/<hex>``; returns that folder. Done once per hash.

    accepted: the hash that the golden record names; scheme: of it. Raises Unreplayable when the files cannot be read or
    have another one: they changed since they were recorded. A copy, never a link: a release may write into the file.
    """
    target = adapter_folder(golden_dir, accepted)
    if find_adapter(golden_dir, accepted, scheme) is not None:
        return target
    with _laid_out(target, lambda: find_adapter(golden_dir, accepted, scheme) is not None) as fresh:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            _copy(adapter / name, fresh / name)
        _check(adapter, fresh, lambda folder: adapter_hash(folder, scheme), accepted)
    return target


def find_adapter(golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path | None:
    """The kept adapter of that hash, None when it was not kept, is torn or no longer has it."""
    folder = adapter_folder(golden_dir, accepted)
    try:
        return folder if folder.is_dir() and adapter_hash(folder, scheme) == accepted else None
    except Unreplayable:
        return None


def accepted_adapter(golden_dir: Path, golden: Golden) -> Path | None:
    """The kept files of the adapter that a record was made of; None as of ``find_adapter``."""
    return find_adapter(golden_dir, golden.adapter_hash, golden.hash_scheme)


def adapter_folder(golden_dir: Path, accepted: str) -> Path:
    """Where an adapter of that hash would lie."""
    return golden_dir / "adapters" / short(accepted)


@contextmanager
def _laid_out(target: Path, whole: Callable[[], bool]) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` in one step once it is full, and is gone when filling it failed.

    whole: is what lies at ``target`` what belongs there?
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # kept by one user, read by the sidecar's
        _put(fresh, target, whole)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check(source: Path, fresh: Path, hash_of: Callable[[Path], str], accepted: str) -> None:
    """What lies there now is what counts: files may change between two reads, and while they are copied."""
    try:
        found = hash_of(fresh)
    except Unreplayable as error:  # its place is a folder that is about to go
        raise Unreplayable(str(source), f"cannot be kept: {error.why}") from error
    if found != accepted:
        raise Unreplayable(str(source), f"changed since it was recorded: {short(found)}, was {short(accepted)}")


def _files(folder: Path) -> list[Path]:
    try:
        return [file for file in (*folder.iterdir(), *folder.glob(TEMPLATES)) if file.is_file()]
    except OSError as error:
        raise Unreplayable(str(folder), f"cannot be read ({error.strerror})") from error


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise Unreplayable(str(source), f"cannot be copied ({error.strerror})") from error


def _put(fresh: Path, target: Path, whole: Callable[[], bool]) -> None:
    """The whole folder or nothing. What another process has put there meanwhile stays, what is damaged makes way."""
    try:
        fresh.rename(target)
    except OSError:
        if not whole():
            if target.is_symlink():
                target.unlink()
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        _copy(source, target)
