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
        (row("first"), "id 'first' of line 1 again"),
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
