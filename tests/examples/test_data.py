"""Are the helpdesk's exercises reproducible, apart, and judged by checks that can say no?"""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from examples.helpdesk.data import ADAPTERS, HERE, SIZES, TUNES, check, examples, write_canaries
from probes.canaries.answer_check import passes

WRONG = {
    "ticket-router": [
        ("billing", "sales"),
        ('"high"', '"highest"'),
        ("}", ', "note": "x"}'),
        ("}", ""),
    ],
    "polite-rewriter": [
        ("Dear ", "Hey "),
        (" Kind regards, the helpdesk.", ""),
        ("kettle", "toaster"),
        ("happy", "able"),
    ],
    "order-extractor": [
        ("qty=", "quantity="),
        ("; ship", "; note=x; ship"),
        ("id=", "id=X"),
        ("; ", ", "),
    ],
}


@pytest.mark.parametrize("task", TUNES)
def test_no_message_is_in_two_splits(task: str) -> None:
    messages = [example.messages[-1]["content"] for split in SIZES for example in examples(task, split)]
    assert len(messages) == sum(SIZES.values())
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("task", TUNES)
def test_same_seed_same_exercises_and_another_seed_others(task: str) -> None:
    assert examples(task, "heldout") == examples(task, "heldout")
    assert examples(task, "heldout") != examples(task, "heldout", seed=1)


@pytest.mark.parametrize("task", TUNES)
def test_target_is_right_and_the_next_exercises_target_is_wrong(task: str) -> None:
    found = examples(task, "heldout")
    assert all(check(example, example.target) for example in found)
    others = pairwise(found)
    assert not any(check(one, other.target) for one, other in others if one.expect != other.expect)


@pytest.mark.parametrize(("task", "change"), [(task, change) for task, changes in WRONG.items() for change in changes])
def test_one_change_makes_a_right_answer_wrong(task: str, change: tuple[str, str]) -> None:
    touched = [example for example in examples(task, "train") if change[0] in example.target]
    assert touched
    assert not any(check(example, example.target.replace(*change)) for example in touched)


@pytest.mark.parametrize("task", ADAPTERS)
def test_the_canaries_own_check_says_what_the_task_says(task: str) -> None:
    found = examples(task, "heldout")
    checks = [{"check": ADAPTERS[task].watched(example.expect)} for example in found]
    texts = [example.target for example in found]
    # A field that was added is the one thing on which the router's two checks differ.
    texts += [example.target.replace(*change) for example in found for change in WRONG[task] if "note" not in change[1]]
    for example, own in zip(found, checks, strict=True):
        assert [passes(own, text) for text in texts] == [check(example, text) for text in texts]


@pytest.mark.parametrize("task", ADAPTERS)
@pytest.mark.parametrize("text", ["", "null", "[]", "Sure, I can help you with that!", "id=; item=; qty=; ship="])
def test_chatter_is_wrong(task: str, text: str) -> None:
    assert not any(check(example, text) for example in examples(task, "heldout"))


def test_committed_canaries_are_what_the_command_writes(tmp_path: Path) -> None:
    write_canaries(tmp_path)
    for task in ADAPTERS:
        assert (tmp_path / f"{task}.jsonl").read_text() == (HERE / "canaries" / f"{task}.jsonl").read_text()


@pytest.mark.parametrize("task", ADAPTERS)
def test_canaries_are_single_turn_and_enough_for_two_halves(task: str) -> None:
    rows = [json.loads(line) for line in (HERE / "canaries" / f"{task}.jsonl").read_text().splitlines()]
    assert len(rows) >= 64
    assert len({row["id"] for row in rows}) == len(rows)
    assert all([message["role"] for message in row["messages"]] == ["system", "user"] for row in rows)
    assert all(len(row["messages"][0]["content"].split()) <= 15 for row in rows)


@pytest.mark.parametrize("task", ADAPTERS)
def test_recorded_traffic_is_the_traffic_split_and_shows_the_adapter_at_work(task: str) -> None:
    rows = [json.loads(line) for line in (HERE / "traffic" / f"{task}.jsonl").read_text().splitlines()]
    exercises = examples(task, "traffic")
    assert [row["messages"] for row in rows] == [example.messages for example in exercises]
    right = sum(check(example, row["output"]) for example, row in zip(exercises, rows, strict=True))
    by_base = sum(check(example, row["output_base"]) for example, row in zip(exercises, rows, strict=True))
    assert right >= 0.8 * len(rows)
    assert by_base <= 0.2 * len(rows)
