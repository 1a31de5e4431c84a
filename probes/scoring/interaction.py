"""What one sampled production request and its answer hold, whatever format their record had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interaction:
    """One sampled production request with its answer, in whatever format it came.

    at: when it was served, seconds; prompt: text as the tokenizer of the base would see it is not known here, so
    messages are kept as they came; sampling: SAMPLING of agent/traffic/json_fields.py, those that were given:
    one that is missing is unknown, not at its default
    prompt_token_ids, output_token_ids, token_logprobs: (tokens,), of the engine's tokenizer; () where not recorded.
    token_logprobs in nats, NaN where the engine told none
    redelivered: it was in an earlier batch, durable or of this process: stored again (deduplicated), not judged again
    unscored: why the law that it was drawn from is not known (agent/traffic/scorable.py), in words; "" where it is
    group: hash of the session or the tenant that it comes from, "" where no field names one
    other_half: (topic, partition, offset) of the request, where the two came as records of their own
    number: its place among the requests of its record, of which nearly all hold one
    """

    request_id: str
    at: float
    adapter: str
    base: str
    pod: str
    messages: tuple[Mapping[str, str], ...]
    output: str
    finish_reason: str
    sampling: Mapping[str, float]
    prompt_tokens: int
    output_tokens: int
    topic: str
    partition: int
    offset: int
    prompt_token_ids: tuple[int, ...] = ()
    output_token_ids: tuple[int, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    redelivered: bool = False
    unscored: str = ""
    group: str = ""
    other_half: tuple[str, int, int] | None = None
    number: int = 0

    @property
    def records(self) -> tuple[tuple[str, int, int], ...]:
        """(topic, partition, offset) of each record that it was read from."""
        here = self.topic, self.partition, self.offset
        return (here,) if self.other_half is None else (here, self.other_half)
