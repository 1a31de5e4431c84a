"""The last day as the status page shows it, from rows whose answer is known."""

from __future__ import annotations

from dataclasses import replace

from agent.alerting.notice import to_notice
from agent.records import NoticeKind, NoticeReason
from agent.status_page.board import BUCKET_S, Accepted
from agent.store import client as store
from agent.store.history import History, Pod, history
from detectors.records import Cause, Reason, Status, SubjectKind
from tests.agent import findings
from tests.agent.findings import ACCEPTED, BASE, NOW, ROUTER, SWAPPED, TONE
from tests.agent.store.stored import embedded, insert

HOUR = 3600.0


@embedded
def test_the_last_day_of_a_cluster(migrated: store.Client) -> None:
    began = NOW - NOW % BUCKET_S - 2 * BUCKET_S
    for number, (at, kept, identity) in enumerate(
        [
            (began + 1, 1.0, ACCEPTED),
            (began + 2, 0.8, ACCEPTED),
            (began + BUCKET_S, 0.0, SWAPPED),
            (NOW - 90 * HOUR, 9, ACCEPTED),
        ]
    ):
        insert(migrated, findings.base_round(number, at, kept, identity=identity))
    insert(migrated, findings.base_round(9, NOW - 1, measurements=(), blocked=Reason.UNREADABLE))
    degraded = findings.alarm(NOW - 60, bad_pods=("engine-1",), pods=("engine-0", "engine-1"))
    insert(migrated, replace(degraded, status=Status.HEALTHY, reason=Reason.RESOLVED, at=NOW - HOUR))
    insert(migrated, degraded)
    insert(migrated, to_notice(degraded, NoticeReason.DEGRADED, "prod", NOW - 59))
    insert(migrated, findings.flip(NOW - 58))
    insert(migrated, findings.golden(NOW - HOUR, smallest_loss=0.1, draws=30), findings.golden(NOW - 2 * HOUR))
    insert(migrated, replace(findings.heartbeat(NOW - 5), overdue=(BASE,)))
    known = history(migrated, "prod", NOW)
    # Held out are c1 and c3, whose retention is .01 and .03 below the round's.
    assert [(at, round(mean, 3)) for at, mean in known.retention[ROUTER]] == [(began, 0.88), (began + BUCKET_S, -0.02)]
    assert set(known.retention) == {ROUTER, TONE}
    verdict = known.verdicts[SubjectKind.ADAPTER, ROUTER]
    assert (verdict.status, verdict.reason, verdict.cause) == (
        Status.DEGRADED,
        Reason.ALARM,
        Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
    )
    assert verdict.retention == degraded.retention and verdict.evidence[0].log_e == 93.9 and verdict.at == NOW - 60
    assert verdict.onset is not None and (verdict.onset.after, verdict.onset.by) == (NOW - 120, NOW - 60)
    assert (verdict.bad_pods, verdict.pods) == (degraded.bad_pods, degraded.pods)
    (notice,) = known.sent
    assert (notice.kind, notice.reason, notice.subject) == (
        NoticeKind.TRIGGER,
        "degraded",
        (SubjectKind.ADAPTER, ROUTER),
    )
    assert [flip.canary for flip in known.flips] == ["c0"] and known.flips[0] == findings.flip(NOW - 58)
    assert {(change.subject[1], change.parts) for change in known.moved} == {
        (name, ("base aaaa → bbbb",)) for name in (ROUTER, TONE)
    }
    assert known.accepted == {ROUTER: Accepted(NOW - HOUR, "first", 0.1, 30)}
    assert known.pods == (Pod("pod-0", NOW - 5, (BASE,)),)


@embedded
def test_of_another_cluster_nothing_is_shown(migrated: store.Client) -> None:
    insert(migrated, findings.base_round(1, NOW))
    insert(migrated, findings.heartbeat(NOW))
    assert history(migrated, "elsewhere", NOW) == History(NOW)
