"""What became of an adapter, as lines of its passport: each command that decides something about it writes its own."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from agent.lifecycle import passport_file
from agent.lifecycle.imported import from_adapter
from agent.lifecycle.passport import Passport
from probes.golden.record import Golden, short


def record(golden_dir: Path, adapter: str, on: date, *events: str) -> None:
    """Each event once a day, in this order; nothing where it has no passport. Raises Refused for a damaged one."""
    passport = passport_file.read(golden_dir, adapter)
    if passport is None:
        return
    for event in events:
        passport = passport.with_event(on, event)
    passport_file.write(golden_dir, passport)


def record_enrolment(golden_dir: Path, golden: Golden, files: Path | None, on: date) -> None:
    """That this record is in force from now on. The passport is about these files and this base afterwards: of what it
    says of another base, name and revision are those that the adapter's own files name. files: the adapter's folder,
    None where it has none here"""
    passport = passport_file.read(golden_dir, golden.adapter)
    if passport is None:
        return
    why = f": {golden.why}" if golden.why else ""
    event = f"enrolled as {short(golden.hash)} on base {short(golden.base_hash) or golden.made_on}{why}"
    passport = _about(passport, golden, files).with_event(on, event)
    passport_file.write(golden_dir, passport)


def _about(passport: Passport, golden: Golden, files: Path | None) -> Passport:
    base = passport.base
    if golden.base_hash and golden.base_hash != base.hash:
        named = from_adapter(golden.adapter, files).base if files else None
        changed: dict[str, object] = {"hash": golden.base_hash}
        if base.hash and named:  # the end of life was that of another base
            changed |= {"name": named.name, "revision": named.revision, "end_of_life": None}
        base = base.model_copy(update=changed)
    return passport.model_copy(update={"files": golden.adapter_hash or passport.files, "base": base})
