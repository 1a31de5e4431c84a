"""Golden records on disk: one content-addressed file each, never changed and never deleted.

The name is the hash of the content, so that damage is detected on reading. Other processes read the folder while it is
written: a file appears whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from shlex import quote

from detectors.records import Reason
from probes.errors import DamagedGolden, MissingGolden, Refused
from probes.golden.codec import content_hash, from_bytes, text_of, to_bytes
from probes.golden.record import Golden, Unmonitorable


def save(golden: Golden, folder: Path) -> str:
    """Write ``<folder>/<hex>.golden`` whole or not at all; returns the hash. An intact file of that name stays."""
    return save_bytes(to_bytes(golden), folder)


def save_bytes(data: bytes, folder: Path) -> str:
    """``save`` for a record that is bytes already; they are written unchanged."""
    name = content_hash(data)
    path = _path(folder, name)
    folder.mkdir(parents=True, exist_ok=True)
    if path.is_file() and content_hash(path.read_bytes()) == name:
        return name
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    # Enrolled by one user, read by the user that the sidecar runs as.
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    return name


def read_bytes(folder: Path, name: str) -> bytes:
    """The bytes of the record of that hash, unchecked. Raises OSError."""
    return _path(folder, name).read_bytes()


def load(folder: Path, name: str) -> Golden:
    """The record of that hash. Raises MissingGolden without one, DamagedGolden when its content has another hash."""
    try:
        data = read_bytes(folder, name)
    except OSError as error:
        present = f"no readable file in {folder} ({error.strerror})"
        raise MissingGolden(f"golden record {name}", present, "the file that enrolment wrote") from error
    if content_hash(data) != name:
        wanted = "content of that hash: restore the file, or enrol again"
        raise DamagedGolden(f"golden record {name} in {folder}", f"content with hash {content_hash(data)}", wanted)
    return from_bytes(data)


def load_pinned(folder: Path, adapter: str, pin: str = "") -> Golden:
    """The record that an adapter is compared with: the pinned one, else the newest in the folder.

    Raises MissingGolden when there is none, Refused when it is another adapter's, DamagedGolden as ``load`` does.
    """
    name = pin or newest(folder, adapter)
    if not name:
        raise MissingGolden(
            f"golden record of {adapter}", f"none in {folder}", f"one: run `gapwatch enrol {quote(adapter)}`"
        )
    golden = load(folder, name)
    if golden.adapter != adapter:
        raise Refused(f"golden record {name}", f"one of adapter {golden.adapter}", f"one of {adapter}")
    return golden


def look_up(folder: Path, adapter: str, pin: str = "") -> Golden | Unmonitorable:
    """``load_pinned`` with its error as a value, so that one bad record does not block the other adapters' round."""
    try:
        return load_pinned(folder, adapter, pin)
    except Refused as error:
        return Unmonitorable(
            Reason.NO_GOLDEN if isinstance(error, MissingGolden) else Reason.GOLDEN_REFUSED, str(error)
        )


def newest(folder: Path, adapter: str) -> str | None:
    """Hash of the adapter's latest record by its own time of creation, None without one.

    Reads the JSON part only; the hash is checked when the record is loaded. A file whose JSON cannot be read raises
    DamagedGolden: it may be the newest record, and falling back silently to an older one would move the reference. It
    cannot be known whose record it is, so this affects every adapter that has no record in memory
    (agent/worker/goldens.py).
    """
    heads = [(_head(path), f"sha256:{path.stem}") for path in _records(folder)]
    own = [(created_at, name) for (owner, created_at), name in heads if owner == adapter]
    return max(own)[1] if own else None


def accepted_times(folder: Path) -> dict[str, float]:
    """Adapter -> when its latest record was made, of all in the folder in one pass. Raises as ``newest`` does."""
    times: dict[str, float] = {}
    for owner, created_at in map(_head, _records(folder)):
        times[owner] = max(created_at, times.get(owner, created_at))
    return times


def _records(folder: Path) -> list[Path]:
    """Every record in the folder. Raises DamagedGolden where it cannot be listed: which is newest is then unknown."""
    try:
        return sorted(file for file in folder.iterdir() if file.suffix == ".golden")
    except FileNotFoundError:
        return []
    except OSError as error:
        wanted = f"a folder that user {os.getuid()} may read"
        raise DamagedGolden(f"golden records in {folder}", error.strerror, wanted) from None


def adapter_before(folder: Path, record: str, is_present: Callable[[Golden], bool]) -> Golden | None:
    """The record of the adapter files that were accepted before the present ones, None where there were none.

    record: hash of the record to begin with, "" for none. It and those that it replaced are searched, because the same
    files are enrolled again when their base has changed; is_present: was this record made from the present files?
    Raises MissingGolden or DamagedGolden where a record cannot be read.
    """
    while record:
        golden = load(folder, record)
        if not is_present(golden):
            return golden
        record = golden.previous
    return None


def time_after(folder: Path, previous: str, now: float) -> float:
    """Creation time of a record that replaces ``previous``: now, or a second after it where the clock is behind.

    The newest record is in force, so an earlier time would leave the old one in force. Raises DamagedGolden.
    """
    return max(now, _head(_path(folder, previous))[1] + 1.0) if previous else now


def _head(path: Path) -> tuple[str, float]:
    """Adapter and time of creation of one file. Raises DamagedGolden when they cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.read(8)
            text = text_of(size + file.read(min(int.from_bytes(size, "little"), path.stat().st_size)))
        return str(text["adapter"]), float(text["created_at"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        wanted = "a golden record: restore or remove the file, or pin a hash in the config"
        raise DamagedGolden(f"golden record {path}", f"a header that cannot be read ({error})", wanted) from error


def _path(folder: Path, name: str) -> Path:
    digits = name.removeprefix("sha256:")
    if len(digits) != 64 or set(digits) - set("0123456789abcdef"):
        raise Refused("hash of a golden record", name, '"sha256:" and 64 hexadecimal digits')
    return folder / f"{digits}.golden"
