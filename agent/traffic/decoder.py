"""From one Kafka record to the interactions in it, to half of one, or to the reasons for rejecting it.

The formats are the files in agent/traffic/formats, found by listing that folder: a new file is a new format. What a
format can do besides reading one request a record is a protocol here (SplittingFormat, PairingFormat). Nothing outside
a format's own file may name it.
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
    def read(self, message: Message, body: Body, partition: TopicPartition) -> Interaction | LoggedHalf: ...


@runtime_checkable
class SplittingFormat(Protocol):
    """A format whose records may hold several requests."""

    def split(self, body: Body) -> list[Body]:
        """Bodies that ``read`` reads, one a request, at least one. Raises Unreadable."""


@runtime_checkable
class PairingFormat(Protocol):
    """A format whose records are halves: ``read`` returns a LoggedHalf, and both halves have the same request_id."""

    def join(self, half: LoggedHalf, other: LoggedHalf) -> Interaction:
        """The two halves of one request, in either order, at the offset of the response. Raises Unreadable."""

    def counted_name(self, half: LoggedHalf) -> str:
        """The adapter that this half is counted for, "" where the other half is counted or none is named: one request
        is one count. Raises nothing: it is asked of every half, before ``join`` refuses one that is broken."""


@cache
def formats_by_name() -> Mapping[str, Format]:
    """Every format by its NAME, in the order of the files' names."""
    files = sorted(file.name for file in pkgutil.iter_modules(formats.__path__))
    modules: list[Format] = [importlib.import_module(f"{formats.__name__}.{file}") for file in files]  # type: ignore[misc]
    return {module.NAME: module for module in modules}


class Decoder:
    """Reads records of the named format, or recognises the format of each record (``auto``).

    max_bytes: longer records are rejected. Raises Refused for a name without a file.
    """

    def __init__(self, name: str = AUTO, max_bytes: int = 1_000_000) -> None:
        if name != AUTO and name not in formats_by_name():
            raise Refused("kafka.format", repr(name), f"one of: {', '.join([AUTO, *formats_by_name()])}")
        candidates = list(formats_by_name().values()) if name == AUTO else [formats_by_name()[name]]
        self._formats, self._is_named, self._max_bytes = candidates, name != AUTO, max_bytes
        # Found once: isinstance with a protocol takes longer than reading most records.
        self._splitting = {form.NAME: form for form in candidates if isinstance(form, SplittingFormat)}
        self._pairing = {form.NAME: form for form in candidates if isinstance(form, PairingFormat)}

    @property
    def counts_by_body(self) -> bool:
        """Has every record to be decoded before it can be counted, whatever its key?

        So it is with a named format whose records are halves, or hold several requests.
        """
        return self._is_named and bool(self._splitting or self._pairing)

    def read(self, message: Message, partition: TopicPartition) -> Sequence[Interaction | LoggedHalf | Unreadable]:
        """What one record holds, in its order: one item for nearly every format, several for an envelope.

        What cannot be read is in the list as an Unreadable with a RejectionReason; nothing is raised, whatever the
        bytes are.
        """
        try:
            body = json_fields.body_of(message, self._max_bytes)
            form = self._format_of(message, body)
            splitting = self._splitting.get(form.NAME)
            bodies = splitting.split(body) if splitting else [body]
        except Unreadable as why:
            return [why]
        except RecursionError:
            return [_too_deep()]
        items = [_read(form, message, item, partition) for item in bodies]
        return [completed(item, n) if isinstance(item, Interaction) else item for n, item in enumerate(items)]

    def join(self, half: LoggedHalf, other: LoggedHalf) -> Interaction:
        """Both halves of one request as one interaction, by the format that read them. Raises Unreadable."""
        return completed(self._pairing[half.format].join(half, other))

    def counted_name(self, half: LoggedHalf) -> str:
        """The adapter that this half is counted for, by its format; "" where the other half is counted."""
        return self._pairing[half.format].counted_name(half)

    def _format_of(self, message: Message, body: Body) -> Format:
        for candidate in self._formats:
            if self._is_named or candidate.guess(message, body):
                return candidate
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"none of: {', '.join(formats_by_name())}")


def _read(
    form: Format, message: Message, body: Body, partition: TopicPartition
) -> Interaction | LoggedHalf | Unreadable:
    try:
        item = form.read(message, body, partition)
    except Unreadable as why:
        return why
    except RecursionError:
        return _too_deep()
    return replace(item, format=form.NAME) if isinstance(item, LoggedHalf) else item


def completed(interaction: Interaction, number: int = 0) -> Interaction:
    """What holds for every format: a request without an id gets one from its offset, and lost characters are not
    scored.

    number: which of the requests of its record
    """
    if not interaction.request_id:
        where = (interaction.topic, interaction.partition, interaction.offset, *([number] if number else []))
        interaction = replace(interaction, request_id=":".join(map(str, where)))
    lost = json_text.REPLACED in interaction.output and not interaction.output_token_ids
    if not interaction.prompt_token_ids:
        lost = lost or any(json_text.REPLACED in turn["content"] for turn in interaction.messages)
    if lost and not interaction.unscored:
        why = "the text contains U+FFFD where a character was lost, and no token ids were recorded"
        return replace(interaction, unscored=why)
    return interaction


def _too_deep() -> Unreadable:
    return Unreadable(RejectionReason.WRONG_TYPE, "nested too deeply")
