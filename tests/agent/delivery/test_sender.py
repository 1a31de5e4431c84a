"""What a receiver throttles, refuses or never answers; how often it is asked; and whom that holds up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from agent.clock import HandClock
from agent.delivery.outbox import Entry, Outbox
from agent.delivery.secret_file import SecretFile
from agent.delivery.sender import LONGEST_RETRY_AFTER_S, MINUTE_S, MOST_A_MINUTE, Outcome, Pace, Sender, retry_after
from tests.agent.stand_in import StandIn

PACE = Pace(timeout_s=2.0, retry_s=1.0, max_retry_s=120.0, throttle_s=60.0)


class Service:
    """Takes what is sent with 200; an owner's secret is what its requests carry."""

    def __init__(self, url: str, folder: Path, owners: tuple[str, ...] = ("",)) -> None:
        self._url = url
        self.secrets = {owner: self._file(folder / f"secret-{owner}", owner) for owner in owners}

    def _file(self, file: Path, owner: str) -> SecretFile:
        file.write_text(f"secret of {owner or 'all'}")
        return SecretFile(file, f"secrets.{owner}", "sink test", "a file with a secret", lambda _: "")

    def as_of_now(self, http: httpx.Client, entry: Entry) -> Entry:  # noqa: ARG002
        return entry

    def request(self, entry: Entry, secret: str) -> tuple[str, Any]:
        return self._url + entry.path, {"secret": secret, **entry.body}

    def outcome(self, answer: httpx.Response) -> tuple[Outcome, str]:
        if answer.status_code == 400:
            return Outcome.REFUSED, "no"
        return (Outcome.DONE, "") if answer.is_success else (Outcome.LATER, f"HTTP {answer.status_code}")


@pytest.fixture
def answers() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture
def url(answers: StandIn) -> str:
    return answers.url


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def opened(url: str, clock: HandClock, tmp_path: Path) -> Iterator[Callable[..., Sender]]:
    senders = []

    def make(*owners: str) -> Sender:
        service = Service(url, tmp_path, ("", *owners))
        senders.append(Sender(Outbox(tmp_path / "outbox", 1000), service, PACE, clock, "test", "sinks.test.url"))
        senders[-1].open()
        return senders[-1]

    yield make
    for sender in senders:
        sender.close(2.0)


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 15
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds()


def add(sender: Sender, n: int, key: str = "", owner: str = "") -> None:
    sender.outbox.add(key or f"key {n}", "/", {"n": n}, owner=owner)
    sender.wake()


def settled(sender: Sender, n: int) -> bool:
    """Sent so many, and after two more looks of the sender no more."""
    if not wait_until(lambda: sender.sent == n):
        return False
    for _ in range(2):
        sender.wake()
        time.sleep(0.05)
    return sender.sent == n


def test_no_minute_has_more_requests_than_an_owners_service_takes(
    opened: Callable[..., Sender], clock: HandClock
) -> None:
    sender = opened("platform")
    for n in range(MOST_A_MINUTE + 5):
        add(sender, n)
    add(sender, 99, owner="platform")
    assert settled(sender, MOST_A_MINUTE + 1), "the platform's is another key"
    clock.advance(MINUTE_S - 1)
    sender.wake()
    assert settled(sender, MOST_A_MINUTE + 1)
    clock.advance(1)
    sender.wake()
    assert settled(sender, MOST_A_MINUTE + 6)


def test_a_429_holds_off_its_owner_alone_for_as_long_as_it_says(
    opened: Callable[..., Sender], clock: HandClock, answers: StandIn
) -> None:
    answers.next = [(429, {"Retry-After": "300"})]
    sender = opened("platform")
    add(sender, 0, owner="platform")
    assert wait_until(lambda: not sender.status[0])
    add(sender, 1, owner="platform")
    add(sender, 2)
    assert settled(sender, 1) and answers.bodies[-1] == {"secret": "secret of all", "n": 2}
    clock.advance(299)
    sender.wake()
    assert settled(sender, 1)
    clock.advance(1)
    sender.wake()
    assert settled(sender, 3) and sender.status[0]


def test_a_503_that_says_when_is_tried_again_then(
    opened: Callable[..., Sender], clock: HandClock, answers: StandIn
) -> None:
    answers.next = [(503, {"Retry-After": "200"})]
    sender = opened()
    add(sender, 0)
    assert wait_until(lambda: not sender.status[0])
    add(sender, 1)
    assert settled(sender, 1), "other keys are tried: that of a page may be another server's"
    clock.advance(199)
    sender.wake()
    assert settled(sender, 1)
    clock.advance(1)
    sender.wake()
    assert settled(sender, 2)


def test_what_is_refused_is_set_aside_without_the_secret(
    opened: Callable[..., Sender], answers: StandIn, tmp_path: Path
) -> None:
    answers.next = [(400, {})]  # and it echoes the body
    sender = opened()
    add(sender, 0)
    add(sender, 1)
    assert wait_until(lambda: sender.sent == 1) and sender.refused == 1
    [file] = (tmp_path / "outbox").glob("*.refused")
    assert orjson.loads(file.read_bytes())["why"] == 'HTTP 400: {"secret":"***","n":0}'


def test_what_was_meant_for_an_owner_of_a_former_configuration_goes_to_whoever_gets_the_rest(
    opened: Callable[..., Sender], answers: StandIn
) -> None:
    sender = opened()
    add(sender, 0, owner="gone")
    assert wait_until(lambda: sender.sent == 1)
    assert answers.bodies == [{"secret": "secret of all", "n": 0}]


@pytest.mark.parametrize(
    "value, seconds",
    [("7", 7.0), ("86400", LONGEST_RETRY_AFTER_S), ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("-1", 0.0), (None, 0.0)],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after(httpx.Response(429, headers={"Retry-After": value} if value else {})) == seconds
