"""Replaces in requests and answers what must not leave the process, by regular expressions of the configuration.

Applied once, where findings are handed to the sinks: whatever is stored, hashed, measured in characters or shown has
been redacted. The model that scores and embeds runs in this process and reads the original, because the likelihood of a
redacted text says nothing about the text that was served.

The rules apply to every field in which a client or an exporter can write anything: prompt, output, request id, pod,
base, role and finish reason. They do not apply to adapters, whose names come from the configuration, nor to the agent's
own findings (verdicts, evidence, notices): the only foreign text there is a pod, and one that is no Kubernetes name is
dropped where records are read. A new field of a record that clients can write has to be added here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.records import Finding, RequestCount, TrafficBatch
from detectors.traffic_records import Embedding, TrafficRound, TrafficScore
from probes.scoring.interaction import Interaction


class Rule(BaseModel):
    """pattern: a Python regular expression; with: its replacement, in which \\1 is the first group.

    A pattern that matches the empty text is refused: its replacement would be inserted between any two characters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    pattern: str = Field(min_length=1)
    replacement: str = Field(default="[redacted]", alias="with")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"a regular expression; {error}") from None
        if compiled.match(""):
            raise ValueError("a regular expression that does not match an empty text")
        return pattern

    @model_validator(mode="after")
    def _groups_exist(self) -> Self:
        try:
            re.compile(self.pattern).sub(self.replacement, "")
        except re.error as error:
            raise ValueError(f"a replacement that fits the pattern; {error}") from None
        return self


# Roles that chat templates know: never redacted.
ROLES = frozenset(("system", "user", "assistant", "tool", "developer"))


class Redactor:
    """Callable on findings: those of traffic are returned redacted, all others unchanged."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = [(re.compile(rule.pattern), rule.replacement) for rule in rules]

    def __call__(self, finding: Finding) -> Finding:
        if not self._rules:
            return finding
        if isinstance(finding, TrafficBatch):
            return self._batch(finding)
        if isinstance(finding, TrafficRound):
            return replace(finding, scores=tuple(map(self._score, finding.scores)))
        if isinstance(finding, Embedding):
            return replace(finding, request_id=self.text(finding.request_id))
        return finding

    def interaction(self, interaction: Interaction) -> Interaction:
        """Also without its token ids, which are the text in another encoding."""
        fields = ("request_id", "base", "pod", "finish_reason")
        named: dict[str, Any] = {name: self.text(getattr(interaction, name)) for name in fields}
        chat, output = tuple(map(self.turn, interaction.messages)), self.text(interaction.output)
        return replace(interaction, messages=chat, output=output, prompt_token_ids=(), output_token_ids=(), **named)

    def turn(self, turn: Mapping[str, str]) -> Mapping[str, str]:
        """A chat turn with its content redacted, and its role unless that is one of ROLES."""
        role = turn.get("role", "")
        redacted_role = {"role": role if role in ROLES else self.text(role)} if role else {}
        return {**turn, **redacted_role, "content": self.text(turn.get("content", ""))}

    def text(self, text: str) -> str:
        for pattern, replacement in self._rules:
            text = pattern.sub(replacement, text)
        return text

    def _batch(self, batch: TrafficBatch) -> TrafficBatch:
        rejected = tuple(replace(rejection, detail=self.text(rejection.detail)) for rejection in batch.rejected)
        interactions = tuple(map(self.interaction, batch.interactions))
        return replace(batch, interactions=interactions, counts=self._counts(batch.counts), rejected=rejected)

    def _counts(self, counts: Sequence[RequestCount]) -> tuple[RequestCount, ...]:
        """Counts whose pods are the same after redaction are added up: the store keeps one row a key."""
        totals: dict[RequestCount, int] = {}
        for count in counts:
            key = replace(count, pod=self.text(count.pod), n=0)
            totals[key] = totals.get(key, 0) + count.n
        return tuple(replace(key, n=n) for key, n in totals.items())

    def _score(self, score: TrafficScore) -> TrafficScore:
        request_id, pod, detail = map(self.text, (score.request_id, score.pod, score.detail))
        return replace(score, request_id=request_id, pod=pod, detail=detail)
