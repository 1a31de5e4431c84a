"""The contract of a format: each file in agent/traffic/formats is found and tested here without a line of its own."""

from __future__ import annotations

import random
import re
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from agent.errors import Refused, Unreadable
from agent.kafka.config import Config
from agent.kafka.contract import Message
from agent.records import LoggedHalf, RejectionReason
from agent.traffic.decoder import AUTO, Decoder, formats_by_name
from probes.scoring.interaction import Interaction
from tests.agent.traffic.formats.pairs import GENAI, any_value, completion, event, pair, span
from tests.agent.traffic.formats.records import EXAMPLES, PLACE, example, only

FILES = {name: form.__name__.rsplit(".", 1)[-1] for name, form in formats_by_name().items()}  # type: ignore[attr-defined]


def whole(name: str, messages: list[Message]) -> Interaction:
    """The one request of these records: one record, or two halves, which their format joins."""
    decoder = Decoder(name)
    read = [only(decoder, message) for message in messages]
    if len(read) == 1:
        assert isinstance(read[0], Interaction)
        return read[0]
    half, other = read
    assert isinstance(half, LoggedHalf)
    assert isinstance(other, LoggedHalf)
    return decoder.join(half, other)


def configured(name: str) -> Config:
    return Config.model_validate({"bootstrap_servers": "127.0.0.1:9092", "topic": "traffic", "format": name})


@pytest.mark.parametrize("name", [AUTO, *FILES])
def test_every_file_is_a_format_that_the_configuration_accepts(name: str) -> None:
    assert configured(name).format == name


def test_a_format_without_a_file_is_refused_by_the_configuration_and_by_the_decoder() -> None:
    wanted = f"saw 'avro', wanted one of: {', '.join([AUTO, *FILES])}"
    with pytest.raises(ValidationError, match=re.escape(wanted)):
        configured("avro")
    with pytest.raises(Refused, match="one of: auto"):
        Decoder("avro")


@pytest.mark.parametrize("name", FILES)
def test_of_a_pair_exactly_one_half_is_counted_and_for_the_right_adapter(name: str) -> None:
    decoder = Decoder(name)
    read = [only(decoder, message) for message in example(FILES[name])]
    halves = [item for item in read if isinstance(item, LoggedHalf)]
    if not halves:
        pytest.skip("one record is one request")
    assert sorted(decoder.counted_name(half) for half in halves) == ["", "ticket-router"]


def test_every_format_ships_an_example_and_every_example_has_a_format() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.json")} == set(FILES.values())


@pytest.mark.parametrize("name", FILES)
def test_the_example_is_the_same_interaction_in_every_format(name: str) -> None:
    interaction = whole(name, example(FILES[name]))
    assert interaction.adapter == "ticket-router"
    assert interaction.messages == ({"role": "user", "content": "Where is my parcel?"},)
    assert interaction.output == "shipping"
    assert interaction.finish_reason == "stop"
    assert interaction.sampling == {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.5}
    assert (interaction.prompt_tokens, interaction.output_tokens) == (12, 2)
    assert (interaction.at, interaction.pod) == (1_700_000_001.0, "engine-0")
    assert (interaction.topic, interaction.partition, interaction.offset) == (*PLACE, example(FILES[name])[-1].offset)
    assert interaction.request_id
    assert interaction.unscored == ""


@pytest.mark.parametrize("name", FILES)
def test_the_example_is_recognised_by_its_own_format_alone(name: str) -> None:
    for message in example(FILES[name]):
        body = orjson.loads(message.value or b"")
        assert [other for other, form in formats_by_name().items() if form.guess(message, body)] == [name]
        assert Decoder().read(message, PLACE) == Decoder(name).read(message, PLACE)


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_broken_is_unreadable_and_nothing_else(name: str) -> None:
    """A thousand damages: a field of another type, gone, or nested deeply; bytes cut. Always a told reason."""
    dice = random.Random(7)
    reader, wide = Decoder(name, max_bytes=200_000), Decoder(max_bytes=200_000)
    reasons = set()
    for _ in range(500):
        for message in example(FILES[name]):
            value = orjson.dumps(_damaged(orjson.loads(message.value or b""), dice))
            cut = value[: dice.randrange(len(value))]
            for damaged in (value, cut):
                broken = Message(1, 50.0, None, damaged, message.headers)
                for one in (reader, wide):
                    try:
                        _read_whole(one, broken, example(FILES[name]))
                    except Unreadable as why:
                        reasons.add(RejectionReason(why.reason))
    assert {RejectionReason.NOT_JSON, RejectionReason.WRONG_TYPE, RejectionReason.MISSING_FIELD} <= reasons


STREAM = [
    pair()["response"] | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}
    for text, reason in (("ship", None), ("ping", "stop"))
]
SHAPES = {
    "a completion": completion({"prompt": [[1]], "stream": True}, {"usage": {"completion_tokens": 2}}),
    "a stream": pair({"stream": True}) | {"response": STREAM},
    "an event's body": event(None, body=any_value(GENAI)),
    "flat attributes": span({"llm.invocation_parameters": None, "llm.invocation_parameters.logit_bias.5": 1}),
    "an envelope of Kafka Connect": {"schema": None, "payload": pair({"lora_path": "ticket-router"})},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_whatever_is_broken_in_other_shapes_is_unreadable_and_nothing_else(shape: str) -> None:
    dice, reader, good = random.Random(7), Decoder(), 0
    for _ in range(500):
        damaged = _damaged(SHAPES[shape], dice, (STREAM[0], [{"message": {"content": "a"}}], "[1]", "data: {}"))
        (found,) = reader.read(Message(1, 50.0, None, orjson.dumps(damaged), {}), PLACE)
        assert isinstance(found, Interaction | Unreadable)
        good += isinstance(found, Interaction)
    assert 0 < good < 500


@pytest.mark.parametrize("name", FILES)
def test_no_reason_repeats_production_text(name: str) -> None:
    secret = "my card is 4111 1111"
    for message in example(FILES[name]):
        body = orjson.loads(message.value or b"")
        for path in list(_paths(body)):
            _assert_silent(name, message, orjson.dumps(_with(body, path, secret)), secret)
            _assert_silent(name, message, orjson.dumps(_with(body, path, [secret])), secret)


@pytest.mark.parametrize("name", FILES)
def test_an_empty_and_a_truncated_answer_are_read_as_what_they_are(name: str) -> None:
    messages = example(FILES[name])
    texts = [(message.value or b"").replace(b"shipping", b"").replace(b"stop", b"length") for message in messages]
    told = [Message(m.offset, m.at, m.key, text, m.headers) for m, text in zip(messages, texts, strict=True)]
    interaction = whole(name, told)
    assert (interaction.output, interaction.finish_reason) == ("", "length")


@pytest.mark.parametrize("name", FILES)
def test_an_unknown_temperature_stays_unknown(name: str) -> None:
    messages = example(FILES[name])
    texts = [(message.value or b"").replace(b"temperature", b"warmth") for message in messages]
    told = [Message(m.offset, m.at, m.key, text, m.headers) for m, text in zip(messages, texts, strict=True)]
    assert "temperature" not in whole(name, told).sampling


def _read_whole(reader: Decoder, broken: Message, good: list[Message]) -> None:
    """Read it, and count and join it to its other half where it is one."""
    interaction = only(reader, broken)
    halves = [half for half in (only(reader, one) for one in good) if isinstance(half, LoggedHalf)]
    if isinstance(interaction, LoggedHalf):
        assert isinstance(reader.counted_name(interaction), str), "asked of every half, also of a broken one"
        reader.join(interaction, next(half for half in halves if half.is_request != interaction.is_request))


def _assert_silent(name: str, message: Message, value: bytes, secret: str) -> None:
    try:
        only(Decoder(name), Message(1, 50.0, None, value, message.headers))
    except Unreadable as why:
        assert secret not in str(why)
        assert why.__cause__ is None


def _paths(value: Any, here: tuple[Any, ...] = ()) -> Any:
    """The way to every field of a body, lists by position."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        yield (*here, name)
        yield from _paths(below, (*here, name))


def _with(body: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at the end of the path."""
    copy = orjson.loads(orjson.dumps(body))
    at = copy
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = new
    return copy


def _damaged(body: Any, dice: random.Random, more: tuple[Any, ...] = ()) -> Any:
    deep: Any = "x"
    for _ in range(200):
        deep = {"a": deep}
    wrong = [None, 0, -1, 1e30, True, "", "text", [], {}, [None], [[]], {"a": None}, ["x"], 10**18, deep, *more]
    return _with(body, dice.choice(list(_paths(body))), dice.choice(wrong))
