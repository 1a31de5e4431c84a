"""Verdicts on adapters and bases after rounds of canaries."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.records import (
    BaseRound,
    Cause,
    Evidence,
    Interval,
    Onset,
    Reason,
    ShareOf,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.verdicts.decision import decide, decide_base
from detectors.verdicts.incident import Incident, Rules
from detectors.verdicts.recovery import DrawCounts, Recovery
from tests.detectors.faulty_answers import recorded_round
from tests.detectors.synthetic import EVERY_S, drawn, make_base_round, make_round, measurement

RULES = Rules(Tolerances(), log_threshold=20.0)


def level(log_e: float, kind: SubjectKind = SubjectKind.ADAPTER, subject: str = "router") -> Evidence:
    return Evidence(kind, subject, "adapter_gap", "", 0, log_e, 16, 0.0)


def play(*rounds: tuple[str, float]) -> list[tuple[Verdict, Incident]]:
    """Rounds of the router as (fault, log_e), a minute apart."""
    incident, played = Incident(), []
    for number, (fault, log_e) in enumerate(rounds):
        verdict, incident = decide(make_round("router", fault, number), level(log_e), incident, RULES)
        played.append((verdict, incident))
    return played


@pytest.mark.parametrize(
    "why, fault, log_e, status, reason",
    [
        ("nothing is wrong", "healthy", 0.1, Status.HEALTHY, Reason.WITHIN_TOLERANCE),
        ("half way to a page", "healthy", 10.0, Status.SUSPECT, Reason.EVIDENCE_GROWING),
        ("a better base: told, not paged", "improved", 0.1, Status.HEALTHY, Reason.BASE_MOVED),
        ("bad canaries, evidence still short", "not_applied", 0.1, Status.SUSPECT, Reason.EVIDENCE_GROWING),
        ("nor is that a base which moved and did no harm", "swapped", 0.1, Status.SUSPECT, Reason.EVIDENCE_GROWING),
        ("at the threshold", "not_applied", 20.0, Status.DEGRADED, Reason.ALARM),
        ("files cannot be read", "blocked", 0.0, Status.UNMONITORABLE, Reason.UNREADABLE),
        ("NaN is neither healthy nor a page", "nan", 0.0, Status.UNMONITORABLE, Reason.BAD_NUMBERS),
    ],
)
def test_first_round(why: str, fault: str, log_e: float, status: Status, reason: Reason) -> None:
    ((verdict, _),) = play((fault, log_e))
    assert (verdict.status, verdict.reason) == (status, reason)


def test_an_alarm_opens_an_incident_with_cause_onset_and_words() -> None:
    verdict, incident = play(("healthy", 0.1), ("healthy", 0.1), ("not_applied", 8.0), ("not_applied", 40.0))[-1]
    assert incident.open and incident.opened_at == 3 * EVERY_S
    assert verdict.cause is Cause.ADAPTER_NOT_APPLIED
    assert verdict.onset == Onset(after=EVERY_S, by=2 * EVERY_S, latest=2 * EVERY_S)
    assert verdict.share_beyond == 1.0
    assert "retention 0.00" in verdict.explanation and "100 % of this round's canary draws" in verdict.explanation
    assert verdict.action
    assert verdict.retention is not None and verdict.retention.n == 8 and verdict.scale == 0.0


def test_the_onsets_estimate_and_retention_over_rounds_are_reported_as_handed_in() -> None:
    known = Interval(0.4, 0.3, 0.5, 128)
    broken = make_round("router", "not_applied", 2)
    verdict, _ = decide(broken, level(40.0), Incident(), RULES, onset_at=EVERY_S, over_rounds=known)
    assert verdict.onset == Onset(after=None, by=2 * EVERY_S, estimate=EVERY_S, latest=2 * EVERY_S)
    assert verdict.retention_over_rounds == known
    healthy, _ = decide(make_round("router"), level(0.0), Incident(), RULES, over_rounds=known)
    assert healthy.onset is None and healthy.retention_over_rounds == known
    base = make_base_round(dict.fromkeys(("router", "rewriter"), "not_applied"), 2)
    evidence = level(40.0, SubjectKind.BASE, "smol")
    told, _ = decide_base(base, evidence, [verdict, verdict], Incident(), RULES, onset_at=EVERY_S)
    assert told.onset == Onset(after=None, by=2 * EVERY_S, estimate=EVERY_S, latest=2 * EVERY_S)


@pytest.mark.parametrize(
    "fault, words",
    [
        ("first_token", "retention of the first token 0.00, later 1.00"),
        ("only_first_token", "retention of the first token 1.00, later 0.00"),
        ("not_applied", ""),
        ("healthy", ""),
    ],
)
@pytest.mark.parametrize("log_e", [0.1, 40.0])
def test_a_stretch_unlike_the_rest_is_scored_and_in_the_words(fault: str, words: str, log_e: float) -> None:
    verdict, _ = decide(recorded_round("router", fault), level(log_e), Incident(), RULES)
    assert verdict.explanation.count("first token 0.") + verdict.explanation.count("first token 1.") == bool(words)
    assert words in verdict.explanation
    assert verdict.share_beyond == (0.0 if fault == "healthy" else 1.0)


def test_a_round_of_held_out_canaries_alone_is_no_evidence_and_not_healthy() -> None:
    """Nothing was drawn, or what was drawn is missing."""
    seen = make_round("router", "healthy", draws=0)
    verdict, _ = decide(seen, level(0.0), Incident(), RULES)
    assert seen.measurements and (verdict.status, verdict.reason) == (Status.UNMONITORABLE, Reason.NOT_REPLAYED_YET)


@pytest.mark.parametrize("where", ["measurements", "raw", "cells"])
def test_one_canary_without_numbers_blocks_its_round_and_no_witness_without_numbers_speaks(where: str) -> None:
    seen = recorded_round("router", "without:mlp")
    rows = (measurement("router", 0, "nan"), *seen.measurements[1:])
    broken: dict[str, Any] = {where: rows}
    verdict, _ = decide(replace(seen, **broken), level(40.0), Incident(), RULES)
    if where == "measurements":
        assert (verdict.status, verdict.reason) == (Status.UNMONITORABLE, Reason.BAD_NUMBERS)
    else:
        assert (verdict.status, verdict.cause) == (Status.DEGRADED, Cause.PARTLY_APPLIED)


@pytest.mark.parametrize("log_e", [0.1, 10.0, 40.0])
@pytest.mark.parametrize("fault", ["healthy", "improved", "not_applied", "nan", "blocked"])
def test_facts_of_the_round_are_in_the_words_of_every_verdict_once(fault: str, log_e: float) -> None:
    fact, incident = "24 of 120 keys match nothing", Incident()
    for number in range(3):
        seen = replace(make_round("router", fault, number), facts=(fact,))
        verdict, incident = decide(seen, level(log_e), incident, RULES)
        assert verdict.explanation.count(fact) == 1, verdict
    verdict, _ = decide(make_round("router", fault, 3), level(log_e), incident, RULES)
    assert fact not in verdict.explanation


def test_what_cannot_be_measured_says_what_to_do_about_that_reason_and_so_does_its_base() -> None:
    for reason, words in ((Reason.NO_MEMORY, "more memory"), (Reason.NO_GOLDEN, "gapwatch enrol router")):
        whole = make_base_round(dict.fromkeys(("router", "rewriter"), "blocked"))
        seen = replace(whole, members=tuple(replace(member, blocked=reason) for member in whole.members))
        members = [decide(m, level(0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members]
        verdict, _ = decide_base(seen, level(0.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
        assert words in members[0].action and verdict.action == members[0].action
        assert verdict.reason is reason


def test_a_bases_words_name_the_adapters_that_a_fact_is_about() -> None:
    seen = make_base_round(dict.fromkeys(("router", "rewriter"), "healthy"))
    facts = {"router": ("the tokenizer differs", "3 keys match nothing"), "rewriter": ("the tokenizer differs",)}
    seen = replace(seen, members=tuple(replace(m, facts=facts[m.adapter]) for m in seen.members))
    members = [decide(m, level(0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members]
    verdict, _ = decide_base(seen, level(0.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
    assert verdict.status is Status.HEALTHY
    assert "the tokenizer differs (router, rewriter); 3 keys match nothing (router)" in verdict.explanation


def test_the_interval_of_the_onset_is_that_of_the_scores_and_stays_while_the_incident_is_open() -> None:
    """Three rounds of 16 draws within tolerance reject that a tenth is beyond: two are left of those before the fault.
    A silent round is none."""
    played = play(*[("healthy", 0.0)] * 10, ("blocked", 0.0), ("not_applied", 40.0), ("not_applied", 0.0))
    for verdict, incident in played[11:]:
        assert verdict.onset is not None and incident.recent == ()
        assert (verdict.onset.earliest, verdict.onset.latest) == (7 * EVERY_S, 11 * EVERY_S)
        assert (verdict.onset.after, verdict.onset.by) == (9 * EVERY_S, 11 * EVERY_S)


def test_a_base_has_the_interval_of_its_own_scores() -> None:
    incident, evidence = Incident(), level(0.0, SubjectKind.BASE, "smol")
    healthy, lost = (dict.fromkeys(("router", "rewriter"), fault) for fault in ("healthy", "not_applied"))
    # In the last round but one a member alone is at fault: 16 draws of it are beyond, and no score of the base is 1.
    for number, faults in enumerate([*[healthy] * 10, healthy | {"router": "not_applied"}, lost]):
        round = make_base_round(faults, number)
        members = [decide(member, level(0.0), Incident(), RULES)[0] for member in round.members]
        before = incident
        reached = replace(evidence, log_e=40.0 if faults is lost else 0.0)
        _, incident = decide_base(round, reached, members, incident, RULES)
    assert [(scored.drawn, scored.beyond) for scored in before.recent] == [(16, 0)] * 11
    assert incident.onset_interval == (8 * EVERY_S, 11 * EVERY_S)


def test_an_alarm_that_these_scores_do_not_date_has_no_interval() -> None:
    """As after an alarm of a detector with other scores."""
    verdict, _ = play(*[("healthy", 0.0)] * 5, ("healthy", 40.0))[-1]
    assert verdict.onset == Onset(after=4 * EVERY_S, by=5 * EVERY_S)


def test_a_fault_there_from_the_start_has_an_onset_without_beginning() -> None:
    verdict, _ = play(("not_applied", 40.0))[-1]
    assert verdict.onset == Onset(after=None, by=0.0, latest=0.0)


def test_two_good_rounds_in_a_row_resolve_and_one_does_not() -> None:
    played = play(
        ("not_applied", 40.0),
        ("not_applied", 40.0),
        ("healthy", 0.0),
        ("not_applied", 0.0),
        ("healthy", 0.0),
        ("healthy", 0.0),
        ("healthy", 0.0),
    )
    assert [v.reason for v, _ in played] == [
        Reason.ALARM,
        Reason.STILL_DEGRADED,
        Reason.RECOVERING,
        Reason.STILL_DEGRADED,
        Reason.RECOVERING,
        Reason.RESOLVED,
        Reason.WITHIN_TOLERANCE,
    ]
    assert [v.status is Status.DEGRADED for v, _ in played] == [True] * 5 + [False] * 2
    assert not played[5][1].open
    assert played[5][0].onset == Onset(after=None, by=0.0, latest=0.0)
    assert played[6][1].last_good_at == 6 * EVERY_S


@pytest.mark.parametrize(("fault", "still_beyond"), [("not_applied", 0.5), ("healthy", 0.1)])
def test_what_has_to_be_gone_is_half_of_what_was_beyond_at_the_alarm(fault: str, still_beyond: float) -> None:
    ((_, incident),) = play((fault, 40.0))
    assert incident.recovery == Recovery(still_beyond)


def test_of_a_base_it_is_half_of_what_all_its_members_had_beyond_that_has_to_be_gone() -> None:
    seen = make_base_round({"router": "not_applied", "rewriter": "healthy", "extractor": "healthy"})
    members = [decide(m, level(0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members]
    _, incident = decide_base(seen, level(40.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
    assert incident.recovery is not None
    assert incident.recovery.still_beyond == pytest.approx(1 / 6)  # a third of all draws was


def test_blocked_rounds_are_counted_and_neither_resolve_nor_close() -> None:
    played = play(("not_applied", 40.0), ("healthy", 0.0), ("blocked", 0.0), ("blocked", 0.0), ("healthy", 0.0))
    assert [v.reason for v, _ in played[1:]] == [
        Reason.RECOVERING,
        Reason.UNREADABLE,
        Reason.UNREADABLE,
        Reason.RECOVERING,
    ]
    assert [v.silent_in_a_row for v, _ in played] == [0, 0, 1, 2, 0]
    assert all(i.open for _, i in played)
    assert played[2][0].explanation == "adapter file is gone"


def test_the_cause_gets_sharper_while_open_and_never_blunter() -> None:
    played = play(("junk", 40.0), ("scale:2", 0.0), ("junk", 0.0), ("healthy", 0.0))
    assert [v.cause for v, _ in played] == [Cause.UNKNOWN] + [Cause.WRONG_STRENGTH] * 3


def test_bad_numbers_name_a_canary() -> None:
    ((verdict, _),) = play(("nan", 0.0))
    assert "router-" in verdict.explanation


def test_retention_has_no_interval_without_held_out_canaries() -> None:
    verdict, _ = decide(make_round("router", "healthy", held_out=0), level(0.0), Incident(), RULES)
    assert verdict.retention is not None
    assert verdict.retention.mean == pytest.approx(1.0) and math.isnan(verdict.retention.low)


def test_a_base_alarms_with_its_members_cause_and_resolves_after_two_good_rounds() -> None:
    incident, reasons = Incident(), []
    faults = ["reparameterised", "reparameterised", "healthy", "healthy"]
    for number, fault in enumerate(faults):
        seen = make_base_round(dict.fromkeys(("router", "rewriter", "extractor"), fault), number)
        members = [
            decide(m, level(30.0 if number < 2 else 0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members
        ]
        evidence = level(40.0 if number < 2 else 0.0, SubjectKind.BASE, "smol")
        verdict, incident = decide_base(seen, evidence, members, incident, RULES)
        reasons.append(verdict.reason)
        if number == 0:
            assert verdict.cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
            assert verdict.members == ("router", "rewriter", "extractor")
            assert "3 of 3 adapters of smol" in verdict.explanation
            assert verdict.scale == 0.0
            assert incident.recovery == Recovery(0.5)
    assert reasons == [Reason.ALARM, Reason.STILL_DEGRADED, Reason.RECOVERING, Reason.RESOLVED]


@pytest.mark.parametrize(
    "far, good, status",
    [(0, True, Status.HEALTHY), (8, False, Status.HEALTHY), (9, False, Status.SUSPECT), (16, False, Status.SUSPECT)],
)
def test_a_round_of_a_base_is_good_while_no_more_than_the_tolerated_share_of_its_scores_is_one(
    far: int, good: bool, status: Status
) -> None:
    """A hundred members, each with as many of its 16 draws beyond: at nine their median is beyond in 88 % of them. At
    eight one or two scores of 16 are 1, which is no rarity.
    """
    rows = (drawn(measurement("router", 0, "not_applied"), far), drawn(measurement("router", 2, "healthy"), 16 - far))
    one = replace(make_round("router"), measurements=rows)
    seen = BaseRound("smol", 0, 0.0, tuple(replace(one, adapter=f"adapter-{i}") for i in range(100)))
    members = [decide(one, level(0.0), Incident(), RULES)[0]]
    verdict, _ = decide_base(seen, level(0.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
    assert (verdict.status, verdict.share_of) == (status, ShareOf.SCORES)
    assert (verdict.share_beyond <= 0.05) == good


@pytest.mark.parametrize("kind", SubjectKind)
@pytest.mark.parametrize(
    "far, status", [(1, Status.HEALTHY), (3, Status.HEALTHY), (4, Status.SUSPECT), (16, Status.SUSPECT)]
)
def test_a_round_is_suspect_where_so_many_beyond_are_rare_with_nothing_wrong(
    kind: SubjectKind, far: int, status: Status
) -> None:
    """At the tolerated share of .05 three or more of 16 have a chance of .043, four or more of .007."""
    rows = (drawn(measurement("router", 0, "not_applied"), far), drawn(measurement("router", 2, "healthy"), 16 - far))
    one = replace(make_round("router"), measurements=rows)
    verdict, incident = decide(one, level(0.0), Incident(), RULES)
    if kind is SubjectKind.BASE:
        # Two members of one name: their draws lie in the same order, so that the base scores as each of them does.
        seen = BaseRound("smol", 0, 0.0, (one, one))
        verdict, incident = decide_base(seen, level(0.0, kind, "smol"), [verdict] * 2, Incident(), RULES)
    assert (verdict.status, verdict.share_beyond) == (status, far / 16)
    assert incident.first_bad_at == 0.0


@pytest.mark.parametrize("outliers, before", [(1, 0.49), (1.2, 0.56)])
def test_healthy_rounds_are_seldom_suspect(outliers: float, before: float) -> None:
    """One benign outlier in a pool of 24, and a pool at the edge of what is tolerated: the share of 20,000 rounds of 16
    draws that is suspect. before: the share in which anything more than tolerated was drawn.
    """
    beyond = np.random.default_rng(7).binomial(16, outliers / 24, size=20_000)
    rare = np.mean([DrawCounts(16, int(k), 0.05).is_rare for k in beyond])
    assert rare <= 0.01 and np.mean(beyond > 0.05 * 16) == pytest.approx(before, abs=0.02)


@pytest.mark.parametrize("fault, percent", [("healthy", 0), ("not_applied", 100)])
def test_a_bases_words_say_how_many_of_its_members_count_as_the_base(fault: str, percent: int) -> None:
    """Half of five adapters at fault are none of the base's draws, which is not none of theirs."""
    faults = {f"adapter-{i}": "not_applied" for i in range(3)} | {
        "other": fault,
        "another": "healthy",
        "off": "blocked",
    }
    seen = make_base_round(faults)
    members = [decide(m, level(0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members]
    verdict, _ = decide_base(seen, level(0.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
    words = f"in {percent} % of this round's canary draws 4 or more of 5 adapters are beyond tolerance"
    assert verdict.explanation == words
    assert members[0].explanation == "100 % of this round's canary draws are beyond tolerance"


def test_a_base_of_which_fewer_than_two_members_were_measured_cannot_be_judged() -> None:
    seen = make_base_round({"router": "blocked", "rewriter": "healthy"})
    members = [decide(m, level(0.0, subject=m.adapter), Incident(), RULES)[0] for m in seen.members]
    verdict, incident = decide_base(seen, level(0.0, SubjectKind.BASE, "smol"), members, Incident(), RULES)
    assert (verdict.status, verdict.reason) == (Status.UNMONITORABLE, Reason.UNREADABLE)
    assert "router: adapter file is gone" in verdict.explanation
    assert incident.silent_in_a_row == 1
