"""From a record to an Interaction, a LoggedHalf, or the reason why not: which format it is in, and what it says in it.

The formats are the files in agent/traffic/formats, found by looking into that folder: a new file is a new format.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol, runtime_checkable

from agent.errors import Refused, Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import LoggedHalf, RejectionReason
from agent.traffic import formats, json_fields, json_text
from agent.traffic.json_fields import Body
from probes.scoring.interaction import Interaction

AUTO = "auto"


class Format(Protocol):
    """One file in agent/traffic/formats. guess: by cheap signs, True for no record of another format's example."""

    NAME: str

    def guess(self, message: Message, body: Body) -> bool: ...
    def read(self, message: Message, body: Body, place: TopicPartition) -> Interaction | LoggedHalf: ...


@runtime_checkable
class Splitting(Protocol):
    """What a format has besides whose records may hold several requests."""

    def split(self, body: Body) -> list[Body]:
        """Bodies that ``read`` reads, one a request, at least one. Raises Unreadable."""


@cache
def known() -> Mapping[str, Format]:
    """Every format by its name, in the order of the files' names."""
    names = sorted(found.name for found in pkgutil.iter_modules(formats.__path__))
    modules: list[Format] = [importlib.import_module(f"{formats.__name__}.{name}") for name in names]  # type: ignore[misc]
    return {module.NAME: module for module in modules}


class Decoder:
    """Reads records of one format, or of each record's own (``auto``). Raises Refused for a name without a file."""

    def __init__(self, name: str = AUTO, max_bytes: int = 1_000_000) -> None:
        if name != AUTO and name not in known():
            raise Refused("kafka.format", repr(name), f"one of: {', '.join([AUTO, *known()])}")
        self._formats = list(known().values()) if name == AUTO else [known()[name]]
        # Asked once: to ask a protocol takes longer than to read most records.
        self._splits = {form.NAME: form.split for form in self._formats if isinstance(form, Splitting)}
        self._sure = name != AUTO
        self._max_bytes = max_bytes

    def read(self, message: Message, place: TopicPartition) -> Sequence[Interaction | LoggedHalf | Unreadable]:
        """What one record holds, in its order: one for nearly every format, several for an envelope.

        What cannot be read is there as its reason, one of RejectionReason; nothing is raised whatever the bytes are.
        """
        try:
            body = json_fields.body_of(message, self._max_bytes)
            form = self._format_of(message, body)
            split = self._splits.get(form.NAME)
            bodies = split(body) if split else [body]
        except Unreadable as why:
            return [why]
        except RecursionError:
            return [_too_deep()]
        found = [_read(form, message, one, place) for one in bodies]
        return [finished(one, number) if isinstance(one, Interaction) else one for number, one in enumerate(found)]

    def _format_of(self, message: Message, body: Body) -> Format:
        for candidate in self._formats:
            if self._sure or candidate.guess(message, body):
                return candidate
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"none of: {', '.join(known())}")


def _read(form: Format, message: Message, body: Body, place: TopicPartition) -> Interaction | LoggedHalf | Unreadable:
    try:
        return form.read(message, body, place)
    except Unreadable as why:
        return why
    except RecursionError:
        return _too_deep()


def finished(found: Interaction, number: int = 0) -> Interaction:
    """What holds for every format: one without an id is known by its place, and lost characters are no evidence.

    number: among the requests of its record
    """
    if not found.request_id:
        place = (found.topic, found.partition, found.offset, *([number] if number else []))
        found = replace(found, request_id=":".join(map(str, place)))
    lost = json_text.REPLACED in found.output and not found.output_token_ids
    if not found.prompt_token_ids:
        lost = lost or any(json_text.REPLACED in turn["content"] for turn in found.messages)
    if lost and not found.unscored:
        return replace(found, unscored="its text holds U+FFFD in place of what was written, and no token ids tell it")
    return found


def _too_deep() -> Unreadable:
    return Unreadable(RejectionReason.WRONG_TYPE, "nested too deeply")
