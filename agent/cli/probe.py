"""gapwatch probe: one round of canaries now, as a gate of a release or by hand; the exit code is the worst verdict's.

Evidence starts at 0 and is not saved: this one round alone has to be enough for a page.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from agent.assemble import goldens_of, monitor_of, runner_of
from agent.cli.console import as_json, console, say, verdict_table
from agent.clock import Clock
from agent.config import Config, Model, load
from agent.errors import Refused
from detectors.records import BaseRound, Status, Verdict
from probes.canaries.round import Scheduled, replay_base_round

HEALTHY, DEGRADED, CANNOT_TELL = 0, 1, 2


def probe_now(path: Path, names: Sequence[str], json: bool) -> int:
    """0 healthy; 1 when an adapter would page on this round alone; 2 when one cannot be judged. Raises Refused."""
    config = load(path)
    wanted = set(names) or {a.name for m in config.models for a in m.adapters}
    for name in wanted:
        config.adapter(name)
    verdicts = [v for model in config.models if model.replay for v in _verdicts(config, model, wanted)]
    if json:
        as_json([asdict(verdict) for verdict in verdicts])
    else:
        console.print(verdict_table(verdicts))
        for verdict in verdicts:
            if verdict.status is not Status.HEALTHY and not verdict.covered_by:
                action = f"; first action: {verdict.action}" if verdict.action else ""
                say(escape(f"{verdict.subject}: {verdict.explanation}{action}"))
    return exit_code(verdicts)


def exit_code(verdicts: Sequence[Verdict]) -> int:
    """Of the worst verdict; a round that is only suspect counts as cannot tell."""
    statuses = {verdict.status for verdict in verdicts}
    if Status.DEGRADED in statuses:
        return DEGRADED
    return CANNOT_TELL if statuses & {Status.UNMONITORABLE, Status.SUSPECT} or not verdicts else HEALTHY


def _verdicts(config: Config, model: Model, wanted: set[str]) -> list[Verdict]:
    goldens = {name: golden for name, golden in goldens_of(config, model).items() if name in wanted}
    if not goldens:
        return []
    runner = runner_of(config, model)
    runner.open()
    try:
        seed = secrets.randbits(32) if config.probes.seed is None else config.probes.seed
        scheduled = Scheduled(model.name, 0, Clock().now(), config.probes.token_budget_per_round, seed)
        base_round: BaseRound | None = replay_base_round(runner, goldens, scheduled, lambda: False)
    finally:
        runner.close()
    if base_round is None:
        raise Refused("probe", "nothing replayed", "a round that was not interrupted")
    return list(monitor_of(config).observe(base_round).verdicts)
