"""What PagerDuty says of an incident that is open: against the stand-in, and answers that are no answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent.delivery.pagerduty_incidents import open_incident
from agent.demo.receiver import Receiver
from agent.errors import Retryable

KEY = "0123456789abcdef0123456789abcdef"
PAGE = {"summary": "s", "source": "pod-0", "severity": "critical"}


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("read-only\n")
    return file


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=2.0) as client:
        yield client


def test_open_then_acknowledged_then_resolved_by_hand(http: httpx.Client, token: Path) -> None:
    with Receiver(api_token="read-only") as receiver:
        trigger = {"routing_key": KEY, "event_action": "trigger", "dedup_key": "a/b c", "payload": PAGE}
        assert http.post(f"{receiver.url}/v2/enqueue", json=trigger).status_code == 202
        assert open_incident(http, receiver.url, token, "another") is None
        found = open_incident(http, receiver.url, token, "a/b c")
        assert found is not None and found.acknowledged_by == () and found.url.startswith("https://")
        receiver.acknowledge("a/b c", "Kim Lee")
        found = open_incident(http, receiver.url, token, "a/b c")
        assert found is not None and [name for name, _ in found.acknowledged_by] == ["Kim Lee"]
        receiver.resolve("a/b c")
        assert open_incident(http, receiver.url, token, "a/b c") is None
        with pytest.raises(Retryable, match="api_token_file: HTTP 401: the token is not accepted") as refused:
            token.write_text("no-such-token")
            open_incident(http, receiver.url, token, "a/b c")
        assert "no-such-token" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>"),
        (200, b"{}"),
        (200, b'{"incidents": 3}'),
        (200, b'{"incidents": [7]}'),
        (429, b""),
        (500, b"{}"),
    ],
)
def test_what_is_no_list_of_incidents_tells_nothing(token: Path, status: int, body: bytes) -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    with (
        httpx.Client(transport=answers) as http,
        pytest.raises(Retryable, match=f"HTTP {status}, wanted a list of incidents"),
    ):
        open_incident(http, "https://api.example", token, "a")


def test_nobody_who_listens_tells_nothing(http: httpx.Client, token: Path) -> None:
    with pytest.raises(Retryable, match="api_url: ConnectError"):
        open_incident(http, "http://127.0.0.1:9", token, "a")


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "saw No such file"), (b"", "saw 0 words"), (b"a b", "saw 2 words"), (b"\xff", "no text")],
)
def test_a_file_without_a_key_tells_nothing_and_says_what_is_wanted(
    http: httpx.Client, tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Retryable, match=f"api_token_file: .*{words}.*, wanted a file with a read-only key"):
        open_incident(http, "http://127.0.0.1:9", file, "a")
