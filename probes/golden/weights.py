"""Weights as accepted, kept beside the golden records under their own hash: the base's where asked, adapters' always.

An adapter is small, and its copy is what a later enrolment recognises the earlier version by.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.artefacts.base_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_hash, base_hash
from probes.errors import Unreplayable
from probes.golden.record import short

TEMPLATES = "additional_chat_templates/*.jinja"  # the one folder that a tokenizer reads beside its own


def keep(base: Path, golden_dir: Path, accepted: str) -> Path:
    """Hard-link, or copy, a base folder to ``golden_dir/weights/<hex>``; returns that folder. Done once per hash.

    base: folder with safetensors, config and tokenizer; accepted: the hash that the golden record names
    Raises Unreplayable when it cannot be read or copied, or has another hash once it lies there: it changed since it
    was recorded.
    A link costs nothing while the file it was made of stays, and survives a release that replaces the file; on another
    file system it is a copy, as large as the base. A release that writes *into* the file would change both, and the
    hash in the name then gives it away.
    """
    target = folder_of(golden_dir, accepted)
    if find(golden_dir, accepted) is not None:
        return target
    with _laid_out(target, lambda: find(golden_dir, accepted) is not None) as fresh:
        for file in _files(base):
            place = fresh / file.relative_to(base)
            place.parent.mkdir(exist_ok=True)
            _link(file.resolve(), place)
        _check(base, fresh, base_hash, accepted)
    return target


def find(golden_dir: Path, accepted: str) -> Path | None:
    """The kept weights of that hash, None when they were not kept, are torn or no longer have it."""
    folder = folder_of(golden_dir, accepted)
    try:
        return folder if folder.is_dir() and base_hash(folder) == accepted else None
    except Unreplayable:
        return None


def folder_of(golden_dir: Path, accepted: str) -> Path:
    """Where a base of that hash would lie."""
    return golden_dir / "weights" / short(accepted)


def keep_adapter(adapter: Path, golden_dir: Path, accepted: str) -> Path:
    """Copy an adapter's config and weights to ``golden_dir/adapters/<hex>``; returns that folder. Done once per hash.

    accepted: the hash that the golden record names. Raises Unreplayable when the files cannot be read or have another
    one: they changed since they were recorded. A copy, never a link: a release may write into the file.
    """
    target = adapter_folder(golden_dir, accepted)
    if find_adapter(golden_dir, accepted) is not None:
        return target
    with _laid_out(target, lambda: find_adapter(golden_dir, accepted) is not None) as fresh:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            _copy(adapter / name, fresh / name)
        _check(adapter, fresh, adapter_hash, accepted)
    return target


def find_adapter(golden_dir: Path, accepted: str) -> Path | None:
    """The kept adapter of that hash, None when it was not kept, is torn or no longer has it."""
    folder = adapter_folder(golden_dir, accepted)
    try:
        return folder if folder.is_dir() and adapter_hash(folder) == accepted else None
    except Unreplayable:
        return None


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
            shutil.rmtree(target, ignore_errors=True)
            fresh.rename(target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system
        _copy(source, target)
