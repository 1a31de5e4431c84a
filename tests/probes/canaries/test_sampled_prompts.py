"""Prompts of sampled requests become distinct canaries; what cannot be one is counted with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from probes.canaries.sampled_prompts import NO_QUESTION, TOO_LONG, AskedPrompt, distinct


def of_user(text: str, **more: object) -> AskedPrompt:
    return AskedPrompt([{"role": "user", "content": text}], **more)  # type: ignore[arg-type]


def test_one_prompt_a_thousand_times_is_one_canary_with_all_its_requests() -> None:
    (prompt,) = distinct([of_user("where is it?")] * 1000, 900).prompts
    assert (prompt.requests, prompt.canary.messages) == (1000, ({"role": "user", "content": "where is it?"},))


def test_what_redaction_makes_alike_is_one_prompt_and_nothing_of_the_original_is_left() -> None:
    asked_prompts = [of_user(f"mail {name}@example.org", tokens=n) for n, name in ((8, "ann"), (9, "bob"))]
    (prompt,) = distinct(asked_prompts, 900, lambda turn: {**turn, "content": "mail [redacted]"}).prompts
    assert (prompt.requests, prompt.tokens) == (2, 9)
    assert prompt.canary.messages[0]["content"] == "mail [redacted]"


def test_an_answer_behind_the_prompt_is_cut_off_and_a_history_stays() -> None:
    talk = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    (prompt,) = distinct([AskedPrompt(talk)], 900).prompts
    assert [turn["role"] for turn in prompt.canary.messages] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "be kind"}],
        [{"role": "user", "content": "  \n"}],
        [{"role": "tool", "content": "42"}, {"role": "user", "content": "and?"}],
    ],
)
def test_what_is_no_question_of_a_user_is_counted(messages: list[dict[str, str]]) -> None:
    prompts = distinct([AskedPrompt(messages, requests=3), of_user("fine")], 900)
    assert (len(prompts.prompts), prompts.left_out, prompts.requests) == (1, {NO_QUESTION: 3}, 4)


def test_a_prompt_is_too_long_by_the_engines_count_or_by_three_bytes_a_token() -> None:
    asked_prompts = [
        of_user("short to see", tokens=1_500),
        of_user("x" * 3_003),
        of_user("y" * 3_000),
        of_user("z" * 9_000, tokens=1_000),
    ]
    prompts = distinct(asked_prompts, 1_000)
    assert prompts.left_out == {TOO_LONG: 2}
    assert sorted(prompt.length for prompt in prompts.prompts) == [1_000, 1_000]


def test_half_a_character_is_replaced_as_engines_do() -> None:
    (prompt,) = distinct([of_user("cut \ud83d")], 900).prompts
    assert prompt.canary.messages[0]["content"] == "cut \ufffd"


def test_an_embedding_is_kept_whichever_request_has_it() -> None:
    vector = np.ones(3, np.float32)
    (prompt,) = distinct([of_user("a"), of_user("a", embedding=vector)], 900).prompts
    assert prompt.embedding is vector
