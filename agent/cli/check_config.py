"""gapwatch check-config: would ``run`` put this file in force? Nothing is connected to, no model library imported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape

from agent.assemble import monitor_of
from agent.config import Config, Skill, faulty_canaries, load, missing_files
from agent.terminal.console import as_json, counted, say
from agent.worker.goldens import UNKEPT
from probes.artefacts.access import holds
from probes.artefacts.base_files import is_hub_id


def check(path: Path, json: bool) -> int:
    """0 when the file is valid and the files that it names exist and can be read; else 1, and a line for each problem.

    Notes point out settings whose effect may be unintended; they do not change the exit code. Raises Refused.
    """
    config = load(path)
    monitor_of(config)  # checks the settings of each detector
    missing, notes = [*missing_files(config), *faulty_canaries(config)], _notes(config)
    if json:
        problems = [str(problem) for problem in missing]
        as_json(
            {"file": str(path), "ok": not missing, "role": config.role, "problems": problems, "notes": notes},
        )
        return int(bool(missing))
    for problem in missing:
        say(f"[red]✗[/red] {escape(str(problem))}")
    if not missing:
        adapters = sum(len(model.adapters) for model in config.models)
        holds = f"{counted(len(config.models), 'base')}, {counted(adapters, 'adapter')}, role {config.role}"
        say(f"[green]✓[/green] {path}: {holds}")
    for note in notes:
        say(f"[yellow]![/yellow] {escape(note)}")
    return int(bool(missing))


def _notes(config: Config) -> list[str]:
    """Valid settings with an effect that their writer may not have intended."""
    unkept = [m for m in config.replayed if config.scores(m) and m.golden_path is None and not config.keeps_weights(m)]
    notes = [f"probes.keep_golden_weights is false: of base {model.name}, {UNKEPT}" for model in unkept]
    if config.kafka and not config.sampling.rate:
        notes.append("sampling.rate is 0: requests are counted, and no response is examined")
    if config.alerts.pagerduty is None:
        notes.append("alerts.pagerduty is missing: nobody is paged")
    if config.kafka and config.scoring.enabled:
        notes += _unscored(config)
    notes += config.left_to_others.values()
    notes += _beside_engines(config)
    notes += [_of_hub(place, path) for place, path in _bases(config) if is_hub_id(path)]
    notes += [
        f"{place}: {path} does not exist yet" for place, path in _artefacts(config) if not holds(Path(path).exists)
    ]
    return [*notes, *_same_folders(config)]


def _beside_engines(config: Config) -> Iterator[str]:
    """Files cost memory in the engine's pod, which a configuration for all roles may not have meant."""
    both = [model.name for model in config.replayed if config.by_engine(model) and config.in_process(model)]
    if both:
        yield f"of {', '.join(both)} the engine answers the canaries, and the files are loaded in this pod as well"


def _unscored(config: Config) -> Iterator[str]:
    by_engine = [model for model in config.replayed if not config.in_process(model)]
    by_witness = [model.name for model in by_engine if model.path is not None and config.role == "sidecar"]
    by_nobody = [model.name for model in by_engine if model.name not in by_witness]
    for names, scored in ((by_nobody, "no sampled response is scored"), (by_witness, "a witness scores the responses")):
        if names:
            yield f"of {', '.join(names)} the engine answers the canaries; {scored}"


def _of_hub(place: str, path: str) -> str:
    return f"{place}: there is no {path} beside the file, so it is the name of a model on the hub"


def _bases(config: Config) -> Iterator[tuple[str, str]]:
    """Paths of bases that this agent loads."""
    for i, model in enumerate(config.models):
        if model not in config.replayed or not config.in_process(model):
            continue
        if model.path is not None:
            yield f"models.{i}.path", model.path
        if model.golden_path is not None:
            yield f"models.{i}.golden_path", model.golden_path


def _artefacts(config: Config) -> Iterator[tuple[str, str]]:
    """Paths of bases and adapters that this agent reads, which may come later."""
    yield from ((place, path) for place, path in _bases(config) if not is_hub_id(path))
    for i, model in enumerate(config.models):
        if model in config.replayed:
            adapters = [own for own in model.adapters if not isinstance(own, Skill)]
            places = {
                "adapters": [own.path for own in adapters],
                "compositions": [own.path for own in model.compositions],
            }
            for kind, paths in places.items():
                yield from (
                    (f"models.{i}.{kind}.{j}.path", str(path)) for j, path in enumerate(paths) if path is not None
                )


def _same_folders(config: Config) -> Iterator[str]:
    names_of: dict[Path, list[str]] = {}
    for adapter in (adapter for model in config.models for adapter in model.adapters):
        if adapter.path is not None and not isinstance(adapter, Skill):
            names_of.setdefault(adapter.path, []).append(adapter.name)
    for path, names in names_of.items():
        if len(names) > 1:
            yield f"{' and '.join(names)} have the same path, {path}: they cannot be distinguished"
