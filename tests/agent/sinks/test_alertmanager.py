"""An alert keeps coming while this pod's verdict says so, ends with it, and outlives a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.alerting.policy import Policy, Rule, Severity
from agent.clock import HandClock
from agent.records import Watching
from agent.sinks.alertmanager import CANNOT_TELL, DEGRADED, ENDS_AFTER, Alert, Config, Sink, next_alert
from agent.surroundings import Surroundings
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict
from detectors.verdicts.incident import SILENT_ROUNDS
from tests.agent import findings
from tests.agent.findings import BASE, FIXED, ROUTER, TONE
from tests.agent.stand_in import StandIn

POLICY = Policy(causes={"adapter_not_applied": Rule(owner="platform")}, adapters={TONE: Rule(severity=Severity.INFO)})
CONFIG = Config(urls=("http://alertmanager:9093/",), dashboard_url="https://graphs/{subject}")
PROD = Surroundings("prod", "pod-0", policy=POLICY)
ALARM = findings.alarm(FIXED)
BLIND = findings.verdict(Status.UNMONITORABLE, at=FIXED, silent_in_a_row=SILENT_ROUNDS)


def after(*verdicts: Verdict) -> Alert | None:
    alert = None
    for verdict in verdicts:
        alert = next_alert(alert, verdict, CONFIG, PROD)
    return alert


def names(*verdicts: Verdict) -> str:
    alert = after(*verdicts)
    return alert.labels["alertname"] if alert else ""


def test_what_an_alert_is_and_says() -> None:
    alert = after(findings.alarm(FIXED, reopenings=2))
    assert alert is not None
    assert alert.labels == {
        "alertname": DEGRADED,
        "cluster": "prod",
        "subject_kind": "adapter",
        "subject": ROUTER,
        "base": BASE,
        "severity": "critical",
    }
    assert alert.annotations["summary"].startswith("ticket-router: base swapped and adapter lost - retention 0.00")
    assert alert.annotations["cause"] == "base_swapped_and_adapter_lost" and alert.annotations["reopened"] == "2"
    assert alert.annotations["first_action"] == "roll the base back to sha256:aaaa"
    body = alert.to_json(FIXED + 180)
    assert body["generatorURL"] == "https://graphs/ticket-router"
    assert body["endsAt"] == datetime.fromtimestamp(FIXED + 180, UTC).isoformat(timespec="milliseconds")
    assert body["startsAt"] <= body["endsAt"]


@pytest.mark.parametrize(
    "verdicts, name",
    [
        ((findings.verdict(),), ""),
        ((ALARM,), DEGRADED),
        ((ALARM, findings.verdict(Status.DEGRADED, Reason.RECOVERING)), DEGRADED),
        ((ALARM, findings.verdict(reason=Reason.RESOLVED)), ""),
        ((ALARM, findings.alarm(covered_by=BASE)), ""),
        ((ALARM, BLIND), DEGRADED),
        ((BLIND,), CANNOT_TELL),
        ((findings.verdict(Status.UNMONITORABLE, silent_in_a_row=SILENT_ROUNDS - 1),), ""),
        ((BLIND, findings.verdict(Status.UNMONITORABLE, silent_in_a_row=1)), CANNOT_TELL),
        ((BLIND, findings.verdict(Status.UNMONITORABLE, Reason.PAUSED, silent_in_a_row=9)), CANNOT_TELL),
        ((findings.verdict(Status.UNMONITORABLE, Reason.NO_TRAFFIC, silent_in_a_row=9),), ""),
        ((BLIND, ALARM), DEGRADED),
        ((BLIND, findings.verdict()), ""),
        ((findings.verdict(Status.UNMONITORABLE, subject_kind=SubjectKind.BASE, silent_in_a_row=9),), ""),
    ],
)
def test_which_alert_is_open_after_these_verdicts(verdicts: tuple[Verdict, ...], name: str) -> None:
    assert names(*verdicts) == name


def test_a_cause_that_gets_sharper_is_another_alert_only_where_it_is_routed_otherwise() -> None:
    unknown = after(findings.alarm(FIXED, cause=Cause.UNKNOWN))
    later = next_alert(unknown, findings.alarm(FIXED + 60, cause=Cause.WRONG_STRENGTH), CONFIG, PROD)
    assert unknown is not None and later is not None
    assert later.labels == unknown.labels and later.starts_at == unknown.starts_at
    routed = next_alert(later, findings.alarm(FIXED, cause=Cause.ADAPTER_NOT_APPLIED), CONFIG, PROD)
    assert routed is not None and routed.labels == {**later.labels, "owner": "platform"}


@pytest.mark.parametrize("url", ["alertmanager:9093", "http://me:hunter2@alertmanager", "http://a b"])
def test_an_address_that_cannot_be_called_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Config(urls=(url,))
    assert "token_file" in str(refused.value.errors()[0]["msg"]) and "hunter2" not in refused.value.errors()[0]["msg"]


# --- sending ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def receivers() -> Iterator[tuple[StandIn, StandIn]]:
    with StandIn() as first, StandIn() as second:
        yield first, second


@pytest.fixture
def new_sink(tmp_path: Path, receivers: tuple[StandIn, StandIn]) -> Iterator[Callable[..., Sink]]:
    opened: list[Sink] = []

    def make(clock: HandClock, **more: Any) -> Sink:
        config = Config(urls=tuple(each.url for each in receivers), **({"every_s": 0.02} | more))
        opened.append(Sink(config, Surroundings("prod", "pod-0", tmp_path, clock=clock)))
        opened[-1].open()
        return opened[-1]

    yield make
    for sink in opened:
        sink.close(2.0)


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 15
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def is_open(receiver: StandIn, clock: HandClock) -> bool:
    """By the last word on it that was sent."""
    [alert] = receiver.bodies[-1]
    return bool(datetime.fromisoformat(alert["endsAt"]).timestamp() > clock.now())


def test_it_keeps_coming_to_every_alertmanager_until_it_is_over(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink]
) -> None:
    clock = HandClock()
    sink = new_sink(clock)
    sink.submit(ALARM)
    assert sink.flush()
    assert wait_until(lambda: all(len(each.requests) >= 5 for each in receivers))
    assert all(is_open(each, clock) and each.requests[-1][0] == "/api/v2/alerts" for each in receivers)
    assert sink.unsent == 0 and sink.status[0]
    sink.submit(findings.verdict(reason=Reason.RESOLVED))
    assert wait_until(lambda: not any(is_open(each, clock) for each in receivers))
    time.sleep(0.1)
    counts = [len(each.requests) for each in receivers]
    time.sleep(0.1)
    assert [len(each.requests) for each in receivers] == counts, "an end that was taken is not repeated"


def test_an_alert_says_what_changed_before_it_began_also_after_a_restart(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink]
) -> None:
    clock = HandClock()
    first = new_sink(clock, every_s=3600.0)
    first.submit(findings.verdict(at=FIXED))
    first.submit(findings.alarm(FIXED + 60))
    assert first.flush() and wait_until(lambda: len(receivers[0].requests) == 1)
    first.close(2.0)
    second = new_sink(clock, every_s=3600.0)
    second.submit(findings.alarm(FIXED + 120))
    second.close(2.0)
    changed = [alert["annotations"].get("changed") for body in receivers[0].bodies for alert in body]
    assert set(changed) == {"2026-09-21 14:14:20 UTC base sha256:aaaa to sha256:bbbb"} and len(changed) >= 2


def test_an_alert_that_none_has_is_unsent_and_its_failure_a_status(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    clock = HandClock()
    (tmp_path / "token").write_text("hunter2\n")
    for each in receivers:
        each.next = [(500, {})] * 3
    sink = new_sink(clock, token_file=tmp_path / "token")
    sink.submit(ALARM)
    assert sink.unsent == 1 and wait_until(lambda: not sink.status[0])
    assert "HTTP 500 from an Alertmanager" in sink.status[1] and "hunter2" not in sink.status[1]
    assert wait_until(lambda: sink.unsent == 0 and sink.status[0])
    assert receivers[0].requests[-1][1]["Authorization"] == "Bearer hunter2"


def test_what_is_open_outlives_a_restart_and_ends_with_the_verdict_after_it(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    clock = HandClock()
    first = new_sink(clock, every_s=3600.0)
    first.submit(ALARM)
    assert first.flush()
    assert wait_until(lambda: len(receivers[0].requests) == 1)
    first.close(2.0)
    begun = len(receivers[0].requests)
    second = new_sink(clock, every_s=3600.0)
    assert wait_until(lambda: len(receivers[0].requests) == begun + 1) and is_open(receivers[0], clock)
    second.submit(findings.verdict())
    assert wait_until(lambda: not is_open(receivers[0], clock))
    assert second.flush() and (tmp_path / "alertmanager.json").read_bytes() == b"{}"


def test_what_is_judged_by_another_pod_now_is_not_sent_and_not_ended(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink]
) -> None:
    clock = HandClock()
    sink = new_sink(clock)
    sink.submit(Watching(FIXED, (f"adapter/{ROUTER}", f"adapter/{TONE}")))
    sink.submit(ALARM)
    sink.submit(Watching(FIXED, (f"adapter/{ROUTER}",)))
    assert wait_until(lambda: len(receivers[0].requests) >= 1) and is_open(receivers[0], clock)
    sink.submit(Watching(FIXED, (f"adapter/{TONE}",)))
    time.sleep(0.1)
    begun = len(receivers[0].requests)
    time.sleep(0.1)
    assert len(receivers[0].requests) == begun and is_open(receivers[0], clock)
    clock.advance(ENDS_AFTER * 0.02 + 1)
    assert not is_open(receivers[0], clock), "it ends by itself where nobody else sends it"


def test_a_file_that_holds_no_alerts_is_set_aside(new_sink: Callable[..., Sink], tmp_path: Path) -> None:
    (tmp_path / "alertmanager.json").write_text('{"adapter/a": {"labels": 1, "colour": "red"}}')
    sink = new_sink(HandClock())
    assert sink.status == (True, "0 alerts open, sent 0 times")
    assert (tmp_path / "alertmanager.damaged").exists()


def test_a_disk_that_refuses_what_is_open_holds_up_nothing_and_says_so(
    receivers: tuple[StandIn, StandIn], new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    (tmp_path / "alertmanager.new").mkdir()
    sink = new_sink(HandClock())
    sink.submit(ALARM)
    assert sink.flush() and wait_until(lambda: len(receivers[0].requests) >= 1)
    ok, words = sink.status
    assert not ok and words.startswith("alertmanager.json in state_dir: Is a directory, wanted a folder with room")
    (tmp_path / "alertmanager.new").rmdir()
    assert sink.flush() and sink.status[0] and (tmp_path / "alertmanager.json").exists()
