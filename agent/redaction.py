"""What must not leave the process in a prompt or an output, by regular expressions of the configuration.

Applied once, where findings are handed to the sinks: what is stored, hashed, measured in characters or shown has gone
through it. The model that scores and embeds runs in this process and sees the original, because a likelihood of a
replaced text says nothing of the text that was served.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agent.records import Finding, Interaction, TrafficBatch


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


class Redactor:
    """Callable on findings: traffic comes back with its texts replaced, everything else as it is."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._rules = [(re.compile(rule.pattern), rule.replacement) for rule in rules]

    def __call__(self, finding: Finding) -> Finding:
        if not self._rules or not isinstance(finding, TrafficBatch):
            return finding
        return replace(finding, interactions=tuple(map(self.interaction, finding.interactions)))

    def interaction(self, seen: Interaction) -> Interaction:
        """Without its token ids: they are the text in other letters."""
        chat = tuple(map(self.turn, seen.messages))
        output = self.text(seen.output)
        return replace(seen, messages=chat, output=output, prompt_token_ids=(), output_token_ids=())

    def turn(self, turn: Mapping[str, str]) -> Mapping[str, str]:
        """A chat turn with its content replaced."""
        return {**turn, "content": self.text(turn.get("content", ""))}

    def text(self, text: str) -> str:
        for pattern, replacement in self._rules:
            text = pattern.sub(replacement, text)
        return text
