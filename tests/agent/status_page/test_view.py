"""What stands on the page: the worst first, nothing that is silent called healthy, and both sources of it joined."""

from __future__ import annotations

from dataclasses import replace

from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy
from agent.records import NoticeReason
from agent.status_page.board import BUCKET_S, Moved, sent_notice
from agent.status_page.page import rendered
from agent.status_page.view import NOT_JUDGED, page_of
from agent.store.history import History
from detectors.records import Cause, Interval, Reason, Status, SubjectKind
from tests.agent.findings import BASE, ROUTER, TONE, alarm, evidence, verdict
from tests.agent.status_page.pages import BEGAN, NOW, PARTS, accepted, history, night, shown


def test_the_headline_counts_the_worst_first_and_silence_is_not_healthy() -> None:
    page = shown(night())
    assert page.headline == "1 degraded, 1 not judged yet of 4 adapters"
    assert page.counts == (("degraded", 1), ("healthy", 2), (NOT_JUDGED, 1))
    assert [(row.name, row.status) for row in page.rows][:2] == [(ROUTER, "degraded"), ("never-judged", NOT_JUDGED)]
    only_healthy = shown(night((TONE, "sql-writer"), bad="none"))
    assert only_healthy.headline == "2 adapters, all healthy" and only_healthy.cards == ()


def test_a_card_has_the_cause_the_onset_and_what_to_do() -> None:
    (card,) = shown(night()).cards
    assert card.cause == "base swapped and adapter lost"
    assert card.since.endswith("UTC (95 %)") and card.action == "roll the base back to sha256:aaaa"
    assert card.changes == ("another base than accepted",)
    assert card.row.evidence_words == "93.9 nats, pages at 21.5" and card.row.at == "40 s ago"
    assert card.commands[:2] == (
        "gapwatch runbook base_swapped_and_adapter_lost",
        f"gapwatch query since -p subject={ROUTER}",
    )


def test_a_card_says_how_the_team_rolls_back_and_the_page_what_its_words_mean() -> None:
    board = night()
    board.roll_back = Policy(rollback="<b>argocd</b> app rollback").roll_back
    board.submit(alarm(at=NOW - 40.0, subject=ROUTER, explanation="first; more of it (a; b)"))
    page = shown(board)
    (card,) = page.cards
    assert card.roll_back == "<b>argocd</b> app rollback" and card.explanation == ("first", "more of it (a; b)")
    assert "argocd&lt;/b&gt; app rollback" in rendered(page).decode()
    assert {"retention", "nats"} <= {term for term, _ in page.terms}
    assert shown(night((TONE,), bad="none")).cards == ()


def test_a_card_names_the_pods_that_gave_the_bad_responses() -> None:
    board = night()
    board.submit(alarm(at=NOW - 40.0, subject=ROUTER, bad_pods=("engine-1",), pods=("engine-0", "engine-1")))
    page = shown(board)
    assert page.cards[0].pods == "engine-1; no response against it came from engine-0"
    assert "<dt>bad responses from</dt><dd>engine-1; no response" in rendered(page).decode()
    assert "bad responses from" not in rendered(shown(night())).decode(), "of canaries no pod is known"


def test_a_covered_adapter_is_in_the_table_and_has_no_card() -> None:
    board = night()
    board.submit(replace(alarm(at=NOW - 1), covered_by=BASE))
    page = shown(board)
    assert page.cards == () and page.rows[0].says == f"by base {BASE}"


def test_the_smallest_loss_that_would_show_stands_beside_every_verdict() -> None:
    snapshot = replace(night().snapshot(), accepted=accepted([TONE]))
    rows = {row.name: row for row in page_of(snapshot, history(), PARTS, NOW, False).rows}
    assert rows[TONE].sees == "10% in 41 draws" and rows[ROUTER].sees == "not known"


def test_what_another_pod_judges_is_shown_as_that_until_this_one_does() -> None:
    other = verdict(
        Status.DEGRADED, subject=TONE, at=NOW - 300, cause=Cause.UNKNOWN, retention=Interval(0.5, 0.4, 0.6, 9)
    )
    board = night((ROUTER, TONE), bad=ROUTER)
    before = replace(history(), verdicts={(SubjectKind.ADAPTER, TONE): other, (SubjectKind.ADAPTER, "gone"): other})
    own = replace(board.snapshot(), verdicts={})
    row = next(row for row in page_of(own, before, PARTS, NOW, False).rows if row.name == TONE)
    assert (row.status, row.elsewhere, row.at) == ("degraded", True, "5 min ago")
    assert next(row for row in shown(board, before).rows if row.name == TONE).elsewhere is False
    assert "gone" not in {row.name for row in shown(board, before).rows}, "no configuration names it"


def test_an_incident_is_one_timeline_from_whichever_side_its_notices_come() -> None:
    board = night()
    lost = alarm(at=BEGAN)
    page = sent_notice(to_notice(lost, NoticeReason.DEGRADED, "prod", BEGAN + 60))
    end = sent_notice(to_notice(lost, NoticeReason.RECOVERED, "prod", BEGAN + 600))
    (known,) = shown(board, replace(history(), sent=(page,))).incidents
    assert known.is_open and len(known.events) == 1, "the page is known to both"
    earlier = tuple(replace(notice, at=notice.at - 40_000) for notice in (page, end))
    first, second = shown(board, replace(history(), sent=(*earlier, page))).incidents
    assert first.is_open and not second.is_open and len(second.events) == 2


def test_a_stretch_that_both_know_is_the_stores() -> None:
    board = night((TONE,), bad="none")
    began = NOW - NOW % BUCKET_S
    before = History(NOW, retention={TONE: ((began - 2 * BUCKET_S, 0.1), (began - BUCKET_S, 0.2))})
    assert "lowest 0.10, last" in str(shown(board, before).rows[0].day)


def test_files_that_move_are_said_once() -> None:
    board = night((TONE,), bad="none")
    moved = verdict(subject=TONE, at=NOW - 5, identity=replace(verdict().identity, live_base="sha256:" + "b" * 64))
    board.submit(moved)
    (change,) = shown(board).moved
    assert change[1:] == (TONE, "base aaaa → bbbbbbbb")
    again = replace(history(), moved=(Moved(NOW - 5, (SubjectKind.ADAPTER, TONE), (change[2],)),))
    assert len(shown(board, again).moved) == 1


def test_pods_that_are_gone_or_judge_nothing_are_said_to_be_that() -> None:
    states = [state for _, state, _ in shown(night()).pods]
    assert states == ["alive", f"alive, and no round was judged of {BASE}", "gone"]


def test_informing_evidence_is_never_drawn_against_the_threshold() -> None:
    board = night((TONE,), bad="none")
    board.submit(evidence(90.0, subject=TONE, detector="embedding_drift", pages=False))
    assert shown(board).rows[0].evidence_words == "0.4 nats, pages at 21.5"


def test_unmonitorable_has_its_reason_and_the_question_that_helps() -> None:
    board = night((TONE,), bad="none")
    board.submit(verdict(Status.UNMONITORABLE, Reason.NO_GOLDEN, subject=TONE, at=NOW - 1, explanation="no record"))
    (card,) = shown(board).cards
    assert card.explanation == ("no record",) and card.commands[-1] == "gapwatch query freshness"


def test_that_nobody_judges_it_holds_on_the_page_until_somebody_does() -> None:
    board = night((TONE,), bad="none")
    board.submit(verdict(Status.UNMONITORABLE, Reason.NOT_JUDGED, subject=TONE, at=NOW - 60))
    assert shown(board).rows[0].says == "not judged"
    known = replace(history(), verdicts={(SubjectKind.ADAPTER, TONE): verdict(subject=TONE, at=NOW - 30)})
    assert (shown(board, known).rows[0].status, shown(board, known).rows[0].elsewhere) == ("healthy", True)
