"""One sampled production request with its answer: what every record format is read into, and scoring reads.

Every field has to be known, or recognisably unknown, for all formats of agent/traffic/formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interaction:
    """One sampled production request with its answer, whatever the format of its record.

    at: when it was served, seconds; messages: as recorded, because how the template renders them is not known here
    sampling: the given ones of SAMPLING in agent/traffic/json_fields.py; a missing one is unknown, not at its default
    prompt_token_ids, output_token_ids, token_logprobs: (tokens,), of the engine's tokenizer; () where not recorded.
    token_logprobs in nats, NaN where the engine gave none
    redelivered: it was in an earlier batch, durable or of this process: stored again (deduplicated), not judged again
    unscored: why the distribution of its tokens is unknown (agent/traffic/scorable.py); "" where it is known
    group: hash of the session or the tenant that it comes from, "" where no field names one
    other_half: (topic, partition, offset) of the request, where request and answer are separate records
    number: its place among the requests of its record; most records have one
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
        """(topic, partition, offset) of each record that it was read from: one, or two halves."""
        here = self.topic, self.partition, self.offset
        return (here,) if self.other_half is None else (here, self.other_half)
