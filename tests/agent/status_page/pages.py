"""A board after a night with an incident, for tests, the benchmark and pictures of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.alerting.notice import to_notice
from agent.records import Flip, NoticeReason
from agent.status_page.board import BUCKET_S, DAY_S, Accepted, Board
from agent.status_page.view import Page, page_of
from agent.store.history import History, Pod
from detectors.records import Interval, Onset
from tests.agent.findings import BASE, FIXED, ROUTER, TONE, alarm, evidence, heartbeat, verdict

NOW = FIXED
BEGAN = NOW - 1500.0
PARTS = {"config": (True, "read"), "kafka": (True, "reading"), "sink pagerduty": (False, "HTTP 500; 1 waiting")}


def night(adapters: Sequence[str] = (ROUTER, TONE, "sql-writer", "never-judged"), bad: str = ROUTER) -> Board:
    """The first adapter is lost with its base at BEGAN; the last of four was never judged."""
    board = Board("prod", "pod-0", {BASE: tuple(adapters)})
    healthy = [name for name in adapters if name not in (bad, "never-judged")]
    for step in range(int(DAY_S / BUCKET_S)):
        at = NOW - DAY_S + step * BUCKET_S
        for i, name in enumerate(healthy):
            kept = 1.0 + 0.02 * math.sin(step + i)
            found = evidence(0.4, subject=name, at=at)
            board.submit(found)
            judged = verdict(subject=name, at=at, retention=Interval(kept, kept - 0.02, kept + 0.02, 24))
            board.submit(replace(judged, evidence=(found,)))
        board.submit(verdict(subject=bad, at=at, retention=Interval(1.0, 0.98, 1.02, 24)))
    lost = alarm(at=NOW - 40.0, subject=bad, onset=Onset(BEGAN - 60, BEGAN, None, BEGAN - 120, BEGAN))
    page = to_notice(lost, NoticeReason.DEGRADED, "prod", BEGAN + 60)
    board.submit(lost)
    board.submit(page)
    board.submit(Flip(bad, BASE, "c0", 7, NOW - 30, "my parcel is late", '{"queue": "shipping"}', "Sure! Here is", 0.0))
    board.submit(heartbeat(NOW - 5))
    return board


def history() -> History:
    pods = (Pod("pod-0", NOW - 5, ()), Pod("pod-1", NOW - 20, (BASE,)), Pod("pod-2", NOW - 4000, ()))
    return History(NOW - 10, pods=pods)


def shown(board: Board, before: History | None = None, texts: bool = False) -> Page:
    before = history() if before is None else before
    return page_of(board.snapshot(), before, PARTS, NOW, texts)


def accepted(names: Sequence[str]) -> Mapping[str, Accepted]:
    return dict.fromkeys(names, Accepted(NOW - DAY_S, "first", 0.1, 41))
