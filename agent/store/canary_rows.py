"""What came from canaries as rows: rounds with their canaries, how files answered, texts that changed, golden records.

from_rows.py reads rounds back from these columns: what is needed to judge a round again has to be in them
(tests/agent/store/test_from_rows.py). A new column also needs a migration (table_rows.py).
"""

from __future__ import annotations

import numpy as np

from agent.records import Flip, GoldenAccepted
from agent.store.table_rows import (
    ENGINES,
    GRIDS,
    NAN,
    Origin,
    Row,
    TableRows,
    fields_of,
    identity_columns,
    mean,
    when,
    with_rows,
)
from detectors.records import BaseRound, CanarySplit, FilesReplay, Measurement, Round

MEANS = (
    *("scale", "distortion", "base_shift", "gap_ratio", "top1_agreement", "kl_golden_served", "kl_served_base"),
    "mass_outside",
)
FIGURES = (
    *MEANS,
    *("retention", "frozen_retention", "frozen_distortion", "scale_misfit", "frozen_scale"),
    *("frozen_shift", "kl_served_golden", "kl_base_served", "mode_shift"),
)
# Between the modes of one answer, in the column route.
JOINED = "+"


def base_round_rows(base_round: BaseRound, origin: Origin) -> tuple[TableRows, ...]:
    members = base_round.members
    rounds = tuple(
        origin.columns
        | round_row(member)
        | {
            "members": len(members),
            "place": place,
            "tokens_scored": base_round.tokens_scored * share,
            "tokens_processed": base_round.tokens_processed * share,
            "duration_s": base_round.duration_s * share,
        }
        for place, (member, share) in enumerate(zip(members, token_shares(base_round), strict=True))
    )
    comparisons = tuple(
        origin.columns | comparison_row(measurement, member, route) | {"place": place}
        for member in members
        for route, measurements in (("present", member.measurements), ("raw", member.raw), ("", member.cells))
        for place, measurement in enumerate(measurements)
    )
    return with_rows(TableRows("rounds", rounds), TableRows("comparisons", comparisons))


def files_replay_rows(replay: FilesReplay, origin: Origin) -> tuple[TableRows, ...]:
    """One row, which replaces the one before it of this pod."""
    row = {
        **origin.columns,
        **fields_of(replay, ("adapter", "base", "golden", "as_accepted", "share_beyond")),
        "at": when(replay.at),
        **fields_of(replay.identity, ("live_base", "live_adapter")),
        "hash_scheme": replay.identity.scheme,
    }
    return (TableRows("files_replays", (row,)),)


def token_shares(base_round: BaseRound) -> tuple[float, ...]:
    """Each member's share of the round's cost, by its scored positions; equal where nobody has any. Sums to 1."""
    own = [sum(len(m.comparison.served.rest) for m in member.measurements) for member in base_round.members]
    whole = sum(own)
    return tuple(n / whole if whole else 1 / len(own) for n in own)


def round_row(member: Round) -> Row:
    """One adapter's round in figures; means over all its canaries, retention over the held-out ones."""
    held_out = [m.retention for m in member.measurements if m.comparison.reference.split is CanarySplit.HELD_OUT]
    return {
        "base": member.base,
        "adapter": member.adapter,
        "round": member.number,
        "at": when(member.at),
        "blocked": member.blocked.value if member.blocked else "",
        "detail": member.detail,
        "answered_by": member.answered_by,
        "facts": list(member.facts),
        "canaries": len(member.measurements),
        "raw_canaries": len(member.raw),
        "cells": len(member.cells),
        "draws": sum(m.comparison.draws for m in member.measurements),
        "retention": mean(held_out),
        "retention_sd": float(np.std(held_out, ddof=1)) if len(held_out) > 1 else NAN,
        "retention_n": len(held_out),
        **{name: mean([getattr(m, name) for m in member.measurements]) for name in MEANS},
        **identity_columns(member.identity),
        **fields_of(member.identity, (*GRIDS, *ENGINES)),
    }


def comparison_row(measurement: Measurement, of: Round, route: str) -> Row:
    """One canary in numbers, with the log-probabilities that they came from. route: "present", "raw", or "" for that of
    the modes in which it was answered."""
    comparison = measurement.comparison
    arrays = {}
    for side, summary in (("served", comparison.served), ("live_base", comparison.live_base)):
        arrays[f"{side}_log_probs"] = np.asarray(summary.log_probs, dtype=np.float32).ravel()
        arrays[f"{side}_rest"] = np.asarray(summary.rest, dtype=np.float32)
        arrays[f"{side}_top1"] = np.asarray(summary.top1, dtype=np.int32)
    positions, kept = comparison.served.log_probs.shape
    return {
        "base": of.base,
        "adapter": comparison.adapter,
        "canary": comparison.reference.canary,
        "golden": comparison.reference.golden,
        "half": comparison.reference.split.value,
        "route": route or JOINED.join(comparison.modes),
        "round": of.number,
        "at": when(comparison.at),
        "draws": comparison.draws,
        "finite": measurement.finite,
        **{name: float(getattr(measurement, name)) for name in FIGURES},
        "band_retention": {band.band.value: band.retention for band in measurement.bands},
        "band_distortion": {band.band.value: band.distortion for band in measurement.bands},
        "replica": comparison.pod,
        "positions": positions,
        "kept": kept,
        **arrays,
    }


def flip_rows(flip: Flip, origin: Origin) -> tuple[TableRows, ...]:
    names = (
        *("adapter", "base", "canary", "round", "prompt", "golden_text", "present_text", "retention"),
        *("golden_passes", "present_passes"),
    )
    return (TableRows("flips", (origin.columns | {"at": when(flip.at), **fields_of(flip, names)},)),)


def golden_rows(accepted: GoldenAccepted, origin: Origin) -> tuple[TableRows, ...]:
    row = {
        "cluster": origin.cluster,
        "accepted_at": when(accepted.accepted_at),
        "hash": accepted.golden,
        "bytes": accepted.data,
        **fields_of(accepted, ("adapter", "base", "previous", "why", "made_on", "draws")),
        "smallest_loss": NAN if accepted.smallest_loss is None else accepted.smallest_loss,
        "tolerance": NAN if accepted.tolerance is None else accepted.tolerance,
    }
    # v2: what was stored before these columns is stored once more with them.
    return (TableRows("goldens", (row,), f"{accepted.adapter}:{accepted.golden}:{accepted.accepted_at}:v2"),)
