"""Acts 1 to 4 of the demo: healthy rounds, an upstream swap, the page, four questions, the rollback, the resolve.

The agent is the one of ``gapwatch run``; the story only changes files on the volume, as an upstream would, and reads
what the agent produces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from agent.cli.query import ask
from agent.clock import Clock
from agent.config import Config
from agent.demo.patience import incident_of, next_of
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.show import RoundView, Show
from agent.demo.stage import Stage, lay_base, replace_folder, ship_release
from agent.demo.traffic import DemoTraffic
from agent.store.client import query_names
from agent.terminal.console import console, evidence_of, number, rows_table, say, verdict_table
from detectors.records import Cause, Reason, Status

QUESTIONS = ("degraded", "since", "flipped", "requests_since")
HEALTHY_ROUNDS = 2


@dataclass(slots=True)
class Outcome:
    """What happened in these acts. scored, processed: tokens per adapter, most of any round; round_s: the longest"""

    healthy_rounds: int = 0
    healthy_pages: int = 0
    worst_healthy_deviation: float = 0.0
    rounds_to_alarm: int | None = None
    cause: str = ""
    resolved: bool = False
    scored: int = 0
    processed: int = 0
    round_s: float = 0.0
    log_threshold: float = 0.0
    evidence: dict[str, float] = field(default_factory=dict)
    flips: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Detected in the first whole round, named, resolved, and nothing paged while all was well."""
        named = self.cause == Cause.BASE_SWAPPED_AND_ADAPTER_LOST
        return self.rounds_to_alarm == 1 and named and self.resolved and self.healthy_pages == 0


@dataclass(slots=True)
class Cast:
    """What the acts need."""

    stage: Stage
    config: Config
    show: Show
    receiver: Receiver
    traffic: DemoTraffic


class Story:
    """Plays the acts in order; ``outcome`` holds the results so far, also when a round does not come in time."""

    def __init__(self, cast: Cast, alive: Callable[[], bool]) -> None:
        self._cast, self._alive = cast, alive
        self.outcome = Outcome()

    def play(self) -> Outcome:
        """All acts. Raises TimeoutError when a round does not come in time."""
        clock = Clock()
        began = clock.steady()
        self._healthy()
        self._swap()
        self._questions()
        self._roll_back()
        self.outcome.seconds = clock.steady() - began
        return self.outcome

    def _healthy(self) -> None:
        act("1", "All is well: shipped golden records checked by a live replay, healthy traffic flows")
        while self.outcome.healthy_rounds < HEALTHY_ROUNDS:
            view = self._round()
            if not _measured(view):
                continue
            self.outcome.healthy_rounds += 1
            self.outcome.healthy_pages += sum(notice.kind == "trigger" for notice in view.notices)
            for verdict in view.adapters:
                if verdict.retention is not None:
                    far = abs(verdict.retention.mean - 1)
                    self.outcome.worst_healthy_deviation = max(self.outcome.worst_healthy_deviation, far)

    def _swap(self) -> None:
        act("2", "Upstream ships a new release of the base, and the rollout puts it on the volume")
        say("Every answer of the base is the same as before, so every test upstream passes: only the order of its")
        say("hidden units changed. No file of any adapter changes. Nothing crashes. The engine answers 200.")
        fresh = self._cast.stage.base.with_name("base.release")
        ship_release(self._cast.stage, fresh)
        self._cast.traffic.served_by_base = True
        replace_folder(fresh, self._cast.stage.base)
        swapped_at, rounds = Clock().now(), 0
        while rounds < 3 and self.outcome.rounds_to_alarm is None:
            view = self._round()
            # One that began before the swap was answered by the accepted base, at least in part.
            rounds += _measured(view) and view.round.at >= swapped_at
            if any(verdict.reason is Reason.ALARM for verdict in view.verdicts):
                self.outcome.rounds_to_alarm = max(rounds, 1)
                self._caught(view)

    def _caught(self, view: RoundView) -> None:
        paging = [v for v in view.verdicts if v.status is Status.DEGRADED and not v.covered_by]
        self.outcome.cause = str(paging[0].cause)
        self.outcome.log_threshold = paging[0].log_threshold
        self.outcome.evidence = {v.subject: evidence_of(v) for v in view.verdicts if v.evidence}
        incident = self._incident(open_=True)
        console.print(Panel(page_text(incident), title="[bold red]PagerDuty[/bold red]", border_style="red", width=110))

    def _questions(self) -> None:
        act("3", "Four questions of an on-call person, answered by SQL")
        self._texts()
        for name in QUESTIONS:
            columns, rows = ask(self._cast.config, name, {})
            console.print(f"[dim]$ gapwatch query {name}[/dim]")
            console.print(rows_table(columns, rows, title=query_names()[name]))
            if name == "flipped":
                self.outcome.flips = len(rows)

    def _roll_back(self) -> None:
        act("4", "The rollout is undone: the accepted base is back on the volume")
        lay_base(self._cast.stage)
        self._cast.traffic.served_by_base = False
        while not self._cast.show.rounds.empty():  # rounds from before the rollback, finished during act 3
            self._cast.show.rounds.get()
        for _ in range(6):
            view = self._round()
            if any(verdict.reason is Reason.RESOLVED for verdict in view.verdicts):
                self._incident(open_=False)
                self.outcome.resolved = True
                say("[green]The incident resolved itself, on evidence that the fault is over.[/green]")
                return

    def _round(self) -> RoundView:
        view: RoundView = next_of(self._cast.show.rounds, self._alive)
        base_round = view.round
        members = max(1, len(base_round.members))
        self.outcome.scored = max(self.outcome.scored, base_round.tokens_scored // members)
        self.outcome.processed = max(self.outcome.processed, base_round.tokens_processed // members)
        if _measured(view):
            self.outcome.round_s = max(self.outcome.round_s, base_round.duration_s)
        self._table(view)
        self._traffic_line()
        return view

    def _table(self, view: RoundView) -> None:
        """Of a round in which nothing could be measured one line: while files are copied that is as it should be."""
        number, seconds = view.round.number, view.round.duration_s
        if any(member.measurements for member in view.round.members):
            console.print(verdict_table(view.verdicts, f"round {number}: {seconds:.1f} s", self._cast.show.sees))
        else:
            why = ", ".join(sorted({str(verdict.reason).replace("_", " ") for verdict in view.verdicts}))
            say(f"[dim]round {number}: nothing measured yet ({why}), which wakes nobody; the next measures[/dim]")

    def _traffic_line(self) -> None:
        show = self._cast.show
        drift = [f"{name} {side} {number(e.log_e, 1)}" for (name, side), e in sorted(show.drift.items())]
        counts = f"traffic: {show.records_read} records read, {show.kept} sampled"
        console.print(
            f"[dim]{counts}; embedding drift in nats (informs, never pages): {', '.join(drift) or 'no data yet'}[/dim]"
        )

    def _texts(self) -> None:
        """Wait for the regenerated texts of canaries, which come after the alarm."""
        for _ in range(len(self._cast.config.models[0].adapters)):
            next_of(self._cast.show.flips, self._alive)
        Clock().sleep(1.0)  # for the thread that writes to the store

    def _incident(self, open_: bool) -> ReceivedIncident:
        """The base's incident once it is open, or once it is resolved."""

        def matches(incident: ReceivedIncident) -> bool:
            return (incident.status == "triggered") is open_ and "/base/" in incident.dedup_key

        return incident_of(self._cast.receiver, matches, self._alive)


def act(number_: str, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{number_}. {title}[/bold]", align="left"))


def _measured(view: RoundView) -> bool:
    return all(member.measurements for member in view.round.members)


def page_text(incident: ReceivedIncident) -> Text:
    """An incident as the on-call person would read it."""
    payload = incident.events[-1]["payload"]
    text = Text()
    text.append(f"{incident.summary}\n", style="bold")
    text.append(f"severity {payload['severity']}   dedup key {incident.dedup_key}\n", style="dim")
    for key, value in payload["custom_details"].items():
        text.append(f"{key}: ", style="cyan")
        text.append(f"{value}\n")
    return text
