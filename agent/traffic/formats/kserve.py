"""KServe's inference logger: CloudEvents, the request and the response as two records with the same ``id``.

Binary mode (attributes in the headers ``ce_*``, the payload as the value) and structured mode (one JSON object with
``specversion``, and ``data`` or ``data_base64``). ``read`` gives a LoggedHalf; two of one id become an Interaction by
``join``, read like an OpenAI pair, so the payload has to be that of an OpenAI route. The adapter is the request's. Only
responses are counted, where the headers tell which half it is: one request is one, though it comes in two records. A
response that is an error, or one chunk of a stream, is no half: it is set aside at once. A transformer and the
predictor behind it log one id, so halves pair within one component.

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


def read(message: Message, body: Body, place: TopicPartition) -> LoggedHalf:
    """One half. Raises Unreadable with a reason of RejectionReason."""
    about, data = _event(message, body)
    kind, at = json_fields.required(about, "type"), about.get("time")
    if not kind.endswith((REQUEST, RESPONSE)):
        raise Unreadable(RejectionReason.UNKNOWN_SCHEMA, f"type {json_fields.name_or_nothing(kind)}")
    if kind.endswith(RESPONSE):
        answers.refuse_what_is_none(data)
    return LoggedHalf(
        request_id=json_fields.required(about, "id"),
        is_request=kind.endswith(REQUEST),
        body=data,
        at=json_fields.time_told(message, ("time", at)),
        pod=json_fields.pod_of(message),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
        logged_by=" ".join(str(about[name]) for name in ("component", "endpoint") if about.get(name)),
    )


def join(one: LoggedHalf, other: LoggedHalf) -> Interaction:
    """The two halves of one request, in either order, at the place of the response. Raises Unreadable."""
    request, response = (one, other) if one.is_request else (other, one)
    # The id of the event, not that of the engine's answer: sampling has chosen by it.
    answer = {"created": response.at, **response.body, "id": response.request_id}
    place = Message(response.offset, response.at, None, None, {"pod": (response.pod or request.pod).encode()})
    pair = {"request": request.body, "response": answer}
    return openai.read(place, pair, (response.topic, response.partition))


def _event(message: Message, body: Body) -> tuple[Mapping[str, Any], Body]:
    """(attributes, payload)"""
    if "specversion" in body:
        return body, _data(body)
    told = {name[3:]: value.decode("utf-8", "replace") for name, value in message.headers.items() if name[:3] == "ce_"}
    return told, body


def _data(event: Body) -> Body:
    """What an event carries: an object, or the text of one, as it is or in base64. Raises Unreadable."""
    told = event.get("data")
    if told is None and "data_base64" in event:
        told = json_fields.from_base64(event["data_base64"]) or event["data_base64"]
    if isinstance(told, str) and told.strip():
        told = told.encode("utf-8", "surrogatepass")
    if isinstance(told, bytes):
        told = json_text.loads(told)
    return json_fields.mapping({"data": told}, "data")
