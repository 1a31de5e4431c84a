"""gapwatch enrol: record what an adapter does while it is known good, and pin it."""

from __future__ import annotations

import time
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agent.assemble import log_threshold, runner_of
from agent.config import Adapter, Config, Model, load
from agent.errors import Refused
from agent.screen import as_json, console, people_to_stderr, say
from detectors.score import Tolerances
from probes import errors as probe_errors
from probes.base_files import resolve
from probes.canary import CanarySet, read_canaries
from probes.enrol import EnrolSettings, enrol
from probes.golden import Golden
from probes.golden_files import newest, save, time_after
from probes.golden_weights import keep
from probes.replay import Runner

UNMONITORABLE = 2


def enrol_adapter(path: Path, name: str, replace: bool, why: str, json: bool) -> int:
    """Write a golden record and say what it promises. 2 when the adapter cannot be monitored. Raises Refused."""
    if json:
        people_to_stderr()
    config = load(path)
    model, adapter = config.adapter(name)
    previous = newest(config.probes.golden_dir, name)
    _check_wanted(name, previous, replace, why)
    if adapter.canaries is None:
        raise Refused(f"adapter {name}: canaries", "nothing", "a JSONL file of prompts to replay")
    try:
        golden = _record(config, model, adapter, why, previous or "")
    except (probe_errors.Refused, probe_errors.Unsupported, probe_errors.Unreplayable) as error:
        if json:
            as_json({"adapter": name, "refused": str(error)})
        else:
            say(f"[red]refused[/red] {escape(str(error))}")
        return UNMONITORABLE
    if not golden.power.monitorable:  # written, it would be the newest record, and a running agent would take it
        _say(golden, "", json)
        return UNMONITORABLE
    hash_ = save(golden, config.probes.golden_dir)
    if config.probes.keep_golden_weights:
        keep(resolve(model.path, config.probes.cache_dir), config.probes.golden_dir)
    _say(golden, hash_, json)
    return 0


def _check_wanted(name: str, previous: str | None, replace: bool, why: str) -> None:
    """A reference is never moved by accident, and never without a reason."""
    if previous and not replace:
        raise Refused(
            f"adapter {name}", f"accepted already as {previous}", "--replace --why TEXT for a release that is meant"
        )
    if replace and not why.strip():
        raise Refused("--why", repr(why), "the reason why this release is accepted, in words")


def _record(config: Config, model: Model, adapter: Adapter, why: str, previous: str) -> Golden:
    canaries: CanarySet = read_canaries(adapter.canaries or Path())
    runner: Runner = runner_of(config, model, golden=False)
    others = [other.name for other in model.adapters if other.name != adapter.name]
    settings = EnrolSettings(
        base=model.name,
        at=time_after(config.probes.golden_dir, previous, time.time()),
        why=why,
        previous=previous,
        tolerances=Tolerances(scale=adapter.tolerance, after_release=config.alerts.tolerance_after_release),
        log_threshold=log_threshold(config),
        token_budget=config.probes.token_budget_per_round,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    runner.open()
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            tasks: dict[str, object] = {}

            def told(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = progress.add_task(step, total=total)
                    if not console.is_terminal:
                        say(f"{step} ...")
                progress.update(tasks[step], completed=done, total=total)  # type: ignore[arg-type]

            return enrol(runner, adapter.name, canaries, settings, others, told, lambda: False)
    finally:
        runner.close()


def _say(golden: Golden, hash_: str, json: bool) -> None:
    facts = {
        "adapter": golden.adapter,
        "golden": hash_,
        "base": golden.base_hash,
        "canaries": {"selected": len(golden.pool), "held_out": len(golden.held_out), "excluded": len(golden.excluded)},
        "power": golden.power.words,
        "monitorable": golden.power.monitorable,
    }
    if json:
        as_json(facts)
        return
    say(f"[bold]{golden.adapter}[/bold] {f'recorded as {hash_}' if hash_ else 'not recorded'}")
    say(golden.power.words)
    if not hash_:
        return
    say(f'pin it:  golden: "{hash_}"')
