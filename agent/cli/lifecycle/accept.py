"""gapwatch accept: is this candidate a successor of the accepted adapter? It only tests: enrol moves the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from shlex import quote
from textwrap import shorten
from typing import Any

from rich.markup import escape

from agent.clock import Clock
from agent.config import Adapter, Config, Model, load
from agent.errors import Refused
from agent.lifecycle import history, passport_file, retirement
from agent.lifecycle.candidates import recorded, runner_over
from agent.lifecycle.passport import Measured
from agent.terminal.console import as_json, console, people_to_stderr, rows_table, say
from probes.artefacts.base_files import resolve
from probes.rebuild.acceptance import Acceptance, AcceptanceRules, assess, failures

ACCEPTED, NOT_ACCEPTED = 0, 1
COLUMNS = ("candidate", "retention", "95 % interval", "strength", "right answers", "word for word", "verdict")
# Texts of flips that are shown, and characters of each.
SHOWN, LONGEST = 3, 100


@dataclass(frozen=True, slots=True)
class AcceptOptions:
    """Options of the command. candidate, base: None for what the configuration has of this adapter"""

    candidate: Path | None = None
    base: str = ""
    retention: float = AcceptanceRules().retention
    check_loss: float = AcceptanceRules().check_loss


def accept(path: Path, name: str, wish: AcceptOptions, json: bool) -> int:
    """0 where the candidate passes, 1 where it does not. Raises Refused, and Unreplayable where nothing can be said."""
    if json:
        people_to_stderr()
    config = load(path)
    model, adapter = configured(config, name)
    rules = AcceptanceRules(wish.retention, wish.check_loss)
    _, golden = recorded(config, name, model, adapter)
    base = base_folder(config, model, wish.base)
    candidate = wish.candidate or (adapter.path if adapter else None)
    if candidate is None:
        raise Refused("--candidate", "nothing", "the folder of the candidate, in PEFT's layout")
    runner = runner_over(config, base, {name: candidate})
    runner.open()
    try:
        done = assess(runner, name, golden, lambda: False)
    finally:
        runner.close()
    why = failures(done, rules)
    on = Clock().today()
    note(config, name, done, str(base), on)
    history.record(config.probes.golden_dir, name, on, _event(candidate, done, why, base.name))
    if json:
        as_json(facts(done, why) | {"folder": str(candidate), "base": str(base)})
    else:
        show([(str(candidate), done, why)])
        say(escape(_next_step(name, why)))
    return NOT_ACCEPTED if why else ACCEPTED


def configured(config: Config, name: str) -> tuple[Model | None, Adapter | None]:
    """None for an adapter that is not configured any more, and of which a passport or its retirement is kept. Raises
    Refused for any other."""
    for model in config.models:
        for adapter in model.adapters:
            if adapter.name == name:
                return model, adapter
    golden_dir = config.probes.golden_dir
    if name in passport_file.with_passport(golden_dir) or retirement.read(golden_dir, name) is not None:
        return None, None
    return config.adapter(name)


def base_folder(config: Config, model: Model | None, wanted: str) -> Path:
    """The folder of this base: "" for the configured one. Raises Refused without either."""
    source = wanted or (model.path if model else None)
    if not source:
        raise Refused("--base", "nothing", "the folder, file or hub id of the base that it is to run on")
    return resolve(source, config.probes.cache_dir)


def note(config: Config, name: str, done: Acceptance, base: str, on: date) -> None:
    """Into the passport, where there is one: what was measured stays with it."""
    golden_dir = config.probes.golden_dir
    passport = passport_file.read(golden_dir, name)
    if passport is None:
        return
    measured = Measured(
        skill=name,
        at=on,
        base=Path(base).name,
        canaries=done.canaries,
        retention=done.retention.mean if done.retention else None,
        low=done.retention.low if done.retention else None,
        high=done.retention.high if done.retention else None,
        flips=done.lost if done.checked else None,
    )
    others = tuple(own for own in passport.measured if own != measured)
    passport_file.write(golden_dir, passport.model_copy(update={"measured": (*others, measured)}))


def show(rows: Sequence[tuple[str, Acceptance, Sequence[str]]]) -> None:
    """One line a candidate, then why one is not accepted and the first answers that are wrong now."""
    console.print(rows_table(COLUMNS, [_cells(name, done, why) for name, done, why in rows]))
    for name, done, why in rows:
        for words in why:
            say(escape(f"{name}: {words}"))
        for flip in done.flips[:SHOWN]:
            say(escape(f"{flip.canary}, accepted: {_on_one_line(flip.golden_text)}"))
            say(escape(f"{flip.canary}, now:      {_on_one_line(flip.present_text)}"))


def _on_one_line(text: str) -> str:
    """An answer may be a page, or code."""
    return shorten(text, LONGEST, placeholder=" ...")


def facts(done: Acceptance, why: Sequence[str]) -> dict[str, Any]:
    """For programs."""
    return asdict(done) | {"accepted": not why, "why_not": list(why), "lost": done.lost}


def _cells(name: str, done: Acceptance, why: Sequence[str]) -> tuple[str, ...]:
    retention = done.retention
    return (
        name,
        f"{retention.mean:.3f}" if retention else "another tokenizer",
        f"{retention.low:.3f}..{retention.high:.3f}" if retention else "-",
        f"{done.strength:.2f}" if retention else "-",
        f"{done.right} of {done.checked}" if done.checked else "no checks",
        f"{done.same} of {done.canaries}",
        "not accepted" if why else "accepted",
    )


def kept_words(done: Acceptance) -> str:
    """How much of its effect is left, for a line of history."""
    retention = done.retention
    if retention is None:
        return f"{done.right} of {done.checked} right answers are kept"
    return f"it keeps {retention.mean:.3f} of its effect (95 % {retention.low:.3f} to {retention.high:.3f})"


def _event(candidate: Path, done: Acceptance, why: Sequence[str], base: str) -> str:
    verdict = "not accepted" if why else "passed the acceptance test"
    return f"{candidate.name} {verdict} on {base}: {kept_words(done)}"


def _next_step(name: str, why: Sequence[str]) -> str:
    if why:
        return "not accepted: the reference stays as it is"
    own = quote(name)
    return f"it passes. To make it the reference, put it in place and run: gapwatch enrol {own} --replace --why TEXT"
