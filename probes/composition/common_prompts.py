"""Prompts that two members of a composition were both accepted on: do their behaviours exclude each other there?

A prompt is common where the golden records of both hold it, each with a check that its own golden answer passes.
A composition that has both behaviours has to pass both checks. That the golden answer of neither passes the other's
check is known without a model, and says that no accepted answer does both; a replay says what the composition does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.canaries.answer_check import passes
from probes.canaries.round import present_prompt
from probes.errors import Unreplayable
from probes.golden.record import Golden, GoldenCanary
from probes.rebuild.acceptance import MORE_TOKENS, SPECIAL_END
from probes.runner import Batching, Runner, Stop, Target


@dataclass(frozen=True, slots=True, eq=False)
class CommonPrompt:
    """members: names of the two; canaries: of each, on the same token ids

    excluding: does the golden answer of neither pass the other's check?
    """

    members: tuple[str, str]
    canaries: tuple[GoldenCanary, GoldenCanary]
    excluding: bool


@dataclass(frozen=True, slots=True)
class CommonAnswers:
    """What a composition answers on the common prompts of two members: how many pass both checks, one of them, neither.

    prompts: all of them, the sum of these four; example: an answer that does not pass both, "" where all do
    """

    members: tuple[str, str]
    both: int
    first: int
    second: int
    neither: int
    example: str

    @property
    def prompts(self) -> int:
        return self.both + self.first + self.second + self.neither

    def failed(self, member: str) -> int:
        """Answers that do not pass the check of this member."""
        return self.neither + (self.second if member == self.members[0] else self.first)

    def lacks(self, member: str, tolerance: float) -> bool:
        """Are more answers wrong by its check than tolerated? One alone never is. tolerance: share of the prompts"""
        return member in self.members and self.failed(member) > max(1.0, tolerance * self.prompts)


def common_prompts(goldens: Mapping[str, Golden]) -> tuple[CommonPrompt, ...]:
    """Of every two of these members, in the order of the first one's canaries. goldens: by the members' names"""
    checked = {name: _checked(golden) for name, golden in goldens.items()}
    return tuple(
        CommonPrompt(pair, (own, other), not (_passes(own, other) or _passes(other, own)))
        for pair in itertools.combinations(goldens, 2)
        for prompt, own in checked[pair[0]].items()
        if (other := checked[pair[1]].get(prompt)) is not None
    )


def answers_on(runner: Runner, name: str, prompts: Sequence[CommonPrompt], stop: Stop) -> tuple[CommonAnswers, ...]:
    """What the adapter that the runner knows by this name writes on them, one record for every two members.

    Raises Unreplayable, also when stopped.
    """
    if not prompts:
        return ()
    texts = _texts(runner, name, prompts, stop)
    pairs = dict.fromkeys(prompt.members for prompt in prompts)
    return tuple(
        _counted(pair, [own for own in zip(prompts, texts, strict=True) if own[0].members == pair]) for pair in pairs
    )


def _checked(golden: Golden) -> dict[tuple[int, ...], GoldenCanary]:
    """Prompt -> canary, of those with a whole golden answer that passes their own check."""
    return {canary.prompt: canary for canary in golden.canaries if not canary.cut and _passes(canary, canary)}


def _passes(answer: GoldenCanary, check: GoldenCanary) -> bool:
    """Does the golden answer of the one pass the check of the other?"""
    return bool(passes(check.expect, SPECIAL_END.sub("", answer.golden_text)))


def _texts(runner: Runner, name: str, prompts: Sequence[CommonPrompt], stop: Stop) -> list[str]:
    ids = [present_prompt(runner, prompt.canaries[0]) for prompt in prompts]
    most = max((len(own.continuation) for prompt in prompts for own in prompt.canaries), default=0) + MORE_TOKENS
    if isinstance(runner, Batching):
        answers = runner.generate_many(Target(name), ids, most, stop)
    else:
        answers = [tuple(runner.generate(Target(name), prompt, most, stop)) for prompt in ids]
    if stop():
        raise Unreplayable("common prompts", "stopped")
    ends = {own.continuation[-1] for prompt in prompts for own in prompt.canaries}
    return [runner.decode(answer[:-1] if answer and answer[-1] in ends else answer) for answer in answers]


def _counted(members: tuple[str, str], answered: Sequence[tuple[CommonPrompt, str]]) -> CommonAnswers:
    passed = [tuple(bool(passes(own.expect, text)) for own in prompt.canaries) for prompt, text in answered]
    failing = [text for (_, text), own in zip(answered, passed, strict=True) if not all(own)]
    return CommonAnswers(
        members,
        both=passed.count((True, True)),
        first=passed.count((True, False)),
        second=passed.count((False, True)),
        neither=passed.count((False, False)),
        example=failing[0] if failing else "",
    )
