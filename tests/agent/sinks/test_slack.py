"""One message for each notice, within Slack's limits; the webhook's address is a secret."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.alerting.notice import to_notice
from agent.alerting.policy import Policy, Rule, Severity
from agent.clock import HandClock
from agent.delivery.links import links
from agent.records import NoticeReason
from agent.sinks.slack import MAX_FIELD, MAX_TEXT, Config, Sink, to_message
from agent.surroundings import Surroundings
from detectors.records import Cause, Status, Verdict
from tests.agent import findings
from tests.agent.findings import FIXED, SWAPPED
from tests.agent.golden_file import assert_golden
from tests.agent.stand_in import StandIn

POLICY = Policy(causes={"base_swapped_and_adapter_lost": Rule(owner="models")})
WARNED = Policy(causes={"base_swapped_and_adapter_lost": Rule(severity=Severity.WARNING)})
CONFIG = Config(
    webhook_file=Path("webhook"), runbook_url="https://wiki/{cause}", dashboard_url="https://graphs/{subject}"
)


def message(verdict: Verdict, reason: NoticeReason, policy: Policy = POLICY) -> dict[str, Any]:
    notice = to_notice(verdict, reason, "prod", FIXED)
    return to_message(notice, policy.of_notice(notice), links(verdict, CONFIG, "engine-0"), "engine-0")


def lengths(body: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """(length, limit) of each text."""
    yield len(body["text"]), MAX_TEXT
    for block in body["blocks"]:
        if "text" in block:
            yield len(block["text"]["text"]), MAX_TEXT
        for part in (*block.get("fields", ()), *block.get("elements", ())):
            yield len(part["text"]), MAX_FIELD


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 15
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


@pytest.fixture
def slack() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture
def new_sink(tmp_path: Path) -> Iterator[Callable[..., Sink]]:
    opened: list[Sink] = []

    def make(clock: HandClock) -> Sink:
        config = Config(webhook_file=tmp_path / "webhook")
        opened.append(Sink(config, Surroundings("prod", "pod-0", tmp_path, clock=clock)))
        opened[-1].open()
        return opened[-1]

    yield make
    for sink in opened:
        sink.close(2.0)


def test_one_message_as_it_goes_out() -> None:
    body = message(findings.alarm(FIXED, reopenings=1), NoticeReason.DEGRADED)
    assert_golden("slack_message.json", orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")


def test_several_steps_are_a_line_each_and_the_call_of_the_engine_follows_them() -> None:
    lost = findings.alarm(
        FIXED,
        cause=Cause.ADAPTER_NOT_APPLIED,
        answered_by="vllm 0.32.0, prompt",
        action="look at its log; then load it",
    )
    texts = [block["text"]["text"] for block in message(lost, NoticeReason.DEGRADED)["blocks"] if "text" in block]
    (order,) = [text for text in texts if text.startswith("First:")]
    assert order.startswith("First:\n1. look at its log\n2. load it\nLoad again: POST /v1/load_lora_adapter")


@pytest.mark.parametrize("reason", list(NoticeReason))
def test_every_reason_fits_the_limits_of_a_message(reason: NoticeReason) -> None:
    status = Status.UNMONITORABLE if reason is NoticeReason.CANNOT_TELL else Status.HEALTHY
    body = message(findings.verdict(status, identity=SWAPPED, explanation="<!channel> & " * 1000), reason)
    assert all(0 < length <= limit for length, limit in lengths(body))
    assert len(body["blocks"]) <= 50 and "<!channel>" not in orjson.dumps(body).decode()


def test_the_first_sign_says_how_urgent_it_is_or_that_it_is_over() -> None:
    signs = [
        message(findings.alarm(FIXED), NoticeReason.DEGRADED)["text"].split()[0],
        message(findings.alarm(FIXED), NoticeReason.DEGRADED, WARNED)["text"].split()[0],
        message(findings.verdict(), NoticeReason.RECOVERED)["text"].split()[0],
        message(findings.verdict(identity=SWAPPED), NoticeReason.BASE_MOVED)["text"].split()[0],
    ]
    assert signs == [":red_circle:", ":large_yellow_circle:", ":white_check_mark:", ":information_source:"]


def test_a_message_waits_for_its_webhook_and_for_a_slack_that_throttles(
    slack: StandIn, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    clock = HandClock()
    sink = new_sink(clock)
    sink.submit(to_notice(findings.alarm(FIXED), NoticeReason.DEGRADED, "prod", FIXED))
    assert sink.flush() and "sinks.slack.webhook_file: saw No such file" in sink.status[1]
    slack.next = [(429, {"Retry-After": "30"})]
    (tmp_path / "webhook").write_text(slack.url)
    assert wait_until(lambda: "HTTP 429" in sink.status[1])
    clock.advance(31.0)
    assert wait_until(lambda: sink.status[0]) and "1 sent" in sink.status[1]
    assert slack.bodies[0] == slack.bodies[1] and len(slack.bodies) == 2


def test_a_webhook_that_is_gone_keeps_the_message_and_no_word_of_its_address(
    slack: StandIn, new_sink: Callable[..., Sink], tmp_path: Path
) -> None:
    slack.next = [(404, {})]
    (tmp_path / "webhook").write_text(f"{slack.url}/services/T0/B0/hunter2")
    sink = new_sink(HandClock())
    sink.submit(to_notice(findings.alarm(FIXED), NoticeReason.DEGRADED, "prod", FIXED))
    assert wait_until(lambda: not sink.status[0])
    assert sink.status[1].startswith("HTTP 404: is the webhook still there, and its channel?; 1 waiting")
    assert not any(b"hunter2" in file.read_bytes() for file in (tmp_path / "slack").iterdir())


def test_an_end_names_neither_severity_nor_owner_because_it_names_no_cause() -> None:
    end = message(findings.verdict(), NoticeReason.RECOVERED)["blocks"][-1]
    assert end["elements"][0]["text"] == "the incident is over; gapwatch explain adapter/ticket-router"
