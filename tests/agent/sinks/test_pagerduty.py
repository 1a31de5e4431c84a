"""The PagerDuty sink: pages survive outages and restarts, stay in order, and never leak the routing key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from agent.alerting.notice import KINDS, to_notice
from agent.alerting.outbox import Outbox
from agent.alerting.pagerduty_address import CHANGE, ENQUEUE
from agent.clock import Clock, HandClock
from agent.demo.receiver import Receiver, violations
from agent.records import Notice, NoticeKind, NoticeReason
from agent.sinks.pagerduty import Config, Sink, to_event
from agent.surroundings import Surroundings
from detectors.records import Reason, Status, SubjectKind
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER, SWAPPED, TONE
from tests.agent.golden_file import assert_golden

KEY = "0123456789abcdef0123456789abcdef"
CHANGES = {reason for reason in NoticeReason if KINDS[reason] is NoticeKind.CHANGE}


def notice(
    reason: NoticeReason = NoticeReason.DEGRADED, at: float = FIXED, subject: str = ROUTER, **more: Any
) -> Notice:
    if reason in CHANGES:
        # Of those that a verdict has no reason for, it is within tolerance.
        why = Reason(reason.value) if reason.value in {each.value for each in Reason} else None
        seen = findings.verdict(reason=why, subject_kind=SubjectKind.BASE, identity=SWAPPED, at=at)
    elif reason is NoticeReason.CANNOT_TELL:
        seen = findings.verdict(Status.UNMONITORABLE, at=at, subject=subject, explanation="the file is cut short")
    else:
        seen = findings.alarm(at, subject=subject)
    return replace(to_notice(seen, reason, "prod", at), **more)


def wait_until(fact: Callable[[], bool], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(routing_key=KEY) as running:
        yield running


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "routing-key"
    file.write_text(KEY + "\n")
    return file


@pytest.fixture
def new_sink(tmp_path: Path, key_file: Path) -> Iterator[Callable[..., Sink]]:
    opened: list[Sink] = []

    def make(url: str, clock: Clock = CLOCK, **more: Any) -> Sink:
        fast = {"retry_s": 0.02, "max_retry_s": 0.1, "throttle_s": 0.05, "timeout_s": 2.0}
        config = Config(routing_key_file=key_file, url=url, **(fast | more))
        opened.append(Sink(config, Surroundings(state_dir=tmp_path, clock=clock)))
        opened[-1].open()
        return opened[-1]

    yield make
    for sink in opened:
        sink.close(2.0)


AWAY = "http://127.0.0.1:9"
CLOCK = Clock()


# --- the pure half ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        routing_key_file=tmp_path / "key",
        dashboard_url="https://grafana.example/d/gapwatch",
        runbook_url="https://runbooks.example/{cause}.md",
    )


def test_one_event_as_it_goes_out(config: Config) -> None:
    path, body = to_event(notice(), config, "engine-0")
    assert path == ENQUEUE
    assert_golden("pagerduty_event.json", orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")


@pytest.mark.parametrize("reason", list(NoticeReason))
def test_every_reason_makes_an_event_that_pagerduty_accepts(reason: NoticeReason, config: Config) -> None:
    path, body = to_event(notice(reason), config, "engine-0")
    assert violations(path, orjson.dumps({"routing_key": KEY, **body})) == []
    assert (path == CHANGE) == (reason in CHANGES)
    assert any("Runbook" in link["text"] for link in body["links"]) == (reason not in CHANGES)


def test_severity_distinguishes_degraded_from_unmonitorable(config: Config) -> None:
    assert to_event(notice(), config, "engine-0")[1]["payload"]["severity"] == "critical"
    body = to_event(notice(NoticeReason.CANNOT_TELL), config, "engine-0")[1]
    assert body["payload"]["severity"] == "warning"
    assert body["links"][0]["href"] == "https://runbooks.example/unmonitorable.md"


def test_long_texts_are_cut_to_the_limits(config: Config) -> None:
    details = {f"field {i}": "é" * 100_000 for i in range(200)}
    long = notice(summary="s" * 5000, dedup_key="k" * 500, details=details)
    path, body = to_event(long, config, "engine-0")
    raw = orjson.dumps({"routing_key": KEY, **body})
    assert violations(path, raw) == []
    assert len(body["payload"]["custom_details"]) > 10, "only what does not fit goes"


# --- sending ---------------------------------------------------------------------------------------------------------


def test_trigger_resolve_and_change_arrive(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    sink = new_sink(receiver.url)
    for seen in (notice(), notice(NoticeReason.BASE_MOVED), notice(NoticeReason.RECOVERED)):
        sink.submit(seen)
    assert sink.flush(), "on disk is handed over"
    assert wait_until(lambda: sink.sent == 3), receiver.answers
    assert wait_until(lambda: sink.unsent == 0)
    assert [(i.dedup_key, i.status) for i in receiver.incidents] == [
        ("gapwatch/prod/adapter/ticket-router", "resolved")
    ]
    assert len(receiver.changes) == 1
    assert {status for status, _ in receiver.answers} == {202}


def test_findings_that_are_no_notices_send_nothing(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    sink = new_sink(receiver.url)
    for finding in findings.every_kind():
        sink.submit(finding)
    assert wait_until(lambda: sink.sent == 1)
    sink.close(2.0)
    assert len(receiver.answers) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 403])
def test_a_temporary_failure_is_retried(status: int, receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    receiver.fail_next(3, status)
    sink = new_sink(receiver.url)
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1)
    assert [seen for seen, _ in receiver.answers] == [status] * 3 + [202]
    assert sink.status[0]


def test_a_retry_is_due_by_the_clock(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    clock = HandClock()
    receiver.fail_next(1, 500)
    sink = new_sink(receiver.url, clock, retry_s=3600.0, max_retry_s=3600.0)
    sink.submit(notice())
    assert wait_until(lambda: not sink.status[0])
    sink.submit(notice(subject="other"))  # wakes the sender
    assert wait_until(lambda: sink.sent == 1)
    assert [incident.dedup_key for incident in receiver.incidents] == ["gapwatch/prod/adapter/other"]
    clock.advance(3601.0)
    sink.submit(notice(subject="third"))
    assert wait_until(lambda: sink.sent == 3)


@pytest.mark.parametrize("url", ["", "events.pagerduty.com", "ftp://x", "http://", "https://a:port", "http://a\x00b"])
def test_an_address_that_cannot_be_called_is_refused(url: str, key_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="url"):
        Config(routing_key_file=key_file, url=url)


@pytest.mark.parametrize("key", ["", "f" * 32, "short"])
def test_a_wrong_key_keeps_the_page_and_fails_the_status_until_it_was_sent(
    key: str, receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    key_file.write_text(key)
    sink = new_sink(receiver.url)
    sink.submit(notice())
    sink.submit(notice(NoticeReason.RECOVERED))
    assert wait_until(lambda: len(receiver.answers) >= 3)
    ok, words = sink.status
    assert (ok, sink.refused) == (False, 0)
    assert "routing key" in words
    key_file.write_text(KEY)
    assert wait_until(lambda: sink.sent == 2)
    assert [e["event_action"] for i in receiver.incidents for e in i.events] == ["trigger", "resolve"]
    assert sink.status[0]


def test_a_400_without_an_explanation_does_not_drop_the_page(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    receiver.fail_next(2, 400)
    sink = new_sink(receiver.url)
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1)
    assert sink.refused == 0


def test_an_unexpected_error_does_not_end_the_sender(
    receiver: Receiver, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    """An entry of an earlier version, whose path no client can call."""
    box = Outbox(tmp_path / "outbox", 10)
    box.open()
    box.add("odd", "http://a\x00b", {"n": 0})
    sink = new_sink(receiver.url)
    assert wait_until(lambda: not sink.status[0])
    assert sink.status[1].startswith("InvalidURL")
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1)
    assert not sink.status[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sender_that_has_stopped_fails_the_status(
    receiver: Receiver, new_sink: Callable[..., Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: object) -> None:
        raise MemoryError

    sink = new_sink(receiver.url)
    monkeypatch.setattr(sink._wake, "wait", out_of_memory)
    sink._wake.set()
    assert wait_until(lambda: not sink.status[0])
    assert "stopped" in sink.status[1]


def test_a_covered_members_resolve_waits_for_the_page_of_its_base(
    receiver: Receiver, new_sink: Callable[..., Sink]
) -> None:
    sink = new_sink(receiver.url, retry_s=2.0, max_retry_s=2.0)
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1)
    receiver.fail_next(1, 503)
    base = findings.alarm(FIXED, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE))
    sink.submit(to_notice(base, NoticeReason.DEGRADED, "prod", FIXED))
    sink.submit(to_notice(findings.alarm(FIXED, covered_by=BASE), NoticeReason.TAKEN_OVER, "prod", FIXED))
    sink.submit(notice(subject=TONE))
    assert wait_until(lambda: sink.sent == 2)
    names = [i.dedup_key.rsplit("/", 1)[1] for i in receiver.open_incidents]
    assert names == [ROUTER, TONE], "what came later is there, and the member's page is open still"
    assert wait_until(lambda: sink.sent == 4)
    assert [i.dedup_key.rsplit("/", 1)[1] for i in receiver.open_incidents] == [TONE, BASE]


@pytest.mark.parametrize("status", [400, 413])
def test_an_event_that_is_refused_is_dropped_with_an_error_in_the_log(
    status: int, receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    if status == 413:
        receiver.fail_next(1, 413)
    sink = new_sink(receiver.url)
    sink.submit(notice(summary="" if status == 400 else "too long"))
    assert wait_until(lambda: sink.refused == 1)
    ok, words = sink.status
    assert not ok
    assert str(status) in words
    sink.submit(notice(subject=TONE))
    assert wait_until(lambda: sink.sent == 1), "the next one is not held up"
    assert sink.status[0]


def test_a_resolve_never_overtakes_its_trigger(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    """The injected failures may hit any of the events; other incidents continue meanwhile."""
    receiver.fail_next(12, 503)
    sink = new_sink(receiver.url)
    subjects = [f"adapter-{i}" for i in range(6)]
    for subject in subjects:
        sink.submit(notice(subject=subject))
        sink.submit(notice(NoticeReason.RECOVERED, subject=subject))
    assert wait_until(lambda: sink.sent == 12), receiver.answers
    seen = {i.dedup_key.rsplit("/", 1)[1]: [e["event_action"] for e in i.events] for i in receiver.incidents}
    assert seen == {subject: ["trigger", "resolve"] for subject in subjects}


def test_one_stuck_incident_does_not_hold_up_another(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    receiver.fail_next(1, 503)
    sink = new_sink(receiver.url, retry_s=30.0, max_retry_s=30.0)
    sink.submit(notice())
    assert wait_until(lambda: len(receiver.answers) == 1)
    sink.submit(notice(subject=TONE))
    assert wait_until(lambda: sink.sent == 1)
    assert [i.dedup_key for i in receiver.incidents] == ["gapwatch/prod/adapter/polite-rewriter"]


def test_pages_survive_a_restart(receiver: Receiver, new_sink: Callable[..., Sink], tmp_path: Path) -> None:
    first = new_sink(AWAY)
    first.submit(notice())
    first.submit(notice(NoticeReason.RECOVERED))
    assert first.flush()
    assert wait_until(lambda: not first.status[0])
    first.close(1.0)
    assert len(list((tmp_path / "outbox").glob("*.json"))) == 2
    second = new_sink(receiver.url)
    second.submit(notice(subject=TONE))
    assert wait_until(lambda: second.sent == 3)
    assert [e["event_action"] for i in receiver.incidents for e in i.events] == ["trigger", "resolve", "trigger"]
    assert list((tmp_path / "outbox").glob("*.json")) == []


def test_submit_does_not_wait_for_the_network(new_sink: Callable[..., Sink]) -> None:
    sink = new_sink("http://192.0.2.1", timeout_s=10.0)  # TEST-NET-1: packets to it vanish
    begun = time.monotonic()
    for i in range(20):
        sink.submit(notice(subject=f"a{i}"))
        assert sink.flush()
    sink.close(0.2)
    assert time.monotonic() - begun < 5.0


def test_a_rotated_key_is_taken_up_and_no_key_is_written_anywhere(
    receiver: Receiver,
    new_sink: Callable[..., Sink],
    key_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    wrong = "f" * 32
    key_file.write_text(wrong)
    sink = new_sink(receiver.url)
    sink.submit(notice())
    assert wait_until(lambda: len(receiver.answers) >= 2)
    on_disk = b"".join(file.read_bytes() for file in (tmp_path / "outbox").iterdir())
    key_file.write_text(KEY)
    receiver.fail_next(2, 503)
    assert wait_until(lambda: sink.sent == 1)
    out = capsys.readouterr()
    said = out.out + out.err + caplog.text + " ".join(record.getMessage() for record in caplog.records) + sink.status[1]
    for key in (KEY, wrong):
        assert key not in said
        assert key.encode() not in on_disk


def test_a_missing_key_file_keeps_the_page_until_it_is_there(
    receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    key_file.unlink()
    sink = new_sink(receiver.url)
    sink.submit(notice())
    assert wait_until(lambda: not sink.status[0])
    key_file.write_text(KEY)
    assert wait_until(lambda: sink.sent == 1)


def test_the_demo_base_incident_reads_well(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    sink = new_sink(receiver.url)
    seen = findings.alarm(FIXED, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE))
    sink.submit(to_notice(seen, NoticeReason.DEGRADED, "prod", FIXED))
    assert wait_until(lambda: sink.sent == 1)
    assert receiver.incidents[0].summary.startswith("[prod] base smollm2: base swapped and adapter lost (2 adapters:")
