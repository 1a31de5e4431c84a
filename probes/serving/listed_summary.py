"""What a listing of the k most probable tokens says of the kept ones, and a golden record read through such a listing.

A serving engine lists the k most probable tokens of a position and nothing of the others. A kept token that it does not
list is at most as probable as the k-th listed one, and *takes that value* (censoring), in the golden record and in the
present answer alike. What that costs: docs/mathematics.md#served-canaries. A change here changes what served answers
are compared with, and so every figure of a canary that is replayed through an engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detectors.records import Bools, Floats, Ints, Recorded, Reference, Summary
from probes.canaries.log_prob_summary import PAD
from probes.errors import Unreplayable
from probes.golden.record import GoldenCanary
from probes.runner import Listing, Runner
from probes.serving.engine import Listed

Doubles = NDArray[np.float64]
# Probability below which the mass of what is not listed is rounding: listed values are float32.
ROUNDING = 1e-6
# How far listed probabilities may sum beyond 1: engines that compute in 16 bits normalise no better.
BEYOND_ONE = 0.01


def summary_of(listed: Listed, kept: Ints) -> Summary:
    """The summary of an answer of which an engine listed the k most probable tokens of each position, k >= 1.

    kept: (T, K) token ids, no id twice in a row, -1 where padded

    A kept token that is neither listed nor the given one takes the k-th listed value, an upper bound of its own. With m
    such tokens, U the probability of all that is not known and e that of the k-th listed token, ``rest`` is the least
    mass outside the kept tokens that the listing proves: listed there, and max(0, U - m e). The true one is greater by
    at most min(U, m e). Continuous in the probabilities, also where a token enters or leaves the listing.

    Source: docs/mathematics.md#served-canaries; censoring at a bound that is known: Tobin (1958), Econometrica 26(1).
    """
    used = kept != PAD
    of_token = (kept[:, :, None] == listed.ids[:, None, :]) & used[:, :, None]
    is_given = used & (kept == listed.tokens[:, None])
    edge = listed.log_probs[:, -1].astype(np.float64)
    values = np.where(of_token, listed.log_probs[:, None, :], -np.inf).max(axis=2, initial=-np.inf)
    is_listed = of_token.any(axis=2)
    values = np.where(is_listed, values, np.where(is_given, listed.of_tokens[:, None], edge[:, None]))
    bounded = used & ~is_listed & ~is_given
    rest = _rest(listed, of_token.any(axis=1), is_given.any(axis=1), bounded.sum(axis=1))
    return Summary(np.where(used, values, -np.inf).astype(np.float32), rest, listed.ids[:, 0].astype(np.int32))


def _rest(listed: Listed, is_kept: Bools, given_is_kept: Bools, bounded: NDArray[np.int64]) -> Floats:
    """(T,) log of the least mass outside the kept tokens. is_kept: (T, k) of listed tokens; bounded: (T,) m"""
    probabilities = np.exp(listed.log_probs.astype(np.float64))
    given = np.exp(listed.of_tokens.astype(np.float64))
    given = np.where((listed.ids == listed.tokens[:, None]).any(axis=1), 0.0, given)
    unknown = 1.0 - probabilities.sum(axis=1) - given
    unknown = np.where(unknown > ROUNDING, unknown, 0.0)
    outside = np.where(is_kept, 0.0, probabilities).sum(axis=1) + np.where(given_is_kept, 0.0, given)
    with np.errstate(divide="ignore"):
        rest: Floats = np.log(outside + np.maximum(unknown - bounded * probabilities[:, -1], 0.0)).astype(np.float32)
    return rest


def first(listed: Listed, k: int) -> Listed:
    """The same answer as if only k tokens were listed at each position.

    Raises Unreplayable where fewer are listed, and where their probabilities are those of no token distribution: not in
    descending order, or more than 1 together, as after a temperature or another processing.
    """
    ids, log_probs = listed.ids[:, :k], listed.log_probs[:, :k]
    if ids.shape[1] < k or np.any(ids == PAD):
        fewest = int((ids != PAD).sum(axis=1).min(initial=k))
        raise Unreplayable("the engine's answer", f"lists {fewest} tokens at a position, wanted {k}")
    most = float(np.exp(log_probs.astype(np.float64)).sum(axis=1).max(initial=0.0))
    if most > 1 + BEYOND_ONE or np.any(np.diff(log_probs, axis=1) > 0):
        wanted = "log-probabilities of the raw model, the most probable token first"
        raise Unreplayable("the engine's answer", f"lists probabilities that sum to {most:.3g}, wanted {wanted}")
    return replace(listed, ids=ids, log_probs=log_probs)


def whole_of(listed: Listed) -> Floats:
    """(T, V) log-probabilities where the V tokens of the whole vocabulary were listed. Raises Unreplayable else."""
    order = np.argsort(listed.ids, axis=1)
    full: Floats = np.take_along_axis(listed.log_probs, order, axis=1)
    is_whole = np.array_equal(np.take_along_axis(listed.ids, order, axis=1), np.indices(full.shape)[1])
    if not is_whole or np.any(np.exp(full.astype(np.float64)).sum(axis=1) < 1 - BEYOND_ONE):
        raise Unreplayable("the engine's answer", f"lists {full.shape[1]} tokens and not the whole vocabulary")
    return full


def read_by(runner: Runner, canary: GoldenCanary) -> GoldenCanary:
    """The canary with a reference that this runner's answers can be compared with: through a listing of as many tokens
    as the runner sees, as it is where the runner sees the whole vocabulary."""
    if not isinstance(runner, Listing):
        return canary
    return replace(canary, reference=through(canary.reference, canary.forced, runner.most_listed()))


def through(reference: Reference, forced: Sequence[int], most: int) -> Reference:
    """The reference as an engine that lists so many tokens would have answered it.

    forced: the T token ids of the continuation; most: k, lowered to what the record's own kept tokens can tell: a
    record that kept the 20 most probable tokens of either side knows no other k-th value than those up to k = 20

    Kept are then the tokens that would have been listed for adapter or base, and the continuation's. Their values are
    exact for both. Of the curve between, of other adapters and of signatures the k-th value is taken among the record's
    kept tokens, so that it is too low where others were among the k most probable.
    Source: docs/mathematics.md#served-canaries.
    """
    k = min(most, _most_known(reference))
    if k == reference.listed:
        return reference
    given = reference.kept == np.asarray(forced, np.int32)[:, None]
    a, b = reference.golden_adapter, reference.golden_base
    sides = [_listed(reference.kept, side, np.asarray(forced, np.int32), k) for side in (a, b)]
    is_listed = [(reference.kept[:, :, None] == side.ids[:, None, :]).any(axis=2) for side in sides]
    kept = np.where((reference.kept != PAD) & (is_listed[0] | is_listed[1] | given), reference.kept, PAD)

    def table(log_probs: Floats) -> Floats:
        return _censored(log_probs, reference.kept, kept, given, k)

    return replace(
        reference,
        kept=kept,
        golden_adapter=replace(summary_of(sides[0], kept), top1=a.top1),
        golden_base=replace(summary_of(sides[1], kept), top1=b.top1),
        curve=table(reference.curve),
        others={name: table(other) for name, other in reference.others.items()},
        faults={
            fault: Recorded(table(made.served), None if made.live_base is None else table(made.live_base))
            for fault, made in reference.faults.items()
        },
        listed=k,
    )


def _most_known(reference: Reference) -> int:
    """Largest k whose k-th values the reference holds: its width is that of two listings and the reference token."""
    return reference.listed or max(1, (reference.kept.shape[1] - 1) // 2)


def _listed(kept: Ints, side: Summary, forced: Ints, k: int) -> Listed:
    """What an engine would have listed of one side of a record: its k most probable tokens are among the kept ones."""
    order = np.argsort(-side.log_probs, axis=1, kind="stable")[:, :k]
    ids, log_probs = np.take_along_axis(kept, order, axis=1), np.take_along_axis(side.log_probs, order, axis=1)
    given = np.where(kept == forced[:, None], side.log_probs, -np.inf).max(axis=1)
    return Listed(ids, log_probs, forced, given.astype(np.float32))


def _censored(log_probs: Floats, known: Ints, kept: Ints, given: Bools, k: int) -> Floats:
    """(..., T, K) log-probabilities of known tokens, those of kept ones alone and none below the k-th but the given."""
    sure = np.where(known != PAD, log_probs, -np.inf)
    edge = -np.partition(-sure, k - 1, axis=-1)[..., k - 1 : k]
    values: Floats = np.where(kept != PAD, np.where(given, sure, np.maximum(sure, edge)), -np.inf).astype(np.float32)
    return values
