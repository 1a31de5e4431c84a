"""Copies of accepted weights beside the golden records, named by their hash: adapters always, bases where configured.

An adapter is small, and a later enrolment recognises the earlier version by its copy. A folder appears whole or not at
all, and is hashed before anything is read from it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.artefacts.access import holds
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

TEMPLATES = "additional_chat_templates/*.jinja"  # the only subfolder that a tokenizer reads


def keep(base: Path, golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path:
    """Hard-link, or copy, a base folder to ``golden_dir/weights/<hex>``; returns that folder. Done once per hash.

    base: folder with safetensors, config and tokenizer; accepted: the hash that the golden record names; scheme: of
    that hash
    Raises Unreplayable when it cannot be read or copied, or when the copy has another hash: it changed since it was
    recorded.
    A hard link takes no space while the original stays, and survives a release that replaces the file; on another file
    system it is a copy, as large as the base. A release that writes *into* the file changes both, and the hash in the
    name then reveals it. A base that is stored under its hash by another scheme is not stored twice: the new name is a
    symbolic link to it.
    """
    target = folder_of(golden_dir, accepted)
    if find(golden_dir, accepted, scheme) is not None or _renamed(base, golden_dir, accepted, scheme):
        return target
    with _new_folder(target, lambda: find(golden_dir, accepted, scheme) is not None) as fresh:
        for file in _files(base):
            place = fresh / file.relative_to(base)
            place.parent.mkdir(exist_ok=True)
            _link(file.resolve(), place)
        _check(base, fresh, lambda folder: base_hash(folder, scheme), accepted)
    return target


def find(golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path | None:
    """The stored weights of that hash, None when they were not stored, are damaged or no longer have it."""
    folder = folder_of(golden_dir, accepted)
    try:
        return folder if holds(folder.is_dir) and base_hash(folder, scheme) == accepted else None
    except Unreplayable:
        return None


def folder_of(golden_dir: Path, accepted: str) -> Path:
    """Where a base of that hash is stored, if it is."""
    return golden_dir / "weights" / short(accepted)


def _renamed(base: Path, golden_dir: Path, accepted: str, scheme: int) -> bool:
    """If the base is stored under its hash by another scheme, link this scheme's name to it. False if it is not."""
    if not (golden_dir / "weights").is_dir():
        return False
    by_scheme = base_hashes(base, digest(read_folder(base)))
    if by_scheme[scheme] != accepted:
        return False
    target = folder_of(golden_dir, accepted)
    for other, named in by_scheme.items():
        if other != scheme and (stored := find(golden_dir, named, other)) is not None:
            with contextlib.suppress(OSError):  # another process was quicker, or the name is taken by a damaged copy
                target.symlink_to(stored.name)
            return find(golden_dir, accepted, scheme) is not None
    return False


def keep_adapter(adapter: Path, golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path:
    """Copy an adapter's config and weights to ``golden_dir/adapters/<hex>``; returns that folder. Done once per hash.

    accepted: the hash that the golden record names; scheme: of that hash. Raises Unreplayable when the files cannot be
    read or have another hash: they changed since they were recorded. A copy, never a link: a release may write into the
    file.
    """
    target = adapter_folder(golden_dir, accepted)
    if find_adapter(golden_dir, accepted, scheme) is not None:
        return target
    with _new_folder(target, lambda: find_adapter(golden_dir, accepted, scheme) is not None) as fresh:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            _copy(adapter / name, fresh / name)
        _check(adapter, fresh, lambda folder: adapter_hash(folder, scheme), accepted)
    return target


def find_adapter(golden_dir: Path, accepted: str, scheme: int = NEWEST) -> Path | None:
    """The stored adapter of that hash, None when it was not stored, is damaged or no longer has it."""
    folder = adapter_folder(golden_dir, accepted)
    try:
        return folder if holds(folder.is_dir) and adapter_hash(folder, scheme) == accepted else None
    except Unreplayable:
        return None


def accepted_adapter(golden_dir: Path, golden: Golden) -> Path | None:
    """The stored files of the adapter that a record was made from; None as in ``find_adapter``."""
    return find_adapter(golden_dir, golden.adapter_hash, golden.hash_scheme)


def adapter_folder(golden_dir: Path, accepted: str) -> Path:
    """Where an adapter of that hash is stored, if it is."""
    return golden_dir / "adapters" / short(accepted)


@contextmanager
def _new_folder(target: Path, is_intact: Callable[[], bool]) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` in one step once it is full, and is removed when filling it failed.

    is_intact: does ``target`` hold what belongs there?
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # written by one user, read by the user that the sidecar runs as
        _move(fresh, target, is_intact)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check(source: Path, fresh: Path, hash_of: Callable[[Path], str], accepted: str) -> None:
    """Raises Unreplayable unless the copy has the accepted hash: files may change while they are copied."""
    try:
        present = hash_of(fresh)
    except Unreplayable as error:  # its path is a folder that is about to be removed
        raise Unreplayable(str(source), f"cannot be stored: {error.why}") from error
    if present != accepted:
        raise Unreplayable(str(source), f"changed since it was recorded: {short(present)}, was {short(accepted)}")


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


def _move(fresh: Path, target: Path, is_intact: Callable[[], bool]) -> None:
    """The whole folder or nothing. What another process has put there meanwhile stays; what is damaged is replaced."""
    try:
        fresh.rename(target)
    except OSError:
        if not is_intact():
            if target.is_symlink():
                target.unlink()
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        _copy(source, target)
