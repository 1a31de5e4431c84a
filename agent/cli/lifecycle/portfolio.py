"""gapwatch portfolio: all adapters, the most money at stake first; or one of them with all its choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.markup import escape

from agent.cli.lifecycle.cost import UNSET
from agent.cli.query import asking
from agent.clock import Clock
from agent.config import Config, load
from agent.economics.portfolio import Line, Portfolio, facts, portfolio
from agent.economics.words import COLUMNS, cells, money_words, words_of
from agent.errors import Refused
from agent.terminal.console import as_csv, as_json, console, people_to_stderr, rows_table, say
from detectors.economics.choices import Kind

KEEP_ALL, ACT, CANNOT_TELL = 0, 1, 2
CHOICES = ("choice", "once", "a day", "right", "over the horizon", "does the task")


@dataclass(frozen=True, slots=True)
class PortfolioOptions:
    """Options of the command. adapter: one of them, with all its choices; "" for the table of all"""

    adapter: str = ""
    days: int = 7
    csv: bool = False


def show_portfolio(path: Path, wish: PortfolioOptions, json: bool) -> int:
    """0 where all are to be kept, 1 where something is to be done for one of them, 2 where the verdict of one is not
    known and nothing is to be done for the others. Raises Refused, and Retryable where the store is away."""
    if json and wish.csv:
        raise Refused("--csv", "--json beside it", "one of the two")
    if json:
        people_to_stderr()
    config = load(path)
    if wish.adapter:
        config.adapter(wish.adapter)
    with asking(config) as ask:
        whole = portfolio(config, ask, Clock().now(), wish.days)
    lines = [line for line in whole.lines if wish.adapter in ("", line.adapter)]
    if json:
        as_json([facts(line, config) | _more(line) for line in lines])
    elif wish.csv:
        rows = [facts(line, config) for line in lines]
        as_csv(list(rows[0]), [list(row.values()) for row in rows])
    elif wish.adapter:
        _print_one(lines[0], config, whole.at)
    else:
        _print_all(whole, config)
    return _exit_code(lines)


def _print_all(whole: Portfolio, config: Config) -> None:
    rows = [cells(line, config) for line in whole.lines]
    console.print(rows_table(COLUMNS, rows, title="adapters, the most money at stake first", wide=len(COLUMNS)))
    if whole.missing:
        say(f"[yellow]![/yellow] not in it: {escape(whole.missing)}")
    if whole.unset:
        say(escape(UNSET.format(names=", ".join(whole.unset))))
    say("one of them with all its choices: gapwatch portfolio --adapter NAME")


def _print_one(line: Line, config: Config, at: float) -> None:
    decision, currency = line.decision, config.costs.currency
    if decision is None:
        say(escape(f"{line.adapter}: {line.why}"))
        return
    rows = [
        (
            f"{own.kind.value} ({own.examples} examples)" if own.examples else own.kind.value,
            money_words(own.one_off, currency),
            money_words(own.daily, currency),
            f"{own.right:.0%}" if math.isfinite(own.right) else "-",
            money_words(own.total, currency),
            "yes" if own.eligible else "no",
        )
        for own in decision.made
    ]
    console.print(rows_table(CHOICES, rows, title=f"{line.adapter}: {line.verdict}"))
    for words in words_of(decision, currency, datetime.fromtimestamp(at, UTC).date()):
        say(escape(words))


def _more(line: Line) -> dict[str, object]:
    decision = line.decision
    if decision is None:
        return {"choices": [], "deciders": [], "defaults": []}
    return {
        "choices": [
            {
                "choice": own.kind.value,
                "examples": own.examples,
                "one_off": own.one_off,
                "daily": own.daily,
                "right": own.right,
                "total": own.total,
                "eligible": own.eligible,
            }
            for own in decision.made
        ],
        "deciders": [
            {"name": own.name, "value": own.value, "factor": own.factor, "verdict": own.verdict.value}
            for own in decision.deciders
        ],
        "defaults": list(decision.defaults),
    }


def _exit_code(lines: Sequence[Line]) -> int:
    decided = [line.decision.verdict.kind for line in lines if line.decision]
    if any(kind is not Kind.KEEP for kind in decided):
        return ACT
    return KEEP_ALL if len(decided) == len(lines) else CANNOT_TELL
