"""From a canary's prompt to its golden answer: the adapter's own greedy continuation, and both golden sides of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.records import CanarySplit, Floats, Ints, NoiseFloor, Reference
from probes.canaries.canary_file import Canary
from probes.canaries.log_prob_summary import keep, summarise
from probes.canaries.rendering import prompt_of
from probes.canaries.replay_pairs import ask_all, full
from probes.errors import Refused, Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import Batching, Replay, Runner, Stop, Target

NO_NOISE = NoiseFloor(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class CanaryContinuation:
    """A canary with its continuation. prompt, forced: token ids, end of text included."""

    canary: Canary
    prompt: tuple[int, ...]
    forced: tuple[int, ...]

    @property
    def id(self) -> str:
        return self.canary.id


def continue_greedily(
    runner: Runner, adapter: str, canaries: Sequence[Canary], bounds: tuple[int, int], stop: Stop
) -> tuple[list[CanaryContinuation], dict[str, str]]:
    """Candidates, and for each other canary the reason why its continuation is of no use.

    bounds: fewest and most tokens of a continuation, end of text included. Raises Unreplayable for one without a prompt
    """
    fewest, most = bounds
    candidates, excluded = [], {}
    prompts = [prompt_of(runner, canary.id, canary.messages, most + 1) for canary in canaries]
    # One token more than allowed: a continuation that ends exactly at the bound has ended.
    continuations = _continuations(runner, Target(adapter), prompts, most + 1, stop)
    for canary, prompt, forced in zip(canaries, prompts, continuations, strict=True):
        if len(forced) > most:
            excluded[canary.id] = f"no end within {most} tokens"
        elif len(forced) < fewest:
            excluded[canary.id] = f"shorter than {fewest} tokens"
        else:
            candidates.append(CanaryContinuation(canary, prompt, forced))
    return candidates, excluded


def _continuations(
    runner: Runner, target: Target, prompts: Sequence[tuple[int, ...]], limit: int, stop: Stop
) -> list[tuple[int, ...]]:
    """All at once by runners that can (``generate_many``), else one by one. Raises Unreplayable when stopped."""
    made: list[tuple[int, ...]] = []
    if isinstance(runner, Batching):
        made = runner.generate_many(target, prompts, limit, stop)
    else:
        for prompt in prompts:
            if stop():
                break
            made.append(tuple(runner.generate(target, prompt, limit, stop)))
    # A stop cuts the continuations that were being made short; nothing of them is kept.
    if stop() or len(made) < len(prompts):
        raise Unreplayable("enrolment", "stopped")
    return made


def golden_sides(
    runner: Runner, adapter: str, candidates: Sequence[CanaryContinuation], top: int, stop: Stop
) -> list[GoldenCanary]:
    """The candidates under the adapter and under the base, over the whole vocabulary, reduced to the kept tokens.

    top: how many of the most probable tokens of either side are kept
    A draft: its curve has the two ends only, its noise is 0, its half is not decided. Raises Refused for NaN and inf.
    """
    asked = [
        [Replay(one.id, one.prompt, one.forced, target) for one in candidates]
        for target in (Target(adapter), Target(None))
    ]
    answers = ask_all(runner, [replay for side in asked for replay in side], stop)
    drafts = []
    for candidate, ours, bases in zip(candidates, *asked, strict=True):
        sides = full(answers[ours]), full(answers[bases])
        finite(f"canary {candidate.id} under {adapter} and its base", np.stack(sides))
        drafts.append(_draft(runner, candidate, keep(*sides, np.asarray(candidate.forced, np.int32), top), sides))
    return drafts


def finite(where: str, log_probs: Floats) -> None:
    """Raises Refused unless every number is finite."""
    if not np.isfinite(log_probs).all():
        raise Refused(
            where, "NaN or infinite log-probabilities", "finite numbers: a model that overflows is no reference"
        )


def _draft(runner: Runner, candidate: CanaryContinuation, kept: Ints, sides: tuple[Floats, Floats]) -> GoldenCanary:
    a, b = summarise(sides[0], kept), summarise(sides[1], kept)
    reference = Reference(
        canary=candidate.id,
        golden="",
        split=CanarySplit.SELECTED,
        kept=kept,
        golden_adapter=a,
        golden_base=b,
        scales=np.array([0, 1], np.float32),
        curve=np.stack([b.log_probs, a.log_probs]),
        others={},
        noise=NO_NOISE,
    )
    texts = runner.decode(candidate.prompt), runner.decode(candidate.forced)
    canary = candidate.canary
    return GoldenCanary(
        id=canary.id,
        split=CanarySplit.SELECTED,
        prompt=candidate.prompt,
        forced=candidate.forced,
        prompt_text=texts[0],
        golden_text=texts[1],
        reference=reference,
        messages=tuple(canary.messages),
        expect=canary.expect,
    )
