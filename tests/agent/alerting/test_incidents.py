"""When somebody is woken: tables of cases, each with its sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.alerting import incidents
from agent.alerting.incidents import AlertState, dedup_key, reenrolled, state_key, step_round, to_notice
from agent.records import Notice, NoticeKind, NoticeReason
from agent.store import client as store
from detectors.canaries.tolerance import Tolerances
from detectors.records import Cause, Evidence, Interval, Onset, Reason, Status, SubjectKind, Verdict
from detectors.verdicts.decision import Incident, Rules, decide
from tests.agent.findings import BASE, FIXED, ROUTER, SWAPPED, TONE, alarm, verdict
from tests.detectors.synthetic import make_round

BASE_KIND = SubjectKind.BASE
KEY = dedup_key("prod", SubjectKind.ADAPTER, ROUTER)
BASE_KEY = dedup_key("prod", BASE_KIND, BASE)

GOOD = verdict()
BAD = verdict(Status.DEGRADED, cause=Cause.UNKNOWN)
NAMED = verdict(Status.DEGRADED, cause=Cause.WRONG_STRENGTH)
RECOVERING = verdict(Status.DEGRADED, Reason.RECOVERING)
RESOLVED = verdict(Status.HEALTHY, Reason.RESOLVED)
BLIND = verdict(Status.UNMONITORABLE)
SUSPECT = verdict(Status.SUSPECT)
QUIET = verdict(Status.UNMONITORABLE, Reason.NO_TRAFFIC)
MOVED_OUTPUTS = verdict(Status.SUSPECT, Reason.OUTPUT_DRIFT)
COVERED = verdict(Status.DEGRADED, covered_by=BASE)
BASE_GOOD, BASE_BLIND = verdict(subject_kind=BASE_KIND), verdict(Status.UNMONITORABLE, subject_kind=BASE_KIND)
BASE_ALARM = alarm(subject_kind=BASE_KIND, subject=BASE, members=(ROUTER, TONE))
BASE_RESOLVED = verdict(Status.HEALTHY, Reason.RESOLVED, subject_kind=BASE_KIND)
MOVED = verdict(Status.HEALTHY, Reason.BASE_MOVED, subject_kind=BASE_KIND, identity=SWAPPED)


def other(seen: Verdict) -> Verdict:
    return replace(seen, subject=TONE)


def told(*rounds: Sequence[Verdict], elsewhere: Sequence[str] = ()) -> list[list[tuple[str, str]]]:
    """(kind, reason) of what each round sends, in order; the states also go through JSON between rounds."""
    states: dict[str, AlertState] = {}
    sent = []
    for verdicts in rounds:
        states, notices = step_round(states, verdicts, FIXED, "prod", elsewhere)
        states = {key: AlertState.from_json(state.to_json()) for key, state in states.items()}
        sent.append([(notice.kind.value, notice.reason.value) for notice in notices])
    return sent


OPEN, SHARPER, OVER = ("trigger", "degraded"), ("trigger", "cause_sharper"), ("resolve", "taken_over")
ENDED, CHANGE, CANNOT = ("resolve", "recovered"), ("change", "base_moved"), ("trigger", "cannot_tell")
AGAIN = ("resolve", "can_tell_again")

CASES = {
    "healthy rounds wake nobody": ([[GOOD], [GOOD], [SUSPECT]], [[], [], []]),
    "an alarm pages at once": ([[GOOD], [alarm()]], [[], [OPEN]]),
    "an open incident is told once": ([[alarm()], [BAD], [BAD]], [[OPEN], [], []]),
    "degraded with the state lost pages too, into the same incident": ([[BAD]], [[OPEN]]),
    "recovering with the state lost does not": ([[RECOVERING], [RESOLVED]], [[], []]),
    "a cause that gets a name is told in the same incident": ([[BAD], [NAMED], [NAMED]], [[OPEN], [SHARPER], []]),
    "a name that is lost again is not": ([[NAMED], [BAD]], [[OPEN], []]),
    "two good rounds end it": ([[alarm()], [RECOVERING], [RESOLVED]], [[OPEN], [], [ENDED]]),
    "one healthy verdict after lost monitor state does not end it": ([[alarm()], [GOOD]], [[OPEN], []]),
    "two do": ([[alarm()], [GOOD], [GOOD]], [[OPEN], [], [ENDED]]),
    "a suspect round between two good ones starts their count again": (
        [[alarm()], [GOOD], [SUSPECT], [GOOD], [GOOD]],
        [[OPEN], [], [], [], [ENDED]],
    ),
    "after the end a new alarm is a new incident": ([[alarm()], [RESOLVED], [alarm()]], [[OPEN], [ENDED], [OPEN]]),
    "a base's incident speaks for its members": (
        [[BASE_ALARM, COVERED, other(COVERED)], [BASE_ALARM, COVERED]],
        [[OPEN], []],
    ),
    "and takes over one that a member had open": ([[alarm()], [BASE_ALARM, COVERED]], [[OPEN], [OPEN, OVER]]),
    "a member still bad when its base recovered pages again": (
        [[BASE_ALARM, COVERED], [BASE_RESOLVED, BAD]],
        [[OPEN], [ENDED, OPEN]],
    ),
    "a covered member that recovers says nothing": ([[BASE_ALARM, COVERED], [BASE_RESOLVED, GOOD]], [[OPEN], [ENDED]]),
    "three rounds of not knowing are told, once": (
        [[BLIND], [BLIND], [BLIND], [BLIND], [BLIND]],
        [[], [], [CANNOT], [], []],
    ),
    "two are not, and a measured round starts the count again": (
        [[BLIND], [BLIND], [GOOD], [BLIND], [BLIND], [BLIND]],
        [[], [], [], [], [], [CANNOT]],
    ),
    "a quiet round between adds nothing": ([[BLIND], [QUIET], [QUIET], [BLIND], [BLIND]], [[], [], [], [], [CANNOT]]),
    "outputs that moved are no measured round": (
        [[BLIND]] * 3 + [[MOVED_OUTPUTS], [GOOD]],
        [[], [], [CANNOT], [], [ENDED]],
    ),
    "the first measured round ends it": ([[BLIND]] * 3 + [[SUSPECT]], [[], [], [CANNOT], [ENDED]]),
    "not knowing that turns into degraded ends, and is an incident anew": (
        [[BLIND]] * 3 + [[alarm()], [BAD]],
        [[], [], [CANNOT], [AGAIN, OPEN], []],
    ),
    "not knowing does not end an incident, nor is it told in one": ([[alarm()]] + [[BLIND]] * 4, [[OPEN], *([[]] * 4)]),
    "a blind base says it for all its members": (
        [[BASE_BLIND, BLIND, other(BLIND)]] * 3,
        [[], [], [CANNOT]],
    ),
    "but members with reasons of their own speak for themselves": (
        [[BASE_BLIND, BLIND, other(GOOD)]] * 3,
        [[], [], [CANNOT]],
    ),
    "a base with one adapter is never judged, and that is no incident": ([[BASE_BLIND, GOOD]] * 4, [[]] * 4),
    "a base that moved under healthy adapters is a change, told once": (
        [[MOVED, GOOD], [MOVED, GOOD]],
        [[CHANGE], []],
    ),
    "another base is another change; the first one again is not": (
        [[MOVED], [replace(MOVED, identity=replace(SWAPPED, live_base="sha256:cc"))], [MOVED]],
        [[CHANGE], [CHANGE], []],
    ),
    "a base that moved is no harmless change while one of its adapters is not healthy": (
        [[MOVED, GOOD, other(SUSPECT)], [MOVED, GOOD, other(BLIND)], [MOVED, GOOD, other(GOOD)]],
        [[], [], [CHANGE]],
    ),
    "with one adapter the adapter's verdict tells of the base": (
        [[BASE_BLIND, replace(GOOD, reason=Reason.BASE_MOVED, identity=SWAPPED)]] * 2,
        [[CHANGE], []],
    ),
}


@pytest.mark.parametrize("sentence", CASES)
def test_case(sentence: str) -> None:
    rounds, wanted = CASES[sentence]
    assert told(*rounds) == wanted, sentence


def test_rounds_beyond_tolerance_and_far_from_an_alarm_end_no_incident() -> None:
    """As after the monitor's memory was lost while the incident was open."""
    incident, weak = Incident(), []
    for number in range(2):
        level = Evidence(SubjectKind.ADAPTER, "router", "adapter_gap", "", number, 0.1, 16, FIXED)
        seen, incident = decide(make_round("router", "scale:0.5", number), level, incident, Rules(Tolerances(), 20.0))
        weak.append(replace(seen, subject=ROUTER, base=BASE))
    assert told([alarm()], *[[seen] for seen in weak]) == [[OPEN], [], []]


def test_blind_members_are_told_under_the_bases_key_alone() -> None:
    states: dict[str, AlertState] = {}
    keys: list[str] = []
    for _ in range(3):
        states, notices = step_round(states, [BASE_BLIND, BLIND, other(BLIND)], FIXED, "prod")
        keys += [notice.dedup_key for notice in notices]
    assert keys == [BASE_KEY]


def test_what_another_live_pod_calls_degraded_is_not_resolved_here() -> None:
    here = state_key(SubjectKind.ADAPTER, ROUTER)
    assert told([alarm()], [RESOLVED], [GOOD], elsewhere=[here]) == [[OPEN], [], []]
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    states, held = step_round(states, [RESOLVED], FIXED, "prod", [here])
    states, freed = step_round(states, [GOOD], FIXED, "prod", [])
    assert (len(held), [notice.reason for notice in freed]) == (0, [NoticeReason.RECOVERED])


def test_no_kind_of_resolve_ends_what_another_live_pod_calls_degraded() -> None:
    here = state_key(SubjectKind.ADAPTER, ROUTER)
    assert told(*[[BLIND]] * 3, [GOOD], elsewhere=[here])[-1] == []
    assert told(*[[BLIND]] * 3, [alarm()], elsewhere=[here])[-1] == [OPEN], "its page is told all the same"
    assert told([alarm()], [BASE_ALARM, COVERED], elsewhere=[here])[-1] == [OPEN]
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    states, _ = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod", [here])
    states, freed = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod")
    assert [notice.reason for notice in freed] == [NoticeReason.TAKEN_OVER]


def test_a_takeover_names_the_incident_that_must_be_told_first() -> None:
    states, (page,) = step_round({}, [alarm()], FIXED, "prod")
    _, (base, over) = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod")
    assert (page.after, base.after, over.after) == ("", "", BASE_KEY)


def test_a_new_release_ends_the_incident_with_its_reason() -> None:
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    key = state_key(SubjectKind.ADAPTER, ROUTER)
    state, notices = reenrolled(states[key], alarm(), "v2 of the router", FIXED, "prod")
    assert [(n.kind, n.reason, n.dedup_key) for n in notices] == [(NoticeKind.RESOLVE, NoticeReason.REENROLLED, KEY)]
    assert "v2 of the router" in notices[0].summary
    assert reenrolled(state, alarm(), "again", FIXED, "prod") == (state, ())


def test_the_key_is_cluster_and_subject_and_never_the_cause() -> None:
    keys = {to_notice(seen, NoticeReason.DEGRADED, "prod", FIXED).dedup_key for seen in (BAD, NAMED, alarm())}
    assert keys == {"gapwatch/prod/adapter/ticket-router"}
    assert dedup_key("prod", BASE_KIND, BASE) == "gapwatch/prod/base/smollm2"


def test_long_names_keep_keys_apart_within_the_limit() -> None:
    keys = {dedup_key("prod", SubjectKind.ADAPTER, "x" * 300 + end) for end in ("a", "b")}
    assert len(keys) == 2
    assert all(len(key) == 255 for key in keys)


def headline(seen: Verdict, reason: NoticeReason = NoticeReason.DEGRADED) -> str:
    return to_notice(seen, reason, "prod", FIXED).summary


def test_the_headline_says_what_since_when_and_how_much_is_left() -> None:
    assert headline(alarm(FIXED)) == (
        "[prod] ticket-router: base swapped and adapter lost - retention 0.00 (95 % -0.01..0.01), "
        "since 2026-09-21 14:12-14:13 UTC"
    )
    of_base = alarm(FIXED, subject_kind=BASE_KIND, subject=BASE, members=(ROUTER, TONE))
    assert "base smollm2: base swapped and adapter lost (2 adapters: ticket-router, polite-rewriter)" in headline(
        of_base
    )
    assert "cause unknown" in headline(BAD)
    assert "retention not measured" in headline(BAD)
    assert "cannot tell" in headline(BLIND, NoticeReason.CANNOT_TELL)


@pytest.mark.parametrize("reason", [NoticeReason.DEGRADED, NoticeReason.RECOVERED])
def test_a_base_is_not_said_to_lack_a_figure_that_it_never_has(reason: NoticeReason) -> None:
    notice = to_notice(replace(BASE_ALARM, retention=None), reason, "prod", FIXED)
    assert "retention" not in notice.summary
    assert "retention" not in notice.details
    measured = replace(BASE_ALARM, retention=Interval(0.25, 0.2, 0.3, 24))
    assert "retention 0.25 (95 % 0.20..0.30)" in headline(measured, reason)


@pytest.mark.parametrize(
    ("onset", "words"),
    [
        (Onset(FIXED - 60, FIXED), "2026-09-21 14:12-14:13 UTC"),
        (Onset(FIXED - 86_400, FIXED), "2026-09-20 14:13-2026-09-21 14:13 UTC"),
        (Onset(None, FIXED), "2026-09-21 14:13 UTC or earlier"),
    ],
)
def test_onset_in_words(onset: Onset, words: str) -> None:
    assert incidents.onset_words(onset) == words


def test_the_headline_fits_pagerduty_whatever_the_names() -> None:
    many = tuple(f"adapter-{i}-{'x' * 40}" for i in range(60))
    assert len(headline(alarm(FIXED, subject_kind=BASE_KIND, subject=BASE, members=many))) == 1024


def notice() -> Notice:
    return to_notice(alarm(FIXED), NoticeReason.DEGRADED, "prod", FIXED)


def test_details_hold_evidence_hashes_and_what_to_do() -> None:
    details = notice().details
    assert details["evidence"] == "93.9 nats of 21.5 needed (adapter_gap)"
    assert details["hash base"] == "sha256:bbbb (accepted: sha256:aaaa)"
    assert details["hash adapter"] == "sha256:cccc as accepted"
    assert details["first action"] == "roll the base back to sha256:aaaa"
    assert details["seen"].startswith("the base has other weights")


def test_every_query_line_names_a_question_that_exists_with_its_parameter() -> None:
    lines = [text for name, text in notice().details.items() if name.startswith("query ")]
    assert len(lines) == 4
    for line in lines:
        words = line.split()
        assert words[:2] == ["gapwatch", "query"]
        assert words[2] in store.query_names()
        assert words[3] == "-p"
        assert words[4].split("=")[0] in store.query_parameters(words[2])


def test_details_begin_with_what_is_seen_and_what_to_do_and_end_with_what_is_pasted() -> None:
    names = list(notice().details)
    assert names[:3] == ["seen", "first action", "runbook"]
    pasted = [name for name in names if name == "sql" or name.startswith(("hash ", "query "))]
    assert names[-len(pasted) :] == pasted
    assert names[-1] == "sql"


@pytest.mark.parametrize("dsn", ["embedded"], indirect=True)
def test_the_sql_of_a_notice_runs_as_it_stands(migrated: store.Client) -> None:
    odd = [replace(alarm(FIXED), subject=name) for name in ("it's", "a\\", "a\\' OR 1 --", "org/a+b@v2#1:x")]
    for seen in (notice(), *(to_notice(one, NoticeReason.DEGRADED, "it's \\", FIXED) for one in odd)):
        assert migrated.query(seen.details["sql"]).result_rows == []


def test_a_question_in_a_notice_can_be_pasted() -> None:
    told = to_notice(replace(alarm(FIXED), subject="a #1"), NoticeReason.DEGRADED, "prod", FIXED).details
    assert told["query since"] == "gapwatch query since -p 'subject=a #1'"


@pytest.mark.parametrize(("seen", "reason"), [(MOVED, NoticeReason.BASE_MOVED), (RESOLVED, NoticeReason.RECOVERED)])
def test_where_nothing_is_to_be_done_no_runbook_is_named(seen: Verdict, reason: NoticeReason) -> None:
    assert "runbook" not in to_notice(seen, reason, "prod", FIXED).details


def test_every_cause_that_can_be_named_has_a_runbook() -> None:
    nameable = [
        c for c in Cause if c not in (Cause.NONE, Cause.INPUT_DRIFT)
    ]  # input drift informs, no incident names it
    pages = [
        to_notice(replace(alarm(), cause=c), NoticeReason.DEGRADED, "prod", FIXED).details["runbook"] for c in nameable
    ]
    pages.append(to_notice(BLIND, NoticeReason.CANNOT_TELL, "prod", FIXED).details["runbook"])
    for page in pages:
        text = (Path(store.ROOT) / page).read_text()
        for heading in ("What it means.", "Check", "First action.", "Recovered when"):
            assert f"**{heading}" in text, (page, heading)
        asked = set(re.findall(r"`gapwatch query (\w+)", text))
        assert asked, page
        assert asked <= set(store.query_names()), page
