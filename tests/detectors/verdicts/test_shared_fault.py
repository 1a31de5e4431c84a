"""Whose an adapter's alarm is: how often the base is named where at most half of its adapters are broken, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.onset_interval import OnsetInterval, ScoredRound
from detectors.records import Cause, Evidence, Identity, Mode, Reason, Status, SubjectKind, Verdict
from detectors.verdicts.incident import Incident, RoundInModes
from detectors.verdicts.recovery import DrawCounts
from detectors.verdicts.shared_fault import MembersOfBase, SharedChange, next_shared_change, shared_alarm
from tests.detectors.synthetic import ADAPTERS, make_base_round

NOW, BEGAN, DRAWS, SHARE = 600.0, 480.0, 16, 0.05
T = Tolerances()
OPENED = Incident(open=True, opened_at=NOW, last_good_at=420.0, first_bad_at=BEGAN, onset_estimate=BEGAN)


def verdict(name: str, alarms: bool = False, cause: Cause = Cause.UNKNOWN, blocked: bool = False) -> Verdict:
    status, reason = (Status.DEGRADED, Reason.ALARM) if alarms else (Status.HEALTHY, Reason.WITHIN_TOLERANCE)
    level = Evidence(SubjectKind.ADAPTER, name, "adapter_gap", "", 10, 25.0 if alarms else 0.0, 16, NOW)
    share = math.nan if blocked else 0.0
    return Verdict(
        SubjectKind.ADAPTER, name, "smol", 10, NOW, status, reason, cause, evidence=(level,), share_beyond=share
    )


def quiet(*beyond: int, mode: Mode | None = None) -> Incident:
    """None open; so many of 16 draws beyond in the rounds up to now, the last one first."""
    times = [NOW - 60.0 * place for place in range(len(beyond))]
    if mode is None:
        return Incident(recent=tuple(ScoredRound(at, DRAWS, n, SHARE) for at, n in zip(times, beyond, strict=True)))
    rows = zip(times, beyond, strict=True)
    return Incident(recent_in_modes=tuple(RoundInModes(at, {mode: DrawCounts(DRAWS, n, SHARE)}) for at, n in rows))


def of_base(
    incidents: Mapping[str, Incident], cause: Cause = Cause.UNKNOWN, blocked: tuple[str, ...] = ()
) -> MembersOfBase:
    """The first alarms now."""
    first = next(iter(incidents))
    verdicts = [verdict(name, name == first, cause, name in blocked) for name in incidents]
    return MembersOfBase(verdicts, incidents)


@pytest.mark.parametrize("members", [2, 3, 4, 10])
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_base_of_which_half_is_broken_is_named_with_chance_one_in_a_hundred_at_most(
    members: int, rounds: int
) -> None:
    """At the edge of the null of those that are not broken; the broken ones are open by an alarm of the same rounds."""
    generator, named, n = np.random.default_rng([members, rounds]), 0, 2000
    for _ in range(n):
        beyond = generator.binomial(DRAWS, SHARE, size=(members - members // 2, rounds))
        broken = {f"broken {place}": OPENED for place in range(members // 2)}
        named += (
            shared_alarm(of_base(broken | {f"well {i}": quiet(*row) for i, row in enumerate(beyond)}), None) is not None
        )
    assert named <= 0.01 * n + 3 * math.sqrt(0.01 * n)


@pytest.mark.parametrize("mode", [None, Mode.WRITTEN])
def test_more_than_half_that_show_it_since_it_began_are_the_bases(mode: Mode | None) -> None:
    alarmed = replace(OPENED, mode=mode)
    for others, is_base in (
        ([quiet(6, 5, 6, mode=mode), quiet(0, 0, 0, mode=mode)], True),
        ([quiet(2, 1, 0, mode=mode), quiet(0, 1, 0, mode=mode)], False),
        ([quiet(0, 0, 0, 9, 9, mode=mode), quiet(0, mode=mode)], False),
        ([replace(OPENED, mode=mode, opened_at=540.0), quiet(0, mode=mode)], True),
        ([replace(OPENED, mode=mode, opened_at=60.0), quiet(0, mode=mode)], False),
        ([replace(OPENED, mode=Mode.WARM), quiet(0, mode=mode)], False),
        ([Incident(), quiet(9, 9, 9, mode=mode)], True),
        ([Incident(), Incident()], False),
    ):
        incidents = {"router": alarmed} | dict(zip(ADAPTERS[1:], others, strict=True))
        alarm = shared_alarm(of_base(incidents), None)
        assert (alarm is not None) is is_base, others
        assert alarm is None or (alarm.adapter, alarm.mode, alarm.known) == ("router", mode, False)


def test_one_that_alarmed_while_the_other_may_have_begun_counts_however_late_the_estimate() -> None:
    late = replace(OPENED, onset_estimate=NOW, first_bad_at=NOW, onset_interval=OnsetInterval(400.0, NOW))
    other = replace(OPENED, opened_at=420.0)
    assert shared_alarm(of_base({"router": late, "rewriter": other, "extractor": quiet(0)}), None) is not None
    assert (
        shared_alarm(
            of_base(
                {
                    "router": replace(late, onset_interval=OnsetInterval(480.0, NOW)),
                    "rewriter": other,
                    "extractor": quiet(0),
                }
            ),
            None,
        )
        is None
    )


def test_members_that_were_not_measured_are_no_part_of_the_half() -> None:
    incidents = {"router": OPENED, "rewriter": quiet(9), "extractor": Incident(), "fourth": Incident()}
    assert shared_alarm(of_base(incidents), None) is None
    assert shared_alarm(of_base(incidents, blocked=("extractor", "fourth")), None) is not None
    assert shared_alarm(of_base(incidents, blocked=("rewriter", "extractor", "fourth")), None) is None


@pytest.mark.parametrize(
    "cause, since, is_base",
    [
        (Cause.BASE_SWAPPED, BEGAN, True),
        (Cause.QUANTISED_BASE, 430.0, True),
        (Cause.BASE_SWAPPED, 300.0, False),
        (Cause.WRONG_STRENGTH, BEGAN, False),
        (Cause.UNKNOWN, BEGAN, False),
    ],
)
def test_what_is_known_to_have_changed_with_it_makes_it_the_bases(cause: Cause, since: float, is_base: bool) -> None:
    alarm = shared_alarm(of_base({"router": OPENED, "rewriter": quiet(0)}, cause), SharedChange("base_moved", since))
    assert (alarm is not None) is is_base and (alarm is None or alarm.known)
    assert shared_alarm(of_base({"router": OPENED, "rewriter": quiet(0)}, cause), None) is None


def test_what_is_shared_is_known_since_its_first_round_and_anew_when_it_is_another() -> None:
    healthy, moved, blocked = (
        make_base_round(dict.fromkeys(ADAPTERS, fault), 3) for fault in ("healthy", "improved", "blocked")
    )
    assert next_shared_change(None, healthy, T) is None
    first = next_shared_change(None, moved, T)
    assert first is not None and first.since == moved.at
    later = replace(moved, at=900.0)
    assert next_shared_change(first, later, T) == first == next_shared_change(first, blocked, T)
    other = Identity("sha256:old", "sha256:third")
    third = replace(later, members=tuple(replace(member, identity=other) for member in later.members))
    assert next_shared_change(first, third, T) == SharedChange("base_moved/sha256:third///False", 900.0)
    one = replace(healthy, members=(moved.members[0], *healthy.members[1:]))
    assert next_shared_change(None, one, T) is None, "of one adapter alone"
    assert next_shared_change(first, healthy, T) is None
