"""Which kind of serving engine listens at an address, and the dialect that asks it.

Each kind is recognised by one cheap GET that no other kind answers in the same way, asked in an order in which an
engine that imitates another's list of models is recognised as itself. What can be asked of it is then its dialect's
``capabilities()``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from probes.errors import Refused, Unreplayable
from probes.serving.client import OK, Client
from probes.serving.engine import Address, Engine

AUTO = "auto"


def connect(address: Address, engine: str = AUTO, client: Client | None = None) -> Engine:
    """The dialect for what listens at this address. engine: its kind, or ``auto`` to recognise it.

    client: asks it, and is closed by whoever gives it; None for one of its own

    Raises Refused for an address or a kind that is none, EngineAway where nothing answers, and Unreplayable where what
    answers is no engine that can be asked.
    """
    if engine not in (AUTO, *KINDS):
        raise Refused("engine", repr(engine), f"one of {', '.join((AUTO, *KINDS))}")
    client = client or Client(address)
    try:
        kind = kind_of(client) if engine == AUTO else engine
    except BaseException:
        client.close()
        raise
    made: Engine = import_module(f"probes.serving.dialects.{kind}").Engine(address, client)
    return made


def kind_of(client: Client) -> str:
    """Name of the first kind that recognises what answers. Raises as ``connect``."""
    for kind, (path, is_it) in KINDS.items():
        reply = client.ask("GET", path)
        if reply.status != OK:
            client.raise_unless_missing(reply)
        elif _is(is_it, client.json_or_none(reply)):
            return kind
    where = client.address.url
    raise Unreplayable(where, f"no serving engine that is known: {', '.join(KINDS)}; wanted one, or its kind by name")


def _is(is_it: Callable[[Any], bool], answer: Any) -> bool:
    try:
        return is_it(answer)
    except (KeyError, IndexError, TypeError, AttributeError):
        return False


# Sources: sglang.srt.entrypoints.http_server (/model_info), the README of llama.cpp's server (/props), the OpenAPI
# document of TGI (/info), vllm.entrypoints.openai.models.protocol (who owns a model).
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "sglang": ("/model_info", lambda answer: "is_generation" in answer and "model_path" in answer),
    "llama_cpp": ("/props", lambda answer: "default_generation_settings" in answer),
    "tgi": ("/info", lambda answer: "model_id" in answer),
    "vllm": ("/v1/models", lambda answer: answer["data"][0]["owned_by"] == "vllm"),
    "openai": ("/v1/models", lambda answer: isinstance(answer["data"], list)),
}
