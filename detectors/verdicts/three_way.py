"""What is known of the files beside an engine that answers the canaries, and what is said of it. Pure.

The engine says what is served, a replay of the files what the files would give; both are compared with the same golden
record. So a fault of serving is told from a fault of the files, and each verdict says no more than somebody has
measured. Nothing here is evidence: it opens and ends no incident and changes no status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from detectors.canaries.tolerance import Tolerances, blocked_by, draw_scores
from detectors.on_call_text import FILES_BESIDE_A_FAULT, FILES_BESIDE_HEALTH, WHAT_IS_SERVED
from detectors.records import (
    THE_FILES,
    BaseRound,
    Cause,
    FilesCheck,
    FilesReplay,
    FilesState,
    Identity,
    KnownBy,
    Reason,
    Round,
    ShareOf,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.verdicts.recovery import DrawCounts

# Reasons of a degraded verdict whose own round was bad.
BAD_ROUNDS = (Reason.ALARM, Reason.STILL_DEGRADED, Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
# What is scored is as accepted, and the cause says already that what is written is not: no word on files is missing.
OF_SERVING_ALONE = (Cause.SERVING_PATH, Cause.SHARED_CACHE)
BASE_ANSWERS = (Cause.ADAPTER_NOT_APPLIED, Cause.BASE_SWAPPED_AND_ADAPTER_LOST)
Replays = Mapping[str, FilesReplay]
"""Adapter -> how its files answered last, by the golden record in force."""


def files_replays(round: BaseRound, tolerances: Tolerances) -> tuple[FilesReplay, ...]:
    """How the files answered, of each member that was replayed from them and measured, where its round shows it.

    As accepted, where no more of its draws are beyond tolerance than in a good round; not as accepted, where so many
    are rare with nothing wrong (``DrawCounts.is_rare``); between the two it says nothing.
    Null hypothesis of "not as accepted": each draw is beyond tolerance with at most the chance ``tolerances.share``.
    Guarantee: it is said with at most the chance .01 a round, and in process, where beyond rounding nothing but the
    draw is random, never of files whose every canary is within tolerance. Files of which a share p of the pool is
    beyond pass for accepted ones with the chance that Bin(n, p) is at most n times ``tolerances.share``, of n draws.
    What breaks it: a golden record that was made on an engine, which computes otherwise; a bad round against such a
    record says nothing. No evidence: it is said beside a verdict and opens nothing.
    Source: docs/mathematics.md#files-beside-an-engine.
    """
    own = [member for member in round.members if member.answered_by == THE_FILES and blocked_by(member) is None]
    replays = (_replay(member, tolerances) for member in own)
    return tuple(replay for replay in replays if replay is not None)


def with_files(verdict: Verdict, replays: Replays) -> Verdict:
    """A verdict on what an engine answered, with what is known of the files beside it; others as they are.

    Best first: the files were replayed, lately and by the same golden record; the hash of the adapter's files, where
    they are at hand; nothing. A replay of files with another hash than those at hand is of other files.
    """
    if not verdict.is_of_engine:
        return verdict
    is_base = verdict.subject_kind is SubjectKind.BASE
    files = _of_base(verdict, replays) if is_base else _of_adapter(verdict, replays.get(verdict.subject))
    words = _words(verdict, files)
    return replace(verdict, files=files, explanation="; ".join(filter(None, (verdict.explanation, words))))


def _replay(member: Round, tolerances: Tolerances) -> FilesReplay | None:
    scores = draw_scores(member, tolerances)
    draws = DrawCounts(len(scores), int(scores.sum()), tolerances.share)
    good = draws.share <= draws.tolerated
    if not good and (member.accepted_on or not draws.is_rare):
        return None
    golden = member.measurements[0].comparison.reference.golden
    return FilesReplay(member.adapter, member.base, golden, member.at, good, draws.share, member.identity)


def _of_adapter(verdict: Verdict, replay: FilesReplay | None) -> FilesCheck:
    identity = verdict.identity
    if replay is not None and replay.base == verdict.base and not _are_others(replay.identity, identity):
        return _by_replay([replay])
    if not (identity.golden_adapter and identity.live_adapter):
        return FilesCheck()
    moved = identity.adapter_moved
    return FilesCheck(FilesState.NOT_AS_ACCEPTED if moved else FilesState.AS_ACCEPTED, KnownBy.HASH)


def _of_base(verdict: Verdict, replays: Replays) -> FilesCheck:
    """By the replays of its degraded adapters, or of all of them that were replayed; hashes of adapters say nothing of
    their base."""
    names = verdict.members or tuple(name for name, replay in replays.items() if replay.base == verdict.base)
    own = [replays[name] for name in names if name in replays and replays[name].base == verdict.base]
    is_settled = bool(own) and (len(own) == len(names) or not all(replay.as_accepted for replay in own))
    return _by_replay(own) if is_settled else FilesCheck()


def _by_replay(replays: list[FilesReplay]) -> FilesCheck:
    latest = max(replays, key=lambda replay: replay.at)
    good = all(replay.as_accepted for replay in replays)
    return FilesCheck(
        FilesState.AS_ACCEPTED if good else FilesState.NOT_AS_ACCEPTED,
        KnownBy.WITNESS if latest.pod else KnownBy.THIS_POD,
        latest.pod,
        latest.at,
    )


def _are_others(replayed: Identity, at_hand: Identity) -> bool:
    """Hashes of two schemes cannot be compared."""
    known = replayed.live_adapter and at_hand.live_adapter and replayed.scheme == at_hand.scheme
    return bool(known) and replayed.live_adapter != at_hand.live_adapter


def _words(verdict: Verdict, files: FilesCheck) -> str:
    """Of a fault in this round always, of a healthy engine where the files are not as accepted."""
    if verdict.share_of is ShareOf.RESPONSES or verdict.cause in OF_SERVING_ALONE:
        return ""
    key = files.state.value, files.by.value
    if verdict.status is Status.HEALTHY:
        template = FILES_BESIDE_HEALTH.get(key, "")
    else:
        bad = verdict.status is Status.DEGRADED and verdict.reason in BAD_ROUNDS
        template = FILES_BESIDE_A_FAULT[key] if bad else ""
    served = WHAT_IS_SERVED["the base" if verdict.cause in BASE_ANSWERS else "something else"]
    return template.format(pod=files.pod, at=_time_of_day(files.at or 0.0), served=served)


def _time_of_day(at: float) -> str:
    """UTC, to the minute."""
    hours, minutes = divmod(int(at) // 60 % 1440, 60)
    return f"{hours:02d}:{minutes:02d}"
