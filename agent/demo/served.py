"""The last act: canaries are switched off, and what is served goes wrong where no file shows it.

The engine loses its adapters and answers with the base under their names. Nothing on the volume changes, so nothing
that replays the volume could see it; the sampled responses are all there is.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.panel import Panel

from agent.cli.console import console, rows_table, say, verdict_table
from agent.cli.query import ask
from agent.clock import Clock
from agent.config import Config
from agent.demo.patience import incident_of, next_of
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.show import ResponsesView, Show
from agent.demo.story import act, page_text
from agent.demo.traffic import DemoTraffic
from agent.store.client import query_names
from detectors.records import Cause, Reason, Status

MOST_ROUNDS, MOST_ROWS, QUIET_ROUNDS = 6, 4, 12
SHOWN = ("at", "adapter", "pod", "scored", "tokens", "against", "most_likely")


@dataclass(slots=True)
class Served:
    """What the act claims. heard: responses scored while all was well; pages: likewise; adapters: how many are served

    responses: adapter that alarmed -> its responses since the loss that were scored until then; causes: as named
    open_incidents: at the receiver once all of them have alarmed, subjects; the base speaks for all
    """

    heard: int = 0
    pages: int = 0
    responses: dict[str, int] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, float] = field(default_factory=dict)
    adapters: int = 0
    open_incidents: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        named = set(self.causes.values()) == {Cause.ADAPTER_NOT_APPLIED.value}
        one = len(self.open_incidents) == 1 and self.open_incidents[0].startswith("base/")
        return self.heard > 0 and self.pages == 0 and named and one and len(self.causes) == self.adapters


@dataclass(slots=True)
class ServedCast:
    """Everybody on stage."""

    config: Config
    show: Show
    receiver: Receiver
    traffic: DemoTraffic


class ServedStory:
    """Healthy responses, then the base's, until every adapter has alarmed: one incident on their base."""

    def __init__(self, cast: ServedCast, alive: Callable[[], bool]) -> None:
        self._cast, self._alive = cast, alive
        self.seen = Served()

    def play(self) -> Served:
        """Raises TimeoutError when the agent falls silent."""
        act("5", "The same loss where no file shows it: canaries are off, and responses are scored instead")
        self._healthy()
        say("The engine loses its adapters. No file changes; it answers 200, lists them, and serves the base.")
        lost_at = Clock().now()
        self._cast.traffic.served_by_base = True
        self._until_caught(lost_at)
        return self.seen

    def _healthy(self) -> None:
        """Rounds until one says of every adapter that it is healthy."""
        for _ in range(MOST_ROUNDS):
            view = self._round()
            self.seen.adapters = len(view.round.adapters)
            self.seen.heard += len(view.scored)
            self.seen.pages += sum(notice.kind == "trigger" for notice in view.notices)
            if {verdict.status for verdict in view.verdicts} == {Status.HEALTHY}:
                return

    def _until_caught(self, lost_at: float) -> None:
        """Responses from before the loss may still be waiting to be scored: only those since then count."""
        heard: Counter[str] = Counter()
        rounds = 0
        while rounds < MOST_ROUNDS and len(self.seen.causes) < self.seen.adapters:
            view = self._round()
            since = [score.adapter for score in view.scored if score.at >= lost_at]
            heard.update(since)
            rounds += bool(since)
            for verdict in view.adapters:
                if verdict.reason is Reason.ALARM:
                    name = verdict.subject
                    self.seen.causes[name], self.seen.responses[name] = verdict.cause.value, heard[name]
                    self.seen.evidence[name] = max(e.log_e for e in verdict.evidence if e.pages)
        if self.seen.causes:
            self._caught()

    def _caught(self) -> None:
        def is_it(seen: ReceivedIncident) -> bool:
            return seen.status == "triggered" and "/base/" in seen.dedup_key

        incident = incident_of(self._cast.receiver, is_it, self._alive)
        console.print(Panel(page_text(incident), title="[bold red]PagerDuty[/bold red]", border_style="red", width=110))
        time.sleep(
            1.0
        )  # the store's writer is a thread of its own, and so is the one that ends what the base took over
        still = [seen.dedup_key for seen in self._cast.receiver.open_incidents]
        self.seen.open_incidents = tuple("/".join(key.split("/")[-2:]) for key in still)
        columns, rows = ask(self._cast.config, "responses", {})
        shown = [columns.index(name) for name in SHOWN]
        console.print("[dim]$ gapwatch query responses[/dim] (some of its columns)")
        few = [[row[i] for i in shown] for row in rows[:MOST_ROWS]]
        console.print(rows_table(SHOWN, few, title=query_names()["responses"]))

    def _round(self) -> ResponsesView:
        """The next one in which a response was scored."""
        for _ in range(QUIET_ROUNDS):
            view = next_of(self._cast.show.responses, self._alive)
            if view.scored:
                title = f"round {view.round.number}: {len(view.scored)} responses"
                console.print(verdict_table(view.verdicts, title=title))
                return view
        raise TimeoutError("no response was scored")
