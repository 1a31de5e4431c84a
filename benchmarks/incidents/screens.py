"""What a person sees of a reproduced incident: the page as PagerDuty gets it, and ``gapwatch explain``."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from agent.alerting.policy import Policy
from agent.cli.explain import screen, story_of
from agent.cli.query import Answered
from agent.demo.receiver import ReceivedIncident
from agent.demo.story import page_text
from agent.records import Notice
from agent.sinks import clickhouse
from agent.sinks.pagerduty import Config, to_event
from agent.store import client as store
from agent.surroundings import Surroundings

CLUSTER, POD = "test", "pod-0"
WIDTH = 110
STORED_WITHIN_S = 300.0


def page_of(notice: Notice) -> str:
    """The text of the event that is sent."""
    _, body = to_event(notice, Config(routing_key_file=Path("none")), POD, Policy().of_notice(notice))
    return page_text(ReceivedIncident(notice.dedup_key, "triggered", [body])).plain.rstrip()


def storing(folder: Path) -> clickhouse.Sink:
    """Into ``folder/store``, an embedded one: there is one of these in a process."""
    return clickhouse.Sink(clickhouse.Config(dsn=_dsn(folder)), Surroundings(CLUSTER, POD, folder / "sink"))


def _dsn(folder: Path) -> str:
    return f"chdb://{folder / 'store'}"


def explained(folder: Path, dedup_key: str) -> str:
    """``gapwatch explain`` of what lies in ``folder/store``."""
    client = store.connect(_dsn(folder))

    def ask_one(name: str, params: Mapping[str, str]) -> Answered:
        columns, rows = store.run_query(client, name, params)
        return list(columns), [list(row) for row in rows]

    now = time.time()
    story = story_of(ask_one, dedup_key, CLUSTER, now)
    client.close()
    if story is None:
        raise RuntimeError(f"no incident {dedup_key} is stored")
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(screen(story, now), highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def store_all(store: clickhouse.Sink, meanwhile: Callable[[], object]) -> None:
    """Waits until all that was submitted lies in the store. meanwhile: done between two looks. Raises TimeoutError."""
    give_up = time.monotonic() + STORED_WITHIN_S
    while not (store.flush() and store.waiting == 0):
        if time.monotonic() > give_up:
            raise TimeoutError(store.status[1])
        meanwhile()
        time.sleep(0.05)
