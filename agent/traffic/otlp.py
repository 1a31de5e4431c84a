"""OTLP envelopes, as OpenTelemetry's exporters write them to Kafka in JSON: many spans or log records in one message.

An envelope is split into envelopes of one record each, with that record's resource. Each is then read by itself, so
that one that cannot be read does not affect the others. Which records are requests is for the format to say.
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
    """All its records; [] for a body that is no envelope, or a malformed one."""
    try:
        return [record for _, _, record in _walk(body)]
    except Unreadable:
        return []


def split(body: Body, is_request: Callable[[Body], bool]) -> list[Body]:
    """An envelope for each record that is_request accepts, in order; a body that is no envelope is returned alone.

    Other records are skipped: a trace has spans of every kind. Raises Unreadable where no record is a request.
    """
    if not is_envelope(body):
        return [body]
    requests = [entry for entry in _walk(body) if is_request(entry[2])]
    if not requests:
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, "an envelope without a record of a model's answer")
    return [
        {shape[0]: [{"resource": resource, shape[1]: [{shape[2]: [record]}]}]} for shape, resource, record in requests
    ]


def only(body: Body) -> tuple[Body, Body]:
    """The one record of an envelope, and its resource's attributes. A body that is no envelope is its own record.

    Raises Unreadable unless there is exactly one.
    """
    if not is_envelope(body):
        return body, json_fields.attributes(json_fields.mapping(body, "resource").get("attributes"))
    entries = list(_walk(body))
    if len(entries) != 1:
        raise Unreadable(RejectionReason.WRONG_TYPE, f"{len(entries)} records in one envelope, 1 wanted")
    _, resource, record = entries[0]
    return record, json_fields.attributes(resource.get("attributes"))


def _walk(body: Body) -> Iterator[tuple[tuple[str, str, str], Body, Body]]:
    """(shape, resource, record) of each record."""
    for shape in SHAPES:
        for within in _objects(body, shape[0]):
            resource = json_fields.mapping(within, "resource")
            for scope in _objects(within, shape[1]):
                for record in _objects(scope, shape[2]):
                    yield shape, resource, record


def _objects(body: Body, name: str) -> list[dict[str, Any]]:
    """A list of objects, [] where it is missing. Raises Unreadable where it is something else."""
    objects = json_fields.optional(body, name, list) or []
    if not all(isinstance(item, dict) for item in objects):
        raise Unreadable(RejectionReason.WRONG_TYPE, name)
    return objects
