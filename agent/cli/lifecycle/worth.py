"""gapwatch worth: what does an adapter still add over its base, and would the base alone, or with examples, do?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from rich.markup import escape

from agent.clock import Clock
from agent.config import Config, load
from agent.economics import worth_file
from agent.economics.measuring import WorthFound, WorthWish, measure_worth
from agent.errors import Refused
from agent.terminal.console import as_json, console, people_to_stderr, rows_table, say
from detectors.economics.worth import Difference, Worth, WorthRules

ADDS, ACT, CANNOT_TELL = 0, 1, 2
CODES = {Worth.ADDS: ADDS, Worth.BASE_PASSES: ACT, Worth.LOST: ACT, Worth.UNCLEAR: CANNOT_TELL}
COLUMNS = ("adapter", "gain", "95 % interval", "right: adapter", "base alone", "as accepted", "left", "verdict")
MOST_EXAMPLES = 64
VERDICTS = {
    Worth.BASE_PASSES: "retire: the base alone passes",
    Worth.ADDS: "keep: it adds",
    Worth.LOST: "broken: it fails what it passed, and the base alone does too",
    Worth.UNCLEAR: "cannot tell",
}


@dataclass(frozen=True, slots=True)
class WorthOptions:
    """Options of the command. examples: "2,4,8", "" for none; base: folder of another base than the configured one

    margin: share of what the accepted adapter gets right that the base alone may get wrong
    """

    examples: str = "2,4,8"
    base: str = ""
    margin: float = WorthRules().margin


def show_worth(path: Path, names: Sequence[str], wish: WorthOptions, json: bool) -> int:
    """Measure, write it beside the passports, and print. 0 where each adds something, 1 where one does not, 2 where it
    cannot be said. Raises Refused, and ProbeErrors where base or adapter cannot be asked."""
    if json:
        people_to_stderr()
    config, counts = load(path), _counts(wish.examples)
    if not 0 < wish.margin < 1:
        raise Refused("--margin", wish.margin, "a share in (0, 1)")
    wanted = WorthWish(Clock().now(), counts, wish.base, WorthRules(margin=wish.margin))
    watched = [own.name for model in config.models for own in model.adapters]
    done = [measure_worth(config, name, wanted, lambda: False, _tell_stage) for name in names or watched]
    if not wish.base:  # of another base nothing is known in production
        for own in done:
            worth_file.write(config.probes.golden_dir, own.file)
    if json:
        as_json([_facts(own) for own in done])
    else:
        _print(config, done, wanted.rules)
    codes = {CODES[own.file.worth] for own in done}
    return ACT if ACT in codes else CANNOT_TELL if CANNOT_TELL in codes else ADDS


def _facts(own: WorthFound) -> dict[str, Any]:
    """For programs."""
    more = {"verdict": VERDICTS[own.file.worth], "examples_possible": own.possible}
    return own.file.model_dump(mode="json") | more


def _counts(text: str) -> tuple[int, ...]:
    """Raises Refused."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 0 < int(part) <= MOST_EXAMPLES for part in parts):
        raise Refused("--examples", repr(text), f'numbers from 1 to {MOST_EXAMPLES} such as "2,4,8", or "" for none')
    return tuple(map(int, parts))


def _tell_stage(stage: str, done: int, total: int) -> None:
    if not done and total:
        say(escape(f"{stage}: {total} prompts ..."))


def _print(config: Config, done: Sequence[WorthFound], rules: WorthRules) -> None:
    console.print(rows_table(COLUMNS, [_cells(own) for own in done], wide=len(COLUMNS)))
    for own in done:
        for words in _remarks(config, own, rules):
            say(escape(f"{own.file.adapter}: {words}"))


def _cells(own: WorthFound) -> tuple[str, ...]:
    file, left = own.file, own.assessment.left
    return (
        file.adapter,
        f"{file.gain:+.3f}" if file.gain is not None else "-",
        interval_words(own.assessment.gain),
        f"{file.adapter_right} of {file.checked}",
        f"{file.base_right} of {file.checked}",
        f"{file.accepted_right} of {file.checked}",
        f"{left[0]:.0%} ({left[1]:.0%}..{left[2]:.0%})" if left else "-",
        VERDICTS[file.worth],
    )


def interval_words(difference: Difference) -> str:
    return f"{difference.low:+.3f}..{difference.high:+.3f}"


def _remarks(config: Config, own: WorthFound, rules: WorthRules) -> list[str]:
    file = own.file
    words = [
        f"the base with {shots.examples} examples: {shots.right} of {shots.checked} held-out canaries right"
        f" (the adapter {file.adapter_held_out}), {shots.extra_tokens:.0f} tokens more a request"
        for shots in file.prompted
        if shots.examples
    ]
    if own.possible is not None:
        words.append(
            f"with more than {own.possible} examples it was not tried: so many has the selected half of its record"
        )
    if file.worth is Worth.BASE_PASSES:
        words.append(f"take it off with: gapwatch retire {quote(file.adapter)} --why TEXT; before: gapwatch portfolio")
    if file.worth is Worth.UNCLEAR and file.accepted_right < rules.canaries_needed:
        words.append(
            f"that the base alone passes takes {rules.canaries_needed} checked canaries or more,"
            f" {file.accepted_right} are right"
        )
    if file.worth is Worth.LOST:
        words.append(f"see gapwatch explain {quote(file.adapter)} and gapwatch probe {quote(file.adapter)}")
    if file.original is None:
        words.append(
            "the original gain is not known: the accepted base is not at hand"
            f" (probes.keep_golden_weights keeps it; {config.probes.golden_dir})"
        )
    return words
