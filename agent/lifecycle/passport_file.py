"""Passports as files beside the golden records: ``GOLDEN_DIR/passports/ADAPTER/passport.yaml``, one folder each.

The folder holds what is exported and signed too. A file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import quote, unquote

import yaml
from pydantic import ValidationError

from agent import config_errors, yaml_document
from agent.errors import Refused
from agent.lifecycle.passport import Passport

FOLDER = "passports"
FILE = "passport.yaml"
# Of file names, most file systems take 255 bytes; a temporary name beside it is longer.
LONGEST = 200


def folder_of(golden_dir: Path, adapter: str) -> Path:
    """Where what is known of this adapter lies, if anything is."""
    name = quote(adapter, safe="")
    if len(name) > LONGEST:
        name = hashlib.sha256(adapter.encode()).hexdigest()
    return golden_dir / FOLDER / name


def read(golden_dir: Path, adapter: str) -> Passport | None:
    """The passport of this adapter, None where there is none. Raises Refused, with the place of what is wrong."""
    path = folder_of(golden_dir, adapter) / FILE
    if not path.is_file():
        return None
    passport = read_file(path)
    if passport.adapter != adapter:
        raise Refused(f"{path}: adapter", passport.adapter, f"{adapter}, whose folder this is")
    return passport


def read_file(path: Path) -> Passport:
    """Raises Refused, with the place of what is wrong."""
    try:
        return Passport.model_validate(yaml_document.read(path))
    except ValidationError as error:
        raise config_errors.refused(path, error.errors()[0]) from None


def write(golden_dir: Path, passport: Passport) -> Path:
    """The file of this passport, whole or not at all; empty fields are written too, to be filled in."""
    path = folder_of(golden_dir, passport.adapter) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(passport.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    write_whole(path, text)
    return path


def write_whole(path: Path, text: str, private: bool = False) -> None:
    """Readers see the former file or this one. private: text of production, for its owner alone"""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False, encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    # Written by one user, read by the user that the agent runs as.
    Path(file.name).chmod(0o600 if private else 0o644)
    Path(file.name).replace(path)


def with_passport(golden_dir: Path) -> list[str]:
    """Names of the adapters that have one, sorted, watched or not."""
    folders = (golden_dir / FOLDER).glob(f"*/{FILE}")
    return sorted(_adapter_of(path) for path in folders)


def _adapter_of(path: Path) -> str:
    """By the name of its folder, so that a damaged file has one too; one that was too long is in the file alone."""
    folder = path.parent.name
    return read_file(path).adapter if re.fullmatch(r"[0-9a-f]{64}", folder) else unquote(folder)
