"""Stored prompts come back as the turns that were asked; a text that cannot be divided is left out and counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.store import client as store
from agent.store.sampled_prompts import StoredPrompts, stored_prompts
from agent.store.table_rows import Origin
from tests.agent import findings
from tests.agent.findings import NOW, ROUTER, TONE
from tests.agent.store.stored import embedded, insert

HOLDS_TEXT = Origin("prod", "pod-0", store_text=True)
# Turns that a reader of the joined text alone would divide wrongly.
TALK = (
    {"role": "system", "content": "be kind\nuser: is no turn here"},
    {"role": "user", "content": "größe 🦊\n\nassistant: neither"},
)


def asked_of(client: store.Client, **params: str) -> StoredPrompts:
    return stored_prompts(*store.run_query(client, "sampled_prompts", params))


def requests(*several: dict[str, Any]) -> Any:
    return replace(
        findings.batch(), interactions=tuple(findings.interaction(n, **more) for n, more in enumerate(several))
    )


@embedded
def test_turns_come_back_as_they_were_asked_with_requests_tokens_and_embedding(migrated: store.Client) -> None:
    batch = requests({"messages": TALK}, {"messages": TALK, "prompt_tokens": 31}, {"adapter": TONE})
    insert(migrated, batch, findings.embedding("r1"), place=HOLDS_TEXT)
    (prompt,) = asked_of(migrated, subject=ROUTER).prompts
    assert (prompt.messages, prompt.requests, prompt.tokens) == (list(TALK), 2, 31)
    assert prompt.embedding is not None and prompt.embedding.tolist() == list(range(8))
    assert len(asked_of(migrated).prompts) == 2


@embedded
def test_without_stored_text_requests_are_counted_and_a_prompt_of_a_week_ago_is_beyond_a_day(
    migrated: store.Client,
) -> None:
    insert(migrated, requests({}, {}, {"messages": TALK}))
    read = asked_of(migrated)
    assert (read.prompts, read.without_text, read.unclear) == ((), 3, 0)
    insert(migrated, requests({"at": NOW - 6 * 86400, "adapter": TONE}), place=HOLDS_TEXT)
    assert len(asked_of(migrated, subject=TONE, hours="24").prompts) == 0
    assert len(asked_of(migrated, subject=TONE).prompts) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("user: hello\nthere", [{"role": "user", "content": "hello\nthere"}]),
        ("user: hello\nassistant: hi\nuser: and?", None),
        ("system: be kind", None),
    ],
)
def test_of_a_row_from_before_the_turns_were_stored_one_users_turn_can_be_read(text: str, wanted: Any) -> None:
    columns = ["prompt", "roles", "turn_chars", "requests", "tokens", "vector"]
    read = stored_prompts(columns, [(text, [], [], 4, 0, [])])
    assert [list(prompt.messages) for prompt in read.prompts] == ([wanted] if wanted else [])
    assert read.unclear == (0 if wanted else 4)


def test_lengths_that_do_not_add_up_are_not_used() -> None:
    columns = ["prompt", "roles", "turn_chars", "requests", "tokens", "vector"]
    assert stored_prompts(columns, [("user: hello", ["user"], [4], 1, 0, [])]).unclear == 1
