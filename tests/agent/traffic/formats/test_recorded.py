"""Records as the libraries themselves wrote them (``make record-formats``), read by the production decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Message
from agent.traffic.decoder import Decoder
from agent.traffic.json_fields import group_of
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.records import PLACE, only

RECORDED = {
    f"{file.stem}/{name}": record
    for file in sorted((Path(__file__).parent / "recorded").glob("*.json"))
    for name, record in orjson.loads(file.read_bytes())["records"].items()
}
SYSTEM, USER = "Answer with a queue.", "Where is my parcel?"
IDS = (1, 5, 6, 2), (7, 8, 2)
WARM = {"temperature": 0.7}


@dataclass(frozen=True)
class Told:
    """What a record says; these are the values of the plainest."""

    prompt: tuple[str, ...] = (USER,)
    output: str = "shipping"
    finish_reason: str = "stop"
    sampling: dict[str, float] = field(default_factory=lambda: WARM)
    tokens: tuple[int, int] = (4, 3)
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    unscored: str = ""
    adapter: str = "ticket-router"
    group: str = ""


TOOLS = "the request offers tools (tools): whether the answer is text then depends on what was generated"
ONE_TEXT = "the prompt is raw text (prompt), and no prompt token ids were recorded"
STOP = "the answer may be truncated (stop), and no output token ids were recorded"
JSON = "the request constrains the output (response_format)"
SEVERAL = "the answer is one of several"
REASONING = "the answer contains reasoning besides its text"
CACHED = "the answer comes from the gateway's cache (cache_hit): it was generated for another request"
BROKEN = "the answer was aborted (error)"
NATS = (-0.25, -0.5, -0.125)

LITELLM = {
    "chat": Told(sampling=WARM | {"top_p": 0.9, "max_tokens": 20.0, "seed": 3.0}),
    "chat_ids": Told(prompt_ids=IDS[0], output_ids=IDS[1], logprobs=NATS),
    # Its grammar and its top_k are nowhere in the record: see the format's docstring.
    "chat_hosted_vllm": Told(),
    "chat_slash": Told(adapter="openai/gpt-oss"),
    # Without usage from the engine, LiteLLM counted 12 and 1.
    "chat_stream": Told(tokens=(0, 0)),
    "chat_stream_usage": Told(),
    "chat_stream_ids": Told(output_ids=IDS[1]),
    "chat_stream_no_role": Told(),
    "chat_tools": Told(output="", finish_reason="tool_calls", unscored=TOOLS),
    "chat_two": Told(tokens=(4, 6), unscored=f"{SEVERAL} (n)"),
    "chat_json": Told(unscored=JSON),
    "chat_stop": Told(unscored=STOP),
    "chat_thinks": Told(unscored=f"{REASONING} (reasoning)"),
    "chat_thinks_stream": Told(unscored=f"{REASONING} (reasoning_tokens)"),
    "chat_session": Told(group="session-1"),
    "chat_session_of_its_own": Told(group="session-1"),
    "chat_user": Told(group="user-1"),
    "text": Told(prompt=("Where?",), logprobs=NATS, unscored=ONE_TEXT),
    "text_ids": Told(prompt=("Where?",), prompt_ids=IDS[0], output_ids=IDS[1]),
    "text_stream": Told(prompt=("Where?",), unscored=ONE_TEXT),
    "text_of_ids": Told(prompt=(), prompt_ids=IDS[0]),
    "text_of_list_of_ids": Told(prompt=(), prompt_ids=IDS[0]),
    "text_of_two": Told(prompt=("Where?",), tokens=(4, 6), unscored=f"{SEVERAL} (prompt)"),
    "router": Told(),
    "router_slash": Told(adapter="openai/gpt-oss", sampling={}),
    "router_bare": Told(sampling={}),
    "router_alias": Told(),
    "router_fallback_1": Told(),
    "router_stream": Told(sampling={}),
    "router_text": Told(prompt=("Where?",), sampling={}, unscored=ONE_TEXT),
    "cached_chat": Told(sampling={}, unscored=CACHED),
    "cached_chat_stream": Told(sampling={}, tokens=(0, 0), unscored=CACHED),
}


def chat(**more: Any) -> Told:
    return Told(prompt=(SYSTEM, USER), **more)


CHAT = chat()
PLAIN = chat(sampling=WARM | {"top_p": 0.9, "max_tokens": 20, "seed": 3, "presence_penalty": 0.5})
INPUT_VALUE = "the prompt is raw text (input.value), and no prompt token ids were recorded"
OPENINFERENCE = {
    "chat": PLAIN,
    # What is in extra_body, and what an answer has beside its text, is in no attribute.
    "chat_extra": CHAT,
    "chat_logprobs": CHAT,
    "chat_parts": Told(),
    "chat_stream": chat(tokens=(0, 0)),
    "chat_stream_usage": CHAT,
    "chat_stream_no_role": CHAT,
    "chat_stream_breaks": chat(output="ship", finish_reason="", tokens=(0, 0)),
    "chat_tools": chat(
        output="",
        finish_reason="tool_calls",
        unscored="tools are offered or called (llm.tools, message.tool_calls)",
    ),
    "chat_two": chat(tokens=(4, 6), unscored=f"{SEVERAL} (n)"),
    "chat_json": chat(unscored=JSON),
    "chat_stop": chat(unscored=STOP),
    "chat_bias": chat(unscored="the request biases tokens (logit_bias)"),
    "chat_user": CHAT,
    "chat_thinks": chat(unscored=f"{REASONING} (reasoning)"),
    "text": Told(prompt=("Where?",), unscored=INPUT_VALUE),
    # Nothing but input.value holds the ids, in the text of the whole request.
    "text_of_ids": Told(prompt=(), prompt_ids=IDS[0], unscored=INPUT_VALUE),
    "text_of_two": Told(prompt=("Where?",), tokens=(4, 6), unscored=INPUT_VALUE),
}
# Spans and events say the same.
OTEL_GENAI = {
    "chat": PLAIN,
    "chat_extra": CHAT,
    "chat_logprobs": CHAT,
    "chat_parts": Told(),
    "chat_stream": chat(tokens=(0, 0)),
    "chat_stream_usage": CHAT,
    "chat_stream_no_role": CHAT,
    "chat_stream_breaks": chat(output="ship", finish_reason="error", tokens=(0, 0), unscored=BROKEN),
    "chat_tools": chat(output="", finish_reason="tool_calls", unscored=TOOLS),
    "chat_two": chat(tokens=(4, 6), unscored=f"{SEVERAL} (n)"),
    "chat_json": chat(unscored=JSON),
    "chat_stop": chat(unscored=STOP),
    # The conventions have no word for a bias, for a user, or for reasoning that this library would write.
    "chat_bias": CHAT,
    "chat_user": CHAT,
    "chat_thinks": CHAT,
}
WANTED = (
    {f"litellm/{name}": told for name, told in LITELLM.items()}
    | {f"openinference/{name}": told for name, told in OPENINFERENCE.items()}
    | {f"otel_genai/{name}": told for name, told in OTEL_GENAI.items()}
    | {f"otel_genai/{name}_event": told for name, told in OTEL_GENAI.items()}
)
ERROR = "the engine's error answer"
NO_ANSWER = "unknown_schema: an envelope without a record of a model's answer"
SET_ASIDE = {
    "litellm/chat_refuses": ERROR,
    "litellm/chat_stream_breaks": ERROR,
    "litellm/router_fallback_0": ERROR,
    "litellm/embedding": "unknown_schema: neither chat nor completion: call_type aembedding",
    "litellm/redacted_chat": "missing_field: messages, which LiteLLM has redacted",
    "litellm/redacted_chat_stream_usage": "missing_field: messages, which LiteLLM has redacted",
    "litellm/redacted_text": "missing_field: messages, which LiteLLM has redacted",
    "openinference/chat_refuses": ERROR,
    "openinference/embedding": NO_ANSWER,
    "otel_genai/chat_refuses": NO_ANSWER,
    "otel_genai/chat_refuses_event": ERROR,
    "otel_genai/embedding": NO_ANSWER,
}


def read(name: str) -> Interaction:
    interaction = only(Decoder(), Message(7, 50.0, None, orjson.dumps(RECORDED[name]), {}), PLACE)
    assert isinstance(interaction, Interaction)
    return interaction


def test_every_recording_has_an_expectation() -> None:
    assert set(RECORDED) == {*WANTED, *SET_ASIDE}


@pytest.mark.parametrize("name", WANTED)
def test_what_a_library_wrote_is_read_as_expected(name: str) -> None:
    interaction, wanted = read(name), WANTED[name]
    found = Told(
        prompt=tuple(turn["content"] for turn in interaction.messages),
        output=interaction.output,
        finish_reason=interaction.finish_reason,
        sampling=dict(interaction.sampling),
        tokens=(interaction.prompt_tokens, interaction.output_tokens),
        prompt_ids=interaction.prompt_token_ids,
        output_ids=interaction.output_token_ids,
        logprobs=interaction.token_logprobs,
        unscored=interaction.unscored,
        adapter=interaction.adapter,
        group=interaction.group,
    )
    hashed = group_of({"name": wanted.group}, "name")
    assert found == Told(**{**vars(wanted), "group": hashed})
    assert interaction.at == 1_700_000_001.0
    assert interaction.request_id


@pytest.mark.parametrize("name", SET_ASIDE)
def test_what_is_no_traffic_is_rejected_with_its_reason(name: str) -> None:
    with pytest.raises(Unreadable) as why:
        read(name)
    assert SET_ASIDE[name] in str(why.value)


def test_the_pod_of_an_exporter_is_in_its_resource() -> None:
    assert read("otel_genai/chat").pod == read("openinference/chat").pod == "engine-0"
