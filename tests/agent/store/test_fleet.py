"""What the store answers about the other pods, and about what they have sent."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from agent.alerting.fleet import LEAST_FRESH_S, Fleet, SentIncident
from agent.alerting.notice import blindness_key, dedup_key, to_notice
from agent.records import Notice, NoticeReason, Watching
from agent.store import client as store
from agent.store.fleet import fleet, watchers
from agent.store.table_rows import Origin
from detectors.records import Identity, Reason, ShareOf, Status, SubjectKind, Verdict
from tests.agent import findings
from tests.agent.findings import BASE, NOW, ROUTER, TONE
from tests.agent.store.stored import answers, embedded, insert

pytestmark = embedded
ADAPTER = SubjectKind.ADAPTER
KEY = dedup_key("prod", ADAPTER, ROUTER)
BLIND_KEY = blindness_key("prod", ADAPTER, ROUTER)


def ask(client: store.Client, *subjects: str, pod: str = "me", bases: tuple[str, ...] = ()) -> Fleet:
    about = [*((ADAPTER, name) for name in subjects), *((SubjectKind.BASE, name) for name in bases)]
    return fleet(client, "prod", pod, about, 90.0)


def live(client: store.Client, pod: str, *verdicts: Verdict, beat: float | None = None, rounds: int = 1) -> None:
    place = Origin("prod", pod)
    at = time.time() if beat is None else beat
    insert(client, replace(findings.heartbeat(at), pod=pod, rounds=rounds), *verdicts, place=place)


def test_a_live_pod_judges_a_subject_degraded_by_its_latest_measured_verdict(migrated: store.Client) -> None:
    def pod(name: str, *statuses: Status, first: float = NOW - 30, beat: float | None = None, **more: Any) -> None:
        times = [first, *(NOW - 30 + i for i in range(1, len(statuses)))]
        subject = f"of-{name}"
        seen = [findings.verdict(s, at=at, subject=subject, **more) for s, at in zip(statuses, times, strict=True)]
        live(migrated, name, *seen, beat=beat)

    blind = Status.UNMONITORABLE
    pod("me", Status.DEGRADED)
    pod("bad", Status.HEALTHY, Status.DEGRADED)
    pod("blind", Status.DEGRADED, blind, blind)
    pod("blind-for-hours", Status.DEGRADED, blind, first=NOW - 9000)
    pod("recovered", Status.DEGRADED, Status.HEALTHY, blind)
    pod("base-speaks", Status.DEGRADED, covered_by=BASE)
    pod("writes-once-an-hour", Status.DEGRADED, first=NOW - 5400)
    pod("judges-it-no-more", Status.DEGRADED, first=NOW - 9000)
    pod("gone", Status.DEGRADED, beat=NOW - 3000)
    names = [
        *("me", "bad", "blind", "blind-for-hours", "recovered", "base-speaks", "writes-once-an-hour"),
        *("judges-it-no-more", "gone"),
    ]
    seen = ask(migrated, *(f"of-{name}" for name in names))
    assert [name for name in names if seen.degraded(f"adapter/of-{name}")] == [
        *("bad", "blind", "blind-for-hours", "writes-once-an-hour")
    ]
    assert [name for name in names if seen.blind(f"adapter/of-{name}")] == ["blind", "blind-for-hours", "recovered"]
    assert set(seen.live) == set(names) - {"me", "gone"}


def test_a_live_pod_that_no_longer_judges_a_subject_holds_nothing_of_it_open(migrated: store.Client) -> None:
    """A base went to another pod, or an adapter out of the configuration."""

    def judges(pod: str, *subjects: str, ago_s: float = 0.0) -> None:
        insert(migrated, Watching(NOW - ago_s, subjects), place=Origin("prod", pod))

    for pod in ("a", "b", "earlier-version"):
        bad = findings.verdict(Status.DEGRADED, at=NOW - 30)
        base = findings.verdict(Status.UNMONITORABLE, subject_kind=SubjectKind.BASE)
        live(migrated, pod, bad, replace(bad, subject=TONE), base)
    judges("a", f"adapter/{ROUTER}", f"adapter/{TONE}", f"base/{BASE}", ago_s=20)
    judges("a", f"adapter/{TONE}", ago_s=10)
    judges("b")
    judged = ask(migrated, ROUTER, TONE, bases=(BASE,)).judged
    assert {key: sorted(pods) for key, pods in judged.items()} == {
        f"adapter/{ROUTER}": ["earlier-version"],
        f"adapter/{TONE}": ["a", "earlier-version"],
        f"base/{BASE}": ["earlier-version"],
    }
    migrated.command("DELETE FROM heartbeats WHERE pod = 'earlier-version'")
    assert not ask(migrated, ROUTER).degraded(f"adapter/{ROUTER}")
    assert ask(migrated, TONE).degraded(f"adapter/{TONE}")


def test_requests_for_a_base_that_another_pod_judges_degraded_are_known_beside_the_base(migrated: store.Client) -> None:
    bad = findings.verdict(Status.DEGRADED, at=NOW - 30, subject_kind=SubjectKind.BASE_REQUESTS, subject=BASE)
    live(migrated, "other", bad)
    about = [(SubjectKind.BASE, BASE), (SubjectKind.BASE_REQUESTS, BASE)]
    judged = fleet(migrated, "prod", "me", about, 90.0)
    assert judged.degraded(f"base_requests/{BASE}") and not judged.degraded(f"base/{BASE}")


def test_who_watches_a_subject_are_the_live_pods_that_say_so_last(migrated: store.Client) -> None:
    router, tone = f"adapter/{ROUTER}", f"adapter/{TONE}"
    for pod, ago_s, subjects in (
        ("a", 20, (router, tone)),
        ("a", 10, (tone,)),
        ("b", 5, (tone,)),
        ("gone", 5, (router,)),
    ):
        insert(migrated, Watching(NOW - ago_s, subjects), place=Origin("prod", pod))
    for pod in ("a", "b"):
        live(migrated, pod)
    live(migrated, "gone", beat=NOW - 300)
    assert watchers(migrated, "prod", [(ADAPTER, ROUTER), (ADAPTER, TONE)]) == {tone: ["a", "b"]}
    assert watchers(migrated, "other", [(ADAPTER, TONE)]) == {}


def test_what_a_live_pod_no_longer_judges_is_not_said_to_be_degraded_now(migrated: store.Client) -> None:
    bad = findings.verdict(Status.DEGRADED, Reason.ALARM, at=NOW - 1800)
    live(migrated, "a", bad, replace(bad, subject=TONE))
    live(migrated, "b", findings.verdict(at=NOW - 60), replace(bad, subject=TONE, at=NOW - 1700))
    view = "incident_pods(subject = 'ticket-router', cluster = '')"
    sql = f"SELECT pod, speaks, bad_at = toDateTime64({{at:Float64}}, 3) FROM {view}"

    def spoken() -> tuple[set[str], list[Any]]:
        degraded = {row["subject"] for row in answers(migrated, "degraded")}
        return degraded, sorted(migrated.query(sql, parameters={"at": bad.at}).result_rows)

    assert spoken() == ({ROUTER, TONE}, [("a", 1, 0), ("b", 1, 0)])
    insert(migrated, Watching(NOW, (f"adapter/{TONE}",)), place=Origin("prod", "a"))
    assert spoken() == ({TONE}, [("a", 0, 1), ("b", 1, 0)])


def test_a_pod_without_requests_is_not_one_that_cannot_tell(migrated: store.Client) -> None:
    quiet = findings.verdict(Status.UNMONITORABLE, Reason.NO_TRAFFIC, at=NOW - 10)
    live(migrated, "quiet", findings.verdict(at=NOW - 20), quiet)
    assert not ask(migrated, ROUTER).blind("adapter/ticket-router")
    live(migrated, "blind", findings.verdict(Status.UNMONITORABLE, at=NOW - 20), quiet)
    assert ask(migrated, ROUTER).blind("adapter/ticket-router")


def test_a_pod_that_measures_one_of_two_adapters_is_not_blind_on_their_base(migrated: store.Client) -> None:
    base = findings.verdict(Status.UNMONITORABLE, subject_kind=SubjectKind.BASE)
    lost = findings.verdict(Status.UNMONITORABLE, subject=TONE)
    live(migrated, "a", base, lost, findings.verdict())
    assert not ask(migrated, ROUTER, TONE, bases=(BASE,)).blind(f"base/{BASE}")
    live(migrated, "b", base, lost, findings.verdict(Status.UNMONITORABLE))
    assert ask(migrated, ROUTER, TONE, bases=(BASE,)).blind(f"base/{BASE}")


def test_those_before_are_the_live_pods_that_judge_the_subject_or_may_be_about_to(migrated: store.Client) -> None:
    live(migrated, "pod-a", findings.verdict(at=NOW - 10))
    live(migrated, "pod-b", findings.verdict(at=NOW - 10, subject=TONE))
    live(migrated, "pod-c", rounds=0)
    live(migrated, "pod-e", findings.verdict(at=NOW - 10))
    live(migrated, "pod-0", findings.verdict(at=NOW - 10), beat=NOW - 600)
    seen = ask(migrated, ROUTER, pod="pod-d")
    assert (seen.pods_before("adapter/ticket-router"), seen.wait_s("adapter/ticket-router")) == (2, 180.0)
    assert ask(migrated, ROUTER, pod="pod-a").wait_s("adapter/ticket-router") == 0.0


def sent(reason: NoticeReason, at: float, **more: Any) -> Notice:
    status = Status.UNMONITORABLE if reason is NoticeReason.CANNOT_TELL else Status.DEGRADED
    return to_notice(findings.verdict(status, **more), reason, "prod", at)


def test_what_is_open_is_what_was_sent_since_the_last_end(migrated: store.Client) -> None:
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 900), sent(NoticeReason.RECOVERED, NOW - 800))
    seen = ask(migrated, ROUTER).incidents
    assert seen == {(KEY, False): SentIncident(0.0, NOW - 800)}
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 700, share_of=ShareOf.RESPONSES), place=Origin("prod", "pod-a"))
    insert(migrated, sent(NoticeReason.CAUSE_SHARPER, NOW - 600), place=Origin("prod", "pod-b"))
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 650), place=Origin("another cluster", "pod-c"))
    insert(migrated, sent(NoticeReason.CANNOT_TELL, NOW - 500), place=Origin("prod", "pod-d"))
    seen = ask(migrated, ROUTER).incidents
    page = SentIncident(NOW - 600, NOW - 800, "pod-b", "none", sharper=True, by_responses=True)
    assert seen == {(KEY, False): page, (BLIND_KEY, True): SentIncident(NOW - 500, 0.0, "pod-d")}
    insert(migrated, sent(NoticeReason.NO_LONGER_JUDGED, NOW - 400), place=Origin("prod", "pod-b"))
    assert ask(migrated, ROUTER).incidents[KEY, False].not_judged
    assert ask(migrated, TONE).incidents == {}


def test_a_warning_of_an_earlier_version_is_known_by_its_reason(migrated: store.Client) -> None:
    former = replace(sent(NoticeReason.CANNOT_TELL, NOW - 500), dedup_key=KEY)
    insert(migrated, former)
    assert ask(migrated, ROUTER).incidents == {(KEY, True): SentIncident(NOW - 500, 0.0, "pod-0")}
    # In one moment: the warning is ended, and the page goes out.
    ended = replace(sent(NoticeReason.CAN_TELL_AGAIN, NOW - 300), dedup_key=KEY)
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 300), ended)
    assert ask(migrated, ROUTER).incidents == {
        (KEY, True): SentIncident(0.0, NOW - 300),
        (KEY, False): SentIncident(NOW - 300, NOW - 300, "pod-0"),
    }


def test_a_change_is_known_by_its_name(migrated: store.Client) -> None:
    moved = findings.verdict(reason=Reason.BASE_MOVED, subject_kind=SubjectKind.BASE)
    for at in (NOW - 60, NOW - 30):
        insert(migrated, to_notice(moved, NoticeReason.BASE_MOVED, "prod", at, "sha256:bb"))
    insert(migrated, to_notice(moved, NoticeReason.BASE_MOVED, "prod", NOW))
    key = dedup_key("prod", SubjectKind.BASE, BASE)
    assert ask(migrated, ROUTER, bases=(BASE,)).changes == {(key, "base_moved", "sha256:bb"): NOW - 30}
    assert ask(migrated, ROUTER).changes == {}


def test_a_page_is_delivered_where_its_pod_had_nothing_left_to_send_later_on(migrated: store.Client) -> None:
    page = sent(NoticeReason.DEGRADED, NOW - 500)
    insert(migrated, page, place=Origin("prod", "pod-a"))
    for age, unsent, delivered in ((510, 0, False), (480, 1, False), (450, -1, False), (420, 0, True)):
        insert(migrated, replace(findings.heartbeat(NOW - age), pod="pod-a", unsent=unsent))
        assert ask(migrated, ROUTER).incidents[KEY, False].delivered is delivered, unsent


def test_a_page_is_held_back_where_the_pods_that_sent_it_still_have_something_to_send(migrated: store.Client) -> None:
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 500), place=Origin("prod", "pod-a"))
    assert not ask(migrated, ROUTER).incidents[KEY, False].held_back, "nobody knows"
    steps = ((480, -1, (True, False)), (450, 2, (True, False)), (420, 0, (False, True)), (390, 1, (True, True)))
    for age, unsent, wanted in steps:
        insert(migrated, replace(findings.heartbeat(NOW - age), pod="pod-a", unsent=unsent))
        page = ask(migrated, ROUTER).incidents[KEY, False]
        assert (page.held_back, page.delivered) == wanted, unsent
    insert(migrated, replace(findings.heartbeat(NOW - 380), pod="pod-b", unsent=-1))
    assert not ask(migrated, ROUTER, pod="pod-b").incidents[KEY, False].held_back, "it sends nothing to anybody itself"


def test_a_pod_that_was_recreated_has_not_delivered_what_was_lost_with_its_disk(migrated: store.Client) -> None:
    """Under the name that it had, as of a StatefulSet: its outbox is empty because it is another one."""
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 500), place=Origin("prod", "pod-a"))
    first = replace(findings.heartbeat(NOW - 480), pod="pod-a", started_at=NOW - 900, unsent=1)
    insert(migrated, first, replace(first, at=NOW - 100, started_at=NOW - 110, unsent=0))
    page = ask(migrated, ROUTER).incidents[KEY, False]
    assert (page.delivered, page.held_back) == (False, False)
    insert(migrated, replace(first, at=NOW - 450, unsent=0))
    assert ask(migrated, ROUTER).incidents[KEY, False].delivered, "by the process that sent it"


def test_a_page_of_this_pod_that_waits_after_another_one_ended_the_incident_is_known(migrated: store.Client) -> None:
    insert(migrated, sent(NoticeReason.DEGRADED, NOW - 500), place=Origin("prod", "pod-a"))
    insert(migrated, replace(findings.heartbeat(NOW - 480), pod="pod-a", unsent=1))
    insert(migrated, sent(NoticeReason.RECOVERED, NOW - 300), place=Origin("prod", "pod-b"))
    ended = [ask(migrated, ROUTER, pod=pod).incidents[KEY, False].kept_here for pod in ("pod-a", "pod-b")]
    assert ended == [True, False]
    insert(migrated, replace(findings.heartbeat(NOW - 270), pod="pod-a", unsent=0))
    assert not ask(migrated, ROUTER, pod="pod-a").incidents[KEY, False].kept_here


def test_how_files_answered_is_known_of_the_pod_that_replayed_them_last_and_lately(migrated: store.Client) -> None:
    now = float(int(time.time()))  # how fresh they are is counted from the question

    def replayed(pod: str, ago_s: float = 30.0, **more: Any) -> None:
        insert(migrated, findings.files_replay(now - ago_s, **more), place=Origin("prod", pod))

    replayed("me", as_accepted=False)
    replayed("long-ago", LEAST_FRESH_S + 60.0, as_accepted=False)
    assert ask(migrated, ROUTER).files == {}
    replayed("witness-0", 90.0, as_accepted=False, share_beyond=0.5)
    replayed("witness-0", 30.0)
    replayed("witness-1", 60.0, as_accepted=False)
    replayed("witness-1", adapter=TONE, as_accepted=False, share_beyond=0.25)
    identity = Identity(live_base="sha256:aaaa", live_adapter="sha256:cccc")
    files = ask(migrated, ROUTER, TONE, "of nobody").files
    assert files == {
        ROUTER: findings.files_replay(now - 30.0, pod="witness-0", identity=identity),
        TONE: findings.files_replay(
            now - 30.0, adapter=TONE, as_accepted=False, share_beyond=0.25, pod="witness-1", identity=identity
        ),
    }


def test_an_answer_about_files_that_fails_costs_no_other(migrated: store.Client) -> None:
    live(migrated, "bad", findings.verdict(Status.DEGRADED, at=NOW - 30))
    migrated.command("DROP TABLE files_replays")
    seen = ask(migrated, ROUTER)
    assert seen.files == {} and seen.degraded(f"adapter/{ROUTER}")
