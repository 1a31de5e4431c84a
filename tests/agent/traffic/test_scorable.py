"""Which responses can be scored: a table of request parameters, and of answers that are not only text."""

from __future__ import annotations

from typing import Any

import pytest

from agent.traffic import scorable

IDS = (1, 2)
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.7}

USUAL: list[dict[str, Any]] = [
    {},
    {"stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"}, "store": False},
    {"max_tokens": 16, "max_completion_tokens": 16, "seed": 7, "logprobs": True, "top_logprobs": 5},
    {
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 1,
        "frequency_penalty": 0,
    },
    {"n": 1, "best_of": 1, "use_beam_search": False, "logit_bias": {}, "bad_words": [], "min_tokens": 0, "stop": None},
    {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "guided_json": None},
    {"typical_p": 1.0, "tfs_z": 1.0, "mirostat": 0, "mirostat_tau": 5.0, "dry_multiplier": 0.0, "dry_base": 1.75},
    {"xtc_probability": 0.0, "xtc_threshold": 0.1, "repeat_penalty": 1.0, "add_generation_prompt": True},
    {"extra_body": {"return_token_ids": True}},
    {"function_call": "none", "modalities": ["text"], "separate_reasoning": True, "lora_path": "a", "adapter_id": "a"},
    {"safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto", "parallel_tool_calls": True},
]

UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"logit_bias": {"5": -100}}, "the request biases tokens (logit_bias)"),
    ({"allowed_token_ids": [1]}, "biases tokens (allowed_token_ids)"),
    ({"bad_words": ["no"]}, "biases tokens (bad_words)"),
    ({"min_tokens": 5}, "biases tokens (min_tokens)"),
    ({"logits_processors": ["x"]}, "biases tokens (logits_processors)"),
    ({"response_format": {"type": "json_object"}}, "constrains the output (response_format)"),
    ({"guided_regex": "a+"}, "constrains the output (guided_regex)"),
    ({"structured_outputs": {"choice": ["a"]}}, "constrains the output (structured_outputs)"),
    ({"tool_choice": "required"}, "constrains the output (tool_choice)"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "the output (tool_choice)"),
    ({"tools": [{"type": "function"}]}, "offers tools (tools)"),
    ({"functions": [{"name": "f"}]}, "offers tools (functions)"),
    ({"function_call": {"name": "f"}}, "constrains the output (function_call)"),
    ({"echo": True}, "the answer repeats its prompt (echo)"),
    ({"extra_body": "top_k=5"}, "its parameters cannot be read (extra_body)"),
    ({"extra_body": [1]}, "its parameters cannot be read (extra_body)"),
    ({"n": 2}, "one of several (n)"),
    ({"best_of": 4}, "one of several (best_of)"),
    ({"use_beam_search": True}, "one of several (use_beam_search)"),
    ({"typical_p": 0.9}, "sets typical_p"),
    ({"mirostat": 2}, "sets mirostat"),
    ({"dry_multiplier": 0.8, "dry_base": 1.75}, "sets dry_multiplier"),
    ({"epsilon_cutoff": 3e-4}, "sets epsilon_cutoff"),
    ({"a sampler of tomorrow, me@example.com": 1}, "sets an unknown parameter"),
    ({"jane.doe-4711": 1}, "sets an unknown parameter"),
    ({"temperature": 1.0, "extra_body": {"temperature": 0.2}}, "sets sampling parameters in extra_body"),
    ({"temperature": 1.0, "extra_body": {"top_k": 5}}, "sets sampling parameters in extra_body"),
    ({"include_reasoning": False}, "hides a part of the answer"),
    ({"do_sample": False}, "sets do_sample"),
    ({"top_p": "0.9"}, "the request's top_p is not a number"),
    ({"extra_body": {"guided_json": {"type": "object"}}}, "constrains the output (guided_json)"),
]


@pytest.mark.parametrize("more", USUAL)
def test_usual_requests_have_a_known_distribution(more: dict[str, Any]) -> None:
    assert scorable.of_request(CHAT | more, (), ()) == ""


@pytest.mark.parametrize(("more", "words"), UNKNOWN)
def test_what_changes_the_distribution_is_reported_in_words(more: dict[str, Any], words: str) -> None:
    """Whether ids are recorded or not: they do not tell what was taken from the choice."""
    for ids in ((), IDS):
        assert words in scorable.of_request(CHAT | more, ids, ids)


@pytest.mark.parametrize(
    "more",
    [
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"continue_final_message": True},
        {"add_generation_prompt": False},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "t"}]}]},
        {"messages": None, "prompt": "Where is"},
    ],
)
def test_a_prompt_that_no_template_reproduces_needs_its_ids(more: dict[str, Any]) -> None:
    assert scorable.of_request(CHAT | more, (), IDS).startswith("the prompt")
    assert scorable.of_request(CHAT | more, IDS, IDS) == ""


@pytest.mark.parametrize("name", ["stop", "stop_token_ids"])
def test_an_answer_that_may_be_truncated_needs_its_ids(name: str) -> None:
    """Where the cut came is known from what came after it: a bet that stops before it looks ahead."""
    assert f"may be truncated ({name})" in scorable.of_request(CHAT | {name: ["\n"]}, IDS, ())
    assert scorable.of_request(CHAT | {name: ["\n"]}, (), IDS) == ""


@pytest.mark.parametrize(
    ("answer", "finish_reason", "words"),
    [
        ({"content": "a", "tool_calls": []}, "stop", ""),
        ({"content": "a", "reasoning": None, "refusal": None}, "length", ""),
        ({"content": [{"type": "text", "text": "a"}]}, "", ""),
        ({"content": None, "tool_calls": [{"id": "t"}]}, "tool_calls", "calls tools"),
        ({"content": "a", "function_call": {"name": "f"}}, "stop", "calls tools (function_call)"),
        ({"content": "a"}, "tool_calls", "calls tools (tool_calls)"),
        ({"content": "a", "reasoning_content": "b"}, "stop", "reasoning besides its text (reasoning_content)"),
        ({"content": "a", "reasoning": "b"}, "stop", "reasoning besides its text (reasoning)"),
        ({"content": None, "refusal": "no"}, "stop", "not only text (refusal)"),
        ({"content": "a"}, "content_filter", "a filter has changed"),
        ({"parts": [{"type": "tool_call", "id": "t"}]}, "stop", "parts that are not text"),
    ],
)
def test_an_answer_that_is_not_only_text_is_reported(answer: dict[str, Any], finish_reason: str, words: str) -> None:
    found = scorable.of_answer(answer, finish_reason)
    assert (found == "") if not words else words in found
