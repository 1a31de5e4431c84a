"""KServe's inference logger: CloudEvents, the request and the response as two records with the same ``id``.

Binary mode (attributes in the headers ``ce_*``, the payload as the value) and structured mode (one JSON object with
``specversion`` and ``data``). ``read`` gives a Half; two halves of one id become an Interaction by ``join``, read like
an OpenAI pair, so the payload has to be that of an OpenAI route. The adapter is the request's model. Only responses
are counted, where the headers tell which half it is: one request is one, though it comes in two records.

Source: kserve pkg/logger; CloudEvents Kafka protocol binding 1.0.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import Unreadable
from agent.kafka.contract import Message, Place
from agent.records import AsideReason, Half, Interaction
from agent.traffic import json_fields
from agent.traffic.formats import openai
from agent.traffic.json_fields import Body

NAME = "kserve"
REQUEST, RESPONSE = ".inference.request", ".inference.response"


def guess(message: Message, body: Body) -> bool:
    return "ce_specversion" in message.headers or "ce_type" in message.headers or "specversion" in body


def read(message: Message, body: Body, place: Place) -> Half:
    """One half. Raises Unreadable with a reason of AsideReason."""
    about, data = _event(message, body)
    kind, at = json_fields.required(about, "type"), about.get("time")
    if not kind.endswith((REQUEST, RESPONSE)):
        raise Unreadable(AsideReason.UNKNOWN_SCHEMA, f"type {json_fields.name_or_nothing(kind)}")
    return Half(
        request_id=json_fields.required(about, "id"),
        is_request=kind.endswith(REQUEST),
        body=data,
        at=message.at if at is None else json_fields.seconds(at, "time"),
        pod=json_fields.pod_of(message),
        topic=place[0],
        partition=place[1],
        offset=message.offset,
    )


def join(one: Half, other: Half) -> Interaction:
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
        return body, json_fields.mapping(body, "data")
    told = {name[3:]: value.decode("utf-8", "replace") for name, value in message.headers.items() if name[:3] == "ce_"}
    return told, body
