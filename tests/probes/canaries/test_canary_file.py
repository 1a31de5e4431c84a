from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes.canaries.canary_file import read_canaries
from probes.errors import Refused


def row(name: object = "a", **changed: object) -> str:
    turns = [{"role": "system", "content": "Route."}, {"role": "user", "content": "My box is wet.\u2028Help"}]
    return json.dumps({"id": name, "messages": turns, "expect": {"queue": "returns"}} | changed, ensure_ascii=False)


def written(folder: Path, *lines: str) -> Path:
    path = folder / "canaries.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_canaries_come_in_file_order_and_hash_by_content(tmp_path: Path) -> None:
    first = read_canaries(written(tmp_path, row("a"), "", row("b")))
    assert [canary.id for canary in first.canaries] == ["a", "b"]
    assert first.canaries[0].expect == {"queue": "returns"}
    spaced = row("a").replace(": ", ":  ")
    assert read_canaries(written(tmp_path, spaced, row("b"))).content_hash == first.content_hash
    assert read_canaries(written(tmp_path, row("b"), row("a"))).content_hash != first.content_hash
    assert read_canaries(written(tmp_path, row("a"), row("c"))).content_hash != first.content_hash


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "no JSON"),
        ("[]", "list"),
        (row(name=""), "id ''"),
        (row(name=7), "id 7"),
        (row(messages=[]), "messages []"),
        (row(messages="hello"), "messages 'hello'"),
        (row(messages=[{"role": "tool", "content": "x"}]), "turn"),
        (row(messages=[{"role": "user", "content": 3}]), "content 3"),
        (
            row(messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]),
            "last turn of assistant",
        ),
        (row(expect=[]), "expect []"),
        (row(extra=1), "extra"),
        (row("first"), "id 'first', which line 1 has already"),
        ('{"id": "a", "id": "b", "messages": []}', "key id twice, wanted each key once"),
        (row().replace('"queue": "returns"', '"q": 1, "q": 2'), "key q twice"),
        (row(messages=[{"role": "user", "content": "\ud83d"}]).replace("\ud83d", "\\ud83d"), "half a character"),
        (row().replace('"returns"', '"\\udc00"'), "half a character"),
        (row().replace('"returns"', "NaN"), "no JSON (NaN is not valid JSON)"),
        ("[" * 100_000, "no JSON (maximum recursion depth"),
        (row(messages=[{"role": "user", "content": " \n"}]), "a user's turn without text"),
        (row(messages=[{"role": "system", "content": "x"}]), "last turn of system"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, bad: str, says: str) -> None:
    with pytest.raises(Refused) as refused:
        read_canaries(written(tmp_path, row("first"), bad))
    assert "line 2" in str(refused.value)
    assert says in str(refused.value)


def test_a_file_without_canaries_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no canaries"):
        read_canaries(written(tmp_path, ""))
    with pytest.raises(Refused, match="No such file"):
        read_canaries(tmp_path / "away.jsonl")


def test_every_bad_line_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        read_canaries(written(tmp_path, row("a"), "{", row("b"), row(""), row("a")))
    said = str(refused.value)
    assert "3 faults" in said and "\n" not in said
    for words in ("line 2: no JSON", "line 4: id ''", "line 5: id 'a', which line 1 has already"):
        assert words in said


def test_windows_ends_of_lines_and_a_mark_at_the_start_change_nothing(tmp_path: Path) -> None:
    plain = read_canaries(written(tmp_path, row("a"), row("b")))
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{row('a')}\r\n{row('b')}\r\n".encode())
    found = read_canaries(path)
    assert found == plain and found.content_hash == plain.content_hash
    assert found.canaries[1].where == f"{path}, line 2"


def test_a_file_in_another_encoding_is_refused_by_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_bytes(row("a").encode("utf-16"))
    with pytest.raises(Refused, match="no UTF-8 at byte 0"):
        read_canaries(path)
