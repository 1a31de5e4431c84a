"""gapwatch passport and gapwatch passports: whose an adapter is, what it was made from, and what of that runs out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.markup import escape

from agent import config_errors
from agent.clock import Clock as WallClock
from agent.config import Adapter, Config, Model, Skill, load
from agent.errors import Refused
from agent.lifecycle import imported, passport_file
from agent.lifecycle.clocks import Clock, clocks, warned
from agent.lifecycle.holdings import Holdings, holdings_of, rebuildability
from agent.lifecycle.passport import Economics, Passport, filled, leaves, missing, shown
from agent.lifecycle.settings import active_people, horizons
from agent.terminal.console import as_json, console, people_to_stderr, rows_table, say

WELL, RUNS_OUT, INCOMPLETE = 0, 1, 2
# Fields that hold no text: emptied, they are unknown.
EMPTY_IS_NONE = (
    *("base.end_of_life", "data.expires", "last_rebuild", "training.seed"),
    *(f"economics.{name}" for name in Economics.model_fields),
)
COLUMNS = ("adapter", "owner", "base", "runs out next", "rebuildable", "not filled in")


@dataclass(frozen=True, slots=True)
class PassportOptions:
    """Options of ``gapwatch passport``. settings: "place=value" that are written into it

    fill: take what is empty from the files that exist; run: and from this MLflow run
    bill: write the bill of materials; sign, verify: key files
    """

    settings: Sequence[str] = ()
    fill: bool = False
    run: Path | None = None
    bill: bool = False
    sign: Path | None = None
    verify: Path | None = None


def show_passport(path: Path, name: str, wish: PassportOptions, json: bool) -> int:
    """Print one passport, after what the options ask to be written. 0 complete and nothing near its day; 1 something
    runs out, or a signature does not hold; 2 fields that matter are empty. Raises Refused."""
    if json:
        people_to_stderr()
    config, today = load(path), WallClock().today()
    model, adapter = _configured(config, name)
    if wish.fill or wish.run or wish.settings:
        _write(config, model, adapter, name, wish)
    held = holdings_of(config, model, adapter or name)
    if held.passport is None:
        where = passport_file.folder_of(config.probes.golden_dir, name) / passport_file.FILE
        wanted = f"gapwatch passport {name} --fill, which writes {where} from the files that exist, to be completed"
        raise Refused(f"passport of {name}", "none", wanted)
    folder = passport_file.folder_of(config.probes.golden_dir, name)
    if wish.bill:
        _write_bill(folder, held.passport)
    if wish.sign:
        from agent.lifecycle.signature import sign

        say(escape(f"signed: {sign(folder, wish.sign)}"))
    broken = _verified(folder, wish.verify) if wish.verify else ""
    running = clocks(held.passport, held.accepted, active_people(config), today, horizons(config))
    _print_one(held, running, today, json, {"signature": broken or "holds"} if wish.verify else {})
    return RUNS_OUT if broken else _exit_code([_code(held.passport, running)])


def show_passports(path: Path, json: bool) -> int:
    """All adapters of the configuration, and those that are retired or gone, the one in most danger first. 0, 1, 2 as
    for one; an adapter without a passport counts as incomplete. Raises Refused."""
    if json:
        people_to_stderr()
    config, today = load(path), WallClock().today()
    people = active_people(config)
    limits = horizons(config)
    configured = _by_name(config)
    names = dict.fromkeys([*configured, *passport_file.with_passport(config.probes.golden_dir)])
    rows = []
    for name in names:
        model, adapter = configured.get(name, (None, None))
        held = holdings_of(config, model, adapter or name, copies=False)
        running = clocks(held.passport, held.accepted, people, today, limits) if held.passport else ()
        rows.append((held, running))
    rows.sort(key=lambda row: _danger(row[0], row[1], today))
    if json:
        as_json([_facts(held, running, today) | {"watched": held.adapter in configured} for held, running in rows])
    else:
        cells = [_cells(held, running, today) for held, running in rows]
        console.print(rows_table(COLUMNS, cells, title="passports, the one in most danger first"))
    return _exit_code([_code(held.passport, running) for held, running in rows])


def _configured(config: Config, name: str) -> tuple[Model | None, Adapter | None]:
    """None for one that has a passport and is configured no more. Raises Refused for a name that nothing has."""
    if name in passport_file.with_passport(config.probes.golden_dir):
        watched = _by_name(config)
        return watched.get(name, (None, None))
    return config.adapter(name)


def _write(config: Config, model: Model | None, adapter: Adapter | None, name: str, wish: PassportOptions) -> None:
    golden_dir = config.probes.golden_dir
    passport = passport_file.read(golden_dir, name) or Passport(adapter=name)
    passport = _with_settings(passport, wish.settings)
    known: list[Passport] = []
    if wish.run:
        known.append(imported.from_mlflow_run(name, wish.run))
    if wish.fill:
        if adapter and adapter.path:
            known.append(imported.from_adapter(name, adapter.path))
        held = holdings_of(config, model, adapter or name, copies=False)
        known += [imported.from_golden(held.golden)] if held.golden else []
    for source in known:
        passport, contradictions = filled(passport, source)
        for words in contradictions:
            say(f"[yellow]![/yellow] {escape(words)}; the passport keeps what it says")
    say(escape(f"written: {passport_file.write(golden_dir, passport)}"))


def _with_settings(passport: Passport, settings: Sequence[str]) -> Passport:
    """Raises Refused for a place that a passport does not have, and for a value that it does not take."""
    data: dict[str, Any] = passport.model_dump(mode="json")
    places = [place for place, _ in leaves(passport)]
    for setting in settings:
        place, equals, text = setting.partition("=")
        if not equals or place not in places:
            raise Refused("--set", setting, f"PLACE=VALUE, where PLACE is one of: {', '.join(places)}")
        *sections, field = place.split(".")
        section = data[sections[0]] if sections else data
        section[field] = [part.strip() for part in text.split(",")] if place == "data.datasets" else text or None
        if text == "" and place not in EMPTY_IS_NONE:
            section[field] = ""
    try:
        return Passport.model_validate(data)
    except ValidationError as error:
        raise config_errors.refused(Path("--set"), error.errors()[0]) from None


def _write_bill(folder: Path, passport: Passport) -> None:
    from agent.lifecycle import bill_of_materials

    text = bill_of_materials.bill_of_materials(passport, datetime.now(UTC).replace(microsecond=0))
    passport_file.write_whole(folder / bill_of_materials.FILE, text)
    say(escape(f"CycloneDX 1.7, valid by its schema: {folder / bill_of_materials.FILE}"))


def _verified(folder: Path, key: Path) -> str:
    from agent.lifecycle.signature import verify

    why = verify(folder, key)
    say(f"[red]{escape(why)}[/red]" if why else "the signature holds")
    return why


def _print_one(held: Holdings, running: Sequence[Clock], today: date, json: bool, more: dict[str, str]) -> None:
    if json:
        as_json(_facts(held, running, today) | more)
        return
    passport = held.passport
    assert passport is not None
    rows = [(place, shown(value)) for place, value in leaves(passport) if shown(value) != shown("")]
    console.print(rows_table(("field", "value"), rows, title=f"passport of {passport.adapter}"))
    can, why = rebuildability(held, today)
    say(escape(f"rebuildable, by what is at hand: {'yes, ' if can else ''}{why}"))
    for clock in running:
        mark = "[red]![/red]" if clock.stage.startswith("over") else "[yellow]![/yellow]" if clock.stage else "·"
        say(f"{mark} {escape(clock.words)}")
    for measured in passport.measured:
        say(escape(f"measured {measured.at} on {measured.base or 'its base'}: {_measured_words(measured)}"))
    for event in passport.history:
        say(escape(f"{event.at}  {event.what}"))
    if empty := missing(passport):
        say(f"[yellow]not filled in:[/yellow] {escape(', '.join(empty))}")
    if others := _empty_besides(passport):
        say(f"[dim]empty too, of less weight: {escape(', '.join(others))}[/dim]")


def _empty_besides(passport: Passport) -> list[str]:
    """Places that are empty, besides those that matter; a section with nothing in it by its name."""
    empty = {place for place, value in leaves(passport) if shown(value) == shown("")} - set(missing(passport))
    begun = {place.partition(".")[0] for place, _ in leaves(passport) if place not in empty}
    sections = (place.partition(".") for place, _ in leaves(passport) if place in empty)
    return list(dict.fromkeys("".join(own) if own[0] in begun or not own[1] else f"{own[0]}.*" for own in sections))


def _measured_words(measured: Any) -> str:
    if measured.retention is None:
        return f"flips {measured.flips:.1%}" if measured.flips is not None else "nothing"
    interval = f" (95 % {measured.low:.3f}..{measured.high:.3f})" if measured.low is not None else ""
    return f"retention {measured.retention:.3f}{interval} on {measured.canaries} held-out canaries"


def _facts(held: Holdings, running: Sequence[Clock], today: date) -> dict[str, Any]:
    can, why = rebuildability(held, today)
    passport = held.passport
    return {
        "adapter": held.adapter,
        "passport": passport.model_dump(mode="json") if passport else None,
        "clocks": [
            {
                "clock": c.kind.value,
                "due": c.due.isoformat(),
                "stage": c.stage,
                "days_left": c.days_left(today),
                "words": c.words,
            }
            for c in running
        ],
        "rebuildable": can,
        "rebuildable_why": why,
        "missing": list(missing(passport)) if passport else ["passport"],
        "golden": held.golden.hash if held.golden else "",
    }


def _cells(held: Holdings, running: Sequence[Clock], today: date) -> tuple[str, ...]:
    passport = held.passport
    if passport is None:
        return held.adapter, "-", "-", "-", "-", f"all: gapwatch passport {held.adapter} --fill"
    base = " ".join(part for part in (passport.base.name, passport.base.revision[:12]) if part)
    can, why = rebuildability(held, today)
    first = running[0].words if running else "nothing that is known"
    return (
        held.adapter,
        passport.owner or "-",
        base or "-",
        first,
        why if can else f"NO: {why}",
        ", ".join(missing(passport)),
    )


def _danger(held: Holdings, running: Sequence[Clock], today: date) -> tuple[int, int, int, str]:
    """Sorts what is worst first: without a passport, then by the day that is nearest, then by what is missing."""
    if held.passport is None:
        return (0, 0, 0, held.adapter)
    nearest = min((clock.days_left(today) for clock in running), default=10**6)
    return (1, nearest, -len(missing(held.passport)), held.adapter)


def _code(passport: Passport | None, running: Collection[Clock]) -> int:
    if warned(running):
        return RUNS_OUT
    return INCOMPLETE if passport is None or missing(passport) else WELL


def _exit_code(codes: Collection[int]) -> int:
    """1 before 2 before 0."""
    return RUNS_OUT if RUNS_OUT in codes else INCOMPLETE if INCOMPLETE in codes else WELL


def _by_name(config: Config) -> dict[str, tuple[Model, Adapter]]:
    """Adapters by name; the skills of a composition have no passport of their own."""
    pairs = ((model, adapter) for model in config.models for adapter in model.adapters)
    return {adapter.name: (model, adapter) for model, adapter in pairs if not isinstance(adapter, Skill)}
