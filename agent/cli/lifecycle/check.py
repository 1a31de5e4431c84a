"""gapwatch check: before a base is swapped, will an adapter crash on the new one, be ignored, lose, or fit?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from agent.clock import Clock
from agent.config import Config, Model, load
from agent.errors import Refused
from agent.lifecycle.holdings import holdings_of
from agent.terminal.console import as_json, number, people_to_stderr, say
from agent.worker.cause_replays import BUSY_S
from detectors.canaries.tolerance import Tolerances
from detectors.records import Interval
from probes.artefacts.identity import base_hash
from probes.canaries.canary_file import read_canaries
from probes.compatibility.check import CANNOT_TELL, FITS, WILL_LOSE, Checked, Pair, check, replayed
from probes.compatibility.engine_rules import EngineRules, Outcome, rules_of
from probes.compatibility.scratch_replay import MeasuredLoss

MARKS = {FITS: "[green]✓[/green]", WILL_LOSE: "[red]✗[/red]", CANNOT_TELL: "[yellow]?[/yellow]"}
VERDICTS = {FITS: "fits", WILL_LOSE: "will lose", CANNOT_TELL: "cannot tell"}
SHOWN = 12
USUAL = 0.05


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Options of the command. old: folder of the base that the adapter was accepted on, None without

    adapter: its folder, or the name of one that is configured, of which old, canaries and tolerance are known then
    settings: of the engine, each as NAME=VALUE; replay: measure too, on the canaries of this file
    tolerance: share of its effect that the adapter may lose, None for the one that is configured, else USUAL
    """

    base: Path
    adapter: Path
    old: Path | None = None
    engine: str = "peft"
    version: str = ""
    settings: Sequence[str] = ()
    replay: bool = False
    canaries: Path | None = None
    tolerance: float | None = None
    cache_dir: Path = Path("~/.cache/gapwatch")


def check_pair(wish: CheckOptions, json: bool, config: Path | None = None) -> int:
    """0 fits, 1 will lose, 2 cannot tell. config: file of the adapters that are named. Raises Refused for options that
    make no sense."""
    if json:
        people_to_stderr()
    if config is not None and not wish.adapter.is_dir():
        wish = _as_configured(load(config), wish)
    rules = rules_of(wish.engine)
    if wish.replay and (wish.canaries is None or wish.old is None):
        raise Refused("--replay", "no --canaries or no --from", "both: what is replayed, and what it is compared with")
    tolerances = Tolerances(scale=USUAL if wish.tolerance is None else wish.tolerance)
    pair = Pair(wish.base, wish.adapter, wish.old, wish.version, _settings(wish.settings, rules), tolerances)
    for place in filter(None, (wish.base, wish.adapter, wish.old)):
        if not place.exists():
            raise Refused(str(place), "no such file or folder", "the folder of a base, or of an adapter")
    checked = check(pair, rules)
    if wish.replay and wish.canaries is not None:
        canaries = read_canaries(wish.canaries).canaries
        checked = replayed(checked, pair, canaries, wish.cache_dir.expanduser(), _soon(Clock()))
    if json:
        as_json(_facts(wish, checked))
    else:
        _print(wish, checked)
    return checked.verdict


def _as_configured(config: Config, wish: CheckOptions) -> CheckOptions:
    """With the files, the canaries, the accepted base and the tolerance of the adapter of that name. Raises Refused."""
    name = str(wish.adapter)
    model, adapter = config.adapter(name)
    if adapter.path is None:
        raise Refused(f"adapter {name}", "no path", "its folder, in PEFT's layout")
    return replace(
        wish,
        adapter=adapter.path,
        old=wish.old or _accepted_base(config, model, name),
        canaries=wish.canaries or adapter.canaries,
        tolerance=adapter.tolerance if wish.tolerance is None else wish.tolerance,
        cache_dir=config.probes.cache_dir,
    )


def _accepted_base(config: Config, model: Model, name: str) -> Path | None:
    """The copy beside its golden record, else the configured base while its weights are still those of the record."""
    held = holdings_of(config, model, name)
    configured = Path(model.path) if model.path else None
    if held.base_copy or held.golden is None or configured is None or not configured.is_dir():
        return held.base_copy
    return configured if base_hash(configured, held.golden.hash_scheme) == held.golden.base_hash else None


def _soon(clock: Clock) -> Callable[[], bool]:
    """True once faults were replayed for as long as the agent takes for them."""
    began: list[float] = []

    def is_over() -> bool:
        if not began:
            say("replaying faults on the accepted base and adapter, to name the cause ...")
            began.append(clock.steady())
        return clock.steady() - began[0] > BUSY_S

    return is_over


def _settings(written: Sequence[str], rules: EngineRules) -> dict[str, str]:
    given = {}
    for pair in written:
        name, is_pair, value = pair.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not is_pair or name not in rules.settings:
            wanted = f"NAME=VALUE with NAME one of: {', '.join(rules.settings) or 'none for this engine'}"
            raise Refused("--engine-setting", repr(pair), wanted)
        if rules.max_rank and name == rules.max_rank.setting and not value.strip().isdigit():
            raise Refused("--engine-setting", repr(pair), f"{name}= and a whole number")
        given[name] = value.strip()
    return given


def _facts(wish: CheckOptions, checked: Checked) -> dict[str, Any]:
    """For programs; its keys stay."""
    by_header, changes = checked.structure, checked.changes
    return {
        "verdict": VERDICTS[checked.verdict].replace(" ", "_"),
        "exit_code": checked.verdict,
        "why": checked.words,
        "engine": wish.engine,
        "structure": str(by_header.outcome),
        "reasons": [{"outcome": str(outcome), "reason": reason} for outcome, reason in by_header.reasons],
        "modules": [asdict(part) for part in by_header.modules],
        "base_changes": None
        if changes is None
        else {
            "summary": changes.lines(),
            "coordinates": str(changes.coordinates),
            "tensors": [
                {"name": t.name, "family": t.family, "change": t.change, "read": t.read, "written": t.written}
                for t in changes.changed
            ],
            "gone": changes.gone,
            "added": changes.added,
            "config": changes.fields,
            "files": changes.files,
        },
        "predicted": None if checked.predicted is None else asdict(checked.predicted),
        "measured": None if checked.measured is None else _measured(checked.measured),
        "notes": checked.notes,
    }


def _measured(measured: MeasuredLoss) -> dict[str, Any]:
    cause = measured.cause
    named = None if cause is None else {"name": str(cause.cause), "explanation": cause.explanation}
    return asdict(replace(measured, cause=None)) | {"cause": named}


def _print(wish: CheckOptions, checked: Checked) -> None:
    verdict, by_header = checked.verdict, checked.structure
    say(f"{MARKS[verdict]} [bold]{VERDICTS[verdict]}[/bold]: {escape(checked.words)}")
    fitting = sum(part.outcome is Outcome.FITS for part in by_header.modules)
    structure = str(by_header.outcome).replace("_", " ")
    say(f"by its structure on {wish.engine}: {structure}; {fitting} of {len(by_header.modules)} parts fit")
    for outcome, reason in by_header.reasons[:SHOWN]:
        say(f"  {str(outcome).replace('_', ' ')}: {escape(reason)}")
    if checked.changes is not None:
        say("what moved in the base:")
        for line in checked.changes.lines():
            say(f"  {escape(line)}")
    for line in _losses(checked):
        say(line)
    for note in checked.notes:
        say(f"[yellow]![/yellow] {escape(note)}")


def _losses(checked: Checked) -> Iterator[str]:
    """What the weights predict and what a replay measured, one below the other."""
    if (predicted := checked.predicted) is not None:
        yield f"predicted retention: {_interval(predicted)}, by the weights"
    if (measured := checked.measured) is None:
        return
    yield f"measured retention:  {_interval(measured.retention)}, on {measured.canaries} canaries"
    yield f"measured strength:   {_interval(measured.strength)}"
    yield f"beyond tolerance: {len(measured.beyond)} canaries; flipped: {_named(measured.flipped)}"
    if (cause := measured.cause) is not None:
        yield f"cause: [bold]{str(cause.cause).replace('_', ' ')}[/bold]: {escape(cause.explanation)}"
    yield from (escape(fact) for fact in measured.facts)


def _interval(interval: Interval) -> str:
    return f"{number(interval.mean)} ({number(interval.low)} to {number(interval.high)})"


def _named(canaries: Sequence[str]) -> str:
    shown = ", ".join(map(escape, canaries[:3])) + (" ..." if len(canaries) > 3 else "")
    return f"{len(canaries)} canaries{f' ({shown})' if canaries else ''}"
