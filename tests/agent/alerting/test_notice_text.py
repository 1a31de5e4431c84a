"""What the on-call person reads: each line of a page, its limits, and that everything it names exists."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.alerting.alert_state import AlertState
from agent.alerting.incidents import step_round
from agent.alerting.notice import to_notice
from agent.alerting.notice_text import details, onset_words, retention_words, steps_of, with_roll_back
from agent.records import Notice, NoticeReason
from agent.shipped import runbook
from agent.store import client as store
from detectors import on_call_text
from detectors.records import Cause, Identity, Interval, Onset, Reason, ShareOf, Status, SubjectKind, Verdict
from tests.agent.findings import ACCEPTED, BASE, FIXED, ROUTER, SWAPPED, TONE, alarm, verdict

BASE_KIND = SubjectKind.BASE
ROOT = Path(__file__).resolve().parents[3]
BAD, BLIND = verdict(Status.DEGRADED, cause=Cause.UNKNOWN), verdict(Status.UNMONITORABLE)
RESOLVED = verdict(Status.HEALTHY, Reason.RESOLVED)
BASE_ALARM = alarm(subject_kind=BASE_KIND, subject=BASE, members=(ROUTER, TONE))
MOVED = verdict(Status.HEALTHY, Reason.BASE_MOVED, subject_kind=BASE_KIND, identity=SWAPPED)


def headline(seen: Verdict, reason: NoticeReason = NoticeReason.DEGRADED) -> str:
    return to_notice(seen, reason, "prod", FIXED).summary


def test_a_page_of_responses_says_from_how_many_its_retention_is() -> None:
    retention = Interval(0.02, float("nan"), 0.08, 40)
    seen = [replace(BAD, retention=retention, share_of=of) for of in (ShareOf.RESPONSES, ShareOf.DRAWS)]
    said = [to_notice(one, NoticeReason.DEGRADED, "prod", FIXED).details for one in seen]
    assert said[0]["retention"] == f"{said[1]['retention']}, from 40 responses"


def test_the_headline_says_what_since_when_and_how_much_is_left() -> None:
    assert headline(alarm(FIXED)) == (
        "[prod] ticket-router: base swapped and adapter lost - retention 0.00 (95 % -0.01..0.01), "
        "since 2026-09-21 14:12-14:13 UTC"
    )
    of_base = alarm(FIXED, subject_kind=BASE_KIND, subject=BASE, members=(ROUTER, TONE))
    assert "2 adapters of base smollm2: base swapped and adapter lost (ticket-router, polite-rewriter)" in headline(
        of_base
    )
    assert "cause unknown" in headline(BAD)
    assert "retention not measured" in headline(BAD)
    assert "cannot tell" in headline(BLIND, NoticeReason.CANNOT_TELL)
    in_part = headline(replace(BLIND, subject_kind=BASE_KIND, subject=BASE), NoticeReason.CAN_TELL_AGAIN)
    assert in_part.endswith("base smollm2: is measured again - some of its adapters")


def test_where_the_effect_is_kept_the_headline_names_what_the_incident_was_opened_for() -> None:
    kept = replace(alarm(FIXED), retention=Interval(1.0, 0.99, 1.01, 176), share_beyond=0.72)
    assert " - 72 % of canaries beyond tolerance, retention 1.00 (95 % 0.99..1.01), since" in headline(kept)
    by_responses = headline(replace(kept, share_of=ShareOf.RESPONSES))
    assert " - 72 % of responses against it, retention 1.00" in by_responses
    for share in (0.0, float("nan")):
        assert " - wrong as served, retention 1.00 (95 % 0.99..1.01) as scored, since" in headline(
            replace(kept, share_beyond=share)
        )
    recovered = replace(RESOLVED, retention=kept.retention, share_beyond=0.0)
    assert headline(recovered, NoticeReason.RECOVERED).endswith("recovered - retention 1.00 (95 % 0.99..1.01)")


def test_every_reason_to_send_something_has_its_headline_and_says_why() -> None:
    assert set(on_call_text.HEADLINES) == set(on_call_text.SENT_BECAUSE) == {reason.value for reason in NoticeReason}


def test_a_base_that_answers_otherwise_from_the_same_weights_is_not_said_to_have_other_ones() -> None:
    same = headline(replace(MOVED, identity=replace(SWAPPED, live_base=SWAPPED.golden_base)), NoticeReason.BASE_MOVED)
    assert "answers differently than accepted from the same weights (sha256:aaaa)" in same
    assert "other weights (sha256:bbbb)" in headline(MOVED, NoticeReason.BASE_MOVED)


@pytest.mark.parametrize("unknown", [replace(SWAPPED, live_base=""), replace(SWAPPED, golden_base="")])
def test_nothing_is_said_of_a_bases_weights_where_no_hash_is_known(unknown: Identity) -> None:
    told = headline(replace(MOVED, identity=unknown), NoticeReason.BASE_MOVED)
    assert "answers differently than accepted, its adapters keep" in told
    assert "weights" not in told


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
        (Onset(FIXED - 5, FIXED), "2026-09-21 14:13 UTC"),
        (Onset(FIXED - 86_400, FIXED), "2026-09-20 14:13-2026-09-21 14:13 UTC"),
        (Onset(None, FIXED), "2026-09-21 14:13 UTC or earlier"),
        (
            Onset(FIXED - 60, FIXED, FIXED - 90),
            "2026-09-21 14:12-14:13 UTC (by the evidence already 2026-09-21 14:11 UTC)",
        ),
        (Onset(FIXED - 60, FIXED, FIXED, FIXED - 180, FIXED + 720), "2026-09-21 14:10-14:25 UTC (95 %)"),
        (Onset(FIXED - 60, FIXED, FIXED, FIXED - 5, FIXED), "2026-09-21 14:13 UTC (95 %)"),
        (Onset(FIXED - 60, FIXED, FIXED, None, FIXED), "2026-09-21 14:13 UTC or earlier (95 %)"),
    ],
)
def test_onset_in_words(onset: Onset, words: str) -> None:
    assert onset_words(onset) == words


def test_beside_its_interval_a_notice_says_which_rounds_were_good_and_bad() -> None:
    onset = Onset(FIXED - 60, FIXED, FIXED, FIXED - 180, FIXED + 720)
    lines = details(alarm(FIXED, onset=onset), NoticeReason.DEGRADED, "prod")
    by_rounds = "by the rounds alone 2026-09-21 14:12-14:13 UTC, from the last good one to the first bad one"
    assert lines["onset"] == f"2026-09-21 14:10-14:25 UTC (95 %); {by_rounds}"
    by_the_rounds = details(alarm(FIXED), NoticeReason.DEGRADED, "prod")["onset"]
    assert by_the_rounds.endswith("; last good answer 2026-09-21 14:12:20, first bad one 14:13:20 UTC")
    within_a_second = details(alarm(FIXED, onset=Onset(FIXED - 0.4, FIXED - 0.2)), NoticeReason.DEGRADED, "prod")
    assert within_a_second["onset"].endswith("; the last good and the first bad answer both at 2026-09-21 14:13:19 UTC")


def test_what_was_seen_is_short_and_the_rest_stands_behind_what_to_do() -> None:
    whole = f"the base (hash was aa, is bb; shift 1.2) moved; {'more of it ' * 40}; and a file"
    lines = details(replace(alarm(FIXED), explanation=whole), NoticeReason.DEGRADED, "prod")
    assert lines["seen"] == "the base (hash was aa, is bb; shift 1.2) moved"
    assert lines["in detail"].startswith("more of it") and lines["in detail"].endswith("; and a file")
    assert list(lines).index("first action") < list(lines).index("in detail")
    assert "in detail" not in details(replace(alarm(FIXED), explanation="one; two"), NoticeReason.DEGRADED, "prod")


def test_a_page_explains_the_terms_that_it_uses_and_its_end_explains_none() -> None:
    words = details(alarm(FIXED), NoticeReason.DEGRADED, "prod")["words"]
    assert "nats: the unit of evidence" in words and "retention: what is left" in words
    assert "tolerance" in words and words.endswith("more terms: gapwatch glossary WORD")
    assert (
        "draw:"
        not in details(replace(alarm(FIXED), share_of=ShareOf.RESPONSES), NoticeReason.DEGRADED, "prod")["words"]
    )
    assert "words" not in details(RESOLVED, NoticeReason.RECOVERED, "prod")


def test_a_headline_of_many_adapters_names_the_first_and_still_says_since_when() -> None:
    many = tuple(f"adapter-{i}" for i in range(60))
    verdict = alarm(FIXED, subject_kind=BASE_KIND, subject=BASE, members=many)
    line = headline(verdict)
    assert "60 adapters of base smollm2:" in line and "5 and 54 more)" in line
    assert verdict.onset is not None and line.endswith(onset_words(verdict.onset))


def test_the_headline_fits_pagerduty_whatever_the_names() -> None:
    long = tuple(f"adapter-{i}-{'x' * 240}" for i in range(5))
    assert len(headline(alarm(FIXED, subject_kind=BASE_KIND, subject=BASE, members=long))) == 1024


def notice() -> Notice:
    return to_notice(alarm(FIXED), NoticeReason.DEGRADED, "prod", FIXED)


def test_details_hold_evidence_hashes_and_what_to_do() -> None:
    details = notice().details
    assert details["evidence"] == "93.9 nats; a page needs 21.5 (adapter_gap)"
    assert details["hash base"] == "sha256:bbbb (accepted: sha256:aaaa)"
    assert details["hash adapter"] == "sha256:cccc as accepted"
    assert details["first action"] == "roll the base back to sha256:aaaa"
    assert details["seen"].startswith("the base has other weights")


def test_details_say_how_the_present_weights_are_quantised_where_the_accepted_ones_were_not() -> None:
    grids: dict[str, Any] = {
        "golden_grid": "none",
        "live_grid": "4 bits in groups of 64 (NF4 levels): 168 of 168",
    }
    assert "weights of the base" not in notice().details
    for identity, is_other in ((replace(SWAPPED, **grids), True), (replace(ACCEPTED, **grids), False)):
        details = to_notice(alarm(FIXED, identity=identity), NoticeReason.DEGRADED, "prod", FIXED).details
        assert details.get("weights of the base") == (f"{grids['live_grid']} (accepted: none)" if is_other else None)


def test_a_share_says_of_what_it_is_a_share_whichever_detector_is_loudest() -> None:
    canaries, base, responses = (
        to_notice(replace(alarm(FIXED), share_of=of), NoticeReason.DEGRADED, "prod", FIXED).details for of in ShareOf
    )
    assert canaries["canaries beyond tolerance"] == "1.000 of this round's draws"
    assert base["base beyond tolerance"] == "1.000 of this round's draws, each beyond where enough adapters are"
    assert responses["responses against it"] == "1.000 of those scored in this round"
    assert "responses against it" not in canaries
    assert all("canaries beyond tolerance" not in other for other in (base, responses))


def test_steps_are_numbered_where_there_are_several_and_pages_of_before_are_not_numbered_twice() -> None:
    action = "look first at the engine (its log; its flags); then: load a again; then run gapwatch probe a"
    details = to_notice(alarm(FIXED, action=action), NoticeReason.DEGRADED, "prod", FIXED).details
    wanted = "1. look first at the engine (its log; its flags); 2. load a again; 3. run gapwatch probe a"
    assert details["first action"] == wanted == steps_of(wanted)


def test_a_page_by_responses_names_the_pods_that_gave_the_bad_ones() -> None:
    seen = alarm(FIXED, bad_pods=("engine-1",), pods=("engine-0", "engine-1"))
    some, every, none = (
        to_notice(each, NoticeReason.DEGRADED, "prod", FIXED).details.get("pods")
        for each in (seen, replace(seen, pods=("engine-1",)), alarm(FIXED))
    )
    assert some == "engine-1; no response against it came from engine-0"
    assert every == "engine-1, which is every pod with scored responses"
    assert none is None


def test_a_page_says_where_its_commands_run_and_its_end_has_no_such_line() -> None:
    lines = notice().details
    assert "kubectl exec" in lines["commands"] and "--config FILE" in lines["commands"] and "sql:" in lines["commands"]
    assert list(lines).index("commands") < list(lines).index("explain")
    assert "commands" not in to_notice(RESOLVED, NoticeReason.RECOVERED, "prod", FIXED).details


def test_the_call_of_a_known_engine_stands_behind_what_to_do() -> None:
    lost = alarm(FIXED, cause=Cause.ADAPTER_NOT_APPLIED, answered_by="vllm 0.32.0, prompt")
    lines = to_notice(lost, NoticeReason.DEGRADED, "prod", FIXED).details
    assert list(lines)[:3] == ["seen", "first action", "reload"] and "load_lora_adapter" in lines["reload"]
    rolled = with_roll_back(lines, "kubectl rollout undo")
    assert list(rolled)[:4] == ["seen", "first action", "reload", "roll back"]


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
    pasted = [name for name in names if name in ("explain", "sql") or name.startswith(("hash ", "query "))]
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
    assert told["explain"] == "gapwatch explain 'adapter/a #1'"


@pytest.mark.parametrize(("seen", "reason"), [(MOVED, NoticeReason.BASE_MOVED), (RESOLVED, NoticeReason.RECOVERED)])
def test_where_nothing_is_to_be_done_no_runbook_is_named(seen: Verdict, reason: NoticeReason) -> None:
    assert "runbook" not in to_notice(seen, reason, "prod", FIXED).details


def test_every_cause_that_can_be_named_has_a_runbook() -> None:
    nameable = [cause for cause in Cause if cause is not Cause.NONE]
    pages = [
        to_notice(replace(alarm(), cause=c), NoticeReason.DEGRADED, "prod", FIXED).details["runbook"] for c in nameable
    ]
    pages.append(to_notice(BLIND, NoticeReason.CANNOT_TELL, "prod", FIXED).details["runbook"])
    for line in pages:
        command, name, page = line.removeprefix("gapwatch ").replace("(", "").replace(")", "").split()
        text = runbook(name)
        assert command == "runbook"
        assert text == (ROOT / page).read_text()
        for heading in ("What it means.", "Check", "First action.", "Recovered when"):
            assert f"**{heading}" in text, (page, heading)
        asked = set(re.findall(r"`gapwatch query (\w+)", text))
        assert asked, page
        assert asked <= set(store.query_names()), page


def test_every_reason_why_nobody_can_tell_is_in_the_runbook() -> None:
    """A quiet night, NO_TRAFFIC, is told to nobody."""
    blind = {
        *(
            Reason.NO_GOLDEN,
            Reason.GOLDEN_REFUSED,
            Reason.NO_POWER,
            Reason.FILES_CHANGING,
            Reason.UNREADABLE,
            Reason.NO_MEMORY,
            Reason.ENGINE_AWAY,
            Reason.PAUSED,
            Reason.NOT_SERVED,
        ),
        *(Reason.NO_MEMORY, Reason.BAD_NUMBERS, Reason.REPLAY_FAILED, Reason.NOT_REPLAYED_YET, Reason.NOT_SCORED),
        Reason.NOT_JUDGED,
    }
    text = runbook("unmonitorable")
    told = {name for row in re.findall(r"^\| ([a-z_, ]+) \| ", text, re.MULTILINE) for name in row.split(", ")}
    assert told - {"reason"} == {reason.value for reason in blind}


def test_nothing_left_is_no_negative_zero() -> None:
    assert retention_words(Interval(-1e-5, -1e-4, 1e-4, 16)) == "0.00 (95 % 0.00..0.00)"
    assert retention_words(Interval(-0.02, -0.05, 0.01, 16)) == "-0.02 (95 % -0.05..0.01)"


def test_a_page_soon_after_an_incident_says_that_one_was_and_how_it_ended() -> None:
    """The first page of a subject, its end three minutes later, and the next page after another minute."""
    states: dict[str, AlertState] = {}
    bad, over = alarm(FIXED), replace(RESOLVED, at=FIXED + 180)
    sent: list[Notice] = []
    for verdict_, at in ((bad, FIXED), (over, FIXED + 180), (replace(bad, at=FIXED + 240), FIXED + 240)):
        states, notices = step_round(states, [verdict_], at, "prod")
        sent += notices
    first, end, second = sent
    assert first.details["sent because"] == "an incident opens"
    assert end.reason is NoticeReason.RECOVERED
    assert second.details["sent because"] == (
        "an incident opens again, within a day: the one before ended 2026-09-21 14:16:20 UTC, and was base swapped and "
        "adapter lost"
    )
    late = step_round(states | {}, [over], FIXED + 300, "prod")[0]
    (much_later,) = step_round(late, [replace(bad, at=FIXED + 2 * 86_400)], FIXED + 2 * 86_400, "prod")[1]
    assert much_later.details["sent because"] == "an incident opens"
