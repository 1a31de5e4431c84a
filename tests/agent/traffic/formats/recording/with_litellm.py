"""What LiteLLM hands to its callbacks of each call, written by LiteLLM itself: the StandardLoggingPayload."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # prices would be fetched

import litellm
from litellm.caching.caching import Cache
from litellm.integrations.custom_logger import CustomLogger

from tests.agent.traffic.formats.recording.engine import serving
from tests.agent.traffic.formats.recording.keep import keep

ASKED = [{"role": "user", "content": "Where is my parcel?"}]
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"include_usage": True}
IDS = {"return_token_ids": True}
HIDDEN = {"top_k": 5, "guided_choice": ["shipping", "refund"]}


class Listener(CustomLogger):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        self.heard.append(kwargs["standard_logging_object"])

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:  # noqa: ARG002
        self.heard.append(kwargs["standard_logging_object"])


Call = Callable[..., Awaitable[Any]]


async def record(listener: Listener, name: str, call: Call) -> dict[str, Any]:
    """Everything that is heard of one call; of a call with a fallback that is more than one record."""
    await heard(listener, call)
    several = len(listener.heard) > 1
    return {f"{name}_{number}" if several else name: payload for number, payload in enumerate(listener.heard)}


async def heard(listener: Listener, call: Call) -> None:
    listener.heard, wanted = [], "success"
    try:
        await answered(call)
    except (litellm.exceptions.BadRequestError, litellm.exceptions.MidStreamFallbackError):
        wanted = "failure"  # the engine that refuses, or breaks off
    while not any(one["status"] == wanted for one in listener.heard):  # callbacks run after the answer
        await asyncio.sleep(0.05)


async def answered(call: Call) -> None:
    answer = await call()
    if hasattr(answer, "__aiter__"):
        async for _ in answer:
            pass


def direct(engine: str) -> dict[str, Call]:
    """Calls of LiteLLM's own functions, by the name of the record."""
    here = {"api_base": f"{engine}/plain/v1", "api_key": "none"}
    chat = partial(partial, litellm.acompletion, model="openai/ticket-router", messages=ASKED, temperature=0.7, **here)
    text = partial(
        partial,
        litellm.atext_completion,
        model="text-completion-openai/ticket-router",
        prompt="Where?",
        temperature=0.7,
        **here,
    )
    return {
        "chat": chat(top_p=0.9, max_tokens=20, seed=3),
        "chat_ids": chat(logprobs=True, extra_body=IDS),
        "chat_hosted_vllm": chat(model="hosted_vllm/ticket-router", extra_body=HIDDEN),
        "chat_slash": chat(model="openai/openai/gpt-oss"),
        "chat_stream": chat(stream=True),
        "chat_stream_usage": chat(stream=True, stream_options=USAGE, logprobs=True),
        "chat_stream_ids": chat(stream=True, stream_options=USAGE, extra_body=IDS),
        "chat_stream_no_role": chat(stream=True, stream_options=USAGE, api_base=f"{engine}/no_role/v1"),
        "chat_stream_breaks": chat(stream=True, stream_options=USAGE, api_base=f"{engine}/breaks/v1"),
        "chat_tools": chat(tools=[TOOL]),
        "chat_two": chat(n=2),
        "chat_json": chat(response_format={"type": "json_object"}),
        "chat_stop": chat(stop=["\n"]),
        "chat_thinks": chat(model="hosted_vllm/ticket-router", api_base=f"{engine}/thinks/v1"),
        "chat_thinks_stream": chat(
            model="hosted_vllm/ticket-router", api_base=f"{engine}/thinks/v1", stream=True, stream_options=USAGE
        ),
        "chat_session": chat(litellm_session_id="session-1", user="user-1"),
        "chat_user": chat(user="user-1"),
        "chat_refuses": chat(api_base=f"{engine}/refuses/v1", max_retries=0),
        "text": text(logprobs=1),
        "text_ids": text(extra_body=IDS),
        "text_stream": text(stream=True, stream_options=USAGE),
        "text_of_ids": text(prompt=[1, 5, 6, 2]),
        "text_of_list_of_ids": text(prompt=[[1, 5, 6, 2]]),
        "text_of_two": text(prompt=["Where?", "When?"]),
        "embedding": partial(litellm.aembedding, model="openai/ticket-router", input=["Where?"], **here),
    }


def routed(engine: str) -> dict[str, Call]:
    """Calls through LiteLLM's router, which is what its gateway calls."""
    here: dict[str, Any] = {"api_base": f"{engine}/plain/v1"}
    sick: dict[str, Any] = {"api_base": f"{engine}/refuses/v1", "max_retries": 0}
    named: dict[str, dict[str, Any]] = {
        "tickets": {"model": "hosted_vllm/ticket-router", "top_k": 4, **here},
        "oss": {"model": "openai/openai/gpt-oss", **here},
        "bare": {"model": "ticket-router", "custom_llm_provider": "openai", **here},
        "texts": {"model": "openai/ticket-router", **here},
        "sick": {"model": "openai/sick-router", **sick},
    }
    models = [
        {"model_name": name, "litellm_params": {"api_key": "none", **more}, "model_info": {"id": f"deployment-{name}"}}
        for name, more in named.items()
    ]
    router = litellm.Router(
        model_list=models, fallbacks=[{"sick": ["tickets"]}], model_group_alias={"desk": "tickets"}, num_retries=0
    )
    return {
        "router": partial(router.acompletion, model="tickets", messages=ASKED, temperature=0.7),
        "router_slash": partial(router.acompletion, model="oss", messages=ASKED),
        "router_bare": partial(router.acompletion, model="bare", messages=ASKED),
        "router_alias": partial(router.acompletion, model="desk", messages=ASKED, temperature=0.7),
        "router_fallback": partial(router.acompletion, model="sick", messages=ASKED, temperature=0.7),
        "router_stream": partial(
            router.acompletion, model="tickets", messages=ASKED, stream=True, stream_options=USAGE
        ),
        "router_text": partial(router.atext_completion, model="texts", prompt="Where?"),
    }


async def main() -> None:
    listener = Listener()
    records: dict[str, Any] = {}
    litellm.callbacks = [listener]
    with serving() as engine:
        calls = direct(engine)
        for name, call in (calls | routed(engine)).items():
            records |= await record(listener, name, call)
        litellm.request_correlation_in_logs = True
        records |= await record(listener, "chat_session_of_its_own", calls["chat_session"])
        litellm.turn_off_message_logging = True
        for name in ("chat", "chat_stream_usage", "text"):
            records |= await record(listener, f"redacted_{name}", calls[name])
        litellm.turn_off_message_logging = False
        litellm.cache = Cache(type="local")
        for name in ("chat", "chat_stream"):
            await heard(listener, calls[name])
            records |= await record(listener, f"cached_{name}", calls[name])
    keep("litellm", "litellm", records)


if __name__ == "__main__":
    asyncio.run(main())
