"""KServe's inference logger: CloudEvents, the request and the response as two records with the same ``id``.

Binary mode (attributes in the headers ``ce_*``, the payload as the value) and structured mode (one JSON object with
``specversion``, and ``data`` or ``data_base64``). ``read`` returns a LoggedHalf; ``join`` makes an Interaction of two
with the same id, read like an OpenAI pair, so the payload has to be that of an OpenAI route. The adapter is the
request's. One request is one count, although it comes in two records: where the headers say which half a record is,
the response is counted, else ``counted_name`` decides. A response that is an error, or one chunk of a stream, is no
half: it is rejected at once. A transformer and the predictor behind it log the same id, so halves pair within one
component.

Source: kserve pkg/logger; CloudEvents Kafka protocol binding 1.0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, TopicPartition
from agent.records import LoggedHalf, RejectionReason
from agent.traffic import answers, json_fields, json_text
from agent.traffic.formats import openai
from agent.traffic.json_fields import Body
from probes.scoring.interaction import Interaction

NAME = "kserve"
REQUEST, RESPONSE = ".inference.request", ".inference.response"


def guess(message: Message, body: Body) -> bool:
    return "ce_specversion" in message.headers or "ce_type" in message.headers or "specversion" in body


def read(message: Message, body: Body, partition: TopicPartition) -> LoggedHalf:
    """One half. Raises Unreadable with a reason of RejectionReason."""
    attributes, data = _event(message, body)
    kind, at = json_fields.required(attributes, "type"), attributes.get("time")
    if not kind.endswith((REQUEST, RESPONSE)):
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"type {json_fields.name_or_nothing(kind)}")
    if kind.endswith(RESPONSE):
        answers.require_complete(data)
    return LoggedHalf(
        request_id=json_fields.required(attributes, "id"),
        is_request=kind.endswith(REQUEST),
        body=data,
        at=json_fields.recorded_time(message, ("time", at)),
        pod=json_fields.pod_of(message),
        topic=partition[0],
        partition=partition[1],
        offset=message.offset,
        logged_by=" ".join(str(attributes[name]) for name in ("component", "endpoint") if attributes.get(name)),
    )


def join(half: LoggedHalf, other: LoggedHalf) -> Interaction:
    """The two halves of one request, in either order, at the offset of the response. Raises Unreadable."""
    request, response = (half, other) if half.is_request else (other, half)
    # The id of the event, not that of the engine's answer: the sample was drawn by it.
    answer = {"created": response.at, **response.body, "id": response.request_id}
    message = Message(response.offset, response.at, None, None, {"pod": (response.pod or request.pod).encode()})
    pair = {"request": request.body, "response": answer}
    return openai.read(message, pair, (response.topic, response.partition))


def counted_name(half: LoggedHalf) -> str:
    """The response is counted, for the model that it names. Where the request names its adapter besides the model, the
    response names only the base, which is no configured adapter: then the request is counted."""
    name = openai.adapter_besides_model(half.body) if half.is_request else half.body.get("model")
    return name if isinstance(name, str) else ""


def _event(message: Message, body: Body) -> tuple[Mapping[str, Any], Body]:
    """(attributes, payload)"""
    if "specversion" in body:
        return body, _data(body)
    headers = message.headers.items()
    return {name[3:]: value.decode("utf-8", "replace") for name, value in headers if name[:3] == "ce_"}, body


def _data(event: Body) -> Body:
    """The payload of an event: an object, or JSON text of one, plain or in base64. Raises Unreadable."""
    data = event.get("data")
    if data is None and "data_base64" in event:
        data = json_fields.from_base64(event["data_base64"]) or event["data_base64"]
    if isinstance(data, str) and data.strip():
        data = data.encode("utf-8", "surrogatepass")
    if isinstance(data, bytes):
        data = json_text.loads(data)
    return json_fields.mapping({"data": data}, "data")
