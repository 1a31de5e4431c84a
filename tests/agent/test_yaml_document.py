"""YAML files: duplicate keys are refused, and plain text stays as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.errors import Refused
from agent.yaml_document import read


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "place", "lines"),
    [
        ("models: 1\nalerts: 2\n# later\nmodels: 3\n", "models", (1, 4)),
        ("probes:\n  every: 5m\n  device: cpu\n  every: 60s\n", "probes.every", (2, 4)),
        (
            "models:\n  - name: m\n    adapters:\n      - {name: a, path: x, name: b}\n",
            "models.0.adapters.0.name",
            (4, 4),
        ),
        ("a: 1\n'a': 2\n", "a", (1, 2)),
        ("x: &x {p: 1}\ny:\n  <<: *x\n  <<: *x\n", "y.<<", (3, 4)),
        ("1: a\n1: b\n", "1", (1, 2)),
    ],
)
def test_a_duplicate_key_is_refused_with_both_lines(
    tmp_path: Path, text: str, place: str, lines: tuple[int, int]
) -> None:
    with pytest.raises(Refused) as refused:
        read(written(tmp_path, text))
    assert refused.value.place.endswith("some.yaml")
    assert refused.value.actual == f"{place} on line {lines[0]} and again on line {lines[1]}"


def test_every_duplicate_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read(written(tmp_path, "a: 1\nb: {x: 1}\na: 2\nb: {y: 1, y: 2}\n"))
    places = ("a on line 1 and again on line 3", "b on line 2 and again on line 4", "b.y on line 4 and again on line 4")
    assert refused.value.actual == ", ".join(places)


def test_keys_of_a_merged_block_may_be_overridden(tmp_path: Path) -> None:
    found = read(written(tmp_path, "x: &x {p: 1, q: 2}\ny:\n  <<: *x\n  q: 3\n"))
    assert found["y"] == {"p": 1, "q": 3}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("2025-11-01", "2025-11-01"),
        ("=", "="),
        ("1e3", 1000.0),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'5'", "5"),
    ],
)
def test_plain_scalars_are_what_they_look_like(tmp_path: Path, word: str, value: Any) -> None:
    found = read(written(tmp_path, f"key: {word}\n"))["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "seen", "wanted"),
    [
        ("", "an empty file", "a mapping of sections"),
        ("# nothing yet\n", "an empty file", "a mapping of sections"),
        ("- 1", "a list", "a mapping of sections"),
        ("models", "a text", "a mapping of sections"),
        ("a: [1", "expected", "valid YAML"),
        ("a:\n\tb: 1\n", "a tab in the indentation", "valid YAML"),
        ("a: 1\n---\nb: 2\n", "a second document (---)", "valid YAML"),
        (b"\xff\xfea\x00", "no UTF-8 at byte 0", "a YAML file in UTF-8"),
        ("a: !!python/object:os.system x", "could not determine a constructor", "valid YAML"),
        ("a: 1\x07", "special characters are not allowed", "valid YAML"),
        ("models: &m [*m]\n", "a block that contains itself", "valid YAML"),
        ("[" * 5000, "nested too deeply", "valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str | bytes, seen: str, wanted: str) -> None:
    with pytest.raises(Refused) as refused:
        read(written(tmp_path, text))
    assert seen in str(refused.value.actual)
    assert wanted in refused.value.wanted
    assert "\n" not in str(refused.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert read(written(tmp_path, b"\xef\xbb\xbfmodels: 1\r\n")) == {"models": 1}
