"""The example record that each format ships, as Messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import LoggedHalf
from agent.traffic.decoder import Decoder
from probes.scoring.interaction import Interaction

EXAMPLES = Path(__file__).parent / "examples"
PLACE = ("traffic", 3)


def example(file: str) -> list[Message]:
    """One record, or the two of a format whose halves come apart."""
    first = orjson.loads((EXAMPLES / f"{file}.json").read_bytes())
    return [message(told, 7 + at) for at, told in enumerate([first, first["then"]] if "then" in first else [first])]


def message(told: Mapping[str, Any], offset: int = 7) -> Message:
    headers = {name: text.encode() for name, text in told.get("headers", {}).items()}
    return Message(offset, 50.0, b"ticket-router", orjson.dumps(told["value"]), headers)


def only(reader: Decoder, seen: Message, place: TopicPartition = PLACE) -> Interaction | LoggedHalf:
    """What a record of one request holds. Raises Unreadable."""
    (found,) = reader.read(seen, place)
    if isinstance(found, Unreadable):
        raise found
    return found
