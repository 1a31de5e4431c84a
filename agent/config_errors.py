"""Error messages about a configuration: the place, what stands there, what was wanted; never a secret.

A secret may have been written anywhere: under a key that does not exist, in an address, in place of the file that
should hold it. So a value is shown only where it cannot be one; whoever shows more here may print a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.errors import Refused, Unfit
from agent.yaml_document import shown_key
from probes.artefacts.access import holds

# Keys under which people write a secret itself; below, for each section, the key that names the secret's file.
_SECRET = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|(api|routing|integration|service|private|access)_?key$", re.I
)
SECRET_FILES = {
    "kafka": "sasl_password_file",
    "clickhouse": "password_file",
    "alerts.pagerduty": "routing_key_file",
    "models.served": "token_file",
    "sinks.alertmanager": "token_file",
    "sinks.slack": "webhook_file",
}
# ${NAME}, $(NAME), $NAME and {{ name }}: of shells, Kubernetes and Helm; nothing expands them any more at this point.
_PLACEHOLDER = re.compile(r"\$\{\w+[^}]*\}|\$\(\w+\)|\$[A-Z_][A-Z0-9_]+\b|\{\{.*?\}\}")
_PATTERNS = "sampling.redact"  # regular expressions, in which $ has another meaning
_KINDS = {dict: "a block", list: "a list", tuple: "a list", str: "a text", type(None): "nothing"}
# Types of pydantic's errors where only some texts are allowed: nobody writes a secret there.
_WORDS = ("literal_error", "value_error", "bool_parsing", "int_parsing", "float_parsing", "string_pattern_mismatch")


def refused(path: Path, error: Any) -> Refused:
    """The first of pydantic's errors in a file, on one line."""
    place = ".".join(map(shown_key, error["loc"])) or "file"
    unfit = error.get("ctx", {}).get("error")
    if isinstance(unfit, Unfit):
        return Refused(f"{path}: {place}", unfit.actual, unfit.wanted)
    actual = {"extra_forbidden": "this key", "missing": "nothing"}.get(error["type"]) or _shown(place, error)
    return Refused(f"{path}: {place}", actual, _wanted(error))


def check_expanded(path: Path, data: object) -> None:
    """Raises Refused for the first text that holds a placeholder: nothing expands it here, so it would be used as it
    stands, as the name of a file or of a topic."""
    for place, value in _leaves(data):
        if isinstance(value, str) and not place.startswith(_PATTERNS) and _PLACEHOLDER.search(value):
            wanted = "the value itself: nothing is expanded here (envsubst or the chart can, before the start)"
            raise Refused(f"{path}: {place}", "a placeholder such as ${NAME}", wanted)


def check_truths(path: Path, data: Mapping[str, Any], config: BaseModel) -> None:
    """Raises Refused where true or false was read as a number: ``rate: true`` does not mean a rate of 1."""
    for place, value in _leaves(data):
        if isinstance(value, bool) and not place.startswith("detectors.") and type(_at(config, place)) is not bool:
            raise Refused(f"{path}: {place}", str(value).lower(), "a number")


def _leaves(data: object, place: str = "") -> Iterator[tuple[str, object]]:
    """Each scalar of a parsed file with its place."""
    pairs = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else None
    if pairs is None:
        yield place, data
    for key, value in pairs or ():
        yield from _leaves(value, f"{place}.{shown_key(key)}" if place else shown_key(key))


def _at(config: object, place: str) -> object:
    """The validated value at this place."""
    value = config
    for part in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        else:
            value = value[int(part)] if isinstance(value, tuple) else getattr(value, part, None)
    return value


def missing(place: str, file: Path) -> Refused:
    """The error for a file that is named there and does not exist."""
    return Refused(place, _absent(file) if _is_secret(place) else file, "a file that exists")


def _absent(file: Path) -> str:
    """Without its name: the secret itself may have been written where its file should be named."""
    return f"no file of that name under {next(folder for folder in file.parents if holds(folder.is_dir))}"


def _is_secret(place: str) -> bool:
    return any(word in place for word in ("pagerduty", "password", "key", "sasl", "dsn", "url"))


def _shown(place: str, error: Any) -> str:
    """A scalar of the wrong kind as it was written; of anything else only its type, because it may hold a secret: a
    value in place of a section, an address with a login, whatever is written where secrets belong."""
    value = error.get("input")
    harmless = isinstance(value, int | float | None) or (
        isinstance(value, str) and not re.search(r"[:@]|^\S{24,}$", value)
    )
    wrong_word = isinstance(value, str) and error["type"] not in _WORDS
    kind = _KINDS.get(type(value), type(value).__name__)
    return kind if _is_secret(place) or wrong_word or not harmless else repr(value)[:80]


def _noun(message: str) -> str:
    """What is wanted, of a sentence of pydantic's: "Input should be greater than 0" -> "a value greater than 0"."""
    wanted = message.removeprefix("Input should be ")
    is_noun = wanted == message or wanted.startswith(("a ", "an ", "'", "one "))
    return wanted if is_noun else f"a value {wanted}"


def _wanted(error: Any) -> str:
    if error["type"] == "missing":
        return "a value: this key has no default"
    if error["type"] != "extra_forbidden":
        return _noun(str(error["msg"]).removeprefix("Value error, "))
    *section, key = map(str, error["loc"])
    if not _SECRET.search(key):
        return "no key of that name here (gapwatch sample-config prints them all)"
    belongs = SECRET_FILES.get(".".join(part for part in section if not part.isdigit()))
    if belongs:
        return f"{belongs}, the path of a file that holds the secret and nothing else"
    files = ", ".join(f"{place}.{file}" for place, file in SECRET_FILES.items())
    return f"no secret here: secrets are read from files, which {files} name"
