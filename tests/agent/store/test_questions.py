"""Every on-call question of dashboards/sql, answered on the stored rows of one incident."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.alerting.notice import to_notice
from agent.errors import Refused
from agent.records import AdapterClock, Finding, NoticeReason, PassportClocks
from agent.store import client as store
from agent.store.table_rows import Origin
from detectors.records import (
    THE_FILES,
    BaseRound,
    Cause,
    FilesCheck,
    FilesState,
    Identity,
    KnownBy,
    Onset,
    Reason,
    Status,
    SubjectKind,
)
from tests.agent import findings
from tests.agent.findings import ACCEPTED, BASE, NOW, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import answers, embedded, insert

SERVED, ENGINE = "served-adapter", "vllm 0.33.0, scoring in the prompt"
BY_HASH = FilesCheck(FilesState.AS_ACCEPTED, KnownBy.HASH)


def story() -> Iterator[Finding]:
    """Two healthy rounds; the base is swapped and both adapters are lost; the base's incident opens."""
    for i, at in enumerate((NOW - 180, NOW - 120)):
        yield findings.base_round(i, at)
        for subject in (ROUTER, TONE):
            yield findings.verdict(at=at, round=i, subject=subject)
        yield findings.verdict(subject_kind=SubjectKind.BASE, at=at, round=i)
    at = NOW - 60
    yield findings.base_round(2, at, 0.0, identity=SWAPPED, facts=("24 of 120 keys match nothing",))
    base = findings.alarm(at, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE))
    yield from (findings.alarm(at, subject=name, covered_by=BASE) for name in (ROUTER, TONE))
    changed = "polite-rewriter-2 has changed, and is inside your tolerance of 5 %"
    yield findings.verdict(at=at, round=2, subject="polite-rewriter-2", scale=0.99, tolerated_change=changed)
    yield from (base, to_notice(base, NoticeReason.DEGRADED, "prod", at), findings.flip(at), findings.heartbeat(at))
    yield from (findings.evidence(2.0, at=NOW - 120), findings.evidence(93.9, at=at))
    yield from (findings.traffic_round(at), findings.embedding(at=at), findings.calibration(at))
    yield findings.verdict(at=at, subject=SERVED, answered_by=ENGINE, files=BY_HASH)
    yield findings.evidence(1.0, subject=TONE, at=at, detector="embedding_drift", stream="prompt", pages=False)
    yield PassportClocks(at, (findings.clock(),), worth=(findings.adapter_worth(at),))
    for first, then in ((0, NOW - 600), (1000, NOW - 60), (2000, NOW)):
        yield findings.batch(first, n=100, at=then, aside=3)


@pytest.fixture
def told(migrated: store.Client) -> store.Client:
    insert(migrated, *story())
    return migrated


def test_every_question_has_a_text_and_an_answer_on_an_empty_store(migrated: store.Client) -> None:
    assert len(store.query_names()) >= 10
    for name, question in store.query_names().items():
        assert question.endswith("?"), f"{name}: its first line is the question it answers"
        assert store.query_use(name).endswith((".", "?")), f"{name}: its second line says when to ask it"
        columns, rows = store.run_query(migrated, name)
        assert columns, name
        assert list(rows) == [], name


def test_what_has_changed_within_tolerance_is_listed_while_it_is_healthy(told: store.Client) -> None:
    (row,) = answers(told, "changed")
    assert (row["subject"], row["what"], row["scale"]) == ("polite-rewriter-2", "tolerated_change", 0.99)
    insert(told, findings.verdict(at=NOW, subject="polite-rewriter-2"))
    insert(told, findings.verdict(at=NOW, reason=Reason.BASE_MOVED, subject_kind=SubjectKind.BASE))
    insert(told, findings.verdict(at=NOW, reason=Reason.ADAPTER_MOVED, subject=TONE, covered_by=BASE))
    assert [(row["subject"], row["what"]) for row in answers(told, "changed")] == [(BASE, "base_moved")]


def test_every_question_is_answered_on_the_incident(told: store.Client) -> None:
    insert(told, BaseRound(BASE, 3, NOW, (findings.round_(f"desk / {ROUTER}", 3, NOW, 1.0),)))
    for name in store.query_names():
        assert answers(told, name), name


@embedded
def test_an_engine_is_told_from_the_files_pod_by_pod(told: store.Client) -> None:
    (row,) = answers(told, "files")
    assert (row["adapter"], row["served"], row["files"], row["files_known_by"]) == (
        *(SERVED, "as_accepted", "as_accepted", "hash"),
    )
    assert row["answered_by"] == ENGINE and row["last_replay_at"] is None and row["last_replay_as_accepted"] is None
    bad = FilesCheck(FilesState.NOT_AS_ACCEPTED, KnownBy.WITNESS, "witness-0", NOW - 30)
    insert(told, findings.files_replay(NOW - 30, adapter=SERVED, as_accepted=False, share_beyond=0.5))
    more: dict[str, Any] = {"subject": SERVED, "answered_by": ENGINE, "files": bad, "cause": Cause.ADAPTER_NOT_APPLIED}
    insert(told, findings.verdict(Status.DEGRADED, at=NOW, **more), place=Origin("prod", "pod-1"))
    insert(told, findings.verdict(at=NOW, subject=TONE, answered_by=THE_FILES))
    first, second = answers(told, "files", subject=SERVED)
    assert (first["pod"], first["served"], first["files"]) == ("pod-1", "not_as_accepted", "not_as_accepted")
    assert first["files_replayed_by"] == "witness-0" and first["files_replayed_at"].timestamp() == NOW - 30
    assert second["pod"] != "pod-1" and second["served"] == "as_accepted"
    for row in (first, second):
        assert row["last_replay_as_accepted"] is False and row["last_replay_share_beyond"] == 0.5


@embedded
def test_what_is_degraded(told: store.Client) -> None:
    seen = answers(told, "degraded")
    assert [row["subject"] for row in seen] == [BASE, TONE, ROUTER], "the base first"
    assert seen[0]["cause"] == Cause.BASE_SWAPPED_AND_ADAPTER_LOST.value
    assert [row["covered_by"] for row in seen] == ["", BASE, BASE]
    assert [row["bad_pods"] for row in seen] == [[], [], []], "by canaries no pod is named"
    assert answers(told, "degraded", cluster="another") == []


@embedded
def test_a_further_pod_with_bad_responses_is_named_at_once(migrated: store.Client) -> None:
    of_base = {"subject": BASE, "subject_kind": SubjectKind.BASE, "pods": ("engine-0", "engine-1")}
    insert(migrated, findings.alarm(NOW - 90, bad_pods=("engine-1",), **of_base))
    insert(migrated, findings.alarm(NOW - 60, bad_pods=("engine-0", "engine-1"), **of_base))
    (row,) = answers(migrated, "degraded")
    assert row["bad_pods"] == row["scored_pods"] == ["engine-0", "engine-1"]


@embedded
def test_which_responses_speak_against_what_was_accepted(told: store.Client) -> None:
    seen = answers(told, "responses")
    assert [(row["request_id"], row["most_likely"], row["scored"]) for row in seen] == [
        ("r0", "base", "sampled"),
        ("r1", "", "not_scored"),
    ]
    assert answers(told, "responses", subject=TONE) == []


@embedded
def test_by_which_sampler_tokens_are_drawn(told: store.Client) -> None:
    (seen,) = answers(told, "sampler")
    assert (seen["adapter"], seen["in_force_temperature"], seen["temperature_95"]) == (ROUTER, 1.19, [1.12, 1.27])
    assert (seen["temperature_asked"], seen["most_likely"]) == ([1.0, 1.0], "temperature x1.2")
    assert sum(seen["histogram"]) == pytest.approx(1.0, abs=1e-5) and len(seen["histogram"]) == 20
    insert(told, replace(findings.calibration(NOW), leading="", log_e=0.0))
    assert [row["most_likely"] for row in answers(told, "sampler", subject=BASE)] == [""], "the newest"
    assert answers(told, "sampler", subject=TONE) == []


@embedded
def test_a_recovered_subject_is_no_longer_degraded(told: store.Client) -> None:
    insert(told, *(findings.verdict(reason=Reason.RESOLVED, subject=name) for name in (ROUTER, TONE)))
    insert(told, findings.verdict(reason=Reason.RESOLVED, subject_kind=SubjectKind.BASE))
    assert answers(told, "degraded") == []
    assert answers(told, "since") == []
    assert answers(told, "since", subject=ROUTER)[0]["status_now"] == "healthy"


@embedded
def test_since_when_and_what_was_there_before(told: store.Client) -> None:
    row = next(row for row in answers(told, "since", subject=ROUTER))
    assert row["onset_after"].timestamp() == NOW - 120
    assert row["onset_by"].timestamp() == row["alarm_at"].timestamp() == NOW - 60
    assert row["last_healthy"].timestamp() == NOW - 120
    assert (row["healthy_round"], row["healthy_base"], row["live_base"]) == (1, "sha256:aaaa", "sha256:bbbb")


@embedded
def test_rounds_that_are_still_healthy_on_the_changed_files_are_not_what_to_go_back_to(migrated: store.Client) -> None:
    """Evidence takes a few rounds after a swap; the last healthy one of before it has the files to put back."""
    began = NOW - 200
    insert(migrated, findings.verdict(at=began - 60, round=1, identity=ACCEPTED))
    insert(
        migrated,
        findings.verdict(at=began, round=2, identity=SWAPPED),
        findings.alarm(NOW - 60, onset=Onset(began - 60, began)),
    )
    (row,) = answers(migrated, "since", subject=ROUTER)
    assert (row["last_healthy"].timestamp(), row["healthy_round"]) == (began - 60, 1)
    assert (row["healthy_base"], row["live_base"]) == ("sha256:aaaa", "sha256:bbbb")


@embedded
def test_the_interval_of_the_onset_is_that_of_the_alarm_where_it_has_one(told: store.Client) -> None:
    assert [(row["onset_earliest"], row["onset_latest"]) for row in answers(told, "since")] == [(None, None)] * 3
    insert(told, findings.alarm(NOW - 5, subject="late", onset=Onset(NOW - 60, NOW - 5, None, NOW - 900, NOW - 30)))
    (row,) = answers(told, "since", subject="late")
    assert (row["onset_earliest"].timestamp(), row["onset_latest"].timestamp()) == (NOW - 900, NOW - 30)
    insert(told, findings.alarm(NOW - 4, subject="later", onset=Onset(NOW - 60, NOW - 4, None, None, NOW - 30)))
    (row,) = answers(told, "since", subject="later")
    assert (row["onset_earliest"], row["onset_latest"].timestamp()) == (None, NOW - 30), "or earlier"


@embedded
def test_an_onset_without_a_healthy_round_is_not_borrowed_from_an_older_alarm(told: store.Client) -> None:
    fresh = findings.alarm(NOW - 5, onset=Onset(None, NOW - 5))
    insert(told, fresh)
    row = answers(told, "since", subject=ROUTER)[0]
    assert row["onset_after"] is None
    assert row["onset_by"].timestamp() == NOW - 5


def second_pod(client: store.Client, *seen: Finding, beat: float | None = None) -> None:
    insert(client, *seen, place=Origin("prod", "pod-1"))
    insert(client, replace(findings.heartbeat(beat or time.time()), pod="pod-1"))


@embedded
def test_a_healthy_pod_does_not_hide_what_another_calls_degraded(told: store.Client) -> None:
    insert(told, findings.heartbeat(time.time()))
    second_pod(told, *(findings.verdict(at=NOW - 200 + 30 * i) for i in range(7)))
    assert [row["subject"] for row in answers(told, "degraded")] == [BASE, TONE, ROUTER]
    assert answers(told, "degraded")[2]["judged_by"] == "pod-0"
    (row,) = answers(told, "since", subject=ROUTER)
    assert (row["status_now"], row["onset_by"].timestamp(), row["live_base"]) == ("degraded", NOW - 60, "sha256:bbbb")
    assert ROUTER in {row["subject"] for row in answers(told, "since")}
    assert [row["requests"] for row in answers(told, "requests_since", subject=ROUTER)] == [200]


@embedded
def test_a_pod_that_is_gone_does_not_keep_its_subjects_degraded(migrated: store.Client) -> None:
    second_pod(migrated, findings.alarm(NOW - 900), beat=NOW - 900)
    assert [row["judged_by"] for row in answers(migrated, "degraded")] == ["pod-1"], "the last word that was said"
    insert(migrated, findings.heartbeat(time.time()), findings.verdict(at=NOW - 600))
    assert answers(migrated, "degraded") == []
    assert answers(migrated, "since") == []


@embedded
def test_the_onset_is_the_first_of_the_pods_that_are_bad_together(told: store.Client) -> None:
    """pod-1 alarmed before, recovered, and alarms again after pod-0 did."""
    second_pod(told, findings.alarm(NOW - 9000), findings.verdict(at=NOW - 8000), findings.alarm(NOW - 20))
    insert(told, findings.verdict(Status.DEGRADED, at=NOW - 5, covered_by=BASE))
    (row,) = answers(told, "since", subject=ROUTER)
    assert (row["onset_by"].timestamp(), row["alarm_at"].timestamp()) == (NOW - 60, NOW - 60)
    assert row["last_healthy"].timestamp() == NOW - 120
    (counted,) = answers(told, "requests_since", subject=ROUTER)
    assert counted["onset"].timestamp() == NOW - 120


@embedded
def test_requests_are_counted_until_a_new_release_was_accepted(migrated: store.Client) -> None:
    """Its evidence starts again: there is a healthy verdict, and none with the reason resolved."""
    bad = NOW - 3600
    insert(migrated, findings.alarm(bad), findings.verdict(at=bad + 300), findings.verdict(at=NOW))
    for i, then in enumerate((bad, bad + 240, bad + 900, NOW)):
        insert(migrated, findings.batch(1000 * i, n=100, at=then, aside=0))
    assert [row["requests"] for row in answers(migrated, "requests_since", subject=ROUTER)] == [200]
    assert answers(migrated, "requests_since") == []


@embedded
def test_times_beyond_what_the_store_holds_are_stored_at_its_ends(migrated: store.Client) -> None:
    for i, at in enumerate((float("nan"), float("-inf"), 1e18)):
        insert(migrated, findings.golden(at, golden=f"sha256:{i}"))
    rows = migrated.query("SELECT toYear(accepted_at) FROM goldens ORDER BY hash").result_rows
    assert rows == [(1970,), (1900,), (2299,)]


@embedded
def test_flipped_canaries_side_by_side(told: store.Client) -> None:
    row = answers(told, "flipped", subject=BASE)[0]
    assert (row["golden_text"], row["present_text"]) == ('{"queue": "shipping"}', "Sure! Here is...")


@embedded
def test_requests_since_the_onset_are_counted_once(told: store.Client) -> None:
    assert [(r["adapter"], r["pod"], r["requests"]) for r in answers(told, "requests_since")] == [
        (ROUTER, "engine-0", 200)
    ]
    told.command("ALTER TABLE request_counts MODIFY SETTING non_replicated_deduplication_window = 0")
    insert(told, findings.batch(1000, n=100, at=NOW - 60, aside=3))
    raw = told.query("SELECT sum(n) FROM request_counts").result_rows[0][0]
    assert raw == 400, "the copy must be in the table for the test to say anything"
    assert answers(told, "requests_since", subject=BASE)[0]["requests"] == 200


@embedded
def test_what_changed_before_the_onset(told: store.Client) -> None:
    seen = answers(told, "identity", subject=ROUTER)
    assert {row["adapter"] for row in seen} == {ROUTER, TONE}
    assert {(row["base_before"], row["live_base"]) for row in seen} == {("sha256:aaaa", "sha256:bbbb")}
    assert {tuple(row["changed"]) for row in seen} == {("base",)}
    assert seen[0]["facts"] == ["24 of 120 keys match nothing"]
    assert seen[0]["round"] == 2


@embedded
def test_a_template_and_an_adapter_that_changed_are_named_and_another_hash_scheme_is_no_change(
    migrated: store.Client,
) -> None:
    words = {"golden_template": "sha256:t1", "golden_tokenizer": "sha256:k", "live_tokenizer": "sha256:k"}
    before = replace(ACCEPTED, live_template="sha256:t1", scheme=2, **words)
    after = replace(before, live_template="sha256:t2", live_adapter="sha256:dddd")
    scheme_1, at = replace(ACCEPTED, live_base="sha256:by scheme 1"), NOW - 60
    rounds = [(NOW - 240, scheme_1), (NOW - 180, before), (NOW - 120, before), (at, after)]
    told = [findings.base_round(i, when, identity=identity) for i, (when, identity) in enumerate(rounds)]
    insert(migrated, *told, findings.alarm(at, subject=ROUTER))
    seen = answers(migrated, "identity", subject=ROUTER)
    assert [(row["adapter"], row["round"], row["changed"]) for row in seen] == [
        (TONE, 3, ["chat template", "adapter"]),
        (ROUTER, 3, ["chat template", "adapter"]),
    ]
    assert (seen[0]["template_before"], seen[0]["live_template"]) == ("sha256:t1", "sha256:t2")


@embedded
def test_of_an_engine_whose_files_nobody_hashes_the_change_is_what_it_says_of_itself(migrated: store.Client) -> None:
    before = Identity(live_engine="vllm 0.32.0, aa", live_source="v1 on smollm2")
    after = replace(before, live_engine="vllm 0.33.0, bb", live_source="v2 on smollm2")
    rounds = enumerate((before, before, after))
    insert(migrated, *(findings.base_round(i, NOW - 180 + 60 * i, identity=identity) for i, identity in rounds))
    insert(migrated, findings.alarm(NOW - 60, subject=ROUTER))
    changed = [(row["round"], row["changed"]) for row in answers(migrated, "identity", subject=ROUTER)]
    assert changed == [(2, ["engine", "source in the engine"])] * 2


@pytest.mark.parametrize(("scheme", "wanted"), [(1, ["chat template"]), (2, ["tokenizer", "chat template"])])
@embedded
def test_next_to_a_template_change_a_tokenizer_change_is_listed_where_it_has_its_own_hash(
    migrated: store.Client, scheme: int, wanted: list[str]
) -> None:
    before = replace(ACCEPTED, live_template="sha256:t1", live_tokenizer="sha256:k1", scheme=scheme)
    after = replace(before, live_template="sha256:t2", live_tokenizer="sha256:k2")
    insert(migrated, *(findings.base_round(i, NOW - 120 + 60 * i, identity=it) for i, it in enumerate((before, after))))
    insert(migrated, findings.alarm(NOW - 60, subject=ROUTER))
    assert [row["changed"] for row in answers(migrated, "identity", subject=ROUTER)] == [wanted, wanted]


@embedded
def test_rounds_from_before_a_hash_was_stored_are_no_change(migrated: store.Client) -> None:
    """An agent of this version over golden records, and rows, of the one before."""
    words: Any = dict.fromkeys(("golden_template", "live_template", "golden_tokenizer", "live_tokenizer"), "sha256:w")
    rounds = [(NOW - 180, ACCEPTED), (NOW - 120, replace(ACCEPTED, **words)), (NOW - 60, replace(SWAPPED, **words))]
    stored = [findings.base_round(i, when, identity=identity) for i, (when, identity) in enumerate(rounds)]
    insert(migrated, *stored, findings.alarm(NOW - 60, subject=ROUTER))
    seen = answers(migrated, "identity", subject=ROUTER)
    told = [(row["adapter"], row["round"], row["changed"]) for row in seen]
    assert told == [(TONE, 2, ["base"]), (ROUTER, 2, ["base"])]


@embedded
def test_rounds_evidence_and_alerts(told: store.Client) -> None:
    rounds = answers(told, "rounds", subject=ROUTER, limit="2")
    assert [row["round"] for row in rounds] == [2, 1]
    assert rounds[1]["retention"] == pytest.approx(0.98)  # held out: c1 and c3, at .99 and .97
    assert rounds[1]["draws"] == 4
    assert [row["log_e"] for row in answers(told, "evidence", subject=ROUTER)] == [2.0, 93.9]
    assert {row["log_threshold"] for row in answers(told, "evidence", subject=ROUTER)} == {21.5}
    assert [(row["kind"], row["subject"]) for row in answers(told, "alerts")] == [("trigger", BASE)]


@embedded
def test_a_missing_heartbeat_shows(told: store.Client) -> None:
    silent = {row["name"]: row for row in answers(told, "freshness", minutes="0")}
    assert {"pod-0", ROUTER, TONE} == set(silent)
    assert all(row["too_long"] for row in silent.values())
    insert(told, findings.base_round(3, NOW, measurements=(), blocked=Reason.UNREADABLE, detail="cut short"))
    row = next(row for row in answers(told, "freshness") if row["name"] == ROUTER)
    assert row["last_seen"].timestamp() == NOW - 60, "a blocked round is no measurement"
    assert row["why"] == "unreadable: cut short"


@embedded
def test_a_pod_that_is_alive_and_judges_nothing_shows(told: store.Client) -> None:
    insert(told, replace(findings.heartbeat(NOW + 1), overdue=(BASE, "other")))
    (row,) = [row for row in answers(told, "freshness") if row["what"] == "agent"]
    assert row["too_long"] and row["why"] == f"no round was judged for several intervals of {BASE}, other"


@embedded
def test_cost_of_the_members_adds_up_to_the_rounds(told: store.Client) -> None:
    rows: Sequence[dict[str, Any]] = answers(told, "cost")
    assert sum(row["tokens_scored"] for row in rows) == pytest.approx(3 * 120)
    assert sum(row["replay_s"] for row in rows) == pytest.approx(3 * 2.0)


@embedded
def test_records_set_aside_by_reason(told: store.Client) -> None:
    assert [(row["reason"], row["records"]) for row in answers(told, "aside")] == [("not_json", 9)]


def test_unknown_questions_are_refused_with_the_known_ones(migrated: store.Client, dsn: str) -> None:
    with pytest.raises(Refused, match="degraded"):
        store.run_query(migrated, "no_such_question")
    with pytest.raises(Refused, match="subject"):
        store.run_query(migrated, "since", {"subjekt": ROUTER})
    with pytest.raises(Refused, match="types"):
        store.run_query(migrated, "rounds", {"limit": "many"})


def test_a_parameter_is_a_value_never_sql(told: store.Client) -> None:
    assert answers(told, "flipped", subject="' OR 1 = 1 --") == []


@embedded
def test_two_requests_with_one_id_have_each_its_own_text(migrated: store.Client) -> None:
    """Some engines draw their ids from a thousand values."""
    seen = tuple(
        findings.interaction(offset, at=at, request_id="chatcmpl-1") for offset, at in ((1, NOW - 60), (2, NOW))
    )
    vectors = [findings.embedding("chatcmpl-1", one.at) for one in seen]
    batch = replace(findings.batch(), interactions=seen)
    insert(migrated, batch, *vectors, place=Origin("prod", "pod-0", store_text=True))
    assert [row["text"] for row in answers(migrated, "embedded", side="prompt")] == [
        "user: my parcel is late, order 1",
        "user: my parcel is late, order 2",
    ]


@embedded
def test_what_runs_out_comes_first_to_last_and_a_clock_that_is_no_more_does_not(migrated: store.Client) -> None:
    def running(kind: str, days: float) -> AdapterClock:
        return replace(findings.clock(), kind=kind, due=NOW + days * 86_400)

    insert(migrated, PassportClocks(NOW - 4 * 3600, (running("owner_gone", 0),)))
    insert(migrated, PassportClocks(NOW - 60, (running("data_expiry", 30), running("base_end_of_life", 400))))
    insert(migrated, PassportClocks(NOW - 60, (running("no_rebuild", -10),)))
    rows = answers(migrated, "clocks")
    assert [row["clock"] for row in rows] == ["no_rebuild", "data_expiry"]
    assert [row["days_left"] for row in rows] == [pytest.approx(-10, abs=1), pytest.approx(30, abs=1)]
    assert [row["clock"] for row in answers(migrated, "clocks", within_days="500")][-1] == "base_end_of_life"
    assert answers(migrated, "clocks", subject="nobody") == []
