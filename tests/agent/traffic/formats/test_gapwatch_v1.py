from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.traffic.decoder import Decoder
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.records import only
from tests.kafka_brokers import request

PLACE = ("traffic", 3)


def read(message: Message, place: TopicPartition, max_bytes: int) -> Interaction:
    interaction = only(Decoder("gapwatch.v1", max_bytes), message, place)
    assert isinstance(interaction, Interaction)
    return interaction


def message(value: bytes | None, **headers: bytes) -> Message:
    return Message(7, 50.0, b"ticket-router", value, headers)


def good(**changes: Any) -> Interaction:
    return read(message(request(1, **changes).value), PLACE, 10_000)


def test_every_field_is_read() -> None:
    interaction = good()
    assert interaction == Interaction(
        request_id="r-1",
        at=1_700_000_001.0,
        adapter="ticket-router",
        base="smollm2",
        pod="engine-0",
        messages=({"role": "user", "content": "question 1"},),
        output="answer 1",
        finish_reason="stop",
        sampling={"temperature": 0.7, "seed": 3.0},
        prompt_tokens=12,
        output_tokens=5,
        topic="traffic",
        partition=3,
        offset=7,
    )


def test_what_is_optional_may_be_missing_or_null() -> None:
    interaction = good(base=None, pod=None, finish_reason=None, sampling=None, usage=None)
    assert (
        interaction.base,
        interaction.pod,
        interaction.finish_reason,
        interaction.sampling,
        interaction.prompt_tokens,
    ) == ("", "", "", {}, 0)


def test_a_bare_prompt_is_one_message_of_the_user() -> None:
    assert good(messages=None, prompt="hello").messages == ({"role": "user", "content": "hello"},)


def test_text_parts_are_joined_and_a_turn_that_only_calls_tools_is_empty() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "b"}]
    chat = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]
    assert [turn["content"] for turn in good(messages=chat).messages] == ["ab", ""]


def test_the_header_names_the_pod_before_the_field_does() -> None:
    assert read(message(request(1).value, pod=b"engine-9"), PLACE, 10_000).pod == "engine-9"


@pytest.mark.parametrize("ts", ["2023-11-14T22:13:20Z", "2023-11-14T22:13:20", "2023-11-15T00:13:20+02:00", 1.7e9])
def test_times_are_seconds_or_iso(ts: object) -> None:
    assert good(ts=ts).at == 1_700_000_000.0


def test_without_an_id_a_record_is_identified_by_its_offset() -> None:
    assert good(request_id="").request_id == "traffic:3:7"


def test_an_empty_output_is_an_output() -> None:
    assert good(output="").output == ""


def test_implausible_counts_do_not_lose_the_record() -> None:
    assert good(usage={"prompt_tokens": -4, "completion_tokens": "many"}).output_tokens == 0
    assert good(usage={"prompt_tokens": 1e30, "output_tokens": 9}).output_tokens == 9


BAD: list[tuple[str, bytes | None, str]] = [
    ("a tombstone", None, "empty"),
    ("nothing", b"", "empty"),
    ("no JSON", b"{broken", "not_json"),
    ("no UTF-8", b'{"schema": "\xff"}', "not_json"),
    ("a lone surrogate as its schema", b'{"schema": "\\ud800"}', "unknown_schema"),
    ("deeper than any record", b"[" * 5000 + b"]" * 5000, "not_json"),
    ("a list", b"[1]", "wrong_type"),
    ("longer than allowed", b'{"a": "' + b"x" * 10_000 + b'"}', "too_large"),
    ("no schema", b"{}", "missing_field"),
    ("another schema", request(1, schema="gapwatch.v9").value, "unknown_schema"),
    ("no request id", request(1, request_id=None).value, "missing_field"),
    ("a number as request id", request(1, request_id=5).value, "wrong_type"),
    ("no time", request(1, ts=None).value, "missing_field"),
    ("a time in words", request(1, ts="yesterday").value, "wrong_type"),
    ("a time in milliseconds", request(1, ts=1.7e12).value, "wrong_type"),
    ("a truth value as time", request(1, ts=True).value, "wrong_type"),
    ("a time before 1970", request(1, ts="0001-01-01T00:00:00Z").value, "wrong_type"),
    ("no messages, no prompt", request(1, messages=None).value, "missing_field"),
    ("an empty chat", request(1, messages=[]).value, "missing_field"),
    ("messages as text", request(1, messages="hi").value, "wrong_type"),
    ("a message as text", request(1, messages=["hi"]).value, "wrong_type"),
    ("a message without role", request(1, messages=[{"content": "hi"}]).value, "wrong_type"),
    ("content as number", request(1, messages=[{"role": "user", "content": 5}]).value, "wrong_type"),
    ("no output", request(1, output=None).value, "missing_field"),
    ("output as list", request(1, output=["a"]).value, "wrong_type"),
    ("usage as list", request(1, usage=[1]).value, "wrong_type"),
    ("pod as number", request(1, pod=1).value, "wrong_type"),
]


@pytest.mark.parametrize(("value", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_cannot_be_read_has_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(message(value), PLACE, 10_000)
    assert caught.value.reason == reason


@pytest.mark.parametrize("place", ["schema", "request_id", "ts", "adapter", "messages", "output", "sampling", "usage"])
def test_no_error_repeats_production_text(place: str) -> None:
    secret = "my card is 4111 1111"
    body: dict[str, Any] = orjson.loads(request(1).value or b"") | {place: secret}
    for value in (orjson.dumps(body), orjson.dumps(body)[:-1], orjson.dumps([secret])):
        try:
            read(message(value), PLACE, 10_000)
        except Unreadable as error:
            assert secret not in str(error)
            assert error.__cause__ is None
