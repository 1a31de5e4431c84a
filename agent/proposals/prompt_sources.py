"""Where the prompts of an adapter's sampled requests are read from: the store, or the topic where that has no text.

Both give distinct prompts after the rules of ``sampling.redact``. What cannot be had is refused with what to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.config import Config
from agent.errors import Refused
from agent.kafka.config import Config as KafkaConfig
from agent.kafka.contract import TopicConsumer
from agent.store.sampled_prompts import StoredPrompts, stored_prompts
from agent.traffic.redaction import Redactor
from agent.traffic.reservoir import Config as SamplingConfig
from agent.traffic.topic_tail import Report, read_tail
from agent.traffic.traffic_sampler import TrafficSampler
from probes.canaries.sampled_prompts import AskedPrompt, DistinctPrompts, distinct
from probes.enrolment.settings import EnrolSettings
from probes.serving.load_limits import LoadLimits

# Of a prompt, so that it can be asked of a serving engine together with its continuation.
MOST_TOKENS = LoadLimits().most_tokens - EnrolSettings(base="", at=0.0).max_new_tokens - 1
QUESTION = "sampled_prompts"
# All requests of what is read: it is read once, while a person waits.
EVERY = SamplingConfig(rate=1.0, per_adapter_per_minute=10**9)
WITHOUT_TEXT = "clickhouse.store_text: true from now on, or the section kafka, whose topic is then read"


@dataclass(frozen=True, slots=True, eq=False)
class PromptSource:
    """prompts: of one adapter; words: where they were read, for a person"""

    prompts: DistinctPrompts
    words: str


def from_store(
    config: Config, adapter: str, hours: int, answer: tuple[Sequence[str], Sequence[Sequence[Any]]]
) -> PromptSource | None:
    """answer: columns and rows of the question ``sampled_prompts``. None where it holds no text and there is a topic.

    Raises Refused where it holds none and there is no topic.
    """
    stored = stored_prompts(*answer)
    if not stored.prompts:
        if config.kafka is None:
            raise _without_text(adapter, hours, stored)
        return None
    words = f"the store, the last {hours} h"
    if stored.unclear:
        words += f"; {stored.unclear} requests are left out whose turns an earlier version stored as one text"
    return PromptSource(_of(config, stored.prompts), words)


def from_topic(config: Config, adapter: str, consumer: TopicConsumer, report: Report) -> PromptSource:
    """The latest records of the topic, read once: nothing is committed, counted or stored.

    consumer: of ``alone``, not opened. Raises Refused for a topic without a request of the adapter, Retryable where no
    broker answers.
    """
    kafka = _kafka(config)
    names = [own.name for model in config.models for own in model.adapters]
    sampler = TrafficSampler(EVERY, names, kafka.format, kafka.max_record_bytes)
    tail = read_tail(consumer, sampler, report)
    interactions = [interaction for interaction in tail.interactions if interaction.adapter == adapter]
    where = f"the last {tail.records} records of {kafka.topic}"
    if not interactions:
        raise Refused(
            f"prompts of {adapter}",
            f"none in {where} ({tail.rejected} requests in them cannot be read, or name another adapter)",
            "its traffic in that topic, or prompts written by hand",
        )
    since = datetime.fromtimestamp(tail.since or 0.0, UTC)
    asked_prompts = [
        AskedPrompt(interaction.messages, tokens=interaction.prompt_tokens) for interaction in interactions
    ]
    return PromptSource(_of(config, asked_prompts), f"{where}, since {since:%Y-%m-%d %H:%M} UTC")


def alone(config: Config) -> KafkaConfig:
    """How the topic is read beside the agents: in no group, from its earliest record on."""
    own = {"mode": "assign", "group_id": None, "auto_offset_reset": "earliest"}
    return _kafka(config).model_copy(update=own)


def _kafka(config: Config) -> KafkaConfig:
    if config.kafka is None:
        raise Refused("kafka", "no such section", "it, to read prompts from the topic")
    return config.kafka


def _of(config: Config, asked_prompts: Sequence[AskedPrompt]) -> DistinctPrompts:
    return distinct(asked_prompts, MOST_TOKENS, Redactor(config.sampling.redact).turn)


def _without_text(adapter: str, hours: int, stored: StoredPrompts) -> Refused:
    requests = stored.without_text + stored.unclear
    if requests:
        return Refused(f"prompts of {adapter}", f"{requests} sampled requests, none with its text", WITHOUT_TEXT)
    wanted = f"its traffic first (`gapwatch query freshness`), or a longer --hours; and {WITHOUT_TEXT}"
    return Refused(f"prompts of {adapter}", f"no sampled request of it in the last {hours} h", wanted)
