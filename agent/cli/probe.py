"""gapwatch probe: one round of canaries now, as a gate of a release or by hand; the exit code is the worst verdict's.

Evidence starts at 0 and is not saved: this one round alone has to be enough for a page. Where it is, faults are
replayed for the cause, as the agent does after an alarm.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape

from agent.alerting.notice_text import FIRST_ACTION, ROLL_BACK, runbook_of, smallest_loss_words
from agent.alerting.policy import Policy
from agent.assemble import monitor_of
from agent.clock import Clock
from agent.config import Config, Model, load
from agent.errors import Refused
from agent.lifecycle.watched import without_retired
from agent.terminal.console import as_json, console, people_to_stderr, say, verdict_table
from agent.worker.cause_replays import CauseReplays, InForce
from agent.worker.watched_bases import goldens_of, runner_of
from detectors.monitor import Monitor
from detectors.records import BaseRound, Status, SubjectKind, Verdict
from probes.canaries.round import Scheduled, replay_base_round
from probes.golden.record import Golden
from probes.golden.smallest_loss import smallest_loss
from probes.golden.statistical_power import StrengthLoss
from probes.runner import Breakable, Runner

HEALTHY, DEGRADED, CANNOT_TELL = 0, 1, 2


class _Probed(NamedTuple):
    """One base's round, the verdicts on it, and by adapter the smallest loss that would page; None: not known."""

    round: BaseRound
    verdicts: list[Verdict]
    losses: dict[str, StrengthLoss | None]


def probe_now(path: Path, names: Sequence[str], json: bool) -> int:
    """0 healthy; 1 when an adapter would page on this round alone; 2 when one cannot be judged. Raises Refused."""
    if json:
        people_to_stderr()
    config = without_retired(load(path))
    wanted = set(config.names_of(names))
    for name in wanted:
        config.adapter(name)
    for model in config.models:
        if wanted & {adapter.name for adapter in model.adapters} and (why := config.left_to_others.get(model.name)):
            say(f"[yellow]![/yellow] {escape(why)}")
    probed = [done for model in config.replayed if (done := _probed(config, model, wanted)) is not None]
    verdicts = [verdict for done in probed for verdict in done.verdicts]
    losses = {adapter: loss for done in probed for adapter, loss in done.losses.items()}
    if json:
        as_json([_as_row(verdict, losses) for verdict in verdicts])
    else:
        console.print(verdict_table(verdicts, sees={name: _loss_in_words(loss) for name, loss in losses.items()}))
        for line in (line for done in probed for line in _in_words(done, config.alerts.policy)):
            say(escape(line))
    return exit_code(verdicts)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """Of the worst verdict; a round that is only suspect counts as cannot tell."""
    statuses = {verdict.status for verdict in verdicts}
    if Status.DEGRADED in statuses:
        return DEGRADED
    return CANNOT_TELL if statuses & {Status.UNMONITORABLE, Status.SUSPECT} or not verdicts else HEALTHY


def _as_row(verdict: Verdict, losses: Mapping[str, StrengthLoss | None]) -> dict[str, Any]:
    """The verdict, and of an adapter the smallest loss of strength that would page: 0 none, 1 all of it."""
    loss = losses.get(verdict.subject) if verdict.subject_kind is SubjectKind.ADAPTER else None
    return asdict(verdict) | {"smallest_loss": 1 - loss.strength if loss else None}


def _loss_in_words(loss: StrengthLoss | None) -> str:
    return smallest_loss_words(1 - loss.strength, loss.draws or 0) if loss else smallest_loss_words(None, 0)


def _in_words(done: _Probed, policy: Policy) -> Iterator[str]:
    """What each verdict that is not healthy says, in the words of its page; of a healthy adapter who answered, and the
    facts of its round: a route that is blind shows only there."""
    facts = {member.adapter: member.facts for member in done.round.members}
    for verdict in done.verdicts:
        if verdict.covered_by:
            continue
        if verdict.status is not Status.HEALTHY:
            yield f"{verdict.subject}: {verdict.explanation}"
            yield from _to_do(verdict, policy)
        elif verdict.subject_kind is SubjectKind.ADAPTER:
            by_whom = [f"answered by {verdict.answered_by}"] if verdict.is_of_engine else []
            if words := (*by_whom, *facts.get(verdict.subject, ())):
                yield f"{verdict.subject}: {'; '.join(words)}"


def _to_do(verdict: Verdict, policy: Policy) -> Iterator[str]:
    """As a page has it."""
    page = runbook_of(verdict)
    lines = {
        FIRST_ACTION: verdict.action,
        ROLL_BACK: policy.roll_back(verdict),
        "runbook": f"gapwatch runbook {page}" if page else "",
    }
    yield from (f"  {name}: {words}" for name, words in lines.items() if words)


def _probed(config: Config, model: Model, wanted: set[str]) -> _Probed | None:
    """None where none of its adapters is wanted."""
    goldens = {name: golden for name, golden in goldens_of(config, model).items() if name in wanted}
    if not goldens:
        return None
    runner = runner_of(config, model)
    runner.open()
    try:
        seed = secrets.randbits(32) if config.probes.seed is None else config.probes.seed
        scheduled = Scheduled(model.name, 0, Clock().now(), config.probes.token_budget_per_round, seed)
        base_round: BaseRound | None = replay_base_round(runner, goldens, scheduled, lambda: False)
        if base_round is None:
            raise Refused("probe", "nothing replayed", "a round that was not interrupted")
        losses = {name: smallest_loss(golden) for name, golden in goldens.items() if isinstance(golden, Golden)}
        return _Probed(base_round, _judged(monitor_of(config), base_round, runner, goldens), losses)
    finally:
        runner.close()


def _judged(monitor: Monitor, base_round: BaseRound, runner: Runner, goldens: InForce) -> list[Verdict]:
    """The verdicts on the round, an alarm's with the cause that replayed faults give it."""
    verdicts = {(v.subject_kind, v.subject): v for v in monitor.observe(base_round).verdicts}
    causes = CauseReplays(Clock())
    causes.submit(base_round)
    for verdict in verdicts.values():
        causes.submit(verdict)
    if causes.waiting and isinstance(runner, Breakable):
        say("replaying faults on the accepted base and adapters, to name the cause ...")
    while causes.waiting:
        replayed = causes.step(runner, goldens, lambda: False)
        if replayed is not None:
            verdicts |= {(v.subject_kind, v.subject): v for v in monitor.observe(replayed).verdicts}
    return list(verdicts.values())
