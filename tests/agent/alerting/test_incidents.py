"""When somebody is woken: tables of cases, each with its sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.fleet import ALONE, Fleet, JudgedBy, SentIncident
from agent.alerting.incidents import HELD_BACK_S, reenrolled, step_round
from agent.alerting.notice import dedup_key, state_key, to_notice
from agent.records import NoticeKind, NoticeReason
from detectors.canaries.tolerance import Tolerances
from detectors.records import Cause, Evidence, Reason, ShareOf, Status, SubjectKind, Verdict
from detectors.verdicts.decision import decide
from detectors.verdicts.incident import SILENT_ROUNDS, Incident, Outcome, RoundResult, Rules, advance
from tests.agent.findings import ACCEPTED, BASE, FIXED, ROUTER, SWAPPED, TONE, alarm, verdict
from tests.detectors.synthetic import make_round

BASE_KIND = SubjectKind.BASE
KEY = dedup_key("prod", SubjectKind.ADAPTER, ROUTER)
BASE_KEY = dedup_key("prod", BASE_KIND, BASE)

GOOD = verdict()
BAD = verdict(Status.DEGRADED, cause=Cause.UNKNOWN)
NAMED = verdict(Status.DEGRADED, cause=Cause.WRONG_STRENGTH)
REFINED, KEPT = (
    verdict(Status.DEGRADED, reason, cause=Cause.WRONG_STRENGTH) for reason in (Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
)
OTHERWISE_REFINED = replace(REFINED, cause=Cause.PARTLY_APPLIED)
RECOVERING = verdict(Status.DEGRADED, Reason.RECOVERING)
RESOLVED = verdict(Status.HEALTHY, Reason.RESOLVED)
BLIND = verdict(Status.UNMONITORABLE)
SUSPECT = verdict(Status.SUSPECT)
QUIET = verdict(Status.UNMONITORABLE, Reason.NO_TRAFFIC)
PAUSED = verdict(Status.UNMONITORABLE, Reason.PAUSED)
MOVED_OUTPUTS = verdict(Status.SUSPECT, Reason.OUTPUT_DRIFT)
COVERED = verdict(Status.DEGRADED, covered_by=BASE)
BASE_BLIND = verdict(Status.UNMONITORABLE, subject_kind=BASE_KIND)
BASE_ALARM = alarm(subject_kind=BASE_KIND, subject=BASE, members=(ROUTER, TONE))
BASE_RESOLVED = verdict(Status.HEALTHY, Reason.RESOLVED, subject_kind=BASE_KIND)
MOVED = verdict(Status.HEALTHY, Reason.BASE_MOVED, subject_kind=BASE_KIND, identity=SWAPPED)


TEMPLATE = replace(ACCEPTED, golden_template="sha256:t1", live_template="sha256:t2", scheme=2)
TOKENIZER = replace(ACCEPTED, golden_tokenizer="sha256:k1", live_tokenizer="sha256:k2", scheme=2)
FILES = replace(ACCEPTED, live_adapter="sha256:dddd")
RENDERED = verdict(reason=Reason.TEMPLATE_CHANGED, identity=ACCEPTED)
OTHER_TEMPLATE = verdict(reason=Reason.TEMPLATE_CHANGED, identity=TEMPLATE)
OTHER_TOKENIZER = verdict(reason=Reason.TOKENIZER_CHANGED, identity=TOKENIZER)
OTHER_FILES = verdict(reason=Reason.ADAPTER_MOVED, identity=FILES)
ENGINE = replace(ACCEPTED, golden_engine="vllm 0.32.0, aa", live_engine="vllm 0.33.0, bb")
OTHER_ENGINE = verdict(reason=Reason.ENGINE_MOVED, identity=ENGINE)
SOURCE = replace(ACCEPTED, golden_source="v1 on smollm2", live_source="v2 on smollm2")
OTHER_SOURCE = verdict(reason=Reason.ENGINE_MOVED, identity=SOURCE)


def other(seen: Verdict) -> Verdict:
    return replace(seen, subject=TONE)


def counted(*rounds: Sequence[Verdict]) -> list[list[Verdict]]:
    """The verdicts with their rounds in a row, as a monitor counts them that lost its memory before the first."""
    subjects: dict[str, Incident] = {}
    after: list[list[Verdict]] = []
    for verdicts in rounds:
        after.append([])
        for seen in verdicts:
            key = state_key(seen.subject_kind, seen.subject)
            subjects[key] = following(subjects.get(key, Incident()), seen)
            counters = subjects[key].good_in_a_row, subjects[key].silent_in_a_row
            after[-1].append(replace(seen, good_in_a_row=counters[0], silent_in_a_row=counters[1]))
    return after


def following(before: Incident, seen: Verdict) -> Incident:
    if seen.reason is Reason.NO_TRAFFIC:
        return before
    outcome = Outcome.GOOD if seen.status is Status.HEALTHY or seen.reason is Reason.RECOVERING else Outcome.BAD
    if seen.status is Status.UNMONITORABLE or seen.reason is Reason.OUTPUT_DRIFT:
        outcome = Outcome.SILENT
    return advance(before, RoundResult(seen.at, outcome), Rules(Tolerances(), 20.0)).after


def told(*rounds: Sequence[Verdict], fleet: Fleet | None = ALONE) -> list[list[tuple[str, str]]]:
    """(kind, reason) of what each round sends, in order; the states also go through JSON between rounds."""
    states: dict[str, AlertState] = {}
    sent = []
    for verdicts in counted(*rounds):
        states, notices = step_round(states, verdicts, FIXED, "prod", fleet)
        states = {key: AlertState.from_json(state.to_json()) for key, state in states.items()}
        sent.append([(notice.kind.value, notice.reason.value) for notice in notices])
    return sent


OPEN, SHARPER, OVER = ("trigger", "degraded"), ("trigger", "cause_sharper"), ("resolve", "taken_over")
ENDED, CHANGE, CANNOT = ("resolve", "recovered"), ("change", "base_moved"), ("trigger", "cannot_tell")
AGAIN, LOST = ("resolve", "can_tell_again"), ("trigger", "no_longer_judged")
NEW_TEMPLATE, NEW_WORDS = ("change", "template_changed"), ("change", "tokenizer_changed")
NEW_FILES = ("change", "adapter_moved")

CASES = {
    "healthy rounds wake nobody": ([[GOOD], [GOOD], [SUSPECT]], [[], [], []]),
    "an alarm pages at once": ([[GOOD], [alarm()]], [[], [OPEN]]),
    "an open incident is reported once": ([[alarm()], [BAD], [BAD]], [[OPEN], [], []]),
    "degraded with the state lost pages too, into the same incident": ([[BAD]], [[OPEN]]),
    "recovering with the state lost does not": ([[RECOVERING], [RESOLVED]], [[], []]),
    "a cause that gets a name is reported in the same incident": ([[BAD], [NAMED], [NAMED]], [[OPEN], [SHARPER], []]),
    "a cause that replayed faults name better is reported in the same incident, whatever was named before": (
        [[NAMED], [REFINED], [NAMED]],
        [[OPEN], [SHARPER], []],
    ),
    "and once, though a restart has them replayed again": (
        [[NAMED], [REFINED], [REFINED], [OTHERWISE_REFINED]],
        [[OPEN], [SHARPER], [], [SHARPER]],
    ),
    "and again in another incident": (
        [[NAMED], [REFINED], [RESOLVED], [NAMED], [REFINED]],
        [[OPEN], [SHARPER], [ENDED], [OPEN], [SHARPER]],
    ),
    "and where nothing is open any more it opens nothing": ([[REFINED], [KEPT], [NAMED]], [[], [], [OPEN]]),
    "and one that they leave as it is is not": ([[NAMED], [KEPT], [BAD]], [[OPEN], [], []]),
    "a name that is lost again is not": ([[NAMED], [BAD]], [[OPEN], []]),
    "two good rounds end it": ([[alarm()], [RECOVERING], [RESOLVED]], [[OPEN], [], [ENDED]]),
    "or as many as the machine asks for, which has the last word": (
        [[alarm()], [RECOVERING], [RECOVERING], [RECOVERING], [RESOLVED]],
        [[OPEN], [], [], [], [ENDED]],
    ),
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
    "three rounds that cannot be judged are reported, once": (
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
        [[], [], [CANNOT], [], [AGAIN]],
    ),
    "the first measured round ends it": ([[BLIND]] * 3 + [[SUSPECT]], [[], [], [CANNOT], [AGAIN]]),
    "a subject that cannot be judged and then is degraded is another incident, whose page comes first": (
        [[BLIND]] * 3 + [[alarm()], [BAD]],
        [[], [], [CANNOT], [OPEN, AGAIN], []],
    ),
    "rounds that cannot be judged do not end an incident; its page says once that there are three": (
        [[alarm()]] + [[BLIND]] * 4 + [[BAD]] + [[BLIND]] * 4,
        [[OPEN], [], [], [LOST], *([[]] * 6)],
    ),
    "and says it again of another incident": (
        [[alarm()], *[[BLIND]] * 3, [RESOLVED], [alarm()], *[[BLIND]] * 3],
        [[OPEN], [], [], [LOST], [ENDED], [OPEN], [], [], [LOST]],
    ),
    "a quiet night is no reason to say so": ([[alarm()], *[[QUIET]] * 6], [[OPEN], *[[]] * 6]),
    "nor is a watch that somebody has paused": ([[PAUSED]] * 9, [[]] * 9),
    "an incident's end with nothing measured since is no end": (
        [[alarm()], *[[BLIND]] * 3, [GOOD], [GOOD]],
        [[OPEN], [], [], [LOST], [], [ENDED]],
    ),
    "a base that cannot be judged reports it for all its members": (
        [[BASE_BLIND, BLIND, other(BLIND)]] * 3,
        [[], [], [CANNOT]],
    ),
    "but members with reasons of their own have notices of their own": (
        [[BASE_BLIND, BLIND, other(GOOD)]] * 3,
        [[], [], [CANNOT]],
    ),
    "and what its base reported for all ends when one of them is measured": (
        [[BASE_BLIND, BLIND, other(BLIND)]] * 3 + [[BASE_BLIND, BLIND, other(GOOD)]] * 2,
        [[], [], [CANNOT], [CANNOT, AGAIN], []],
    ),
    "a base whose incident is open says once that it can no longer be judged, also beside members that can": (
        [[BASE_ALARM, COVERED, other(COVERED)], *[[BASE_BLIND, BLIND, other(GOOD)]] * 4],
        [[OPEN], [], [], [CANNOT, LOST], []],
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
def test_what_is_sent_round_by_round(sentence: str) -> None:
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


def test_members_that_cannot_be_judged_are_reported_under_the_bases_key_alone() -> None:
    states: dict[str, AlertState] = {}
    keys: list[str] = []
    for verdicts in counted(*[[BASE_BLIND, BLIND, other(BLIND)]] * 3):
        states, notices = step_round(states, verdicts, FIXED, "prod")
        keys += [notice.dedup_key for notice in notices]
    assert keys == ["gapwatch/prod/cannot-tell/base/smollm2"]


def test_a_base_that_reports_for_its_members_waits_until_each_of_them_was_silent_for_three_rounds() -> None:
    """One of two has no golden record, so that the base was never judged: the other one's first silent round is one."""
    without = verdict(Status.UNMONITORABLE, Reason.NO_GOLDEN)
    lost = other(without)
    rounds = [[BASE_BLIND, without, other(GOOD)]] * 5 + [[BASE_BLIND, without, lost]] * 3
    assert told(*rounds) == [[], [], [CANNOT], *[[]] * 4, [CANNOT]]


def cannot_tell_times(silent: Callable[[int, bool], bool], rounds: int) -> list[int]:
    """Rounds, one a minute, in which somebody was told that a subject cannot be judged. silent: of a round's number,
    and of whether that incident is open, whether nothing was measured in it"""
    states: dict[str, AlertState] = {}
    incident, sent = Incident(), []
    for number in range(rounds):
        is_open = states.get(state_key(SubjectKind.ADAPTER, ROUTER), AlertState()).blindness.is_open
        seen = replace(BLIND if silent(number, is_open) else GOOD, at=FIXED + 60.0 * number)
        incident = following(incident, seen)
        counted_in = replace(seen, silent_in_a_row=incident.silent_in_a_row, good_in_a_row=incident.good_in_a_row)
        states, notices = step_round(states, [counted_in], seen.at, "prod")
        states = {key: AlertState.from_json(json.loads(json.dumps(state.to_json()))) for key, state in states.items()}
        sent += [number for notice in notices if notice.reason is NoticeReason.CANNOT_TELL]
    return sent


def test_a_subject_that_cannot_be_judged_in_three_rounds_of_four_pages_once_a_day_and_not_360_times() -> None:
    """Three silent rounds and a measured one, for two days."""
    assert cannot_tell_times(lambda number, _: number % 4 != 3, 2880) == [2, 1442]


def test_an_outage_that_stays_is_reported_also_after_others_of_that_day() -> None:
    assert cannot_tell_times(lambda number, _: number % 100 < 50 or number >= 400, 1000) == [2, 105, 211, 323, 447]


def test_no_day_has_more_pages_that_cannot_tell_than_the_bound() -> None:
    """The most there can be: each outage ends when it has paged, for one round. With R rounds a day that are at most
    log2(R / 3 + 2)."""
    sent = np.array(cannot_tell_times(lambda _, is_open: not is_open, 3 * 1440))
    most = max(int(((sent >= start) & (sent < start + 1440)).sum()) for start in sent)
    assert 7 <= most <= math.floor(math.log2(1440 / SILENT_ROUNDS + 2)) == 8


HERE = state_key(SubjectKind.ADAPTER, ROUTER)
BLIND_KEY = "gapwatch/prod/cannot-tell/adapter/ticket-router"


def shown(**how: bool) -> Fleet:
    """Another live pod, which comes after this one by name, judges the router so."""
    return Fleet("pod-a", {"pod-b": True}, {HERE: {"pod-b": JudgedBy(**how)}})


def keys_of(states: Mapping[str, AlertState], seen: Verdict, fleet: Fleet | None = ALONE) -> list[tuple[str, str]]:
    """(reason, dedup key) of what is sent."""
    return [(notice.reason.value, notice.dedup_key) for notice in step_round(states, [seen], FIXED, "prod", fleet)[1]]


def test_that_a_subject_cannot_be_judged_and_that_it_is_degraded_are_two_incidents() -> None:
    (*_, silent), (first, *_) = counted(*[[BLIND]] * 3), counted([alarm()])
    states, (warning,) = step_round({}, silent, FIXED, "prod")
    assert warning.dedup_key == BLIND_KEY
    assert keys_of(states, first[0]) == [("degraded", KEY), ("can_tell_again", BLIND_KEY)]


@pytest.mark.parametrize(
    ("seen", "fleet", "sent"),
    [
        (GOOD, ALONE, [("can_tell_again", KEY)]),
        (GOOD, None, []),
        (GOOD, shown(blind=True), []),
        (alarm(), ALONE, [("can_tell_again", KEY), ("degraded", KEY)]),
        (alarm(), shown(degraded=True), [("degraded", KEY)]),
        (alarm(), None, [("degraded", KEY)]),
    ],
)
def test_a_warning_of_an_earlier_version_is_ended_once_under_the_key_it_has(
    seen: Verdict, fleet: Fleet | None, sent: list[tuple[str, str]]
) -> None:
    former = AlertState.from_json({"opened_as": "cannot_tell", "cause": "none", "told": ["sha256:bb"]})
    assert (former.blindness.is_open, former.former_key, former.incident.is_open) == (True, True, False)
    assert former.changes == ("sha256:bb",) and former.cannot_tell_at == ()
    former = AlertState.from_json(json.loads(json.dumps(former.to_json())))
    assert keys_of({HERE: former}, seen, fleet) == sent
    after, _ = step_round({HERE: former}, [seen], FIXED, "prod", fleet)
    if sent or seen is not GOOD:
        again = {HERE: AlertState.from_json(json.loads(json.dumps(after[HERE].to_json())))}
        assert keys_of(again, seen) == [], "and never again"
        (*_, silent) = counted(*[[BLIND]] * 3)
        assert keys_of({HERE: replace(again[HERE], incident=AlertState().incident)}, silent[0]) == [
            ("cannot_tell", BLIND_KEY)
        ], "the next one has a key of its own"


def test_an_incident_of_an_earlier_version_goes_on() -> None:
    former = AlertState.from_json({"opened_as": "degraded", "cause": "wrong_strength", "told": []})
    assert keys_of({HERE: former}, NAMED) == []
    assert keys_of({HERE: former}, RESOLVED) == [("recovered", KEY)]


def test_what_was_told_while_the_clock_was_a_year_ahead_does_not_hold_back_what_cannot_be_judged_today() -> None:
    state = AlertState(cannot_tell_at=(FIXED + 365 * 86400.0, FIXED - 3600.0))
    assert state.cannot_tell_since(FIXED) == (FIXED - 3600.0,)
    assert state.silent_rounds_needed(FIXED) == 2 * SILENT_ROUNDS


def test_what_another_live_pod_calls_degraded_is_not_resolved_here() -> None:
    assert told([alarm()], [RESOLVED], [GOOD], fleet=shown(degraded=True)) == [[OPEN], [], []]
    alarmed, resolved, good = counted([alarm()], [RESOLVED], [GOOD])
    states, _ = step_round({}, alarmed, FIXED, "prod")
    states, held = step_round(states, resolved, FIXED, "prod", shown(degraded=True))
    states, unanswered = step_round(states, resolved, FIXED, "prod", None)
    states, freed = step_round(states, good, FIXED, "prod", shown())
    assert (held, unanswered, [notice.reason for notice in freed]) == ((), (), [NoticeReason.RECOVERED])


def test_that_a_subject_cannot_be_judged_is_over_when_no_live_pod_says_so() -> None:
    """Also where another calls it degraded: that is another incident, and stays."""
    assert told(*[[BLIND]] * 3, [GOOD], fleet=shown(blind=True))[-1] == []
    assert told(*[[BLIND]] * 3, [GOOD], fleet=shown(degraded=True))[-1] == [AGAIN]
    assert told(*[[BLIND]] * 3, [GOOD], fleet=None)[-1] == []
    assert told(*[[BLIND]] * 3, [alarm()], fleet=shown(blind=True))[-1] == [OPEN]


def test_a_pod_that_cannot_judge_says_so_beside_the_page_of_another() -> None:
    page = SentIncident(opened_at=FIXED - 60, pod="pod-b")
    fleet = replace(shown(degraded=True), incidents={(KEY, False): page})
    assert told(*[[BLIND]] * 4, [GOOD], fleet=fleet) == [[], [], [CANNOT], [], [AGAIN]]


def test_no_kind_of_resolve_ends_what_another_live_pod_calls_degraded() -> None:
    there = shown(degraded=True)
    assert told([alarm()], [BASE_ALARM, COVERED], fleet=there)[-1] == [OPEN]
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    states, _ = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod", there)
    states, freed = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod")
    assert [notice.reason for notice in freed] == [NoticeReason.TAKEN_OVER]


def test_a_takeover_names_the_incident_that_must_be_sent_first() -> None:
    states, (page,) = step_round({}, [alarm()], FIXED, "prod")
    _, (base, over) = step_round(states, [BASE_ALARM, COVERED], FIXED, "prod")
    assert (page.after, base.after, over.after) == ("", "", BASE_KEY)


def test_an_incident_that_is_no_longer_judged_stays_that_of_its_cause() -> None:
    """Its owner and its runbook are those of the cause; the round that shows nothing names none."""
    blind = verdict(Status.UNMONITORABLE)
    states: dict[str, AlertState] = {}
    sent = []
    for verdicts in counted([NAMED], *[[blind]] * SILENT_ROUNDS):
        states, notices = step_round(states, verdicts, FIXED, "prod")
        sent += [(notice.reason, notice.verdict.cause) for notice in notices]
    assert sent == [(NoticeReason.DEGRADED, NAMED.cause), (NoticeReason.NO_LONGER_JUDGED, NAMED.cause)]
    assert NAMED.cause is not Cause.NONE


def test_a_new_release_ends_the_incident_with_its_reason() -> None:
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    key = state_key(SubjectKind.ADAPTER, ROUTER)
    state, notices = reenrolled(states[key], alarm(), "v2 of the router", FIXED, "prod")
    assert [(n.kind, n.reason, n.dedup_key) for n in notices] == [(NoticeKind.RESOLVE, NoticeReason.REENROLLED, KEY)]
    assert "v2 of the router" in notices[0].summary
    assert reenrolled(state, alarm(), "again", FIXED, "prod") == (state, ())


CHANGE_CASES = {
    "another template is the base's and reported once": (
        [[OTHER_TEMPLATE, other(OTHER_TEMPLATE)], [OTHER_TEMPLATE, other(OTHER_TEMPLATE)]],
        [[NEW_TEMPLATE], []],
    ),
    "also where only the rendered ids show it": ([[RENDERED], [RENDERED]], [[NEW_TEMPLATE], []]),
    "so is another tokenizer": ([[OTHER_TOKENIZER, other(OTHER_TOKENIZER)], [OTHER_TOKENIZER]], [[NEW_WORDS], []]),
    "another engine is the base's, and another source is each adapter's own": (
        [[OTHER_ENGINE, other(OTHER_ENGINE)], [OTHER_SOURCE, other(OTHER_SOURCE)], [OTHER_ENGINE]],
        [[("change", "engine_moved")], [("change", "source_moved")] * 2, []],
    ),
    "other files are each adapter's own": (
        [[OTHER_FILES, other(OTHER_FILES)], [OTHER_FILES, other(OTHER_FILES)]],
        [[NEW_FILES, NEW_FILES], []],
    ),
    "and reported beside a neighbour that is not well": ([[OTHER_FILES, other(SUSPECT)]], [[NEW_FILES]]),
    "and a template not": (
        [[OTHER_TEMPLATE, other(SUSPECT)], [OTHER_TEMPLATE, other(GOOD)]],
        [[], [NEW_TEMPLATE]],
    ),
    "a base that moved hides no other change": (
        [[replace(MOVED, subject_kind=SubjectKind.ADAPTER, subject=ROUTER, identity=replace(TEMPLATE, live_base="b"))]],
        [[CHANGE, NEW_TEMPLATE]],
    ),
    "the files of a base's first member are not the base's": (
        [[replace(MOVED, identity=replace(SWAPPED, live_adapter="x"))]],
        [[CHANGE]],
    ),
    "nothing is reported of an adapter that its base covers": ([[replace(OTHER_FILES, covered_by=BASE)]], [[]]),
    "the next template is reported too": (
        [[OTHER_TEMPLATE], [replace(OTHER_TEMPLATE, identity=replace(TEMPLATE, live_template="sha256:t3"))]],
        [[NEW_TEMPLATE], [NEW_TEMPLATE]],
    ),
}


CHANGED = verdict(scale=0.99, tolerated_change="ticket-router has changed, and is inside your tolerance of 5 %")
SAID, GONE = ("change", "tolerated_change"), ("change", "tolerated_change_over")
TOLERATED_CASES = {
    "said once, and once that it is over": ([[GOOD], [CHANGED], [CHANGED], [GOOD]], [[], [SAID], [], [GONE]]),
    "said again when it comes again": ([[CHANGED], [GOOD], [CHANGED]], [[SAID], [GONE], [SAID]]),
    "each adapter has its own": ([[CHANGED, other(CHANGED)], [GOOD, other(CHANGED)]], [[SAID, SAID], [GONE]]),
    "a round that is not healthy says nothing": ([[CHANGED], [SUSPECT], [BLIND], [CHANGED]], [[SAID], [], [], []]),
    "it is over beside an incident's end": ([[CHANGED], [alarm()], [RESOLVED]], [[SAID], [OPEN], [ENDED, GONE]]),
    "nothing is said while the base speaks": ([[replace(CHANGED, covered_by=BASE)]], [[]]),
    "responses say nothing of it": (
        [[CHANGED], [replace(RESOLVED, share_of=ShareOf.RESPONSES)], [CHANGED]],
        [[SAID], [], []],
    ),
    "nor does a verdict on a base that has moved": (
        [[CHANGED], [replace(MOVED, subject=ROUTER, subject_kind=SubjectKind.ADAPTER, covered_by="")], [CHANGED]],
        [[SAID], [CHANGE], []],
    ),
    "beside other files": ([[replace(CHANGED, reason=Reason.ADAPTER_MOVED, identity=FILES)]], [[NEW_FILES, SAID]]),
}


@pytest.mark.parametrize(("rounds", "sent"), TOLERATED_CASES.values(), ids=TOLERATED_CASES.keys())
def test_a_change_within_tolerance_is_said_once_and_never_pages(
    rounds: list[list[Verdict]], sent: list[list[tuple[str, str]]]
) -> None:
    assert told(*rounds) == sent


def test_a_new_release_takes_back_what_was_said_of_the_former_without_saying_that_it_is_over() -> None:
    states, _ = step_round({}, [CHANGED], FIXED, "prod")
    key = state_key(SubjectKind.ADAPTER, ROUTER)
    state, notices = reenrolled(states[key], GOOD, "as intended", FIXED, "prod")
    assert notices == () and step_round({key: state}, [GOOD], FIXED, "prod")[1] == ()


def test_what_was_said_of_a_change_within_tolerance_is_kept_and_not_in_files_of_earlier_versions() -> None:
    said, _ = step_round({}, [CHANGED], FIXED, "prod")
    state = said[state_key(SubjectKind.ADAPTER, ROUTER)]
    stored = json.loads(json.dumps(state.to_json()))
    assert state.tolerated_change and AlertState.from_json(stored) == state
    del stored["tolerated_change"], stored["cause_refined"]
    assert not AlertState.from_json(stored).tolerated_change


@pytest.mark.parametrize(("rounds", "sent"), CHANGE_CASES.values(), ids=CHANGE_CASES.keys())
def test_changes_are_reported_as_what_they_are_and_once(
    rounds: list[list[Verdict]], sent: list[list[tuple[str, str]]]
) -> None:
    assert told(*rounds) == sent


@pytest.mark.parametrize(
    ("seen", "reason", "words", "key"),
    [
        (
            OTHER_TEMPLATE,
            NoticeReason.TEMPLATE_CHANGED,
            "base smollm2: another chat template (sha256:t2), its",
            BASE_KEY,
        ),
        (RENDERED, NoticeReason.TEMPLATE_CHANGED, "other token ids (tokenizer or chat template), its", BASE_KEY),
        (OTHER_TOKENIZER, NoticeReason.TOKENIZER_CHANGED, "base smollm2: other tokenizer files (sha256:k2)", BASE_KEY),
        (OTHER_FILES, NoticeReason.ADAPTER_MOVED, "ticket-router: other files (sha256:dddd) on the same base", KEY),
        (
            OTHER_ENGINE,
            NoticeReason.ENGINE_MOVED,
            "base smollm2: another engine or other settings (vllm 0.33.0, bb; accepted: vllm 0.32.0, aa)",
            BASE_KEY,
        ),
        (OTHER_SOURCE, NoticeReason.SOURCE_MOVED, "loaded it from v2 on smollm2 (accepted: v1 on smollm2)", KEY),
        (
            CHANGED,
            NoticeReason.TOLERATED_CHANGE,
            "has changed, and is inside your tolerance - strength",
            KEY,
        ),
        (GOOD, NoticeReason.TOLERATED_CHANGE_OVER, "ticket-router: its change inside your tolerance is over", KEY),
        (MOVED, NoticeReason.BASE_MOVED, "base smollm2: other weights (sha256:bbbb), its adapters keep", BASE_KEY),
    ],
)
def test_a_change_in_words_and_about_whom(seen: Verdict, reason: NoticeReason, words: str, key: str) -> None:
    notice = to_notice(seen, reason, "prod", FIXED)
    assert words in notice.summary and notice.dedup_key == key and notice.kind is NoticeKind.CHANGE
    hashes = [name for name in notice.details if name.startswith("hash ")]
    assert ("hash chat template" in hashes) == (seen is OTHER_TEMPLATE)
    assert ("hash tokenizer" in hashes) == (seen is OTHER_TOKENIZER)


# --- with a store ----------------------------------------------------------------------------------------------------

PAGE = SentIncident(opened_at=FIXED - 60, pod="pod-b", cause="wrong_strength")


def knowing(page: SentIncident = PAGE, live: Sequence[str] = ("pod-b",), **how: bool) -> Fleet:
    """The fleet by a store that holds this of the router's incident."""
    judged = {name: JudgedBy(**how) for name in live}
    return Fleet("pod-a", dict.fromkeys(live, True), {HERE: judged}, {(KEY, False): page})


FLEET_CASES = {
    "what a live pod has reported is not reported again": ([[alarm()], [BAD]], knowing(degraded=True), [[], []]),
    "nor is its cause, where that pod has named it": ([[BAD], [NAMED]], knowing(degraded=True), [[], []]),
    "but one that is named better here is": ([[BAD], [REFINED]], knowing(degraded=True), [[], [SHARPER]]),
    "and not where that was sent, too": ([[BAD], [REFINED]], knowing(replace(PAGE, sharper=True)), [[], []]),
    "a page of a pod that is gone may not have been sent: another one goes out": (
        [[GOOD], [alarm()], [BAD]],
        knowing(live=()),
        [[], [OPEN], []],
    ),
    "not one that is known to be delivered": ([[alarm()], [BAD]], knowing(replace(PAGE, delivered=True), ()), [[], []]),
    "recovering is no reason for another one": ([[RECOVERING]], knowing(live=()), [[]]),
    "two good rounds after it was adopted end it": ([[GOOD]] * 4, knowing(live=()), [[], [], [ENDED], []]),
    "rounds that are good and then blind do not": ([[GOOD], [BLIND], [GOOD], [BLIND]], knowing(live=()), [[]] * 4),
    "nor do they while another live pod shows it": ([[GOOD]] * 6, knowing(degraded=True), [[]] * 6),
    "nor without an answer of the store": ([[GOOD]] * 6, None, [[]] * 6),
    "what is over is not adopted": ([[GOOD]] * 6, knowing(SentIncident(ended_at=FIXED - 60)), [[]] * 6),
    "a base speaks for a member whose page another pod has sent": (
        [[BASE_ALARM, COVERED]],
        knowing(live=()),
        [[OPEN, OVER]],
    ),
    "good canaries do not end what responses have shown": (
        [[replace(GOOD, good_responses=0)]] * 6,
        knowing(replace(PAGE, by_responses=True), ()),
        [[]] * 6,
    ),
    "good responses do": (
        [[replace(GOOD, good_responses=n)] for n in (4, 5, 5, 6)],
        knowing(replace(PAGE, by_responses=True), ()),
        [[], [], [], [ENDED]],
    ),
    "and canaries where responses are not judged any more": (
        [[GOOD]] * 3,
        knowing(replace(PAGE, by_responses=True), ()),
        [[], [], [ENDED]],
    ),
    "that it can no longer be judged is said once by all together": (
        [[alarm()], *[[BLIND]] * 4],
        knowing(replace(PAGE, not_judged=True), degraded=True),
        [[]] * 5,
    ),
}


@pytest.mark.parametrize("sentence", FLEET_CASES)
def test_what_is_sent_round_by_round_by_one_pod_of_several(sentence: str) -> None:
    rounds, fleet, wanted = FLEET_CASES[sentence]
    assert told(*rounds, fleet=fleet) == wanted, sentence


def test_of_those_that_could_end_it_the_first_does_and_the_others_read_that_it_did() -> None:
    before = replace(knowing(), pod="pod-c", spacing_s=90.0)
    assert before.pods_before(HERE) == 1
    ended = replace(before, incidents={(KEY, False): SentIncident(ended_at=FIXED + 130)})
    (first,) = counted([alarm()])
    for fleet, wanted in ((before, NoticeReason.RECOVERED), (ended, None)):
        states, _ = step_round({}, first, FIXED, "prod")
        sent: list[NoticeReason] = []
        for number in range(1, 5):
            now = FIXED + 60 * number
            by_then = fleet if number > 2 else before
            states, notices = step_round(states, [RESOLVED], now, "prod", by_then)
            sent += [notice.reason for notice in notices]
            assert sent == ([wanted] if wanted and number > 2 else []), "it waits for 90 seconds"
        assert not states[HERE].incident.is_open


def test_an_end_that_another_pod_reports_while_it_is_degraded_here_counts_after_ten_minutes() -> None:
    """One that has read a new golden record a round earlier ends it for all; nobody is paged again for that."""
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    ended = knowing(SentIncident(ended_at=FIXED + 60))
    states, soon = step_round(states, [BAD], FIXED + 120, "prod", ended)
    _, reenrolled_too = reenrolled(states[HERE], BAD, "v2", FIXED + 180, "prod", ended)
    _, late = step_round(states, [BAD], FIXED + 700, "prod", ended)
    assert (soon, reenrolled_too, [notice.reason for notice in late]) == ((), (), [NoticeReason.DEGRADED])


def test_what_was_sent_from_here_and_is_not_stored_yet_is_not_adopted_again() -> None:
    """The sink writes when it can: for a while the store still says that the incident is open."""
    stale = knowing(live=())
    states, _ = step_round({}, [alarm()], FIXED - 61, "prod")
    states, (end,) = step_round(states, [RESOLVED], FIXED, "prod", stale)
    for number in range(1, 5):
        states, notices = step_round(states, [GOOD], FIXED + 60 * number, "prod", stale)
        assert notices == ()
    assert end.reason is NoticeReason.RECOVERED


def test_a_warning_of_a_pod_with_an_earlier_version_is_ended_under_the_key_it_has() -> None:
    former = {(KEY, True): SentIncident(opened_at=FIXED - 60, pod="gone")}
    fleet = Fleet("pod-a", incidents=former)
    assert keys_of({}, GOOD, fleet) == [("can_tell_again", KEY)]
    states, _ = step_round({}, [GOOD], FIXED, "prod", fleet)
    assert keys_of(states, GOOD, fleet) == []
    own = {**former, (BLIND_KEY, True): SentIncident(opened_at=FIXED - 30, pod="gone")}
    assert keys_of({}, GOOD, Fleet("pod-a", incidents=own)) == [("can_tell_again", BLIND_KEY)]


def sent_by(fleet: Fleet, states: Mapping[str, AlertState], seen: Verdict, now: float) -> list[tuple[str, str]]:
    """(kind, reason) of what a pod that knows this fleet sends about one more round."""
    _, notices = step_round(states, [seen], now, "prod", fleet)
    return [(notice.kind.value, notice.reason.value) for notice in notices]


def test_a_page_that_a_live_pod_cannot_get_out_is_sent_by_the_next_one_after_some_minutes() -> None:
    stuck = knowing(replace(PAGE, held_back=True), degraded=True)
    adopted, _ = step_round({}, [BAD], FIXED, "prod", stuck)
    due = PAGE.opened_at + HELD_BACK_S
    assert [sent_by(stuck, adopted, BAD, at) for at in (due - 1, due)] == [[], [OPEN]]
    later = replace(stuck, pod="pod-c", spacing_s=90.0)
    assert [sent_by(later, adopted, BAD, at) for at in (due + 89, due + 90)] == [[], [OPEN]], "in turn"
    for known in (replace(PAGE, held_back=True, delivered=True), PAGE):
        assert sent_by(knowing(known, degraded=True), adopted, BAD, due + 3600) == []
    after, _ = step_round(adopted, [BAD], due, "prod", stuck)
    assert sent_by(stuck, after, BAD, due + 3600) == [], "once from here"


def test_a_warning_that_a_live_pod_cannot_get_out_is_sent_by_the_next_one_too() -> None:
    blind = {(BLIND_KEY, True): SentIncident(opened_at=FIXED - 60, pod="pod-b", held_back=True)}
    stuck = Fleet("pod-a", {"pod-b": True}, {HERE: {"pod-b": JudgedBy(blind=True)}}, blind)
    seen = replace(BLIND, silent_in_a_row=30)
    adopted, _ = step_round({}, [seen], FIXED, "prod", stuck)
    assert sent_by(stuck, adopted, seen, FIXED + HELD_BACK_S) == [CANNOT]


@pytest.mark.parametrize("kept_here", [True, False])
def test_an_end_sent_by_another_pod_is_put_behind_the_page_that_still_waits_here(kept_here: bool) -> None:
    """Else that page goes out after the end, and nobody ends it."""
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    ended = knowing(SentIncident(ended_at=FIXED + 60, kept_here=kept_here))
    states, notices = step_round(states, [GOOD], FIXED + 120, "prod", ended)
    assert [(notice.kind.value, notice.reason.value) for notice in notices] == ([ENDED] if kept_here else [])
    assert sent_by(ended, states, GOOD, FIXED + 180) == [], "once"


def test_what_is_degraded_here_stays_open_whatever_waits_here() -> None:
    states, _ = step_round({}, [alarm()], FIXED, "prod")
    ended = knowing(SentIncident(ended_at=FIXED + 60, kept_here=True))
    assert sent_by(ended, states, BAD, FIXED + 120) == []


def test_the_end_of_a_warning_is_put_behind_it_likewise_also_where_the_subject_is_degraded_by_now() -> None:
    fleet = Fleet("pod-a", {}, {}, {(BLIND_KEY, True): SentIncident(ended_at=FIXED + 60, kept_here=True)})
    states, _ = step_round({}, [replace(BLIND, silent_in_a_row=SILENT_ROUNDS)], FIXED, "prod")
    assert sent_by(fleet, states, BAD, FIXED + 120) == [AGAIN, OPEN]
    assert sent_by(fleet, states, BLIND, FIXED + 120) == []
