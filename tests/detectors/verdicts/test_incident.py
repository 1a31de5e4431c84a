"""The life of an incident, round by round: the table that canaries, responses and bases share."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.errors import Refused
from detectors.records import Cause, NamedCause, Onset, Reason, Status
from detectors.verdicts.incident import (
    BY_CANARIES,
    BY_MEMBERS,
    BY_RESPONSES,
    GOOD_ROUNDS,
    REOPENED_WITHIN_S,
    Ending,
    Incident,
    Outcome,
    RoundResult,
    Rules,
    Step,
    advance,
    renamed,
)
from detectors.verdicts.recovery import DrawCounts, Recovery

RULES = Rules(Tolerances(), log_threshold=20.0)
GOOD, BAD, SILENT = Outcome.GOOD, Outcome.BAD, Outcome.SILENT
OPEN = Incident(open=True, opened_at=60.0, last_good_at=0.0, first_bad_at=60.0, onset_estimate=30.0)


def play(*rounds: tuple[Outcome, float], ending: Ending = BY_CANARIES, before: Incident | None = None) -> list[Step]:
    """Rounds as (outcome, level), a minute apart."""
    incident, steps = before or Incident(), []
    for number, (outcome, log_e) in enumerate(rounds):
        reason = Reason.UNREADABLE if outcome is SILENT else Reason.WITHIN_TOLERANCE
        step = advance(incident, RoundResult(60.0 * number, outcome, reason, log_e, onset_at=7.0), RULES, ending)
        incident = step.after
        steps.append(step)
    return steps


@pytest.mark.parametrize(
    ("outcome", "log_e", "status", "reason"),
    [
        (GOOD, 0.0, Status.HEALTHY, Reason.WITHIN_TOLERANCE),
        (GOOD, 9.9, Status.HEALTHY, Reason.WITHIN_TOLERANCE),
        (GOOD, 10.0, Status.SUSPECT, Reason.EVIDENCE_GROWING),
        (BAD, 0.0, Status.SUSPECT, Reason.EVIDENCE_GROWING),
        (BAD, 20.0, Status.DEGRADED, Reason.ALARM),
        (GOOD, 20.0, Status.DEGRADED, Reason.ALARM),
        (SILENT, 20.0, Status.UNMONITORABLE, Reason.UNREADABLE),
    ],
)
def test_the_first_round(outcome: Outcome, log_e: float, status: Status, reason: Reason) -> None:
    (step,) = play((outcome, log_e))
    assert (step.status, step.reason, step.after.open) == (status, reason, reason is Reason.ALARM)


@pytest.mark.parametrize(
    ("log_e", "is_rare", "status"),
    [(0.0, False, Status.HEALTHY), (0.0, True, Status.SUSPECT), (10.0, False, Status.SUSPECT)],
)
def test_a_bad_round_that_is_no_rarity_is_suspect_by_the_evidence_alone(
    log_e: float, is_rare: bool, status: Status
) -> None:
    step = advance(Incident(), RoundResult(60.0, BAD, log_e=log_e, is_rare=is_rare), RULES)
    assert (step.status, step.after.first_bad_at, step.after.good_in_a_row) == (status, 60.0, 0)


def test_from_alarm_to_resolved_with_its_onset() -> None:
    steps = play((GOOD, 0.0), (BAD, 5.0), (BAD, 25.0), (BAD, 0.0), (GOOD, 0.0), (GOOD, 0.0), (GOOD, 0.0))
    assert [step.reason for step in steps] == [
        Reason.WITHIN_TOLERANCE,
        Reason.EVIDENCE_GROWING,
        Reason.ALARM,
        Reason.STILL_DEGRADED,
        Reason.RECOVERING,
        Reason.RESOLVED,
        Reason.WITHIN_TOLERANCE,
    ]
    began = Onset(after=0.0, by=60.0, estimate=7.0)
    assert [step.onset for step in steps] == [None, None, *[began] * 4, None]
    assert [step.after.open for step in steps] == [False, False, True, True, True, False, False]
    assert [step.after.good_in_a_row for step in steps] == [1, 0, 0, 0, 1, 2, 3]
    assert [step.shows_cause for step in steps] == [False, False, True, True, False, False, False]
    assert steps[2].after.opened_at == 120.0
    assert steps[-1].after == Incident(last_good_at=360.0, good_in_a_row=3, resolved_at=300.0)


def test_the_alarms_estimate_of_the_onset_stays_while_the_evidence_starts_again() -> None:
    later = RoundResult(120.0, BAD, onset_at=110.0)
    assert advance(OPEN, later, RULES).onset == Onset(0.0, 60.0, 30.0)


def test_rounds_are_kept_from_the_end_of_one_incident_to_the_alarm_of_the_next_alone() -> None:
    """What alarms and what ends an incident has been looked at; those between tell when the next one began."""
    incident, kept = Incident(), []
    beyond = (0, 0, 16, 16, 0, 0, 0, 0)
    for number, (ones, log_e) in enumerate(zip(beyond, (0.0, 0.0, 25.0, *[0.0] * 5), strict=True)):
        counts = DrawCounts(16, ones, 0.05)
        result = RoundResult(60.0 * number, BAD if ones else GOOD, log_e=log_e, draws=counts, scores=counts)
        incident = advance(incident, result, RULES).after
        kept.append([scored.at for scored in incident.recent])
    assert kept == [[0.0], [0.0, 60.0], [], [], [], [], [360.0], [360.0, 420.0]]


def test_responses_have_no_scores_and_no_interval() -> None:
    steps = play((GOOD, 0.0), (BAD, 25.0), ending=BY_RESPONSES)
    assert steps[-1].onset == Onset(0.0, 60.0, 7.0) and steps[0].after.recent == ()


def test_an_onset_without_a_bad_round_before_is_the_alarm() -> None:
    (step,) = play((GOOD, 20.0))
    assert step.onset == Onset(None, 0.0, 7.0)


@pytest.mark.parametrize(
    ("ending", "reasons"),
    [
        (BY_CANARIES, [Reason.RECOVERING, Reason.UNREADABLE, Reason.RECOVERING, Reason.RESOLVED]),
        (BY_RESPONSES, [Reason.RECOVERING, Reason.UNREADABLE, Reason.RESOLVED, Reason.WITHIN_TOLERANCE]),
        (BY_MEMBERS, [Reason.RESOLVED, Reason.UNREADABLE, Reason.WITHIN_TOLERANCE, Reason.WITHIN_TOLERANCE]),
    ],
    ids=["silence starts the good rounds again", "or leaves them", "or one is enough"],
)
def test_endings(ending: Ending, reasons: list[Reason]) -> None:
    steps = play((GOOD, 0.0), (SILENT, 0.0), (GOOD, 0.0), (GOOD, 0.0), ending=ending, before=OPEN)
    assert [step.reason for step in steps] == reasons
    assert [step.after.silent_in_a_row for step in steps] == [0, 1, 0, 0]


def test_good_rounds_that_are_not_enough_end_nothing() -> None:
    held = OPEN
    for number in range(2 * GOOD_ROUNDS):
        step = advance(held, RoundResult(60.0 * number, GOOD, may_end=False), RULES)
        held = step.after
        assert step.reason is Reason.RECOVERING
    assert advance(held, RoundResult(600.0, GOOD), RULES).reason is Reason.RESOLVED


def faulty_and_repaired(before: Incident, at: float, ending: Ending = BY_CANARIES) -> tuple[Incident, int]:
    """An alarm, then good rounds until it is resolved: the incident after it, and how many good rounds it took."""
    incident = advance(before, RoundResult(at, BAD, log_e=30.0), RULES, ending).after
    good = 0
    while incident.open:
        good += 1
        incident = advance(incident, RoundResult(at + 60.0 * good, GOOD), RULES, ending).after
    return incident, good


@pytest.mark.parametrize(
    ("ending", "taken"),
    [
        (BY_CANARIES, [2, 4, 8, 16, 32, 64, 64, 64]),
        (BY_RESPONSES, [2, 4, 8, 16, 32, 64, 64, 64]),
        (BY_MEMBERS, [1, 2, 4, 8, 16, 32, 64, 64]),
    ],
)
def test_each_reopening_soon_after_an_end_doubles_the_good_rounds_that_are_needed(
    ending: Ending, taken: list[int]
) -> None:
    incident, at, found = Incident(), 0.0, []
    for _ in taken:
        incident, good = faulty_and_repaired(incident, at, ending)
        found.append(good)
        assert incident.resolved_at is not None
        at = incident.resolved_at + REOPENED_WITHIN_S
        incident = Incident.from_json(json.loads(json.dumps(incident.to_json(), allow_nan=False)))
    assert found == taken


def test_a_day_without_reopening_forgets_the_former_ones() -> None:
    incident, _ = faulty_and_repaired(Incident(), 0.0)
    incident, good = faulty_and_repaired(incident, 600.0)
    assert (incident.reopenings, good) == (1, 2 * GOOD_ROUNDS) and incident.resolved_at is not None
    incident, good = faulty_and_repaired(incident, incident.resolved_at + REOPENED_WITHIN_S + 1.0)
    assert (incident.reopenings, good) == (0, GOOD_ROUNDS)


def test_an_end_a_year_ahead_of_a_clock_that_was_set_right_again_makes_no_reopening() -> None:
    incident, _ = faulty_and_repaired(Incident(), 365 * 86400.0)
    incident, good = faulty_and_repaired(incident, 600.0)
    assert (incident.reopenings, good) == (0, GOOD_ROUNDS)


def test_good_rounds_without_evidence_that_the_fault_is_over_end_nothing() -> None:
    """A tenth of the pool was beyond: each round of 16 good draws is worth 1.6 nats against "it still is"."""
    incident = advance(Incident(), RoundResult(0.0, BAD, log_e=30.0, draws=DrawCounts(16, 2, 0.05)), RULES).after
    reasons = []
    for number in range(1, 7):
        step = advance(incident, RoundResult(60.0 * number, GOOD, draws=DrawCounts(16, 0, 0.05)), RULES)
        incident = Incident.from_json(json.loads(json.dumps(step.after.to_json(), allow_nan=False)))
        reasons.append(step.reason)
    assert reasons == [*[Reason.RECOVERING] * 5, Reason.RESOLVED]
    assert incident.recovery is None


def test_evidence_that_the_fault_is_over_ends_nothing_without_good_rounds_and_bad_ones_lower_it() -> None:
    alarm = RoundResult(0.0, BAD, log_e=30.0, draws=DrawCounts(16, 16, 0.05))
    good = replace(alarm, outcome=GOOD, draws=DrawCounts(16, 0, 0.05))
    first = advance(advance(Incident(), alarm, RULES).after, good, RULES)
    assert first.after.recovery is not None and first.after.recovery.shown and first.reason is Reason.RECOVERING
    again = advance(first.after, replace(alarm, log_e=0.0), RULES)
    assert again.after.recovery is not None and not again.after.recovery.shown
    silent = advance(first.after, RoundResult(60.0, SILENT, Reason.UNREADABLE), RULES)
    assert silent.after.recovery == first.after.recovery


def test_a_round_that_shows_the_fault_again_starts_the_good_ones_again_and_one_with_an_outlier_does_not() -> None:
    alarm = RoundResult(0.0, BAD, log_e=30.0, draws=DrawCounts(16, 16, 0.05))
    incident = advance(Incident(reopenings=1, resolved_at=0.0), alarm, RULES).after
    counts = []
    for outcome, beyond in [(GOOD, 0), (GOOD, 0), (BAD, 2), (GOOD, 0), (BAD, 8), (GOOD, 0), (SILENT, 0), (GOOD, 0)]:
        draws = None if outcome is SILENT else DrawCounts(16, beyond, 0.05)
        step = advance(incident, RoundResult(60.0, outcome, draws=draws), RULES)
        incident = step.after
        counts.append((incident.good_since_fault, incident.good_in_a_row))
    assert counts == [(1, 1), (2, 2), (2, 0), (3, 1), (0, 0), (1, 1), (0, 0), (1, 1)]
    assert incident.open and incident.reopenings == 2


def test_silence_opens_and_ends_nothing_and_is_counted() -> None:
    steps = play((SILENT, 30.0), (SILENT, 0.0), (SILENT, 0.0), before=OPEN)
    assert [step.after.silent_in_a_row for step in steps] == [1, 2, 3]
    assert all(step.after.open and step.onset is None for step in steps)


def test_a_good_round_outside_an_incident_is_reported_as_what_changed() -> None:
    step = advance(Incident(), RoundResult(0.0, GOOD, Reason.BASE_MOVED), RULES)
    assert (step.status, step.reason) == (Status.HEALTHY, Reason.BASE_MOVED)


@pytest.mark.parametrize(
    ("before", "named", "after"),
    [
        (Cause.NONE, Cause.UNKNOWN, Cause.UNKNOWN),
        (Cause.UNKNOWN, Cause.WRONG_STRENGTH, Cause.WRONG_STRENGTH),
        (Cause.WRONG_STRENGTH, Cause.ONE_REPLICA, Cause.ONE_REPLICA),
        (Cause.WRONG_STRENGTH, Cause.UNKNOWN, Cause.WRONG_STRENGTH),
    ],
)
def test_a_cause_gets_sharper_and_never_unknown_again(before: Cause, named: Cause, after: Cause) -> None:
    assert Incident(open=True, cause=before).with_cause(NamedCause(named, "seen", "do")).cause is after


BLOCK, OTHER = (NamedCause(Cause.PARTLY_APPLIED, f"without {name}", "check") for name in ("q_proj", "v_proj"))


def test_replayed_faults_name_an_open_incident_and_move_nothing_else() -> None:
    opened = play((BAD, 21.0))[-1].after.with_cause(NamedCause(Cause.ADAPTER_REPLACED, "other files", "put back"))
    step = renamed(opened, BLOCK, sharper=True, at=90.0)
    assert (step.reason, step.status, step.at) == (Reason.CAUSE_REFINED, Status.DEGRADED, 90.0)
    assert step.after == replace(
        opened, cause=Cause.PARTLY_APPLIED, explanation="without q_proj", action="check", signed=True
    )
    assert step.onset == Onset(None, 0.0, opened.onset_estimate)
    kept = renamed(opened, None, sharper=False, at=90.0)
    assert (kept.reason, kept.after) == (Reason.CAUSE_KEPT, opened)
    unknown = NamedCause(Cause.UNKNOWN, "?", "compare")
    not_named = renamed(opened, unknown, sharper=True, at=90.0)
    assert (not_named.after, not_named.reason) == (opened, Reason.CAUSE_KEPT)
    assert renamed(play((BAD, 21.0))[-1].after, unknown, sharper=True, at=90.0).reason is Reason.CAUSE_KEPT


def test_what_signatures_have_named_only_a_round_with_signatures_names_again() -> None:
    opened = renamed(play((BAD, 21.0))[-1].after, BLOCK, sharper=True, at=90.0).after
    assert opened.with_cause(NamedCause(Cause.ADAPTER_REPLACED, "other files", "put back")) == opened
    assert Incident.from_json(json.loads(json.dumps(opened.to_json()))).with_cause(OTHER) == opened
    assert opened.with_cause(OTHER, signed=True).explanation == "without v_proj"


def test_replayed_strengths_alone_keep_no_later_round_from_naming_another_cause() -> None:
    strength = NamedCause(Cause.WRONG_STRENGTH, "x0.7", "check lora_alpha")
    step = renamed(play((BAD, 21.0))[-1].after, strength, sharper=True, at=90.0, signed=False)
    assert (step.reason, step.after.cause) == (Reason.CAUSE_REFINED, Cause.WRONG_STRENGTH)
    assert step.after.with_cause(OTHER).cause is OTHER.cause


def test_a_fault_that_grew_until_nothing_is_left_is_named_without_signatures() -> None:
    """After a restart there are none, and of such a round none are made."""
    opened = renamed(play((BAD, 21.0))[-1].after, BLOCK, sharper=True, at=90.0).after
    lost = NamedCause(Cause.ADAPTER_NOT_APPLIED, "answers like the base", "load it")
    after = opened.with_cause(lost)
    assert (after.cause, after.explanation, after.signed) == (lost.cause, lost.explanation, False)


def test_incidents_come_back_from_json() -> None:
    for step in play((GOOD, 0.0), (BAD, 40.0), (SILENT, 0.0)):
        assert Incident.from_json(json.loads(json.dumps(step.after.to_json(), allow_nan=False))) == step.after


def test_a_row_of_an_earlier_version_is_read() -> None:
    former = {
        "kind": "adapter", "subject": "router", "open": False, "opened_at": None, "cause": "none",
        "last_good_at": 60.0, "first_bad_at": None, "good_in_a_row": 0, "blocked_in_a_row": 2,
        "explanation": "", "action": "",
    }  # fmt: skip
    assert Incident.from_json(former) == Incident(last_good_at=60.0, silent_in_a_row=2)


def test_an_open_incident_of_an_earlier_version_has_to_show_that_less_than_the_least_share_is_beyond() -> None:
    row = OPEN.to_json()
    for name in ("recovery", "reopenings", "resolved_at", "good_since_fault"):
        del row[name]
    incident = Incident.from_json(row)
    assert incident == OPEN
    draws = DrawCounts(16, 0, 0.05)
    step = advance(incident, RoundResult(120.0, GOOD, draws=draws), RULES)
    assert step.after.recovery == Recovery(0.10).after(draws)


@pytest.mark.parametrize("wrong", [{"log_threshold": 0.0}, {"suspect_fraction": 0.0}, {"suspect_fraction": 1.1}])
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="rules"):
        Rules(**{"tolerances": Tolerances(), "log_threshold": 20.0, **wrong})
