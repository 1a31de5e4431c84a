"""`gapwatch demo lifecycle`: before a base is swapped, and after the owner has left, in seven acts with one adapter.

`check` says that the swap will lose it, the swap is made anyway, the page comes, `rebuild` makes a successor without
the training data, `accept` tests it, `enrol --replace` ends the incident, and the passport tells all of it. The
commands are those that a person gives; the agent is the one of ``gapwatch run``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from rich.markup import escape
from rich.panel import Panel

from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.cli.lifecycle.accept import AcceptOptions, accept
from agent.cli.lifecycle.check import CheckOptions, check_pair
from agent.cli.lifecycle.passport import PassportOptions, show_passport
from agent.cli.lifecycle.rebuild import STOPPED, RebuildOptions, rebuild_adapter
from agent.clock import Clock
from agent.config import Adapter, Config
from agent.demo.patience import incident_of, next_of
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.show import RoundView, Show
from agent.demo.stage import Stage, replace_folder, ship_release
from agent.demo.story import act, page_text
from agent.lifecycle import passport_file
from agent.records import NoticeReason
from agent.terminal.console import console, say, verdict_table
from detectors.records import Reason, Status

MOST_ROUNDS = 6
SUCCESSOR = "re-expressed"
OWNER = "Ada Lovelace <ada@example.org>"
Running = Callable[[Config], AbstractContextManager[tuple[Show, Callable[[], bool]]]]


@dataclass(slots=True)
class Lifecycle:
    """What happened. checked, rebuilt, accepted, enrolled: exit codes of these commands, None for one that did not run

    cause: of the page; ended_by: why the incident ended; healthy_after: of the round in which it did; history: lines of
    the successor's passport
    """

    healthy: bool = False
    checked: int | None = None
    cause: str = ""
    rebuilt: int | None = None
    accepted: int | None = None
    enrolled: int | None = None
    ended_by: str = ""
    healthy_after: bool = False
    history: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def claims(self) -> list[tuple[bool, str]]:
        """Each with whether it holds."""
        return [
            (self.healthy, "healthy on the base that it was accepted on"),
            (self.checked == 1, "gapwatch check said before the swap that it will be lost"),
            (bool(self.cause), f"the swap was paged: {self.cause.replace('_', ' ') or 'no page'}"),
            (self.rebuilt == 0, "a successor on the new base, from the golden record: no training data, no author"),
            (self.accepted == 0, "it passed the acceptance test on the held-out canaries"),
            (
                self.enrolled == 0 and self.ended_by == NoticeReason.REENROLLED and self.healthy_after,
                "enrol --replace ended the incident, and the successor is healthy",
            ),
            (len(self.history) >= 4, f"its passport tells of it in {len(self.history)} lines"),
        ]

    @property
    def passed(self) -> bool:
        return all(holds for holds, _ in self.claims)


@dataclass(frozen=True, slots=True)
class LifecycleCast:
    """What the acts need. config: with one adapter; running: starts an agent for as long as its context is open"""

    stage: Stage
    config: Config
    receiver: Receiver
    running: Running


class LifecycleStory:
    """Plays the acts in order; ``outcome`` holds the results so far, also when a round does not come in time."""

    def __init__(self, cast: LifecycleCast) -> None:
        self._cast = cast
        self._show = Show()
        self._alive: Callable[[], bool] = lambda: False
        self._release = cast.stage.base.with_name("base.release")
        self.outcome = Lifecycle()

    def play(self) -> Lifecycle:
        """All acts. Raises TimeoutError when a round does not come in time."""
        clock = Clock()
        began = clock.steady()
        self._passport()
        with self._cast.running(self._cast.config) as (self._show, self._alive):
            self._healthy()
            self._check()
            self._swap()
        self._rebuild()
        self._accept()
        with self._cast.running(self._cast.config) as (self._show, self._alive):
            self._ended()
        self._show_history()
        self.outcome.seconds = clock.steady() - began
        return self.outcome

    @property
    def _adapter(self) -> Adapter:
        return self._cast.config.models[0].adapters[0]

    @property
    def _folder(self) -> Path:
        """Of the adapter, as the engine reads it."""
        path = self._adapter.path
        assert path is not None, "the demo's adapters have files"
        return path

    def _passport(self) -> None:
        act("1", "The owner leaves, and the training data is gone: what is left is a passport beside a golden record")
        name, gone = self._adapter.name, Clock().today() - timedelta(days=30)
        settings = (f"owner={OWNER}", "purpose=order lines out of free text", f"data.expires={gone}")
        typed = " ".join(f"--set '{own}'" for own in settings)
        command(f"passport {name} --fill {typed}")
        show_passport(self._cast.stage.config_file, name, PassportOptions(settings, fill=True), json=False)

    def _healthy(self) -> None:
        act("2", "All is well: the adapter is replayed against its golden record")
        for _ in range(MOST_ROUNDS):
            view = self._round()
            if {verdict.status for verdict in view.verdicts} == {Status.HEALTHY}:
                self.outcome.healthy = True
                return

    def _check(self) -> None:
        act("3", "Upstream announces a new release of the base. Will the adapter do on it?")
        stage = self._cast.stage
        ship_release(stage, self._release)
        name = self._adapter.name
        command(f"check --base {self._release.name} --adapter {name}")
        self.outcome.checked = check_pair(CheckOptions(self._release, Path(name)), json=False, config=stage.config_file)

    def _swap(self) -> None:
        act("4", "The swap is made anyway")
        replace_folder(self._release, self._cast.stage.base)
        swapped_at, rounds = Clock().now(), 0
        while not self._show.rounds.empty():  # of the time that the check took
            self._show.rounds.get()
        while rounds < MOST_ROUNDS:
            view = self._round()
            rounds += view.round.at >= swapped_at
            alarms = [verdict for verdict in view.verdicts if verdict.reason is Reason.ALARM and not verdict.covered_by]
            if alarms:
                incident = self._incident("triggered")
                self.outcome.cause = str(alarms[0].cause)
                page, title = page_text(incident), "[bold red]PagerDuty[/bold red]"
                console.print(Panel(page, title=title, border_style="red", width=110))
                return

    def _rebuild(self) -> None:
        act("5", "A successor on the new base: from the golden record and its copies alone")
        name, base = self._adapter.name, self._cast.stage.base
        command(f"rebuild {name} --base {base.name} --no-train")
        wish = RebuildOptions(str(base), self._cast.stage.folder / "rebuilt", train=False)
        self.outcome.rebuilt = rebuild_adapter(self._cast.stage.config_file, name, wish, json=False)
        if self.outcome.rebuilt == STOPPED:
            raise KeyboardInterrupt  # the Ctrl-C that stopped it was meant for the demo

    def _accept(self) -> None:
        """The pod is drained meanwhile, as for any rollout: the incident stays open, and nothing is served."""
        act("6", "The acceptance test, the rollout, and the new reference")
        name, stage = self._adapter.name, self._cast.stage
        candidate = stage.folder / "rebuilt" / SUCCESSOR
        if not candidate.is_dir():
            say("[red]there is no successor to be accepted[/red]")
            return
        command(f"accept {name} --candidate {candidate.relative_to(stage.folder)} --base {stage.base.name}")
        self.outcome.accepted = accept(stage.config_file, name, AcceptOptions(candidate, str(stage.base)), json=False)
        fresh = self._folder.with_name(f"{self._folder.name}.new")
        shutil.copytree(candidate, fresh)
        replace_folder(fresh, self._folder)
        why = "rebuilt on the new base"
        command(f"enrol {name} --replace --why '{why}'")
        self.outcome.enrolled = enrol_adapter(stage.config_file, name, EnrolOptions(replace=True, why=why), json=False)

    def _ended(self) -> None:
        if self.outcome.enrolled != 0:
            return
        for _ in range(MOST_ROUNDS):
            view = self._round()
            ended = [notice.reason for notice in view.notices if notice.kind == "resolve"]
            if ended:
                self.outcome.ended_by = str(ended[0])
                self._incident("resolved")
                say("[green]The incident has ended: the successor is the reference now.[/green]")
            if self.outcome.ended_by and {verdict.status for verdict in view.verdicts} == {Status.HEALTHY}:
                self.outcome.healthy_after = True
                return

    def _show_history(self) -> None:
        act("7", "The passport of the successor")
        name, stage = self._adapter.name, self._cast.stage
        command(f"passport {name}")
        show_passport(stage.config_file, name, PassportOptions(), json=False)
        passport = passport_file.read(self._cast.config.probes.golden_dir, name)
        self.outcome.history = [event.what for event in passport.history] if passport else []

    def _round(self) -> RoundView:
        """The next one in which something was measured."""
        while True:
            view: RoundView = next_of(self._show.rounds, self._alive)
            if any(member.measurements for member in view.round.members):
                title = f"round {view.round.number}: {view.round.duration_s:.1f} s"
                console.print(verdict_table(view.verdicts, title, self._show.sees))
                return view
            say(f"[dim]round {view.round.number}: nothing measured yet; the next measures[/dim]")

    def _incident(self, status: str) -> ReceivedIncident:
        return incident_of(self._cast.receiver, lambda incident: incident.status == status, self._alive)


def command(words: str) -> None:
    console.print()
    console.print(f"[dim]$ gapwatch {escape(words)}[/dim]")
