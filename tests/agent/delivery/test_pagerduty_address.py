from __future__ import annotations

import pytest

from agent.delivery.pagerduty_address import address
from agent.errors import Unfit


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("https://events.pagerduty.com", "https://events.pagerduty.com"),
        ("https://events.pagerduty.com/", "https://events.pagerduty.com"),
        ("https://events.pagerduty.com/v2/enqueue", "https://events.pagerduty.com"),
        ("https://events.eu.pagerduty.com/v2/enqueue/", "https://events.eu.pagerduty.com"),
        ("https://events.pagerduty.com/v2/change/enqueue", "https://events.pagerduty.com"),
        ("https://events.pagerduty.com/v2", "https://events.pagerduty.com"),
        (" https://proxy.example:8443 ", "https://proxy.example:8443"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://[::1]:9/v2/enqueue", "http://[::1]:9"),
        ("http://receiver.monitoring.svc:80", "http://receiver.monitoring.svc:80"),
    ],
)
def test_the_known_path_is_taken_off(written: str, host: str) -> None:
    assert address(written) == host


@pytest.mark.parametrize(
    ("written", "saw"),
    [
        ("events.pagerduty.com", "without https:// and a host"),
        ("https://", "without https:// and a host"),
        ("ftp://events.pagerduty.com", "without https:// and a host"),
        ("https://events.pagerduty.com/generic/2010-04-15/create_event.json", "another path"),
        ("https://events.pagerduty.com/v2/enqueue/v2/enqueue", "another path"),
        ("https://events.pagerduty.com/integration/hunter2/enqueue", "another path"),
        ("https://events.pagerduty.com/v2/enqueue?routing_key=hunter2", "a query"),
        ("https://events.pagerduty.com#hunter2", "a query"),
        ("https://user:hunter2@events.pagerduty.com", "a login"),
        ("https://events.pagerduty.com:hunter2", "cannot be read"),
        ("http://events.pagerduty.com", "would show the routing key"),
        ("http://8.8.8.8", "would show the routing key"),
    ],
)
def test_what_cannot_be_right_is_refused_and_not_repeated(written: str, saw: str) -> None:
    with pytest.raises(Unfit) as refused:
        address(written)
    assert saw in refused.value.actual
    assert refused.value.wanted.startswith("https://events.pagerduty.com or https://events.eu")
    assert "hunter2" not in str(refused.value)
