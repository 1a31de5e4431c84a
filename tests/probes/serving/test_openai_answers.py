"""Answers of OpenAI-compatible engines: whole and in events, and what is no answer."""

from __future__ import annotations

from typing import Any

import pytest

from probes.serving.listing import Position
from probes.serving.openai_answers import events, written


def chunk(tokens: list[int], finish: str | None = None, **more: Any) -> dict[str, Any]:
    names = [f"token_id:{token}" for token in tokens]
    lists = {
        "tokens": names,
        "token_logprobs": [-0.5] * len(tokens),
        "top_logprobs": [{name: -0.5, "token_id:9": -1.5} for name in names],
    }
    choice = {"text": "ab", "logprobs": lists, "token_ids": tokens, "finish_reason": finish}
    return {"choices": [choice | more], "system_fingerprint": "print"}


def test_the_events_of_a_stream_are_one_answer() -> None:
    usage = {"choices": [], "usage": {}, "system_fingerprint": "print"}
    made = written([chunk([3, 4], prompt_token_ids=[1, 2]), chunk([5], "stop"), usage])
    assert [position.token for position in made.positions] == [3, 4, 5]
    assert made.positions[2] == Position(5, -0.5, {5: -0.5, 9: -1.5})
    assert (made.prompt, made.text, made.ended, made.fingerprint) == ((1, 2), "abab", True, "print")


def test_a_chat_begins_with_an_event_without_tokens() -> None:
    first = {"choices": [{"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]}
    entry = {"token": "token_id:7", "logprob": -0.25, "top_logprobs": [{"token": "token_id:7", "logprob": -0.25}]}
    last = {"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [entry]}, "finish_reason": "length"}]}
    made = written([first | {"prompt_token_ids": [1]}, last])
    assert made.positions == (Position(7, -0.25, {7: -0.25}),)
    assert (made.prompt, made.text, made.ended, made.fingerprint) == ((1,), "x", False, "")


def test_events_are_read_whole_or_not_at_all() -> None:
    assert events(b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n') == [{"a": 1}, {"b": 2}]
    for body in (b"", b'data: {"a": 1}\n\n', b"data: half", b"<html>", b"data: {\n\ndata: [DONE]\n\n"):
        with pytest.raises(ValueError):
            events(body)


@pytest.mark.parametrize(
    "choice",
    [
        {"text": "a", "logprobs": None, "token_ids": [3]},
        {**chunk([3])["choices"][0], "token_ids": [4]},
        {"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}]}},
        {"text": "a", "logprobs": {"tokens": ["token_id:3"], "token_logprobs": [None], "top_logprobs": [{}]}},
    ],
)
def test_tokens_without_ids_or_numbers_of_their_own_are_no_answer(choice: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        written([{"choices": [choice]}])
