"""gapwatch retire: take an adapter off the watch, and keep what a successor needs. Only --forget deletes that too."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from agent.cli.query import ask
from agent.clock import Clock
from agent.config import Config, load
from agent.errors import AgentError, Refused
from agent.lifecycle import history, passport_file, retirement
from agent.lifecycle.retirement import PAIRS, PROMPTS, Retirement, Stored
from agent.proposals.prompt_sources import QUESTION, from_store
from agent.terminal.console import as_json, people_to_stderr, say
from agent.traffic.redaction import Redactor
from probes.golden.archive import newest

# How far back prompts are read from the store, and how many.
HOURS, MOST_PROMPTS = 24 * 90, 2000
PAIRS_QUESTION = "sampled_requests"


@dataclass(frozen=True, slots=True)
class RetireOptions:
    """Options of the command. forget: delete what is kept of it; undo: on the watch again"""

    why: str = ""
    forget: bool = False
    undo: bool = False


def retire(path: Path, name: str, wish: RetireOptions, json: bool) -> int:
    """0 once it is done. Raises Refused without a reason, and for a name that nothing has."""
    if json:
        people_to_stderr()
    config = load(path)
    golden_dir = config.probes.golden_dir
    before = retirement.read(golden_dir, name)
    if before is None:
        config.adapter(name)  # a name that is neither configured nor retired is refused
    if wish.undo:
        return _undo(config, name, before, json)
    if not wish.why.strip():
        raise Refused("--why", repr(wish.why), "the reason: it is all that is left to those who come later")
    if wish.forget:
        return _forget(config, name, before, wish.why, json)
    if before is not None:
        raise Refused(
            f"adapter {name}", f"retired already on {before.at}: {before.why}", "--undo, or --forget --why TEXT"
        )
    kept = retirement.write(golden_dir, _retirement(config, name, wish.why), config.adapter(name)[1].canaries)
    prompts, pairs = _keep_prompts(config, name, kept.parent), _keep_pairs(config, name, kept.parent)
    stored = retirement.stored(golden_dir, name)
    _note(config, name, f"retired: {wish.why}")
    lines = [f"{name} is watched no more; agents notice within seconds. Kept in {golden_dir}:"]
    lines += [f"  {line.partition(':')[0]}" for line in stored.words]
    _done(json, {"adapter": name, "retired": True, "prompts": prompts, "pairs": pairs, **_counts(stored)}, lines)
    return 0


def _undo(config: Config, name: str, before: Retirement | None, json: bool) -> int:
    if before is None:
        raise Refused(f"adapter {name}", "one that is watched", "one that is retired")
    if before.forgotten:
        raise Refused(
            f"adapter {name}", f"one that was forgotten: {before.forgotten}", "gapwatch enrol, once it is configured"
        )
    retirement.undo(config.probes.golden_dir, name)
    _note(config, name, "on the watch again")
    _done(json, {"adapter": name, "retired": False}, [f"{name} is watched again, where the configuration has it"])
    return 0


def _forget(config: Config, name: str, before: Retirement | None, why: str, json: bool) -> int:
    golden_dir = config.probes.golden_dir
    now = before or _retirement(config, name, why)
    lost = retirement.stored(golden_dir, name)
    # First the line of what there was: a deletion that is interrupted is then one that can be given again.
    retirement.write(golden_dir, now.model_copy(update={"forgotten": why, "lost": lost.words}), None)
    retirement.forget(golden_dir, name)
    _note(config, name, f"forgotten: {why}")
    lines = [f"{name} is forgotten. Lost for good:", *(f"  {line}" for line in lost.words)]
    lines += [f"  kept, because another record needs it: {path.name}" for path in lost.shared]
    _done(json, {"adapter": name, "retired": True, "forgotten": True, **_counts(lost)}, lines)
    return 0


def _retirement(config: Config, name: str, why: str) -> Retirement:
    model, adapter = config.adapter(name)
    record = adapter.golden or newest(config.probes.golden_dir, name) or ""
    return Retirement(adapter=name, at=Clock().today(), why=why, base=model.name, golden=record)


def _keep_prompts(config: Config, name: str, folder: Path) -> int:
    """Where production text is stored: what it was asked, for a successor to learn from. How many prompts were kept."""
    if not config.clickhouse.store_text:
        return 0
    given = {"subject": name, "hours": str(HOURS), "limit": str(MOST_PROMPTS)}
    try:
        source = from_store(config, name, HOURS, ask(config, QUESTION, given))
    except AgentError as error:
        say(escape(f"its sampled prompts are not kept: {error}"))
        return 0
    prompts = source.prompts.prompts if source else ()
    rows = [json_module.dumps({"messages": [dict(turn) for turn in own.canary.messages]}) for own in prompts]
    if rows:
        passport_file.write_whole(folder / PROMPTS, "\n".join(rows) + "\n", private=True)
    return len(rows)


def _keep_pairs(config: Config, name: str, folder: Path) -> int:
    """Likewise what was asked and answered, pair by pair: once the store drops them nobody else has them. How many were
    kept."""
    if not config.clickhouse.store_text:
        return 0
    redacted = Redactor(config.sampling.redact).text
    given = {"subject": name, "hours": str(HOURS), "limit": str(MOST_PROMPTS)}
    try:
        columns, rows = ask(config, PAIRS_QUESTION, given)
    except AgentError as error:
        say(escape(f"its sampled pairs are not kept: {error}"))
        return 0
    answered = [dict(zip(columns, row, strict=True)) for row in rows]
    pairs = [
        {"at": str(own["at"]), "prompt": redacted(own["prompt"]), "output": redacted(own["output"])}
        for own in answered
        if own["prompt"] and own["output"]
    ]
    if pairs:
        passport_file.write_whole(folder / PAIRS, "\n".join(map(json_module.dumps, pairs)) + "\n", private=True)
    return len(pairs)


def _note(config: Config, name: str, what: str) -> None:
    history.record(config.probes.golden_dir, name, Clock().today(), what)


def _counts(stored: Stored) -> dict[str, Any]:
    return {
        "records": len(stored.records),
        "copies": len(stored.copies) + len(stored.shared),
        "words": list(stored.words),
    }


def _done(json: bool, facts: dict[str, Any], lines: list[str]) -> None:
    if json:
        as_json(facts)
        return
    for line in lines:
        say(escape(line))
