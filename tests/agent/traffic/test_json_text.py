"""What strict JSON refuses and producers write all the same: read, or rejected with the reason."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.traffic.decoder import Decoder
from tests.agent.traffic.formats.pairs import body, message, pair, read
from tests.agent.traffic.formats.records import PLACE

GOOD = orjson.dumps(pair())
LOST = "the text contains U+FFFD where a character was lost, and no token ids were recorded"


def refusal(value: bytes) -> str:
    (found,) = Decoder().read(message(value), PLACE)
    assert isinstance(found, Unreadable)
    return f"{found.reason}: {found.detail}"


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\0\0\0\0\x05"], ids=["a byte order mark", "a schema's number"])
def test_what_stands_before_the_json_is_skipped(before: bytes) -> None:
    assert read(before + GOOD) == read(GOOD)


@pytest.mark.parametrize("half", [b"\\ud83d", b"\\uDE00"])
def test_half_of_a_surrogate_pair_is_read_as_the_replacement_character_and_is_not_scored(half: bytes) -> None:
    interaction = read(GOOD.replace(b"shipping", b"ok " + half))
    assert (interaction.output, interaction.unscored) == ("ok \ufffd", LOST)
    asked = read(GOOD.replace(b"Where?", half + b"?"))
    assert (asked.messages[0]["content"], asked.unscored) == ("\ufffd?", LOST)


def test_where_token_ids_are_recorded_a_lost_character_does_not_matter() -> None:
    interaction = read(orjson.dumps(body("openai")).replace(b"shipping", b"ok \\ud83d"))
    assert (interaction.output, interaction.output_token_ids, interaction.unscored) == ("ok \ufffd", (7, 8), "")


def test_a_whole_surrogate_pair_is_one_character_beside_half_of_one() -> None:
    assert read(GOOD.replace(b"shipping", b"\\ud83d\\ude00 \\ud83d")).output == "\U0001f600 \ufffd"


def test_a_backslash_before_a_u_is_no_escape() -> None:
    """Within a record that is read leniently."""
    interaction = read(GOOD.replace(b"shipping", b"\\\\ud83d").replace(b"Where?", b"\\ud83d"))
    assert interaction.output == "\\ud83d"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (GOOD.replace(b"0.7", b"NaN"), "not_json: contains NaN, which is not JSON: write null"),
        (GOOD.replace(b"0.7", b"-Infinity"), "not_json: contains -Infinity, which is not JSON: write null"),
        (GOOD.replace(b"0.7", b"1e999"), "not_json: contains a number too large for a float, which is not JSON"),
        (GOOD.replace(b"shipping", b"\xf0\x9f"), f"not_json: not UTF-8 at byte {GOOD.index(b'shipping')}"),
        (b"\xef\xbb\xbf" + GOOD.replace(b"shipping", b"\xff"), f"not UTF-8 at byte {GOOD.index(b'shipping') + 3}"),
        (GOOD.decode().encode("utf-16"), "not_json: not UTF-8 at byte 0"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "not_json: nested too deeply"),
        (GOOD[:-9], f"not_json: at character {len(GOOD) - 9}"),
        (b"\0" * 5000, "not_json: at character 0"),
        (b"\xef\xbb\xbf", "not_json: at character"),
    ],
)
def test_what_cannot_be_read_says_why(value: bytes, words: str) -> None:
    assert words in refusal(value)


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    """As in every engine: what was asked for is what the engine read."""
    assert read(GOOD.replace(b'"temperature":0.7', b'"temperature":0.2,"temperature":0.9')).sampling == {
        "temperature": 0.9
    }


def connect(payload: Any, schema: Any = None) -> bytes:
    return orjson.dumps({"schema": schema, "payload": payload})


@pytest.mark.parametrize("schema", [None, {"type": "struct", "fields": [], "optional": False}])
@pytest.mark.parametrize("text", [False, True], ids=["an object", "its JSON"])
def test_an_envelope_of_kafka_connect_is_unwrapped(schema: Any, text: bool) -> None:
    for record in (pair(), body("gapwatch_v1"), body("openinference"), body("otel_genai")):
        payload = orjson.dumps(record).decode() if text else record
        assert read(connect(payload, schema)) == read(record)


@pytest.mark.parametrize("payload", [None, 5, [1], "words", {"before": None, "after": {}}])
def test_an_envelope_of_something_else_is_of_an_unknown_schema(payload: Any) -> None:
    assert refusal(connect(payload, {"type": "struct"})).startswith("unknown_schema")
