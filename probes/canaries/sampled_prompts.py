"""From the prompts of sampled requests to distinct ones that can be canaries, wherever they were read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from detectors.records import Floats
from probes.canaries.canary_file import ROLES, Canary
from probes.canaries.exported_traffic import canary_of, prompt_turns, unchanged

# Bytes of UTF-8 a token where nobody counted: English has about 4, Chinese 3.
BYTES_A_TOKEN = 3
TOO_LONG = "longer than probes may be"
NO_QUESTION = "without a user's text at the end, or with a turn of another role"


@dataclass(frozen=True, slots=True, eq=False)
class AskedPrompt:
    """The prompt of sampled requests as it was recorded. messages: its chat turns; requests: how many had it

    tokens: of the rendered prompt as the engine counted, 0 unknown; embedding: (d,), None where none is stored
    """

    messages: Sequence[Mapping[str, str]]
    requests: int = 1
    tokens: int = 0
    embedding: Floats | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SampledPrompt:
    """One distinct prompt of production, as a canary; otherwise as ``AskedPrompt``."""

    canary: Canary
    requests: int = 1
    tokens: int = 0
    embedding: Floats | None = None

    @property
    def length(self) -> int:
        """Tokens, estimated from the text where they are not known."""
        return self.tokens or math.ceil(len(text_of(self).encode()) / BYTES_A_TOKEN)


@dataclass(frozen=True, slots=True, eq=False)
class DistinctPrompts:
    """prompts: those that can be canaries, in the order of their names; left_out: why not -> requests"""

    prompts: tuple[SampledPrompt, ...]
    left_out: Mapping[str, int]

    @property
    def requests(self) -> int:
        """Sampled requests, left out or not."""
        return sum(prompt.requests for prompt in self.prompts) + sum(self.left_out.values())


def distinct(
    asked_prompts: Iterable[AskedPrompt],
    most_tokens: int,
    clean: Callable[[Mapping[str, str]], Mapping[str, str]] = unchanged,
) -> DistinctPrompts:
    """Each prompt once, with all its requests. clean: applied to each turn first (redaction), so that what differs only
    in what it replaces is one prompt; most_tokens: of a canary's prompt"""
    prompts: dict[str, SampledPrompt] = {}
    left_out: Counter[str] = Counter()
    for asked_prompt in asked_prompts:
        prompt = _as_canary(asked_prompt, clean)
        why = NO_QUESTION if prompt is None else TOO_LONG if prompt.length > most_tokens else ""
        if prompt is None or why:
            left_out[why] += asked_prompt.requests
            continue
        before = prompts.get(prompt.canary.id)
        prompts[prompt.canary.id] = _together(before, prompt) if before else prompt
    return DistinctPrompts(tuple(prompts[name] for name in sorted(prompts)), dict(left_out))


def text_of(prompt: SampledPrompt) -> str:
    return "\n".join(turn["content"] for turn in prompt.canary.messages)


def _as_canary(
    asked_prompt: AskedPrompt, clean: Callable[[Mapping[str, str]], Mapping[str, str]]
) -> SampledPrompt | None:
    messages = asked_prompt.messages
    if any(turn.get("role") not in ROLES or not isinstance(turn.get("content"), str) for turn in messages):
        return None
    turns = prompt_turns([clean(turn) for turn in messages])
    if not turns or not turns[-1]["content"].strip():
        return None
    return SampledPrompt(canary_of(turns), asked_prompt.requests, asked_prompt.tokens, asked_prompt.embedding)


def _together(before: SampledPrompt, prompt: SampledPrompt) -> SampledPrompt:
    """The longest count of tokens: an engine may have counted none, or another template's."""
    return replace(
        before,
        requests=before.requests + prompt.requests,
        tokens=max(before.tokens, prompt.tokens),
        embedding=prompt.embedding if before.embedding is None else before.embedding,
    )
