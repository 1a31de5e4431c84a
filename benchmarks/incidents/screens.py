"""What a person sees of a reproduced incident: the page as PagerDuty gets it, and ``gapwatch explain``."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from agent.alerting.policy import Policy
from agent.cli.explain import screen, story_of
from agent.cli.query import Answered
from agent.demo.receiver import ReceivedIncident
from agent.demo.story import page_text
from agent.records import Notice
from agent.sinks.pagerduty import Config, to_event
from agent.store import client as store

WIDTH = 110


def page_of(notice: Notice) -> str:
    """The text of the event that is sent."""
    _, body = to_event(notice, Config(routing_key_file=Path("none")), "pod-0", Policy().of_notice(notice))
    return page_text(ReceivedIncident(notice.dedup_key, "triggered", [body])).plain.rstrip()


def explained(folder: Path, dedup_key: str, cluster: str) -> str:
    """``gapwatch explain`` of what lies in ``folder/store``."""
    client = store.connect(f"chdb://{folder / 'store'}")

    def ask_one(name: str, params: Mapping[str, str]) -> Answered:
        columns, rows = store.run_query(client, name, params)
        return list(columns), [list(row) for row in rows]

    now = time.time()
    story = story_of(ask_one, dedup_key, cluster, now)
    client.close()
    if story is None:
        raise RuntimeError(f"no incident {dedup_key} is stored")
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(screen(story, now), highlight=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
