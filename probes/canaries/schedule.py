"""Which canaries are replayed in a round, and when a round is due. Pure.

The draws have to stay uniform and independent of what was measured: the null hypothesis of the evidence rests on it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.records import CanarySplit
from probes.errors import Refused
from probes.golden.record import Golden, GoldenCanary

DRAW_SHARE = 0.6
MOST_DRAWS, MOST_HELD_OUT = 32, 16
# One draw adds at most ln(1/m0) = 3 nats: a page at 21.5 nats, with the cost of mixing over bets, takes 8 to 9 draws.
LEAST_DRAWS = 9


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """One adapter's part of a round.

    draws: canary id -> how often it was drawn; a canary drawn twice is replayed once and counts twice
    held_out: ids that are replayed for retention's interval only
    picks: the draws one by one, in the order in which they were made
    """

    draws: dict[str, int]
    held_out: tuple[str, ...]
    picks: tuple[str, ...] = ()


def plan_round(golden: Golden, budget_tokens: int, seed: int, number: int, salt: int = 0) -> RoundPlan:
    """The canaries of one round.

    budget_tokens: scored positions: each position of a replayed canary once, though it is answered under two names
    (adapter and base)
    seed, number, salt: seed the draws: equal ones give equal plans in any process, others are independent
    salt: when the round began, in milliseconds. Round numbers restart with the process, and evidence is carried over:
    without the salt, its bets would have been placed in knowledge of the same draws.

    Draws are uniform with replacement from the selected half: E[S | past, earlier draws] is then the pool's own share
    beyond tolerance, whatever the noise. Their number is fixed from the longest canaries before any is drawn, so that a
    canary is never left out for being long. Raises Refused when the budget cannot hold 9 draws.
    """
    n_draws, n_held_out = sizes(_lengths(golden.pool), _lengths(golden.held_out), budget_tokens)
    generator = np.random.default_rng([seed, number, salt, zlib.crc32(golden.adapter.encode())])
    picks = generator.integers(len(golden.pool), size=n_draws)
    held_out = generator.choice(len(golden.held_out), size=n_held_out, replace=False)
    names = tuple(golden.pool[int(index)].id for index in picks)
    return RoundPlan(dict(Counter(names)), tuple(golden.held_out[int(index)].id for index in held_out), names)


def sizes(pool: Sequence[int], held_out: Sequence[int], budget_tokens: int) -> tuple[int, int]:
    """How many draws and how many held-out canaries a budget holds in the worst case.

    pool, held_out: scored positions of each canary. The worst case of d draws is the d longest canaries, once each.
    About 60 % goes to the draws, more where that would be fewer than 9. There are at most 32: beyond the size of the
    pool, draws mostly repeat canaries. That costs nothing and keeps the null, since each is an independent pick, but it
    says nothing new of the model: a round would only count its few canaries with more precision.
    """
    n_draws = min(max(_fitting(pool, DRAW_SHARE * budget_tokens), LEAST_DRAWS), MOST_DRAWS)
    remaining = budget_tokens - _worst(pool, n_draws)
    if remaining < 0:
        least = _worst(pool, LEAST_DRAWS)
        raise Refused(
            "token budget of a round",
            budget_tokens,
            f"at least {least}, for {LEAST_DRAWS} draws of the longest canaries",
        )
    return n_draws, min(_fitting(held_out, remaining), MOST_HELD_OUT, len(held_out))


def draws_of_round(golden: Golden, budget_tokens: int) -> int:
    """How many draws a round of this adapter has. Raises Refused as ``plan_round`` does."""
    return sizes(_lengths(golden.pool), _lengths(golden.held_out), budget_tokens)[0]


def mean_tokens(canaries: Sequence[GoldenCanary], budget_tokens: int) -> tuple[float, float]:
    """Mean tokens of a round: scored positions, and all that go through the model for them.

    canaries: of both halves. Processed are prompt and continuation but its last token, under adapter and base. A canary
    that is drawn twice counts once.
    """
    pool = [canary for canary in canaries if canary.split is CanarySplit.SELECTED]
    held_out = [canary for canary in canaries if canary.split is CanarySplit.HELD_OUT]
    n_draws, n_held_out = sizes(_lengths(pool), _lengths(held_out), budget_tokens)
    drawn = 1 - (1 - 1 / len(pool)) ** n_draws
    parts = (drawn, pool), (n_held_out / max(len(held_out), 1), held_out)
    scored = sum(share * sum(_lengths(half)) for share, half in parts)
    prompts = sum(share * sum(len(canary.prompt) - 1 for canary in half) for share, half in parts)
    return scored, 2 * (scored + prompts)


def due(now: float, last: float | None, every_s: float) -> bool:
    """Is a round due? last: when the last one began, None before the first. A clock that is set back makes it due."""
    return last is None or now - last >= every_s or now < last


def _lengths(canaries: Sequence[GoldenCanary]) -> list[int]:
    return [len(canary.forced) for canary in canaries]


def _worst(lengths: Sequence[int], count: int) -> int:
    return sum(sorted(lengths, reverse=True)[:count])


def _fitting(lengths: Sequence[int], tokens: float) -> int:
    """Largest number of draws whose worst case fits; unbounded once every canary fits at once."""
    if sum(lengths) <= tokens:
        return MOST_DRAWS
    return int(np.searchsorted(np.cumsum(sorted(lengths, reverse=True)), tokens, side="right"))
