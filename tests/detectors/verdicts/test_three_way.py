"""What is said of the files beside an engine: by replay, by hash, or that nothing is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from string import Formatter

import numpy as np
import pytest
from scipy.stats import binom

from detectors import on_call_text as text
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import (
    THE_FILES,
    BaseRound,
    Cause,
    FilesCheck,
    FilesReplay,
    FilesRound,
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
from detectors.verdicts.incident import Rules
from detectors.verdicts.three_way import files_replays, with_files
from tests.detectors.synthetic import ADAPTERS, POOL, drawn, make_base_round, measurement

AT = datetime(2026, 11, 28, 3, 5, 59, tzinfo=UTC).timestamp()
HASHES = Identity(golden_adapter="sha256:aa", live_adapter="sha256:aa", scheme=3)
OTHER = replace(HASHES, live_adapter="sha256:bb")
ENGINE = "vllm 0.33.0, scoring in the prompt"
ALARM = Verdict(
    SubjectKind.ADAPTER,
    "router",
    "smol",
    3,
    AT,
    Status.DEGRADED,
    Reason.ALARM,
    Cause.ADAPTER_NOT_APPLIED,
    explanation="router answers like the base model",
    answered_by=ENGINE,
)
HEALTHY = replace(ALARM, status=Status.HEALTHY, reason=Reason.WITHIN_TOLERANCE, cause=Cause.NONE, explanation="0 %")
GOOD = FilesReplay("router", "smol", "sha256:g", AT, True, 0.0, HASHES, "witness-0")
DRAWS = 16
BAD = replace(GOOD, as_accepted=False, share_beyond=1.0)


def of_files(round: BaseRound, accepted_on: str = "") -> BaseRound:
    members = (replace(m, answered_by=THE_FILES, accepted_on=accepted_on) for m in round.members)
    return replace(round, members=tuple(members))


def said(verdict: Verdict, *replays: FilesReplay) -> tuple[str, FilesCheck]:
    """What is added to its words, and what is stored."""
    told = with_files(verdict, {replay.adapter: replay for replay in replays})
    assert replace(told, explanation=verdict.explanation, files=FilesCheck()) == verdict, "nothing else changes"
    return told.explanation.removeprefix(verdict.explanation).removeprefix("; "), told.files


def test_a_round_from_files_says_of_each_measured_adapter_whether_they_answer_as_accepted() -> None:
    faults = {"router": "not_applied", "rewriter": "healthy", "extractor": "blocked"}
    router, rewriter = files_replays(of_files(make_base_round(faults, 5)), Tolerances())
    assert (router.adapter, router.as_accepted, router.share_beyond) == ("router", False, 1.0)
    assert (rewriter.adapter, rewriter.as_accepted, rewriter.share_beyond) == ("rewriter", True, 0.0)
    assert (rewriter.base, rewriter.at, rewriter.pod) == ("smol", 300.0, "")
    assert rewriter.golden == make_base_round(faults, 5).members[1].measurements[0].comparison.reference.golden


def test_what_an_engine_answered_or_nobody_named_says_nothing_of_files() -> None:
    round = make_base_round(dict.fromkeys(ADAPTERS, "healthy"))
    assert files_replays(round, Tolerances()) == ()
    members = tuple(replace(member, answered_by=ENGINE) for member in round.members)
    assert files_replays(replace(round, members=members), Tolerances()) == ()


def test_against_a_record_that_was_made_on_an_engine_only_a_good_round_says_something() -> None:
    round = make_base_round({"router": "not_applied", "rewriter": "healthy"})
    (good,) = files_replays(of_files(round, accepted_on=ENGINE), Tolerances())
    assert (good.adapter, good.as_accepted) == ("rewriter", True)


def test_a_round_of_files_moves_no_evidence_and_gives_no_verdict() -> None:
    monitor, broken = (
        Monitor(Rules(Tolerances(), 20.0)),
        of_files(make_base_round(dict.fromkeys(ADAPTERS, "not_applied"))),
    )
    before = monitor.state_json()
    judged = monitor.observe(FilesRound(broken))
    assert [replay.as_accepted for replay in judged.files] == [False] * 3
    assert (judged.evidence, judged.verdicts, monitor.state_json()) == ((), (), before)


@pytest.mark.parametrize(
    ("replays", "identity", "words", "files"),
    [
        (
            (GOOD,),
            HASHES,
            "the files are as accepted (replayed by witness-0 at 03:05 UTC) and the engine serves the base",
            FilesCheck(FilesState.AS_ACCEPTED, KnownBy.WITNESS, "witness-0", AT),
        ),
        (
            (replace(GOOD, pod=""),),
            HASHES,
            "the files are as accepted (replayed in this pod at 03:05 UTC) and the engine serves the base",
            FilesCheck(FilesState.AS_ACCEPTED, KnownBy.THIS_POD, "", AT),
        ),
        (
            (BAD,),
            Identity(),
            "the files do not answer as accepted either (replayed by witness-0 at 03:05 UTC), so look at them first",
            FilesCheck(FilesState.NOT_AS_ACCEPTED, KnownBy.WITNESS, "witness-0", AT),
        ),
        (
            (),
            HASHES,
            "the adapter's files have the accepted hash; nobody replayed them, and the base's files are not known",
            FilesCheck(FilesState.AS_ACCEPTED, KnownBy.HASH),
        ),
        (
            (),
            OTHER,
            "the adapter's files are not the accepted ones by their hash; nobody replayed them",
            FilesCheck(FilesState.NOT_AS_ACCEPTED, KnownBy.HASH),
        ),
        ((), Identity(), "whether the files are as accepted is not known", FilesCheck()),
        (
            (replace(GOOD, base="another"),),
            Identity(),
            "whether the files are as accepted is not known",
            FilesCheck(),
        ),
    ],
)
def test_beside_a_fault_of_the_engine_the_best_that_is_known_of_the_files_is_said(
    replays: tuple[FilesReplay, ...], identity: Identity, words: str, files: FilesCheck
) -> None:
    assert said(replace(ALARM, identity=identity), *replays) == (words, files)


def test_an_engine_that_serves_neither_the_files_nor_the_base_is_told_as_that() -> None:
    words, _ = said(replace(ALARM, cause=Cause.WRONG_ADAPTER), GOOD)
    assert words == "the files are as accepted (replayed by witness-0 at 03:05 UTC) and the engine does not serve them"


def test_a_replay_of_other_files_than_lie_here_is_not_taken_for_one_of_these() -> None:
    assert said(replace(ALARM, identity=OTHER), GOOD)[1] == FilesCheck(FilesState.NOT_AS_ACCEPTED, KnownBy.HASH)
    by_another_scheme = replace(OTHER, scheme=2)
    assert said(replace(ALARM, identity=by_another_scheme), GOOD)[1].by is KnownBy.WITNESS


def test_beside_an_engine_that_answers_as_accepted_only_files_that_do_not_are_said() -> None:
    healthy = replace(HEALTHY, identity=HASHES)
    assert said(healthy, GOOD) == ("", FilesCheck(FilesState.AS_ACCEPTED, KnownBy.WITNESS, "witness-0", AT))
    assert said(healthy) == ("", FilesCheck(FilesState.AS_ACCEPTED, KnownBy.HASH))
    words, files = said(healthy, BAD)
    assert words.startswith("the engine answers as accepted and the files do not (replayed by witness-0 at 03:05 UTC)")
    assert files.state is FilesState.NOT_AS_ACCEPTED
    assert said(replace(healthy, identity=OTHER))[0].endswith("once it loads them; nobody replayed them")
    assert said(replace(healthy, identity=Identity())) == ("", FilesCheck())


@pytest.mark.parametrize(
    "more",
    [
        {"reason": Reason.RECOVERING},
        {"status": Status.SUSPECT, "reason": Reason.EVIDENCE_GROWING},
        {"status": Status.UNMONITORABLE, "reason": Reason.ENGINE_AWAY},
        {"share_of": ShareOf.RESPONSES},
        {"cause": Cause.SERVING_PATH},
        {"cause": Cause.SHARED_CACHE},
    ],
)
def test_where_this_round_of_the_engine_was_not_bad_nothing_is_said_and_what_is_known_is_stored(
    more: dict[str, object],
) -> None:
    assert said(replace(ALARM, **more), GOOD) == ("", said(ALARM, GOOD)[1])  # type: ignore[arg-type]


def test_a_verdict_on_files_is_left_as_it_is() -> None:
    for by in ("", THE_FILES):
        assert said(replace(ALARM, answered_by=by, identity=HASHES), BAD) == ("", FilesCheck())


def test_a_base_is_known_by_the_replays_of_its_adapters_at_fault_and_by_no_hash() -> None:
    base = replace(ALARM, subject_kind=SubjectKind.BASE, subject="smol", members=("router", "tone"), identity=HASHES)
    tone = replace(GOOD, adapter="tone", at=AT + 60)
    assert said(base)[1] == FilesCheck()
    assert said(base, GOOD)[1] == FilesCheck(), "of the other one nothing is known"
    assert said(base, GOOD, tone)[1] == FilesCheck(FilesState.AS_ACCEPTED, KnownBy.WITNESS, "witness-0", AT + 60)
    assert said(base, BAD)[1].state is FilesState.NOT_AS_ACCEPTED, "one that is not is enough"


def one_round(rng: np.random.Generator, at_fault: int) -> tuple[FilesReplay, ...]:
    """16 draws from a pool of which so many canaries are beyond tolerance."""
    times = np.bincount(rng.integers(POOL, size=DRAWS), minlength=POOL)
    faults = ["not_applied" if i < at_fault else "healthy" for i in range(POOL)]
    rows = [measurement("router", 2 * i, fault) for i, fault in enumerate(faults)]
    drawn_rows = tuple(drawn(row, int(k)) for row, k in zip(rows, times, strict=True) if k)
    round = Round("router", "smol", 0, 0.0, drawn_rows, answered_by=THE_FILES)
    return files_replays(BaseRound("smol", 0, 0.0, (round,)), Tolerances())


@pytest.mark.parametrize("at_fault", [1, 4])
def test_how_often_files_are_called_accepted_or_not_is_the_binomial_of_the_draws(at_fault: int) -> None:
    """1 of 20 is the tolerated share exactly: more is said of it with at most the chance .01."""
    rounds, rng, share = 1500, np.random.default_rng(7), Tolerances().share
    said_of = [one_round(rng, at_fault) for _ in range(rounds)]
    passed = sum(bool(replays) and replays[0].as_accepted for replays in said_of) / rounds
    refused = sum(bool(replays) and not replays[0].as_accepted for replays in said_of) / rounds
    p = at_fault / POOL
    least = next(k for k in range(DRAWS + 1) if binom.sf(k - 1, DRAWS, share) <= 0.01)
    for observed, exact in (
        (passed, binom.cdf(math.floor(share * DRAWS), DRAWS, p)),
        (refused, binom.sf(least - 1, DRAWS, p)),
    ):
        assert abs(observed - exact) < 5 * math.sqrt(exact * (1 - exact) / rounds)
    if p <= share:
        assert binom.sf(least - 1, DRAWS, p) <= 0.01


def templates() -> Iterator[str]:
    yield from text.FILES_BESIDE_A_FAULT.values()
    yield from text.FILES_BESIDE_HEALTH.values()


@pytest.mark.parametrize("template", list(templates()))
def test_a_sentence_about_files_uses_what_is_filled_in(template: str) -> None:
    assert {name for _, name, _, _ in Formatter().parse(template) if name} <= {"pod", "at", "served"}


def test_every_state_that_can_be_known_has_a_sentence_beside_a_fault() -> None:
    by_replay = {(s.value, by.value) for s in FilesState if s for by in KnownBy if by}
    assert set(text.FILES_BESIDE_A_FAULT) == by_replay | {("", "")}
