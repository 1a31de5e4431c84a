"""Act 5 of the demo: canaries are switched off, and serving goes wrong without any change of a file.

The engine loses its adapters and answers with the base under their names. Nothing on the volume changes, so no replay
of the volume could detect it: the sampled responses are the only evidence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.markup import escape
from rich.panel import Panel

from agent.alerting.notice_text import subject_words
from agent.cli.query import ask
from agent.clock import Clock
from agent.config import Config
from agent.demo.patience import incident_of, next_of
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.show import ResponsesView, Show
from agent.demo.story import act, page_text
from agent.demo.traffic import DemoTraffic
from agent.store.client import query_names
from agent.terminal.console import console, rows_table, say, verdict_table
from detectors.records import Cause, Reason, Status

MOST_ROUNDS, MOST_ROWS, QUIET_ROUNDS = 6, 4, 12
SHOWN = ("at", "adapter", "pod", "scored", "tokens", "against", "most_likely")


@dataclass(slots=True)
class Served:
    """The result of the act. healthy: responses scored while all was well; pages: sent in that time; adapters: how many

    responses: adapter that alarmed -> how many of its responses since the loss had been scored by then
    causes: adapter that alarmed -> cause; open_incidents: subjects at the receiver once all adapters have alarmed: only
    the base, whose incident covers them
    """

    healthy: int = 0
    pages: int = 0
    responses: dict[str, int] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, float] = field(default_factory=dict)
    adapters: int = 0
    open_incidents: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        named = set(self.causes.values()) == {Cause.ADAPTER_NOT_APPLIED.value}
        covered = len(self.open_incidents) == 1 and self.open_incidents[0].startswith("base/")
        return self.healthy > 0 and self.pages == 0 and named and covered and len(self.causes) == self.adapters


@dataclass(slots=True)
class ServedCast:
    """What the act needs."""

    config: Config
    show: Show
    receiver: Receiver
    traffic: DemoTraffic


class ServedStory:
    """Healthy responses, then those of the base, until every adapter has alarmed: one incident on their base."""

    def __init__(self, cast: ServedCast, alive: Callable[[], bool]) -> None:
        self._cast, self._alive = cast, alive
        self.outcome = Served()

    def play(self) -> Served:
        """Raises TimeoutError when no round comes in time."""
        act("5", "The same loss where no file shows it: canaries are off, and responses are scored instead")
        self._healthy()
        say("The engine loses its adapters. No file changes; it answers 200, lists them, and serves the base.")
        lost_at = Clock().now()
        self._cast.traffic.served_by_base = True
        self._until_caught(lost_at)
        return self.outcome

    def _healthy(self) -> None:
        """Rounds until one in which every adapter is healthy."""
        for _ in range(MOST_ROUNDS):
            view = self._round()
            self.outcome.adapters = len(view.round.adapters)
            self.outcome.healthy += len(view.scored)
            self.outcome.pages += sum(notice.kind == "trigger" for notice in view.notices)
            if {verdict.status for verdict in view.verdicts} == {Status.HEALTHY}:
                return

    def _until_caught(self, lost_at: float) -> None:
        """Responses from before the loss may still be waiting to be scored: only later ones count."""
        scored: Counter[str] = Counter()
        rounds = 0
        while rounds < MOST_ROUNDS and len(self.outcome.causes) < self.outcome.adapters:
            view = self._round()
            since = [score.adapter for score in view.scored if score.at >= lost_at]
            scored.update(since)
            rounds += bool(since)
            for verdict in view.adapters:
                if verdict.reason is Reason.ALARM:
                    name = verdict.subject
                    self.outcome.causes[name], self.outcome.responses[name] = verdict.cause.value, scored[name]
                    self.outcome.evidence[name] = max(e.log_e for e in verdict.evidence if e.pages)
        if self.outcome.causes:
            self._caught()

    def _caught(self) -> None:
        def open_on_base(incident: ReceivedIncident) -> bool:
            return incident.status == "triggered" and "/base/" in incident.dedup_key

        incident = incident_of(self._cast.receiver, open_on_base, self._alive)
        console.print(Panel(page_text(incident), title="[bold red]PagerDuty[/bold red]", border_style="red", width=110))
        Clock().sleep(1.0)  # for the threads that write to the store and resolve the incidents covered by the base's
        still_open = [incident.dedup_key for incident in self._cast.receiver.open_incidents]
        self.outcome.open_incidents = tuple("/".join(key.split("/")[-2:]) for key in still_open)
        columns, rows = ask(self._cast.config, "responses", {})
        shown = [columns.index(name) for name in SHOWN]
        console.print("[dim]$ gapwatch query responses[/dim] (some of its columns)")
        few = [[row[i] for i in shown] for row in rows[:MOST_ROWS]]
        console.print(rows_table(SHOWN, few, title=query_names()["responses"]))

    def _round(self) -> ResponsesView:
        """The next round in which a response was scored."""
        for _ in range(QUIET_ROUNDS):
            view = next_of(self._cast.show.responses, self._alive)
            if view.scored:
                self._table(view)
                return view
        raise TimeoutError("no response was scored")

    def _table(self, view: ResponsesView) -> None:
        """Subjects without a response in this round are named below it: nothing of theirs was there to judge."""
        judged = [verdict for verdict in view.verdicts if verdict.reason is not Reason.NO_TRAFFIC]
        title = f"round {view.round.number}: {len(view.scored)} responses"
        console.print(verdict_table(judged, title, self._cast.show.sees))
        waiting = [subject_words(verdict) for verdict in view.verdicts if verdict.reason is Reason.NO_TRAFFIC]
        if waiting:
            say(f"[dim]no response scored yet in this round, so nothing to judge: {escape(', '.join(waiting))}[/dim]")
