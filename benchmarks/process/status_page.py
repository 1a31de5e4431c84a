"""How long the status page takes with 200 adapters, from the request to its first byte, and how large it is.

By a client on this machine, one request after another, of the health server with the page behind it; a second thread
hands findings on as the loop does, and the store never answers. Two boards: a healthy day, and every adapter lost at
once, with as many notices, flips and changes as the board keeps.
"""

from __future__ import annotations

import http.client
import math
import statistics
import threading
import time
from dataclasses import replace

from agent.alerting.notice import to_notice
from agent.clock import Clock
from agent.health import Health, Routes, nobody_answers
from agent.records import Flip, NoticeReason
from agent.status_page.board import BUCKET_S, DAY_S, MOST_FLIPS, Board
from agent.status_page.lookback import Lookback
from agent.status_page.page import StatusPage
from agent.store.history import History
from agent.telemetry import Telemetry
from benchmarks.figures import Figure, at_most, context
from detectors.records import Cause, Evidence, Identity, Interval, Onset, Reason, Status, SubjectKind, Verdict

ADAPTERS = tuple(f"customer-{i:03d}-support" for i in range(200))
BASES = {f"base-{i}": ADAPTERS[50 * i : 50 * (i + 1)] for i in range(4)}
REQUESTS = 100
ACCEPTED = Identity("sha256:" + "a" * 64, "sha256:" + "a" * 64, "sha256:" + "c" * 64, "sha256:" + "c" * 64)


def measure(quick: bool) -> list[Figure]:
    requests = REQUESTS // 5 if quick else REQUESTS
    figures = []
    for name, board in (("healthy", _board(time.time())), ("all degraded", _lost(_board(time.time())))):
        first_byte_s, size = _answer_times(board, requests)
        what = f"status page, 200 adapters {name}"
        slowest = sorted(first_byte_s)[math.ceil(0.95 * len(first_byte_s)) - 1]
        figures += [
            at_most(f"{what}: first byte, 95th percentile", 1e3 * slowest, "ms", 100),
            context(f"{what}: first byte, median", 1e3 * statistics.median(first_byte_s), "ms"),
            context(f"{what}: time of one core that a page takes", 1e3 * _core_seconds(board), "ms"),
            at_most(f"{what}: size", size / 1e3, "kB", 300),
        ]
    return figures


def _answer_times(board: Board, requests: int) -> tuple[list[float], int]:
    """Seconds to the first byte of each answer, and the bytes of the largest."""
    clock, done = Clock(), threading.Event()

    def hangs() -> History:
        done.wait()
        return History()

    page = StatusPage(board, Lookback(hangs, clock), clock)
    health = Health(Routes(Telemetry(), dict, nobody_answers, page.html), clock, 0, 0)
    health.open()
    loop = threading.Thread(target=_hand_on, args=(board, done))
    loop.start()
    try:
        answers = [_get(health.public_port) for _ in range(requests)]
    finally:
        done.set()
        loop.join()
        health.close()
    return [seconds for seconds, _ in answers], max(size for _, size in answers)


def _core_seconds(board: Board) -> float:
    """Of one page, the least of ten: whatever else the machine does meanwhile is not in it."""
    page = StatusPage(board, Lookback(History, Clock()), Clock())
    taken = []
    for _ in range(10):
        began = time.thread_time()
        page.html({}, False)
        taken.append(time.thread_time() - began)
    return min(taken)


def _get(port: int) -> tuple[float, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    began = time.perf_counter()
    connection.request("GET", "/")
    answer = connection.getresponse()  # returns with the head, which is sent with the body
    seconds = time.perf_counter() - began
    size = len(answer.read())
    connection.close()
    return seconds, size


def _hand_on(board: Board, done: threading.Event) -> None:
    """A round of every adapter a second, as fast as the shortest interval that anybody would configure."""
    while not done.wait(1.0):
        for verdict in list(board.snapshot().verdicts.values()):
            board.submit(replace(verdict, at=time.time()))


def _board(now: float) -> Board:
    """A day of rounds each half hour, with the noise of healthy canaries, which no line is shortened by."""
    board = Board("prod", "pod-0", BASES)
    for base, adapters in BASES.items():
        for i, name in enumerate(adapters):
            for step in range(int(DAY_S / BUCKET_S)):
                kept = 1.0 + 0.04 * math.sin(1.7 * step + i)
                board.submit(_verdict(name, base, now - DAY_S + step * BUCKET_S, kept))
            board.submit(Evidence(SubjectKind.ADAPTER, name, "adapter_gap", "", 47, 0.3, 900, now))
    return board


def _verdict(name: str, base: str, at: float, kept: float) -> Verdict:
    return Verdict(
        SubjectKind.ADAPTER,
        name,
        base,
        47,
        at,
        Status.HEALTHY,
        Reason.WITHIN_TOLERANCE,
        retention=Interval(kept, kept - 0.02, kept + 0.02, 24),
        log_threshold=21.5,
        identity=ACCEPTED,
    )


def _lost(board: Board) -> Board:
    now = time.time()
    for base, adapters in BASES.items():
        for name in adapters:
            lost = replace(
                _verdict(name, base, now, 0.0),
                status=Status.DEGRADED,
                reason=Reason.ALARM,
                cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
                evidence=(Evidence(SubjectKind.ADAPTER, name, "adapter_gap", "", 47, 93.9, 32, now),),
                onset=Onset(now - 120, now - 60, None, now - 150, now - 60),
                explanation=f"the base under {name} has other weights, and {name} answers as the base does",
                action="roll the base back to the accepted weights, and do not serve it until then",
                identity=replace(ACCEPTED, live_base="sha256:" + "b" * 64),
            )
            board.submit(lost)
            board.submit(to_notice(lost, NoticeReason.DEGRADED, "prod", now))
    for number in range(MOST_FLIPS):
        text = "A canary's answer is a few lines of text. " * 5
        board.submit(Flip(ADAPTERS[number], "base-0", f"c{number}", 47, now, text, text, text, 0.0))
    return board
