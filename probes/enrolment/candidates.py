"""From a canary's prompt to its golden answer: the adapter's greedy continuation, and what adapter and base make of it.

The continuation is the adapter's own, so that no reference answer has to be written by hand. One that is too short
excludes its canary, with the reason. One that does not end is cut at the bound: what is forced and scored needs no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.records import CanarySplit, Floats, Ints, NoiseFloor, Reference, Summary
from probes.canaries.canary_file import Canary
from probes.canaries.log_prob_summary import keep, keep_listed, summarise
from probes.canaries.rendering import prompt_of
from probes.canaries.replay_pairs import all_listed, ask_all, full
from probes.errors import Refused, Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import Batching, Listing, Replay, Runner, Stop, Target
from probes.serving.engine import Listed
from probes.serving.listed_summary import summary_of

NO_NOISE = NoiseFloor(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class CanaryContinuation:
    """A canary and the adapter's greedy continuation of it.

    prompt, forced: token ids, end of text included; cut: the continuation went on beyond the bound
    """

    canary: Canary
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    cut: bool = False

    @property
    def id(self) -> str:
        return self.canary.id


def continue_greedily(
    runner: Runner, adapter: str, canaries: Sequence[Canary], bounds: tuple[int, int], stop: Stop
) -> tuple[list[CanaryContinuation], dict[str, str]]:
    """Canaries with a usable continuation, and id -> reason for the others.

    bounds: fewest tokens of a continuation, end of text included, and most, at which it is cut. Raises Unreplayable for
    a canary whose prompt cannot be rendered.
    """
    fewest, most = bounds
    candidates, excluded = [], {}
    prompts = [prompt_of(runner, canary.id, canary.messages, most + 1) for canary in canaries]
    # One token more than is kept: a continuation that ends exactly at the bound has ended.
    continuations = _continuations(runner, Target(adapter), prompts, most + 1, stop)
    for canary, prompt, forced in zip(canaries, prompts, continuations, strict=True):
        if len(forced) < fewest:
            excluded[canary.id] = f"shorter than {fewest} tokens"
        else:
            candidates.append(CanaryContinuation(canary, prompt, forced[:most], cut=len(forced) > most))
    return candidates, excluded


def _continuations(
    runner: Runner, target: Target, prompts: Sequence[tuple[int, ...]], limit: int, stop: Stop
) -> list[tuple[int, ...]]:
    """In one batch by runners that can (``generate_many``), else one by one. Raises Unreplayable when stopped."""
    continuations: list[tuple[int, ...]] = []
    if isinstance(runner, Batching):
        continuations = runner.generate_many(target, prompts, limit, stop)
    else:
        for prompt in prompts:
            if stop():
                break
            continuations.append(tuple(runner.generate(target, prompt, limit, stop)))
    # A stop truncates the continuations that were being generated, so none of them is used.
    if stop() or len(continuations) < len(prompts):
        raise Unreplayable("enrolment", "stopped")
    return continuations


def unchecked(canaries: Sequence[GoldenCanary], most: int) -> tuple[str, ...]:
    """In words, how many canaries have a check of an answer that was cut: it needs a whole one. most: the bound."""
    count = sum(canary.cut and bool(canary.expect) for canary in canaries)
    return (f"checks of {count} canaries: their answers do not end within {most} tokens",) if count else ()


def golden_sides(
    runner: Runner, adapter: str, candidates: Sequence[CanaryContinuation], top: int, stop: Stop
) -> list[GoldenCanary]:
    """The candidates' log-probabilities under adapter and base, over the whole vocabulary, reduced to the kept tokens.

    top: how many of the most probable tokens of either side are kept
    The canaries are drafts: the curve has its two ends only, the noise is 0, the split is not decided. Raises Refused
    for NaN and inf.
    """
    k = min(top, runner.most_listed()) if isinstance(runner, Listing) else 0
    replays = [
        [Replay(candidate.id, candidate.prompt, candidate.forced, target, listed=k) for candidate in candidates]
        for target in (Target(adapter), Target(None))
    ]
    every = [replay for side in replays for replay in side]
    if isinstance(runner, Listing):
        return _by_listing(runner, adapter, zip(candidates, *replays, strict=True), all_listed(runner, every, stop))
    answers = ask_all(runner, every, stop)
    drafts = []
    for candidate, of_adapter, of_base in zip(candidates, *replays, strict=True):
        sides = full(answers[of_adapter]), full(answers[of_base])
        finite(f"canary {candidate.id} under {adapter} and its base", np.stack(sides))
        kept = keep(*sides, np.asarray(candidate.forced, np.int32), top)
        drafts.append(_draft(runner, candidate, kept, (summarise(sides[0], kept), summarise(sides[1], kept))))
    return drafts


def _by_listing(
    runner: Runner,
    adapter: str,
    replays: Iterable[tuple[CanaryContinuation, Replay, Replay]],
    answers: Mapping[Replay, Listed],
) -> list[GoldenCanary]:
    """The same over what an engine lists: kept are the tokens that it lists for either side, and the given ones."""
    drafts = []
    for candidate, of_adapter, of_base in replays:
        sides = answers[of_adapter], answers[of_base]
        kept = keep_listed(*sides)
        summaries = summary_of(sides[0], kept), summary_of(sides[1], kept)
        finite(
            f"canary {candidate.id} under {adapter} and its base",
            np.stack([side.log_probs[kept >= 0] for side in summaries]),
        )
        drafts.append(_draft(runner, candidate, kept, summaries, sides[0].ids.shape[1]))
    return drafts


def finite(where: str, log_probs: Floats) -> None:
    """Raises Refused unless every number is finite."""
    if not np.isfinite(log_probs).all():
        raise Refused(
            where, "NaN or infinite log-probabilities", "finite numbers: a model that overflows is no reference"
        )


def _draft(
    runner: Runner, candidate: CanaryContinuation, kept: Ints, sides: tuple[Summary, Summary], listed: int = 0
) -> GoldenCanary:
    a, b = sides
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
        listed=listed,
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
        cut=candidate.cut,
    )
