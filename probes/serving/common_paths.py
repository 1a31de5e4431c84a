"""What several kinds of engines serve under the same path and in the same form: models, token ids, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probes.errors import EngineAway
from probes.serving.client import MISSING, Client
from probes.serving.engine import ServedModel
from probes.serving.json_form import reading, samples, text, text_or_none, wholes

MODELS, METRICS = "/v1/models", "/metrics"


def model_cards(client: Client, url: str) -> list[Any]:
    """The entries of OpenAI's list of models, one at least; url: the engine's address, for messages.

    Raises EngineAway for an empty one: the engine is starting.
    """
    answer = client.get(MODELS)
    with reading(url + MODELS):
        cards = answer["data"]
        if not isinstance(cards, list):
            raise TypeError
    if not cards:
        raise EngineAway(url + MODELS, "lists no model, wanted one at least")
    return cards


def models_of(cards: Sequence[Any], url: str) -> tuple[ServedModel, ...]:
    """``root`` and ``parent`` are vLLM's, which others have taken over."""
    with reading(url + MODELS):
        return tuple(
            ServedModel(text(card["id"]), text_or_none(card.get("root")), text_or_none(card.get("parent")))
            for card in cards
        )


def token_ids(client: Client, url: str, path: str, body: Mapping[str, Any]) -> tuple[int, ...]:
    """What the tokenizer makes of it."""
    answer = client.post(path, body)
    with reading(url + path):
        return wholes(answer["tokens"])


def exposition(client: Client) -> str:
    """Its metrics in Prometheus' text format, "" where they are switched off."""
    reply = client.ask("GET", METRICS)
    return "" if reply.status == MISSING else client.text_of(reply)


def metric_samples(client: Client) -> dict[str, list[float]]:
    """Name of each metric -> its values; none where metrics are switched off."""
    return samples(exposition(client))
