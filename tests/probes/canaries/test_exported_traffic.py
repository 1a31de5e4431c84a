from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.exported_traffic import read_exported, together
from probes.errors import Refused


def written(folder: Path, *rows: object) -> Path:
    path = folder / "traffic.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_prompts_and_messages_are_read_once_each_and_only_of_this_adapter(tmp_path: Path) -> None:
    record = {"schema": "gapwatch.v1", "adapter": "router", "messages": [user("two")], "output": "x", "ts": 1}
    foreign, again = {"adapter": "other", "prompt": "three"}, {"messages": [user("one")]}
    path = written(tmp_path, {"prompt": "one"}, record, record, "", foreign, again)
    found = read_exported(path, "router")
    assert [canary.messages for canary in found.canaries] == [(user("one"),), (user("two"),)]
    assert all(canary.id.startswith("traffic-") for canary in found.canaries)
    assert read_exported(path, "router").content_hash == found.content_hash
    both = together(CanarySet((Canary("own", (user("zero"),)),)), found)
    assert both.canaries[0].id == "own" and len(both.canaries) == 3


def test_the_answer_at_the_end_is_cut_off(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Route."}, user("one"), {"role": "assistant", "content": "billing"}]
    (canary,) = read_exported(written(tmp_path, {"messages": turns}), "router").canaries
    assert canary.messages == tuple(turns[:2])


def test_half_a_character_is_read_as_engines_read_it(tmp_path: Path) -> None:
    lines = ('{"prompt": "a \\ud83d"}', '{"messages": [{"role": "user", "content": "b \\ude00"}]}')
    path = written(tmp_path, *lines, '{"prompt": "\\ud83d\\ude00"}')
    found = read_exported(path, "router")
    assert [canary.messages[0]["content"] for canary in found.canaries] == ["a \ufffd", "b \ufffd", "\U0001f600"]
    assert found.content_hash.startswith("sha256:")


@pytest.mark.parametrize(
    "row", ["no json", "[1]", {"text": "x"}, {"messages": []}, {"messages": [{"role": "cat", "content": "x"}]}]
)
def test_a_line_without_a_prompt_is_refused_by_its_number(tmp_path: Path, row: object) -> None:
    with pytest.raises(Refused, match="line 2"):
        read_exported(written(tmp_path, {"prompt": "one"}, row), "router")


@pytest.mark.parametrize(
    "row",
    [
        "my card is 4111",
        {"messages": "my card is 4111"},
        {"messages": [user("ok"), {"role": "my card is 4111", "content": "x"}]},
        {"messages": [{"role": "user", "content": ["my card is 4111"]}]},
        ["my card is 4111"],
    ],
)
def test_a_refusal_names_the_line_and_never_its_content(tmp_path: Path, row: object) -> None:
    with pytest.raises(Refused, match="line 2") as refused:
        read_exported(written(tmp_path, {"prompt": "one"}, row), "router")
    assert "4111" not in str(refused.value) and refused.value.__cause__ is None


def test_what_is_cleaned_leaves_no_hash_of_what_it_was(tmp_path: Path) -> None:
    """A short secret is found again from its hash by trying."""
    cleaned = read_exported(written(tmp_path, {"prompt": "4111"}), "router", lambda turn: {**turn, "content": "card"})
    assert cleaned.content_hash == read_exported(written(tmp_path, {"prompt": "card"}), "router").content_hash


def test_a_file_without_prompts_of_this_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="router"):
        read_exported(written(tmp_path, {"adapter": "other", "prompt": "x"}), "router")
    with pytest.raises(Refused, match=r"away\.jsonl"):
        read_exported(tmp_path / "away.jsonl", "router")
