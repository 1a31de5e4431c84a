"""What a format can do besides reading is found in its file: one that pairs works as soon as the file is there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryTopic
from agent.records import RejectionReason
from agent.traffic import decoder, formats
from tests.agent.traffic.feeding import counted, events, feed_over

# A proxy that logs what it forwards and what it gets back. Its response names the deployment and not the adapter, so
# the request is counted.
PAIRING_FORMAT = '''
"""proxy_halves: a proxy's log, request and response as records of their own."""

from agent.records import LoggedHalf
from agent.traffic import json_fields
from probes.scoring.interaction import Interaction

NAME = "proxy_halves"


def guess(message, body):
    return body.get("log") == "proxy"


def read(message, body, partition):
    return LoggedHalf(
        request_id=json_fields.required(body, "call"),
        is_request=body.get("direction") == "out",
        body=body,
        at=message.at,
        pod=json_fields.pod_of(message),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
    )


def join(half, other):
    request, response = (half, other) if half.is_request else (other, half)
    return Interaction(
        request_id=request.request_id,
        at=response.at,
        adapter=json_fields.required(request.body, "model"),
        base="",
        pod=response.pod,
        messages=json_fields.chat(request.body.get("chat")),
        output=json_fields.text(response.body, "answer"),
        finish_reason="stop",
        sampling={},
        prompt_tokens=0,
        output_tokens=0,
        topic=response.topic,
        partition=response.partition,
        offset=response.offset,
    )


def counted_name(half):
    name = half.body.get("model") if half.is_request else ""
    return name if isinstance(name, str) else ""
'''


@pytest.fixture
def pairing_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """NAME of a format that lies in a folder of its own, beside those that are shipped."""
    (tmp_path / "proxy_halves.py").write_text(PAIRING_FORMAT)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    decoder.formats_by_name.cache_clear()
    yield "proxy_halves"
    decoder.formats_by_name.cache_clear()
    del sys.modules[f"{formats.__name__}.proxy_halves"]


def halves(name: str, key: bytes | None = None, question: str = "Where?", answer: str = "shipping") -> list[Outgoing]:
    chat = [{"role": "user", "content": question}]
    bodies: list[dict[str, Any]] = [
        {"log": "proxy", "call": name, "direction": "out", "model": "ticket-router", "chat": chat},
        {"log": "proxy", "call": name, "direction": "back", "model": "deployment-7", "answer": answer},
    ]
    return [Outgoing(key, orjson.dumps(body)) for body in bodies]


@pytest.mark.parametrize(
    ("form", "key"),
    [("proxy_halves", None), ("proxy_halves", b"ticket-router"), ("auto", None), ("auto", b"user-17")],
)
@pytest.mark.parametrize("response_first", [False, True])
def test_a_pairing_format_is_one_new_file(
    pairing_format: str, form: str, key: bytes | None, response_first: bool
) -> None:
    topic = MemoryTopic()
    for n in range(3):
        pair = halves(f"call-{n}", key, f"question {n}", f"answer {n}")
        topic.publish(reversed(pair) if response_first else pair)
    (batch,) = feed_over(topic, form=form).poll(0.0)
    assert [(kept.adapter, kept.messages[0]["content"], kept.output) for kept in batch.interactions] == [
        ("ticket-router", f"question {n}", f"answer {n}") for n in range(3)
    ]
    assert (counted([batch]), batch.rejected) == ({"ticket-router": 3}, ())
    assert {kept.other_half is not None for kept in batch.interactions} == {True}


def test_halves_of_two_formats_that_share_an_id_are_joined_each_by_its_own_format(pairing_format: str) -> None:
    topic = MemoryTopic()
    (first, second), (event_request, event_response) = halves("id", answer="from the proxy"), events("id", keyed=False)
    topic.publish([first, event_request, second, event_response])
    (batch,) = feed_over(topic).poll(0.0)
    assert [kept.output for kept in batch.interactions] == ["from the proxy", "shipping"]
    assert (counted([batch]), batch.rejected) == ({"ticket-router": 2}, ())


def test_a_request_that_names_no_adapter_is_rejected_and_not_counted(pairing_format: str) -> None:
    topic = MemoryTopic()
    request, response = halves("call-1")
    nameless = {key: value for key, value in orjson.loads(request.value or b"").items() if key != "model"}
    topic.publish([replace(request, value=orjson.dumps(nameless)), response])
    (batch,) = feed_over(topic).poll(0.0)
    assert [(rejected.reason, rejected.detail) for rejected in batch.rejected] == [
        (RejectionReason.MISSING_FIELD, "model")
    ]
    assert (counted([batch]), batch.interactions) == ({}, ())


def test_a_half_whose_other_does_not_come_is_rejected_whatever_its_format(pairing_format: str) -> None:
    topic = MemoryTopic()
    topic.publish(halves("alone")[:1])
    feed = feed_over(topic)
    feed.poll(0.0)
    topic.publish(halves("call-1"))
    (batch,) = feed.poll(1000.0)
    assert [(rejection.offset, rejection.reason) for rejection in batch.rejected] == [(0, RejectionReason.UNPAIRED)]
    assert [kept.request_id for kept in batch.interactions] == ["call-1"]
