"""What must not leave the process in a request's words, by regular expressions of the configuration.

Applied once, where findings are handed to the sinks: what is stored, hashed, measured in characters or shown has gone
through it. The model that scores and embeds runs in this process and sees the original, because a likelihood of a
replaced text says nothing of the text that was served.

Every field goes through the rules that a client or an exporter can write as it likes: prompt and output, and request
id, pod, base, role and reason of the end besides. Not adapters, which are names of the configuration, and not what the
agent says of itself (verdicts, evidence, notices): there a pod is the only foreign word, and one that is no Kubernetes
name is dropped where records are read.
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
    """pattern: a regular expression of Python; with: what stands in its place, \\1 for its first group.

    A pattern that matches nothing at all would be put between any two characters, and is refused.
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
    def _groups_are_there(self) -> Self:
        try:
            re.compile(self.pattern).sub(self.replacement, "")
        except re.error as error:
            raise ValueError(f"a replacement that fits the pattern; {error}") from None
        return self


# Written by the format of every chat, and read by templates.
ROLES = frozenset(("system", "user", "assistant", "tool", "developer"))


class Redactor:
    """Callable on findings: what came of traffic comes back with its words replaced, everything else as it is."""

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

    def interaction(self, seen: Interaction) -> Interaction:
        """Without its token ids: they are the text in other letters."""
        fields = ("request_id", "base", "pod", "finish_reason")
        named: dict[str, Any] = {name: self.text(getattr(seen, name)) for name in fields}
        chat, output = tuple(map(self.turn, seen.messages)), self.text(seen.output)
        return replace(seen, messages=chat, output=output, prompt_token_ids=(), output_token_ids=(), **named)

    def turn(self, turn: Mapping[str, str]) -> Mapping[str, str]:
        """A chat turn with its content replaced, and its role where that is not one of every chat."""
        role = turn.get("role", "")
        told = {"role": role if role in ROLES else self.text(role)} if role else {}
        return {**turn, **told, "content": self.text(turn.get("content", ""))}

    def text(self, text: str) -> str:
        for pattern, replacement in self._rules:
            text = pattern.sub(replacement, text)
        return text

    def _batch(self, batch: TrafficBatch) -> TrafficBatch:
        rejected = tuple(replace(one, detail=self.text(one.detail)) for one in batch.rejected)
        interactions = tuple(map(self.interaction, batch.interactions))
        return replace(batch, interactions=interactions, counts=self._counts(batch.counts), rejected=rejected)

    def _counts(self, counts: Sequence[RequestCount]) -> tuple[RequestCount, ...]:
        """Those whose pods have become one are added up: the store keeps one row for each of its key."""
        together: dict[RequestCount, int] = {}
        for count in counts:
            key = replace(count, pod=self.text(count.pod), n=0)
            together[key] = together.get(key, 0) + count.n
        return tuple(replace(key, n=n) for key, n in together.items())

    def _score(self, score: TrafficScore) -> TrafficScore:
        request_id, pod, detail = map(self.text, (score.request_id, score.pod, score.detail))
        return replace(score, request_id=request_id, pod=pod, detail=detail)
