"""What is said of a configuration that is wrong: where, what was seen, what was wanted; never a secret.

Somebody may have written one anywhere: under a key that does not exist, in an address, in place of the file that should
hold it. What is shown of a value is what cannot be one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from agent.errors import Refused

# Errors of a text where only some texts are allowed, which is no place for a secret.
_WORDS = ("literal_error", "value_error", "bool_parsing", "int_parsing", "float_parsing", "string_pattern_mismatch")


def refused(path: Path, error: Any) -> Refused:
    """The first error of a file that pydantic found, on one line."""
    place = ".".join(map(_key, error["loc"])) or "file"
    seen = "this key" if error["type"] == "extra_forbidden" else _shown(place, error)
    return Refused(f"{path}: {place}", seen, _wanted(error))


def unreadable(path: Path, error: yaml.YAMLError) -> Refused:
    return Refused(_yaml_place(path, error), _yaml_problem(error), "valid YAML")


def missing(place: str, file: Path) -> Refused:
    """A file that is named there and does not exist."""
    return Refused(place, _absent(file) if _is_secret(place) else file, "a file that exists")


def _absent(file: Path) -> str:
    """Where a file with a secret is named, somebody may have written the secret itself."""
    return f"no file of that name under {next(folder for folder in file.parents if folder.is_dir())}"


def _is_secret(place: str) -> bool:
    return any(word in place for word in ("pagerduty", "password", "key", "sasl", "dsn", "url"))


def _key(part: object) -> str:
    """A key as it was written, where it looks like one."""
    return str(part) if re.fullmatch(r"[\w./-]{1,64}", str(part)) else "?"


def _shown(place: str, error: Any) -> str:
    """A single value of the wrong kind as it was written; of anything else its type, because it may hold a secret: what
    stands in the place of a section, an address with a login, whatever is written where secrets belong."""
    value = error.get("input")
    plain = isinstance(value, int | float | None) or (
        isinstance(value, str) and not re.search(r"[:@]|^\S{24,}$", value)
    )
    wrong_word = isinstance(value, str) and error["type"] not in _WORDS
    return type(value).__name__ if _is_secret(place) or wrong_word or not plain else repr(value)[:80]


def _wanted(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no key of that name here (see deploy/gapwatch.yaml)"
    return str(error["msg"]).removeprefix("Value error, ")


def _yaml_place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Without what it quotes, which is the file's own text: an alias or a tag may be a password that begins so."""
    return re.sub(r"'[^']{2,}'", "'...'", str(getattr(error, "problem", None) or type(error).__name__).splitlines()[0])
