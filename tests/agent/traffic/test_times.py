"""The time of a request: as each format records it, unknown where it is zero, rejected in another unit."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryTopic
from agent.traffic.decoder import Decoder
from tests.agent.traffic.feeding import counted, feed_over
from tests.agent.traffic.formats.pairs import body, message, otel, pair, read, span
from tests.agent.traffic.formats.records import PLACE

KAFKA = 50.0  # the record's own time
AT = 1_700_000_001.0


def refusal(record: Any) -> str:
    (found,) = Decoder().read(message(record), PLACE)
    assert isinstance(found, Unreadable)
    return f"{found.reason}: {found.detail}"


@pytest.mark.parametrize("unknown", ["0", 0, "", None])
def test_zero_is_unknown_in_otlp(unknown: Any) -> None:
    """Source: opentelemetry-proto, LogRecord.time_unix_nano."""
    observed: dict[str, Any] = {"observedTimeUnixNano": "1700000001000000000"}
    assert read(otel(timeUnixNano=unknown, **observed)).at == AT
    assert read(otel(timeUnixNano=unknown, observedTimeUnixNano=unknown)).at == KAFKA
    assert read(otel(timeUnixNano="1700000002000000000", **observed)).at == AT + 1


@pytest.mark.parametrize("unknown", ["0", 0, "0001-01-01T00:00:00Z"])
def test_an_unknown_end_of_a_span_is_its_start_or_kafkas_time(unknown: Any) -> None:
    assert read(span(end_time=unknown, start_time="2023-11-14T22:13:21Z")).at == AT
    assert read(span(end_time=unknown)).at == KAFKA
    nanos = {"endTimeUnixNano": unknown, "startTimeUnixNano": 1_700_000_001_000_000_000, "end_time": None}
    assert read(span(**({} if "-" in str(unknown) else nanos))).at == AT


@pytest.mark.parametrize("unknown", [0, "0", None])
def test_a_record_without_a_time_gets_kafkas(unknown: Any) -> None:
    assert read(pair(response={"created": unknown})).at == KAFKA


@pytest.mark.parametrize("ts", ["1700000001", "1700000001.0", "2023-11-14T22:13:21Z", 1_700_000_001])
def test_times_come_as_numbers_and_as_text(ts: Any) -> None:
    assert read(body("gapwatch_v1") | {"ts": ts}).at == AT
    assert read(pair(response={"created": ts})).at == AT


UNITS = [(1_764_249_460_123, "milliseconds"), (1_764_249_460_123_456, "microseconds"), (1_764_249_460 * 10**9, "nano")]


@pytest.mark.parametrize("text", [False, True], ids=["a number", "text"])
@pytest.mark.parametrize(("number", "unit"), UNITS)
def test_another_unit_than_seconds_is_named(number: int, unit: str, text: bool) -> None:
    told = str(number) if text else number
    for record in (pair(response={"created": told}), body("gapwatch_v1") | {"ts": told}, span(end_time=told)):
        why = refusal(record)
        assert f" in {unit}" in why
        assert why.startswith("wrong_type: ") and why.endswith("seconds, seconds wanted")


@pytest.mark.parametrize("text", [False, True], ids=["a number", "text"])
@pytest.mark.parametrize(
    ("number", "unit"), [(1_764_249_460, "seconds"), (1_764_249_460_123, "milli"), (1_764_249_460_123_456, "micro")]
)
def test_another_unit_than_nanoseconds_is_named(number: int, unit: str, text: bool) -> None:
    """As nanoseconds they would all be some minutes or days of 1970."""
    why = refusal(otel(timeUnixNano=str(number) if text else number))
    assert f"wrong_type: timeUnixNano in {unit}" in why
    assert why.endswith("seconds, nanoseconds wanted")


def test_nanoseconds_may_have_become_a_float() -> None:
    assert read(otel(timeUnixNano=1.700000001e18)).at == AT
    assert refusal(otel(timeUnixNano=-1.7e18)) == "wrong_type: timeUnixNano"


@pytest.mark.parametrize("told", [-1, 1e30, "nan", "inf", "yesterday", True, [1.7e9], "-1", "٣"])
def test_what_is_no_time_at_all_is_rejected(told: Any) -> None:
    assert refusal(pair(response={"created": told})) == "wrong_type: created"
    assert refusal(body("gapwatch_v1") | {"ts": told}) == "wrong_type: ts"


@pytest.mark.parametrize(("sent", "at"), [(-0.001, 600.0), (400.0, 400.0), (1.7e12, 600.0)])
def test_where_kafka_has_no_time_either_it_is_now(sent: float, at: float) -> None:
    """A producer of old writes -1 for no time at all; another one milliseconds where its client wants seconds."""
    topic = MemoryTopic()
    topic.publish([Outgoing(None, orjson.dumps(pair(response={"created": None})), at=sent)])
    (batch,) = feed_over(topic).poll(600.0)
    assert [interaction.at for interaction in batch.interactions] == [at]
    assert counted([batch]) == {"ticket-router": 1}
