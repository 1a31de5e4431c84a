"""gapwatch rebuild: a successor on another base, from what was kept of an adapter, without its data and its author."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from rich.markup import escape

from agent.cli.lifecycle.accept import base_folder, configured, facts, kept_words, note, show
from agent.clock import Clock
from agent.config import Adapter, Config, load
from agent.errors import Refused
from agent.lifecycle import history, imported, passport_file
from agent.lifecycle.candidates import accepted_files, canaries_of, recorded, runner_over
from agent.lifecycle.retirement import PROMPTS, canary_file
from agent.terminal.console import as_json, people_to_stderr, say
from agent.terminal.interrupt import until_interrupted
from agent.terminal.stage_progress import StageProgress
from agent.traffic.redaction import Redactor
from probes.canaries.exported_traffic import read_exported

REBUILT, NOT_ACCEPTED, STOPPED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """Options of the command. base: that the successor is to run on; old: the accepted base, "" for its copy

    prompts: JSON Lines of exported requests, asked of the accepted copies; written: prompts that the base makes up
    """

    base: str
    out: Path | None = None
    old: str = ""
    prompts: Path | None = None
    written: int = 48
    steps: int = 120
    rate: float = 1e-3
    seed: int = 0
    train: bool = True
    always: bool = False
    retention: float = 0.9


def rebuild_adapter(path: Path, name: str, wish: RebuildOptions, json: bool) -> int:
    """0 where a candidate is accepted, 1 where none is, 2 where it was stopped. Raises Refused and ProbeErrors."""
    from probes.rebuild.acceptance import AcceptanceRules
    from probes.rebuild.rebuild import Kept, NewBase, Wish, Working, rebuild
    from probes.rebuild.training import Recipe

    if json:
        people_to_stderr()
    config = load(path)
    model, adapter = configured(config, name)
    held, golden = recorded(config, name, model, adapter)
    folder = base_folder(config, None, wish.base)
    old = base_folder(config, None, wish.old) if wish.old else held.base_copy
    kept = Kept(
        golden,
        accepted_files(held, adapter),
        old,
        canaries_of(_canary_file(config, name, adapter)),
        _prompts(config, name, wish),
    )
    recipe = Recipe(steps=wish.steps, rate=wish.rate, seed=wish.seed)
    wanted = Wish(recipe, AcceptanceRules(wish.retention), wish.written, trained=wish.train, always=wish.always)
    out = wish.out or Path("rebuilt") / passport_file.folder_of(Path(), name).name
    started = Clock().steady()
    with StageProgress() as progress, until_interrupted() as stop:
        work = Working(
            partial(runner_over, config),
            _placement(config),
            out,
            progress.show,
            lambda text: say(escape(text)),
            stop,
        )
        done = rebuild(kept, NewBase(folder, wish.base, imported.revision_of(folder)), wanted, work)
    if done is None:
        say("stopped; the same command goes on where it was")
        return STOPPED
    for words in done.notes:
        say(escape(words))
    seconds = Clock().steady() - started
    if json:
        as_json(_facts(done, seconds))
    else:
        show([(own.name, own.acceptance, own.failures) for own in done.candidates])
        say(escape(f"each is in a folder of {out}"))
    if done.successor is None:
        return NOT_ACCEPTED
    _tell(config, name, done, wish.base, seconds)
    return REBUILT


def _tell(config: Config, name: str, done: Any, base: str, seconds: float) -> None:
    """What to do next; and in the passport what was lost and made, and in how many hours (docs/economics.md)."""
    from probes.rebuild.rebuild import PLAIN

    successor, on = done.successor, Clock().today()
    golden_dir, folder = config.probes.golden_dir, successor.folder
    lost = [own.acceptance for own in done.candidates if own.name == PLAIN and own.failures]
    called = Path(base).name if Path(base).is_dir() else base  # a hub id is whole; a path means nothing elsewhere
    events = [f"lost on {called}: as it is, {kept_words(own)}" for own in lost]
    events.append(f"rebuilt on {called} as {successor.name}, from the golden record and its copies")
    history.record(golden_dir, name, on, *events)
    passport = passport_file.read(golden_dir, name)
    if passport is not None:
        measured = passport.economics.model_copy(update={"rebuild_gpu_hours": round(seconds / 3600.0, 4)})
        passport_file.write(golden_dir, passport.model_copy(update={"last_rebuild": on, "economics": measured}))
        note(config, name, successor.acceptance, base, on)
    own = quote(name)
    took = f"{seconds:.0f} s"
    say(escape(f"the successor is {folder} ({successor.name}, {took}). Test it again, put it in place, and accept it:"))
    say(escape(f"  gapwatch accept {own} --candidate {quote(str(folder))} --base {quote(base)}"))
    say(escape(f"  gapwatch enrol {own} --replace --why TEXT"))


def _canary_file(config: Config, name: str, adapter: Adapter | None) -> Path | None:
    return adapter.canaries if adapter else canary_file(config.probes.golden_dir, name)


def _prompts(config: Config, name: str, wish: RebuildOptions) -> Any:
    """Redacted, as everywhere where prompts of production are read."""
    kept = passport_file.folder_of(config.probes.golden_dir, name) / PROMPTS
    file = wish.prompts or (kept if kept.is_file() else None)
    if file is None:
        return ()
    exported = read_exported(file, name, Redactor(config.sampling.redact).turn)
    return [canary.messages for canary in exported.canaries]


def _placement(config: Config) -> Any:
    """Where the runner's own answers are computed."""
    from probes import runner_registry
    from probes.runners.in_process import Config as InProcess

    probes = config.probes
    if probes.runner != "in_process":
        wanted = f"in_process: rebuild trains on files (runners: {', '.join(runner_registry.names())})"
        raise Refused("probes.runner", probes.runner, wanted)
    settings = InProcess("", device=probes.device, max_batch_tokens=probes.max_batch_tokens, attention=probes.attention)
    return settings.placement()


def _facts(done: Any, seconds: float) -> dict[str, Any]:
    return {
        "successor": str(done.successor.folder) if done.successor else "",
        "coordinates": done.move,
        "texts": done.lessons,
        "seconds": seconds,
        "notes": list(done.notes),
        "course": [{"step": own.step, "trained": own.trained, "checked": own.checked} for own in done.trained.course]
        if done.trained
        else [],
        "candidates": [
            {"name": own.name, "folder": str(own.folder)} | facts(own.acceptance, own.failures)
            for own in done.candidates
        ],
    }
