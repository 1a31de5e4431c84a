"""Reads a YAML file as its writer meant it: one document, one mapping, each key once, plain text left as it is.

PyYAML follows YAML 1.1: it reads ``no`` as false, ``12:30`` as 750, ``010`` as 8, 2024-11-01 as a date, and silently
keeps the last of two equal keys. Here a plain scalar is typed by YAML 1.2's core schema: true, false, null, decimal
numbers; everything else is text, and whether that will do is for its setting to decide.

Source: YAML 1.2.2, section 10.3.2. Two departures: a number with leading zeros is text, since it may be a name; ``<<``
merges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from agent.errors import Refused

_BOOL, _NULL, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "null", "int", "float"))
_MERGE = "tag:yaml.org,2002:merge"
_SCALARS = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (_MERGE, "<<", ["<"]),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of the core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), _first)


def read(path: Path) -> dict[str, Any]:
    """The file's top mapping. Raises Refused, with the line, for anything that is not one mapping of unique keys."""
    try:
        return _mapping(path, path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise Refused(str(path), "no such file", "a YAML configuration (gapwatch sample-config prints one)") from None
    except UnicodeDecodeError as error:
        raise Refused(str(path), f"no UTF-8 at byte {error.start}", "a YAML file in UTF-8") from None
    except OSError as error:
        raise Refused(str(path), error.strerror or type(error).__name__, "a readable YAML file") from None
    except yaml.YAMLError as error:
        raise Refused(_place(path, error), _problem(error), "valid YAML") from None
    except RecursionError:
        raise Refused(str(path), "blocks nested too deeply to be read", "valid YAML") from None


def value(text: str) -> Any:
    """One value, by the same rules as in a file. Raises YAMLError."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _mapping(path: Path, text: str) -> dict[str, Any]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if twice := [f"{place} on line {first} and again on line {later}" for place, first, later in _twice(node, "")]:
            wanted = "each key once: of two blocks, YAML would drop the first silently"
            raise Refused(str(path), ", ".join(twice), wanted)
        data = loader.construct_document(node) if node is not None else None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        actual = "an empty file" if data is None else f"a {_kind(data)}"
        raise Refused(str(path), actual, "a mapping of sections (models, kafka, probes, ...)")
    return data


def _twice(node: yaml.Node | None, place: str, above: frozenset[int] = frozenset()) -> Iterator[tuple[str, int, int]]:
    """(place, first line, second line) of each key that one mapping has twice, at every depth.

    Raises YAMLError for a block that contains itself.
    """
    if node is None:
        return
    if id(node) in above:
        problem = "a block that contains itself through an alias"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    inside = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _twice(item, _joined(place, str(number)), inside)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if name in lines:
            yield _joined(place, shown_key(key.value)), lines[name], line
        lines.setdefault(name, line)
        yield from _twice(value, _joined(place, shown_key(key.value)), inside)


def _joined(place: str, part: str) -> str:
    return f"{place}.{part}" if place else part


def shown_key(part: object) -> str:
    """A key as it was written, if it looks like one, else "?": a secret may have been written in its place."""
    return str(part) if re.fullmatch(r"[\w./<-]{1,64}", str(part)) else "?"


def _kind(data: object) -> str:
    return "list" if isinstance(data, list) else "text" if isinstance(data, str) else type(data).__name__


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)


def _problem(error: yaml.YAMLError) -> str:
    """YAML's message without what it quotes from the file: an unquoted password that begins with * or ! is read as an
    alias or a tag."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__)
    if r"'\t'" in problem:
        return "a tab in the indentation, where YAML allows only spaces"
    if "found another document" in problem:
        return "a second document (---)"
    return re.sub(r"'[^']{2,}'", "'...'", problem.splitlines()[0])
