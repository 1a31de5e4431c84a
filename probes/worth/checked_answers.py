"""What an adapter and its base write on the canaries of a golden record, with or without examples in the prompt, and
does it pass each canary's own check? Needs a model; whether the adapter is still worth anything is judged in
detectors/economics/worth.py.

Examples come from the selected half and the held-out half is asked, so that no canary is answered with itself in sight.
They are golden answers that pass their own check, drawn once by a seed: the same examples for each prompt, as a
deployment would have them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.canaries.answer_check import passed_and_passes
from probes.canaries.rendering import prompt_of
from probes.canaries.replay_pairs import Progress
from probes.errors import Refused, Unreplayable
from probes.golden.record import Golden, GoldenCanary
from probes.rebuild.acceptance import MORE_TOKENS, SPECIAL_END
from probes.runner import Batching, Runner, Stop, Target

STAGE = "answers"
# Prompts that are answered in one batch: so often is looked whether to stop.
AT_ONCE = 8
Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Written:
    """Of the canaries that were asked, in their order. passes, prompt_tokens, output_tokens: (n,)

    texts: the answers, without the token that ends them
    """

    passes: NDArray[np.bool_]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    texts: tuple[str, ...]


def checked_canaries(golden: Golden) -> tuple[GoldenCanary, ...]:
    """Those with a check that the golden answer lets be read, of the held-out half, and of the other too where it was
    not chosen for the difference between adapter and base."""
    halves = golden.held_out if golden.settings.get("select") else golden.canaries
    return tuple(own for own in halves if not own.cut and accepted_passes(own) is not None)


def accepted_text(canary: GoldenCanary) -> str:
    """The golden answer without the token that ends it."""
    return SPECIAL_END.sub("", canary.golden_text)


def accepted_passes(canary: GoldenCanary) -> bool | None:
    """Does the golden answer pass the canary's own check? None where it has none."""
    text = accepted_text(canary)
    return passed_and_passes(canary.expect, text, text)[0]


def possible_examples(golden: Golden) -> tuple[GoldenCanary, ...]:
    """Canaries of the selected half, with their messages, whose golden answer is whole and passes its check."""
    return tuple(own for own in golden.pool if own.messages and not own.cut and accepted_passes(own))


def examples(golden: Golden, count: int, seed: int = 0) -> tuple[tuple[Turns, str], ...]:
    """(turns, golden answer) of so many canaries of ``possible_examples``. Raises Refused where there are fewer."""
    usable = possible_examples(golden)
    if len(usable) < count:
        actual = f"{len(usable)} canaries of the selected half whose golden answer passes a check"
        raise Refused(f"examples of {golden.adapter}", actual, f"{count}, for a prompt with so many examples")
    picked = random.Random(seed).sample(usable, count)
    return tuple((own.messages, accepted_text(own)) for own in picked)


def with_examples(turns: Turns, shown: Sequence[tuple[Turns, str]]) -> list[dict[str, str]]:
    """The turns of a request with others and their answers before its own user turn; system turns stay first, once."""
    system = [dict(turn) for turn in turns if turn["role"] == "system"]
    own = [dict(turn) for turn in turns if turn["role"] != "system"]
    before = [
        turn
        for example, answer in shown
        for turn in (
            *(dict(turn) for turn in example if turn["role"] != "system"),
            {"role": "assistant", "content": answer},
        )
    ]
    return [*system, *before, *own]


def written(
    runner: Runner,
    adapter: str | None,
    canaries: Sequence[GoldenCanary],
    stop: Stop,
    progress: Progress,
    shown: Sequence[tuple[Turns, str]] = (),
) -> Written:
    """Greedy answers of the adapter, or of the base for None. runner: open

    Raises Unreplayable as the runner does, for a record that does not hold its messages, and when stopped.
    """
    most = max((len(canary.continuation) for canary in canaries), default=0) + MORE_TOKENS
    prompts = [_prompt(runner, canary, shown, most) for canary in canaries]
    answers: list[tuple[int, ...]] = []
    name = f"{STAGE} of {adapter or 'the base'}" + (f", {len(shown)} examples" if shown else "")
    for start in range(0, len(prompts), AT_ONCE):
        progress(name, start, len(prompts))
        answers += _answers(runner, Target(adapter), prompts[start : start + AT_ONCE], most, stop)
        if stop():
            raise Unreplayable("worth", "stopped")
    progress(name, len(prompts), len(prompts))
    texts = tuple(runner.decode(ids[:-1] if len(ids) < most else ids) for ids in answers)
    passes = [_passes(canary, text) for canary, text in zip(canaries, texts, strict=True)]
    return Written(
        np.asarray(passes, bool),
        np.asarray([len(prompt) for prompt in prompts], np.int64),
        np.asarray([len(ids) for ids in answers], np.int64),
        texts,
    )


def _prompt(runner: Runner, canary: GoldenCanary, shown: Sequence[tuple[Turns, str]], most: int) -> tuple[int, ...]:
    if not canary.messages:
        if shown:
            raise Unreplayable(f"canary {canary.id}", "its record holds no messages, which examples are put before")
        return canary.prompt
    return prompt_of(runner, canary.id, with_examples(canary.messages, shown), most)


def _answers(
    runner: Runner, target: Target, prompts: Sequence[tuple[int, ...]], most: int, stop: Stop
) -> list[tuple[int, ...]]:
    if isinstance(runner, Batching):
        return runner.generate_many(target, prompts, most, stop)
    return [tuple(runner.generate(target, prompt, most, stop)) for prompt in prompts]


def _passes(canary: GoldenCanary, text: str) -> bool:
    return bool(passed_and_passes(canary.expect, accepted_text(canary), text)[1])
