"""One store for the tests of a module, with a story whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agent.alerting.notice import to_notice
from agent.records import Finding, NoticeReason
from agent.store import client as store
from agent.store import migrations
from agent.store.table_rows import Origin
from detectors.records import Status
from tests.agent import findings
from tests.agent.findings import BASE, NOW, TONE
from tests.agent.store.stored import insert
from tests.agent.store.test_questions import story

POD_1 = Origin("prod", "pod-1")
STRANGE = 'l\'été "neuf" 🚀'


def of_this_pod() -> Iterator[Finding]:
    """What the on-call questions are asked of: both adapters and their base are degraded since a minute ago. Before it
    an incident of one adapter that lasted for an hour; the other's golden record shows a loss of 12 %; a strange name.
    """
    yield from story()
    alarm = findings.alarm(NOW - 4 * 3600, subject=TONE)
    yield from (alarm, to_notice(alarm, NoticeReason.DEGRADED, "prod", NOW - 4 * 3600))
    healthy = findings.verdict(at=NOW - 3 * 3600, subject=TONE)
    yield from (healthy, to_notice(healthy, NoticeReason.RECOVERED, "prod", NOW - 3 * 3600))
    yield findings.golden(NOW - 86_400, smallest_loss=0.12, draws=16, tolerance=0.05)
    yield from (findings.heartbeat(NOW - 120), findings.verdict(at=NOW - 60, subject=STRANGE))


def of_another_pod() -> Iterator[Finding]:
    """Healthy, half a minute after the first pod's alarm; silent for ten minutes before that."""
    yield from (replace(findings.heartbeat(at), pod="pod-1") for at in (NOW - 630, NOW - 30))
    yield findings.verdict(at=NOW - 30)
    blind = findings.verdict(Status.UNMONITORABLE, at=NOW - 30, subject=f"{BASE}-adapter")
    yield from (blind, to_notice(blind, NoticeReason.CANNOT_TELL, "prod", NOW - 30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the engine, which a process can have open once: it is until the module is over."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def told(folder: Path) -> Iterator[store.Client]:
    """A store with the story."""
    with closing(filled(folder, "told")) as client:
        yield client


@pytest.fixture
def told_again(told: store.Client, folder: Path) -> Iterator[store.Client]:
    """The same in a database of its own, for a test that takes rows away."""
    with closing(filled(folder, "told_again")) as client:
        yield client


def filled(folder: Path, database: str) -> store.Client:
    client = store.connect(f"chdb://{folder}?database={database}")
    migrations.migrate(client)
    insert(client, *of_this_pod())
    insert(client, *of_another_pod(), place=POD_1)
    return client
