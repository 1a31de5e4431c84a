"""gapwatch enrol: record what an adapter does while it is known good. Nothing else writes golden records.

What is recorded, and how, is in probes/enrolment/; here are the options, the refusal to replace a record without a
reason, saving, and what is printed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agent.assemble import log_threshold, runner_of
from agent.cli.console import as_json, console, people_to_stderr, rows_table, say
from agent.clock import Clock
from agent.config import Adapter, Config, Model, load
from agent.errors import Refused
from agent.traffic.redaction import Redactor
from agent.worker.goldens import UNKEPT
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.name_encoding import earlier_version
from probes import errors as probe_errors
from probes.artefacts.base_files import resolve
from probes.artefacts.identity import adapter_hash
from probes.canaries.canary_file import CanarySet, read_canaries
from probes.canaries.exported_traffic import read_exported, together
from probes.enrolment.enrol import enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.archive import adapter_before, newest, save, time_after
from probes.golden.record import Golden, short
from probes.golden.weights import accepted_adapter, folder_of, keep, keep_adapter
from probes.runner import Runner

UNMONITORABLE = 2
COLUMNS = ("benign configuration", "scale |s - 1|", "distortion sqrt(rho)", "base shift B")


@dataclass(frozen=True, slots=True)
class EnrolOptions:
    """Options of the command. replace: accept a new release, for the reason ``why``.

    select: choose the pool by the information of each canary per token; traffic: a file of production prompts to add
    to the candidates
    """

    replace: bool = False
    why: str = ""
    select: bool = False
    traffic: Path | None = None


def enrol_adapter(path: Path, name: str, wish: EnrolOptions, json: bool) -> int:
    """Write a golden record and print what it can detect. 2 when the adapter cannot be monitored. Raises Refused."""
    if json:
        people_to_stderr()
    config = load(path)
    model, adapter = config.adapter(name)
    previous = newest(config.probes.golden_dir, name)
    _check_wanted(name, previous, wish)
    if adapter.canaries is None:
        raise Refused(f"adapter {name}: canaries", "nothing", "a JSONL file of prompts to replay")
    try:
        golden = _record(config, model, adapter, wish, previous or "")
        # An unmonitorable one is not written: it would be the newest record, and a running agent would use it.
        hash_ = _keep(config, model, adapter, golden) if golden.power.monitorable else ""
    except (probe_errors.Refused, probe_errors.Unsupported, probe_errors.Unreplayable) as error:
        if json:
            as_json({"adapter": name, "refused": str(error)})
        else:
            say(f"[red]refused:[/red] {escape(str(error))}")
        return UNMONITORABLE
    _say(golden, hash_, _weights(config, model, golden) if hash_ else "", json)
    return 0 if hash_ else UNMONITORABLE


def _check_wanted(name: str, previous: str | None, wish: EnrolOptions) -> None:
    """A golden record is never replaced by accident, and never without a reason."""
    if previous and not wish.replace:
        raise Refused(
            f"adapter {name}", f"accepted already as {previous}", "--replace --why TEXT to accept a new release"
        )
    if wish.replace and not wish.why.strip():
        raise Refused("--why", repr(wish.why), "the reason why this release is accepted")
    if wish.traffic is not None and not wish.select:
        raise Refused(
            "--from-traffic", str(wish.traffic), "--select as well: its prompts are candidates to choose from"
        )


def _keep(config: Config, model: Model, adapter: Adapter, golden: Golden) -> str:
    """Store the adapter, the base if configured, then the record: one without its adapter is useless."""
    keep_adapter(adapter.path, config.probes.golden_dir, golden.adapter_hash, golden.hash_scheme)
    if config.keeps_weights(model):
        base = resolve(model.path, config.probes.cache_dir)
        keep(base, config.probes.golden_dir, golden.base_hash, golden.hash_scheme)
    return save(golden, config.probes.golden_dir)


def _weights(config: Config, model: Model, golden: Golden) -> str:
    """Where the accepted base is kept and its size, or what follows from not keeping it; "" where it is not needed."""
    if config.keeps_weights(model):
        folder = folder_of(config.probes.golden_dir, golden.base_hash)
        files = [file.stat() for file in folder.iterdir()]
        linked = ", hard links to its files" if all(file.st_nlink > 1 for file in files) else ""
        return f"base kept in {folder}: {sum(file.st_size for file in files) / 1e9:.2f} GB{linked}"
    if config.scores(model) and model.golden_path is None:
        return f"base not kept (probes.keep_golden_weights is false): {UNKEPT}"
    return ""


def _record(config: Config, model: Model, adapter: Adapter, wish: EnrolOptions, previous: str) -> Golden:
    canaries = _canaries(config, adapter, wish)
    earlier = _earlier(config, adapter, previous)
    beside = model.model_copy(update={"adapters": (*model.adapters, *earlier)})
    runner: Runner = runner_of(config, beside, golden=False)
    others = [other.name for other in beside.adapters if other.name != adapter.name]
    settings = EnrolSettings(
        base=model.name,
        at=time_after(config.probes.golden_dir, previous, Clock().now()),
        why=wish.why,
        previous=previous,
        tolerances=Tolerances(scale=adapter.tolerance, after_release=config.alerts.tolerance_after_release),
        log_threshold=log_threshold(config),
        token_budget=config.probes.token_budget_per_round,
        select=wish.select,
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

            def show_progress(step: str, done: int, total: int) -> None:
                if step not in tasks:
                    tasks[step] = progress.add_task(step, total=total)
                    if not console.is_terminal:
                        say(f"{step} ...")
                progress.update(tasks[step], completed=done, total=total)  # type: ignore[arg-type]

            return enrol(runner, adapter.name, canaries, settings, others, show_progress, lambda: False)
    finally:
        runner.close()


def _canaries(config: Config, adapter: Adapter, wish: EnrolOptions) -> CanarySet:
    """Canaries and candidates. Production prompts are redacted first: the golden record stores the chosen ones."""
    own = read_canaries(adapter.canaries or Path())
    if wish.traffic is None:
        return own
    return together(own, read_exported(wish.traffic, adapter.name, Redactor(config.sampling.redact).turn))


def _earlier(config: Config, adapter: Adapter, previous: str) -> list[Adapter]:
    """The release before this one as another adapter, "NAME@HASH", so that a stale version is named as a cause.

    Only where its files were kept.
    """
    if not previous:
        return []
    try:
        before = adapter_before(config.probes.golden_dir, previous, partial(_is_of, adapter.path))
    except probe_errors.Refused as error:  # a damaged record must not prevent a new one
        say(escape(f"the release before this one cannot be read: {error}"))
        return []
    folder = accepted_adapter(config.probes.golden_dir, before) if before else None
    if before is None or folder is None:
        return []
    name = earlier_version(adapter.name, short(before.adapter_hash))
    return [adapter.model_copy(update={"name": name, "path": folder})]


def _is_of(files: Path, golden: Golden) -> bool:
    return adapter_hash(files, golden.hash_scheme) == golden.adapter_hash


def _say(golden: Golden, hash_: str, weights: str, json: bool) -> None:
    facts = {
        "adapter": golden.adapter,
        "golden": hash_,
        "base": golden.base_hash,
        "canaries": {"selected": len(golden.pool), "held_out": len(golden.held_out), "excluded": len(golden.excluded)},
        "power": golden.power.words,
        "monitorable": golden.power.monitorable,
        "battery": {name: asdict(floor) for name, floor in golden.noise.items()},
        "weights": weights,
    }
    if json:
        as_json(facts)
        return
    say(f"[bold]{escape(golden.adapter)}[/bold] {f'recorded as {hash_}' if hash_ else 'not recorded'}")
    say(golden.power.words)
    rows = [(name, *_shown(floor.scale, floor.distortion, floor.base_shift)) for name, floor in golden.noise.items()]
    console.print(rows_table(COLUMNS, rows, "largest change of any canary in each benign configuration"))
    others = ", ".join(golden.canaries[0].reference.others) or "none"
    say(escape(f"recorded to name a cause: {len(golden.scales)} strengths, other adapters {others}"))
    if weights:
        say(escape(weights))
    if hash_:
        say(f'pin it:  golden: "{hash_}"')


def _shown(*figures: float) -> tuple[str, ...]:
    return tuple(f"{figure:.2g}" for figure in figures)
