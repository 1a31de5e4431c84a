"""The last act: canaries are switched off, and what is served goes wrong where no file shows it.

The engine loses its adapters and answers with the base under their names. Nothing on the volume changes, so nothing
that replays the volume could see it; the sampled responses are all there is.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.panel import Panel

from agent.commands.query import ask
from agent.config import Config
from agent.demo.receiver import Incident, Receiver
from agent.demo.show import ResponsesView, Show
from agent.demo.story import act, page_text
from agent.demo.traffic import Traffic
from agent.screen import console, rows_table, say, verdict_table
from agent.store import query_names
from detectors.records import Cause, Reason, Status

PATIENCE_S = 120.0
MOST_ROUNDS, MOST_ROWS = 6, 4
SHOWN = ("at", "adapter", "pod", "scored", "tokens", "against", "most_likely")


@dataclass(slots=True)
class Served:
    """What the act claims. heard: responses scored while all was well; responses: scored until the alarm, by adapter
    that alarmed; causes: adapter -> as named; pages: while all was well; adapters: how many are served"""

    heard: int = 0
    pages: int = 0
    responses: dict[str, int] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, float] = field(default_factory=dict)
    adapters: int = 0

    @property
    def passed(self) -> bool:
        named = set(self.causes.values()) == {Cause.ADAPTER_NOT_APPLIED.value}
        return self.heard > 0 and self.pages == 0 and named and len(self.causes) == self.adapters


@dataclass(slots=True)
class ServedCast:
    """Everybody on stage."""

    config: Config
    show: Show
    receiver: Receiver
    traffic: Traffic


class ServedStory:
    """Healthy responses, then the base's, until every adapter that was heard has paged."""

    def __init__(self, cast: ServedCast, alive: Callable[[], bool]) -> None:
        self._cast, self._alive = cast, alive
        self.seen = Served()

    def play(self) -> Served:
        """Raises TimeoutError when the agent falls silent."""
        act("5", "The same loss where no file shows it: canaries are off, responses are all there is")
        self._healthy()
        say("The engine loses its adapters. No file changes; it answers 200, lists them, and serves the base.")
        self._cast.traffic.served_by_base = True
        self._until_caught()
        return self.seen

    def _healthy(self) -> None:
        for _ in range(MOST_ROUNDS):
            view = self._round()
            self.seen.adapters = len(view.round.adapters)
            self.seen.heard += len(view.scored)
            self.seen.pages += sum(notice.kind == "trigger" for notice in view.notices)
            if {verdict.status for verdict in view.verdicts} == {Status.HEALTHY}:
                return

    def _until_caught(self) -> None:
        heard: dict[str, int] = {}
        for _ in range(MOST_ROUNDS):
            view = self._round()
            for verdict in view.verdicts:
                name = verdict.subject
                if name in self.seen.causes:
                    continue
                heard[name] = heard.get(name, 0) + sum(score.adapter == name for score in view.scored)
                if verdict.reason is Reason.ALARM:
                    self.seen.causes[name], self.seen.responses[name] = verdict.cause.value, heard[name]
                    self.seen.evidence[name] = max(e.log_e for e in verdict.evidence if e.pages)
            if len(self.seen.causes) == len(view.round.adapters):
                break
        if self.seen.causes:
            self._caught(next(iter(self.seen.causes)))

    def _caught(self, name: str) -> None:
        incident = self._incident(name)
        console.print(Panel(page_text(incident), title="[bold red]PagerDuty[/bold red]", border_style="red", width=110))
        time.sleep(1.0)  # the store's writer is a thread of its own
        columns, rows = ask(self._cast.config, "responses", {})
        shown = [columns.index(name) for name in SHOWN]
        console.print("[dim]$ gapwatch query responses[/dim] (some of its columns)")
        few = [[row[i] for i in shown] for row in rows[:MOST_ROWS]]
        console.print(rows_table(SHOWN, few, title=query_names()["responses"]))

    def _round(self) -> ResponsesView:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                view = self._cast.show.responses.get(timeout=0.2)
            except queue.Empty:
                if not self._alive():
                    break
                continue
            if view.scored:
                title = f"round {view.round.number}: {len(view.scored)} responses"
                console.print(verdict_table(view.verdicts, title=title))
                return view
        raise TimeoutError("the agent fell silent")

    def _incident(self, name: str) -> Incident:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._alive():
            for incident in self._cast.receiver.incidents:
                if incident.status == "triggered" and incident.dedup_key.endswith(f"/adapter/{name}"):
                    return incident
            time.sleep(0.05)
        raise TimeoutError("the event did not arrive at the receiver")
