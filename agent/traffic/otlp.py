"""Envelopes of OpenTelemetry's protocol, as its exporters write them to Kafka in JSON: many records, one message.

An envelope is split into envelopes of one record each, with that record's resource: each is then read by itself, so
that one that cannot be read costs nobody beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from agent.errors import Unreadable
from agent.records import RejectionReason
from agent.traffic import json_fields
from agent.traffic.json_fields import Body

# Of logs and of traces: the name of the envelope's list, of that within it, and of its records.
SHAPES = (("resourceLogs", "scopeLogs", "logRecords"), ("resourceSpans", "scopeSpans", "spans"))


def is_envelope(body: Body) -> bool:
    return any(shape[0] in body for shape in SHAPES)


def records(body: Body) -> list[Body]:
    """All that it holds, [] for one that is no envelope or a broken one."""
    try:
        return [record for _, _, record in _walk(body)]
    except Unreadable:
        return []


def split(body: Body, ours: Callable[[Body], bool]) -> list[Body]:
    """An envelope for each record that is ours, in order; a body that is no envelope alone. Raises Unreadable.

    Others are passed over: a trace has spans of every kind. An envelope with none of ours is no traffic at all.
    """
    if not is_envelope(body):
        return [body]
    found = [(shape, resource, record) for shape, resource, record in _walk(body) if ours(record)]
    if not found:
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, "an envelope without a record of a model's answer")
    return [{shape[0]: [{"resource": resource, shape[1]: [{shape[2]: [record]}]}]} for shape, resource, record in found]


def only(body: Body) -> tuple[Body, Body]:
    """The one record of an envelope and its resource's attributes; of a body that is no envelope itself and its own.

    Raises Unreadable where there is not exactly one.
    """
    if not is_envelope(body):
        return body, json_fields.attributes(json_fields.mapping(body, "resource").get("attributes"))
    found = list(_walk(body))
    if len(found) != 1:
        raise Unreadable(RejectionReason.WRONG_TYPE, f"{len(found)} records in one envelope, 1 wanted")
    _, resource, record = found[0]
    return record, json_fields.attributes(resource.get("attributes"))


def _walk(body: Body) -> Iterator[tuple[tuple[str, str, str], Body, Body]]:
    for shape in SHAPES:
        for within in _objects(body, shape[0]):
            resource = json_fields.mapping(within, "resource")
            for scope in _objects(within, shape[1]):
                for record in _objects(scope, shape[2]):
                    yield shape, resource, record


def _objects(body: Body, name: str) -> list[dict[str, Any]]:
    """Raises Unreadable where it is no list of objects; one that is missing is empty."""
    found = json_fields.optional(body, name, list) or []
    if not all(isinstance(one, dict) for one in found):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return found
