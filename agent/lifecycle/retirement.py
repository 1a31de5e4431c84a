"""An adapter that is taken off the watch: what is kept of it, and what is lost where that is deleted too.

``GOLDEN_DIR/passports/ADAPTER/retired.yaml`` says when and why. While it lies there the adapter is not watched,
whatever the configuration says; its golden records, the copies of its files and its canaries stay, because a successor
is made and judged by them. Only ``forget`` deletes them, with a reason, and leaves a line of what there was.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from agent import config_errors, yaml_document
from agent.lifecycle.passport_file import FOLDER, folder_of, write_whole
from probes.golden.archive import load
from probes.golden.record import Golden
from probes.golden.weights import adapter_folder

FILE = "retired.yaml"
CANARIES = "canaries.jsonl"
PROMPTS = "prompts.jsonl"
PAIRS = "pairs.jsonl"

MEANINGS = {CANARIES: "its canaries", PROMPTS: "sampled prompts", PAIRS: "sampled prompts with their answers"}


class Retirement(BaseModel):
    """at: since when; why: the reason given; base: name of the base it was on; golden: hash of the record in force

    forgotten: why what was kept was deleted too, "" while it is kept; lost: what that was, in words
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    adapter: str
    at: date
    why: str
    base: str = ""
    golden: str = ""
    forgotten: str = ""
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in the folder of golden records of one adapter. records: files; shared: copies that others need too"""

    records: tuple[Path, ...]
    copies: tuple[Path, ...]
    shared: tuple[Path, ...]
    more: tuple[Path, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return (
            f"{len(self.records)} golden records: what it answered when it was accepted is not known any more",
            f"{len(self.copies)} copies of its files: no successor can be made from its own answers",
            *(f"{path.name}: {_meaning(path)}" for path in self.more),
        )


def read(golden_dir: Path, adapter: str) -> Retirement | None:
    """None for one that is watched. Raises Refused for a file that cannot be read."""
    path = folder_of(golden_dir, adapter) / FILE
    return _read_file(path) if path.is_file() else None


def retired(golden_dir: Path) -> dict[str, Retirement]:
    """All of them, by name. Raises Refused for a file that cannot be read."""
    files = sorted((golden_dir / FOLDER).glob(f"*/{FILE}"))
    return {own.adapter: own for own in map(_read_file, files)}


def _read_file(path: Path) -> Retirement:
    try:
        return Retirement.model_validate(yaml_document.read(path))
    except ValidationError as error:
        raise config_errors.refused(path, error.errors()[0]) from None


def write(golden_dir: Path, retirement: Retirement, canaries: Path | None) -> Path:
    """Its file, with a copy of the canary file beside it: the configuration may be cleared of both."""
    folder = folder_of(golden_dir, retirement.adapter)
    folder.mkdir(parents=True, exist_ok=True)
    if canaries is not None and canaries.is_file() and canaries.resolve() != (folder / CANARIES).resolve():
        shutil.copyfile(canaries, folder / CANARIES)
    write_whole(folder / FILE, yaml.safe_dump(retirement.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return folder / FILE


def undo(golden_dir: Path, adapter: str) -> None:
    """On the watch again. What was copied stays."""
    (folder_of(golden_dir, adapter) / FILE).unlink(missing_ok=True)


def canary_file(golden_dir: Path, adapter: str) -> Path | None:
    """The copy that retirement made, None without one."""
    path = folder_of(golden_dir, adapter) / CANARIES
    return path if path.is_file() else None


def stored(golden_dir: Path, adapter: str) -> Stored:
    """What ``forget`` would delete. Raises DamagedGolden: of a record that cannot be read nobody knows whose it is."""
    every = {path: load(golden_dir, f"sha256:{path.stem}") for path in sorted(golden_dir.glob("*.golden"))}
    own = {path: golden for path, golden in every.items() if golden.adapter == adapter}
    needed = {_copy(golden_dir, golden) for path, golden in every.items() if path not in own}
    copies = {_copy(golden_dir, golden) for golden in own.values()}
    present = {path for path in copies if path.exists()}
    folder = folder_of(golden_dir, adapter)
    more = tuple(path for name in (CANARIES, PROMPTS, PAIRS) if (path := folder / name).is_file())
    return Stored(tuple(own), tuple(sorted(present - needed)), tuple(sorted(present & needed)), more)


def forget(golden_dir: Path, adapter: str) -> Stored:
    """Delete all of it but the passport and the line of its retirement; what others need stays."""
    gone = stored(golden_dir, adapter)
    for path in (*gone.records, *gone.more):
        path.unlink(missing_ok=True)
    for path in gone.copies:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def _copy(golden_dir: Path, golden: Golden) -> Path:
    return adapter_folder(golden_dir, golden.adapter_hash)


def _meaning(path: Path) -> str:
    return MEANINGS[path.name]
