"""Shapes of LiteLLM's records beyond those in recorded/litellm.json."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Message
from agent.traffic.decoder import Decoder
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.records import PLACE, example, only


def read(**more: Any) -> Interaction:
    body = orjson.loads(example("litellm")[0].value or b"") | more
    interaction = only(Decoder(), Message(7, 50.0, None, orjson.dumps(body), {}), PLACE)
    assert isinstance(interaction, Interaction)
    return interaction


def response(**more: Any) -> dict[str, Any]:
    """With token ids of both sides, and what else is said of the first choice."""
    choice = {"message": {"content": "shipping"}, "finish_reason": "stop", "token_ids": [7, 8], **more}
    return {"id": "chatcmpl-1", "choices": [choice], "prompt_token_ids": [1, 2]}


@pytest.mark.parametrize(
    ("provider", "model", "deployment", "adapter"),
    [
        ("hosted_vllm", "hosted_vllm/ticket-router", "d1", "ticket-router"),
        ("openai", "openai/openai/gpt-oss", "d1", "openai/gpt-oss"),
        ("text-completion-openai", "openai/ticket-router", "d1", "ticket-router"),
        ("text-completion-openai", "text-completion-openai/ticket-router", "d1", "ticket-router"),
        ("openai", "acme/ticket-router", "d1", "acme/ticket-router"),
        ("openai", "openai/gpt-oss", "", "openai/gpt-oss"),
        (None, "ticket-router", None, "ticket-router"),
    ],
)
def test_the_adapter_is_the_engines_name_without_the_routers_provider(
    provider: Any, model: str, deployment: Any, adapter: str
) -> None:
    told = read(
        custom_llm_provider=provider, model=model, model_id=deployment, model_group="the name that was asked for"
    )
    assert told.adapter == adapter


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"guardrail_information": [{"guardrail_name": "pii", "guardrail_status": "success"}]}, "a guardrail"),
        ({"metadata": {"applied_guardrails": ["pii"]}}, "a guardrail"),
        ({"metadata": {"vector_store_request_metadata": [{"query": "x"}]}}, "its messages (vector_store_"),
        (
            {"metadata": {"prompt_management_metadata": {"prompt_id": "p"}}},
            "its messages (prompt_management_",
        ),
        ({"messages": [{"role": "user", "content": "data:text/csv;base64,[base64_data truncated: 9 KB]"}]}, "a file"),
    ],
)
def test_what_may_have_changed_on_its_way_is_not_scored_without_token_ids(more: dict[str, Any], words: str) -> None:
    assert words in read(**more).unscored
    assert read(**more, response=response()).unscored == ""


def test_with_a_guardrail_only_ids_of_both_sides_make_a_response_scorable() -> None:
    assert "a guardrail" in read(guardrail_information=[{}], response=response(token_ids=None)).unscored


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"standard_built_in_tools_params": {"web_search_options": {"search_context_size": "low"}}}, "offers tools"),
        ({"model_parameters": {"temperature": 1, "web_search_options": {"a": 1}}}, "sets web_search_options"),
        ({"cache_hit": True}, "comes from the gateway's cache"),
    ],
)
def test_what_has_no_known_distribution_is_not_scored_whatever_its_ids(more: dict[str, Any], words: str) -> None:
    assert words in read(**more, response=response()).unscored


def test_a_message_that_is_a_text_is_one_turn_of_the_user() -> None:
    assert read(messages="Where is my parcel?").messages == ({"role": "user", "content": "Where is my parcel?"},)


@pytest.mark.parametrize(
    "more",
    [
        {"messages": "redacted-by-litellm"},
        {"messages": [{"role": "user", "content": "redacted-by-litellm"}]},
        {"response": {"text": "redacted-by-litellm"}},
        {"response": response(message={"content": "redacted-by-litellm"})},
        {"response": response(message=None, text="redacted-by-litellm")},
    ],
)
def test_a_redacted_text_is_no_text(more: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=r"missing_field: (messages|response), which LiteLLM has redacted"):
        read(**more)


@pytest.mark.parametrize("kind", ["aembedding", "arerank", "aimage_generation", "aresponses", "anthropic_messages"])
def test_calls_that_are_no_chat_are_rejected_by_their_kind(kind: str) -> None:
    with pytest.raises(Unreadable, match=f"unknown_schema: neither chat nor completion: call_type {kind}"):
        read(call_type=kind)


def test_requests_are_distinguished_by_the_call_where_an_engine_repeats_its_ids() -> None:
    assert read(litellm_call_id="call-2").request_id == "call-2"
    assert read(litellm_call_id=None, id="chatcmpl-1").request_id == "chatcmpl-1"


def test_a_group_is_a_session_that_somebody_named_or_the_user() -> None:
    made_up = "dad1bd56-2784-464d-89e3-a68c70788952"
    assert read(trace_id=made_up, session_id="").group == ""
    session = read(trace_id="s1", session_id="").group
    assert session == read(trace_id=made_up, session_id="s1").group == read(trace_id=made_up, end_user="s1").group != ""
