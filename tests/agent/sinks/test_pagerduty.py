"""The PagerDuty sink: pages survive outages and restarts, stay in order, and never leak the routing key."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from agent.alerting.notice import KINDS, to_notice
from agent.alerting.policy import Policy, Rule, Severity
from agent.clock import Clock, HandClock
from agent.delivery.outbox import Outbox
from agent.delivery.pagerduty_address import CHANGE, ENQUEUE
from agent.delivery.sender import LOOK_S
from agent.demo.receiver import Receiver, violations
from agent.records import Notice, NoticeKind, NoticeReason
from agent.sinks.pagerduty import Addressed, Config, Sink, addressed, to_event
from agent.surroundings import Surroundings
from detectors.records import Cause, Reason, Status, SubjectKind
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER, SWAPPED, TONE
from tests.agent.golden_file import assert_golden

ROOT = Path(__file__).resolve().parents[3]
KEY = "0123456789abcdef0123456789abcdef"
PLATFORM_KEY = "fedcba9876543210fedcba9876543210"
NO_POLICY = Policy()
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


def event_of(notice: Notice, config: Config, policy: Policy = NO_POLICY) -> tuple[str, dict[str, Any]]:
    return to_event(notice, config, "engine-0", policy.of_notice(notice))


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

    def make(url: str, clock: Clock = CLOCK, policy: Policy = NO_POLICY, **more: Any) -> Sink:
        fast = {"retry_s": 0.02, "max_retry_s": 0.1, "throttle_s": 0.05, "timeout_s": 2.0}
        config = Config(routing_key_file=key_file, url=url, **(fast | more))
        opened.append(Sink(config, Surroundings(state_dir=tmp_path, clock=clock, policy=policy)))
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
    path, body = event_of(notice(), config)
    assert path == ENQUEUE
    assert_golden("pagerduty_event.json", orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")


@pytest.mark.parametrize("reason", list(NoticeReason))
def test_every_reason_makes_an_event_that_pagerduty_accepts(reason: NoticeReason, config: Config) -> None:
    path, body = event_of(notice(reason), config)
    assert violations(path, orjson.dumps({"routing_key": KEY, **body})) == []
    assert (path == CHANGE) == (reason in CHANGES)
    assert any("Runbook" in link["text"] for link in body["links"]) == (reason not in CHANGES)


def test_severity_distinguishes_degraded_from_unmonitorable(config: Config) -> None:
    assert event_of(notice(), config)[1]["payload"]["severity"] == "critical"
    body = event_of(notice(NoticeReason.CANNOT_TELL), config)[1]
    assert body["payload"]["severity"] == "warning"
    assert body["links"][0]["href"] == "https://runbooks.example/unmonitorable.md"


def test_severity_is_the_policys(config: Config) -> None:
    policy = Policy(
        causes={"unmonitorable": Rule(severity=Severity.ERROR)}, adapters={TONE: Rule(severity=Severity.INFO)}
    )
    sent = [
        (notice(subject=TONE), "info"),
        (notice(NoticeReason.CANNOT_TELL, subject=TONE), "info"),
        (notice(NoticeReason.CANNOT_TELL), "error"),
        (notice(), "critical"),
    ]
    assert [event_of(each, config, policy)[1]["payload"]["severity"] for each, _ in sent] == [word for _, word in sent]


def test_links_are_filled_in_for_names_as_engines_allow_them(config: Config) -> None:
    settings = {
        "dashboard_url": "https://grafana.example/d/g?var-subject={subject}&var-base={base}",
        "status_url": "https://gapwatch.example/{pod}/",
    }
    _, body = event_of(notice(subject='org/a b&c="d"'), config.model_copy(update=settings))
    assert [link["href"] for link in body["links"]] == [
        "https://runbooks.example/base_swapped_and_adapter_lost.md",
        "https://grafana.example/d/g?var-subject=org%2Fa%20b%26c%3D%22d%22&var-base=smollm2",
        "https://gapwatch.example/engine-0/",
    ]
    assert body["client_url"] == body["links"][1]["href"]


def test_an_incident_that_was_reopened_says_how_often(config: Config) -> None:
    again = findings.alarm(FIXED, reopenings=2)
    _, body = event_of(to_notice(again, NoticeReason.DEGRADED, "prod", FIXED), config)
    assert body["payload"]["custom_details"]["reopened"].startswith("2 in a row, each within a day of the end")
    assert "reopened" not in event_of(notice(), config)[1]["payload"]["custom_details"]


def test_a_change_and_an_end_go_where_they_belong() -> None:
    change, body = notice(NoticeReason.BASE_MOVED), {"dedup_key": "k"}
    assert addressed(change, body, "models", ("",)) == (Addressed("models", body),)
    end = notice(NoticeReason.TAKEN_OVER, after="base")
    assert addressed(end, body, "", ("models",)) == (Addressed("", body, "base"), Addressed("models", body, "base"))


def test_long_texts_are_cut_to_the_limits(config: Config) -> None:
    details = {f"field {i}": "é" * 100_000 for i in range(200)}
    long = notice(summary="s" * 5000, dedup_key="k" * 500, details=details)
    path, body = event_of(long, config)
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


def test_a_wrong_key_keeps_the_page_and_fails_the_status_until_it_was_sent(
    receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    key_file.write_text("f" * 32)
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
    monkeypatch.setattr(sink._sender._wake, "wait", out_of_memory)
    sink._sender._wake.set()
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


@pytest.mark.parametrize("status", [503, 400, 401, 403, 404])
def test_one_stuck_incident_does_not_hold_up_another(
    status: int, receiver: Receiver, new_sink: Callable[..., Sink]
) -> None:
    """Whether or not a retry will help it."""
    receiver.fail_next(1, status)
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


def test_a_cause_that_gets_sharper_moves_the_incident_to_its_owner(
    new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    """The platform's service, apart from the one that gets what has no owner."""
    (tmp_path / "platform").write_text(PLATFORM_KEY)
    by_cause = Policy(causes={"adapter_not_applied": Rule(owner="platform")})
    unknown = findings.alarm(FIXED, cause=Cause.UNKNOWN)
    ignored = findings.alarm(FIXED, cause=Cause.ADAPTER_NOT_APPLIED)
    with Receiver() as services:
        sink = new_sink(services.url, policy=by_cause, owners={"platform": tmp_path / "platform"})
        sink.submit(to_notice(unknown, NoticeReason.DEGRADED, "prod", FIXED))
        assert wait_until(lambda: sink.sent == 2)
        assert statuses(services) == {KEY: "triggered"}, "an end of what is not open there is none"
        sink.submit(to_notice(ignored, NoticeReason.CAUSE_SHARPER, "prod", FIXED))
        assert wait_until(lambda: sink.sent == 4)
        assert statuses(services) == {KEY: "resolved", PLATFORM_KEY: "triggered"}
        sink.submit(notice(NoticeReason.RECOVERED))
        assert wait_until(lambda: sink.sent == 6)
        assert statuses(services) == {KEY: "resolved", PLATFORM_KEY: "resolved"}


def statuses(services: Receiver) -> dict[str, str]:
    """Routing key -> status of its only incident."""
    assert len({i.events[0]["routing_key"] for i in services.incidents}) == len(services.incidents)
    return {incident.events[0]["routing_key"]: incident.status for incident in services.incidents}


def test_an_incident_is_not_ended_where_it_was_moved_to_only_in_name(
    receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    """Two names with one key are one service: an end for the other name would end the page itself."""
    (key_file.parent / "same").write_text(KEY)
    by_cause = Policy(causes={"base_swapped_and_adapter_lost": Rule(owner="models")})
    sink = new_sink(receiver.url, policy=by_cause, owners={"models": key_file.parent / "same"})
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1 and sink.unsent == 0)
    assert [incident.status for incident in receiver.incidents] == ["triggered"]


def test_an_owner_without_a_key_holds_up_nobody_else(
    receiver: Receiver, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    policy = Policy(adapters={TONE: Rule(owner="models")})
    sink = new_sink(receiver.url, policy=policy, owners={"models": tmp_path / "missing"})
    ok, words = sink.status
    assert not ok and words.startswith("alerts.pagerduty.owners.models: saw No such file or directory")
    sink.submit(notice(subject=TONE))
    sink.submit(notice())
    assert wait_until(lambda: sink.sent == 1)
    assert [i.dedup_key for i in receiver.incidents] == ["gapwatch/prod/adapter/ticket-router"]
    (tmp_path / "missing").write_text(KEY)
    assert wait_until(lambda: len(receiver.open_incidents) == 2), "and what could be its own page is not ended for it"


def test_what_is_refused_lies_aside_with_the_reason(
    receiver: Receiver, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    sink = new_sink(receiver.url)
    sink.submit(notice(summary=""))
    assert wait_until(lambda: sink.refused == 1)
    [file] = (tmp_path / "outbox").glob("*.refused")
    kept = orjson.loads(file.read_bytes())
    assert "summary is required" in kept["why"] and kept["why"].startswith("HTTP 400: ")
    assert kept["body"]["dedup_key"] == notice().dedup_key and KEY not in file.read_text()


def _replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


NO_KEYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "No such file or directory"),
    "a folder": (_replace_by_folder, "Is a directory"),
    "empty": (lambda file: file.write_text(" \n"), "an empty file"),
    "short": (lambda file: file.write_text("hunter2"), "7 characters"),
    "no text": (lambda file: file.write_bytes(b"\xff" * 32), "bytes that are no text"),
}


@pytest.mark.parametrize("spoil, actual", NO_KEYS.values(), ids=NO_KEYS)
def test_without_a_routing_key_the_sink_comes_up_says_what_to_do_and_pages_once_the_key_is_there(
    spoil: Callable[[Path], object], actual: str, receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    spoil(key_file)
    with capture_logs() as lines:
        sink = new_sink(receiver.url, retry_s=3600.0, max_retry_s=3600.0)
        ok, words = sink.status
        assert not ok, "before there is anything to send"
        assert words.startswith(f"alerts.pagerduty.routing_key_file: saw {actual}, wanted a mounted file with the 32-")
        assert "hunter2" not in words
        assert str(key_file) not in words
        sink.submit(notice())
        assert sink.flush(), "it waits in the outbox"
        time.sleep(2.2 * LOOK_S)
        assert receiver.answers == []
        if key_file.is_dir():
            key_file.rmdir()
        (key_file.parent / "mounted").write_text(KEY)
        (key_file.parent / "mounted").rename(key_file)  # whole, as a mounted Secret appears
        assert wait_until(lambda: sink.sent == 1), "by itself"
        assert sink.status[0]
    # A sender of an earlier test may still be waiting for a network that never answers, and log the end of that here.
    own = [line["event"] for line in lines if "routing_key_file" in str(line)]
    assert own == ["part_not_ok", "part_ok_again"], lines


def test_a_key_that_pagerduty_refused_is_tried_again_as_soon_as_its_file_changes(
    receiver: Receiver, new_sink: Callable[..., Sink], key_file: Path
) -> None:
    key_file.write_text("f" * 32)
    sink = new_sink(receiver.url, retry_s=3600.0, max_retry_s=3600.0)
    sink.submit(notice())
    assert wait_until(lambda: not sink.status[0])
    key_file.write_text(KEY)
    assert wait_until(lambda: sink.sent == 1)


def test_an_unreadable_key_is_a_status(receiver: Receiver, key_file: Path, tmp_path: Path) -> None:
    """A Secret of mode 0440 where the pod has no fsGroup: root owns it, the agent is another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root: another user has to read the file")
    key_file.chmod(0o440)
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from agent.sinks.pagerduty import Config, Sink
from agent.surroundings import Surroundings
import os
os.setgroups([]); os.setgid(65534); os.setuid(65534)
config = Config(routing_key_file=Path({str(key_file)!r}), url={receiver.url!r})
sink = Sink(config, Surroundings(state_dir=Path("/proc")))
sink.open()
print(sink.status[0], sink.status[1])
sink.close(1.0)
"""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()[-1]
    assert said.startswith("False alerts.pagerduty.routing_key_file: saw Permission denied, wanted a mounted file")
    assert "user 65534 may read" in said
    assert "; outbox in state_dir: " in said, "and so is a folder in which nothing can be made"


def test_a_page_goes_out_from_memory_while_the_disk_refuses_it(
    receiver: Receiver, new_sink: Callable[..., Sink], tmp_path: Path, key_file: Path
) -> None:
    (tmp_path / "outbox").write_text("a file where the folder should be")
    key_file.write_text("")
    sink = new_sink(receiver.url)
    assert "outbox in state_dir: File exists" in sink.status[1]
    sink.submit(notice())
    assert not sink.flush(), "it would be lost in a crash: Kafka must not be committed"
    assert "in memory alone" in sink.status[1]
    key_file.write_text(KEY)
    assert wait_until(lambda: sink.sent == 1)
    assert sink.flush()
    assert not sink.status[0], "the next page would not be on disk either"
    (tmp_path / "outbox").unlink()
    assert sink.flush()
    assert sink.status[0]


@pytest.mark.parametrize("name, value", [("HTTPS_PROXY", "gopher://me:hunter2@p:1"), ("SSL_CERT_FILE", "/missing")])
def test_a_proxy_or_certificates_that_cannot_be_used_are_a_status(
    name: str, value: str, receiver: Receiver, new_sink: Callable[..., Sink], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv(name, value)
        sink = new_sink(receiver.url)
        sink.submit(notice())
        assert wait_until(lambda: not sink.status[0])
        assert name in sink.status[1]
        assert "hunter2" not in sink.status[1]
    assert wait_until(lambda: sink.sent == 1)
    assert sink.status[0]


def test_the_demo_base_incident_reads_well(receiver: Receiver, new_sink: Callable[..., Sink]) -> None:
    sink = new_sink(receiver.url)
    seen = findings.alarm(FIXED, subject_kind=SubjectKind.BASE, subject=BASE, members=(ROUTER, TONE))
    sink.submit(to_notice(seen, NoticeReason.DEGRADED, "prod", FIXED))
    assert wait_until(lambda: sink.sent == 1)
    assert receiver.incidents[0].summary.startswith(
        "[prod] 2 adapters of base smollm2: base swapped and adapter lost ("
    )


@pytest.mark.parametrize(
    ("by_hand", "expected"),
    [("", (1, 0)), ("acknowledged", (1, 0)), ("resolved", (1, 1))],
    ids=["nobody looked", "somebody works on it", "somebody has resolved it"],
)
def test_an_update_wakes_nobody_whatever_a_person_has_done_with_the_incident(
    new_sink: Callable[..., Sink], tmp_path: Path, by_hand: str, expected: tuple[int, int]
) -> None:
    """An open incident takes it, and calls nobody again; of one that was resolved by hand it is a change event. A new
    page under that key, by another alarm, opens a new one."""
    token = tmp_path / "api-token"
    token.write_text("read-only\n")
    with Receiver(routing_key=KEY, api_token="read-only") as receiver:
        sink = new_sink(receiver.url, api_token_file=token, api_url=receiver.url)
        sink.submit(notice())
        assert wait_until(lambda: len(receiver.incidents) == 1)
        key = receiver.incidents[0].dedup_key
        if by_hand == "acknowledged":
            receiver.acknowledge(key, "Kim Lee")
        elif by_hand == "resolved":
            receiver.resolve(key)
        sink.submit(notice(NoticeReason.CAUSE_SHARPER, at=FIXED + 60))
        assert wait_until(lambda: sink.sent == 2) and sink.status[0]
        assert (len(receiver.incidents), len(receiver.changes)) == expected
        if by_hand == "resolved":
            (change,) = receiver.changes
            assert change["payload"]["summary"] == notice(NoticeReason.CAUSE_SHARPER, at=FIXED + 60).summary
            sink.submit(notice(at=FIXED + 120))
            assert wait_until(lambda: len(receiver.incidents) == 2), "an alarm is no update"
        else:
            assert len(receiver.incidents[0].events) == 2


def test_where_pagerduty_does_not_tell_what_is_open_an_update_goes_out_as_it_is_and_the_status_says_why(
    new_sink: Callable[..., Sink], receiver: Receiver, tmp_path: Path
) -> None:
    token = tmp_path / "api-token"
    token.write_text("unknown-key")
    sink = new_sink(receiver.url, api_token_file=token, api_url=receiver.url)
    sink.submit(notice())
    sink.submit(notice(NoticeReason.NO_LONGER_JUDGED, at=FIXED + 60))
    assert wait_until(lambda: sink.sent == 2)
    assert len(receiver.incidents[0].events) == 2 and receiver.changes == []
    works, words = sink.status
    assert works, "they get out"
    assert "HTTP 401: the token is not accepted; updates may open an incident" in words and "unknown-key" not in words


def test_an_update_is_one_after_a_restart_too_and_other_entries_are_as_earlier_versions_wrote_them(
    tmp_path: Path, new_sink: Callable[..., Sink]
) -> None:
    sink = new_sink(AWAY)
    sink.submit(notice())
    sink.submit(notice(NoticeReason.CAUSE_SHARPER, at=FIXED + 60))
    page, update = (orjson.loads(file.read_bytes()) for file in sorted((tmp_path / "outbox").glob("*.json")))
    assert "is_update" not in page and update["is_update"] is True
    kept = Outbox(tmp_path / "outbox", 10)
    kept.open()
    assert [entry.is_update for entry in iter(lambda: _next(kept), None)] == [False, True]


def _next(box: Outbox) -> Any:
    entry = box.first()
    if entry is not None:
        box.remove(entry)
    return entry


def test_a_picture_of_the_subject_is_in_a_page_and_in_no_end(config: Config) -> None:
    pictured = config.model_copy(update={"image_url": "https://grafana.example/render?s={subject}"})
    body = event_of(notice(subject="a b"), pictured)[1]
    assert body["images"][0]["src"] == "https://grafana.example/render?s=a%20b"
    assert violations(ENQUEUE, orjson.dumps({"routing_key": KEY, **body})) == []
    assert "images" not in event_of(notice(NoticeReason.RECOVERED), pictured)[1]


@pytest.mark.parametrize("tickets", [False, True])
def test_what_runs_out_is_a_change_event_or_a_ticket(
    receiver: Receiver, key_file: Path, tmp_path: Path, tickets: bool
) -> None:
    config = Config(routing_key_file=key_file, url=receiver.url, clock_tickets=tickets)
    sink = Sink(config, Surroundings(state_dir=tmp_path))
    sink.open()
    verdict = findings.verdict(at=FIXED)
    for stage in ("30 days", "7 days"):
        name = f"clock base_end_of_life 2026-03-06 {stage}"
        sink.submit(to_notice(verdict, NoticeReason.PASSPORT_CLOCK, "prod", FIXED, name, "its base ends"))
    assert wait_until(lambda: len(receiver.answers) >= 2)
    sink.close(5.0)
    assert [status for status, _ in receiver.answers[:2]] == [202, 202]
    if not tickets:
        assert len(receiver.changes) == 2 and not receiver.incidents
        return
    (incident,) = receiver.incidents
    assert len(incident.events) == 2 and not receiver.changes
    assert incident.dedup_key == f"gapwatch/prod/adapter/{ROUTER}/clock/base_end_of_life"
    assert incident.events[0]["payload"]["severity"] == Severity.INFO.value
