"""From the configuration to the bases that the model process watches, each with its runner and its golden records.

The only file that makes runners. The model libraries are imported when one is made and nowhere earlier; the agent's own
process never does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from agent.composition.folders import make_folders
from agent.config import Config, Model
from agent.errors import Refused, missing_package
from agent.worker.goldens import Fetch, Goldens, kept_before
from agent.worker.response_scorer import ResponseScorer
from agent.worker.worker import Schedule, WatchedBase
from probes import runner_registry
from probes.artefacts.access import holds
from probes.canaries.watched_files import WatchedFiles
from probes.errors import Refused as ProbeRefused
from probes.golden.record import Golden, Unmonitorable
from probes.golden.weights import accepted_adapter, folder_of
from probes.runner import Runner
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import Retokenise

log = structlog.get_logger(__name__)
# Of an engine that is enrolled through: see probes/serving/load_limits.py.
ENROLMENT = {"by_load": True, "patience_s": 600}


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """All that the model process is told when it starts.

    scoring: how responses are scored, None where they are not; sampler: the deployment's
    numbers: base -> number of its next canary round, 0 where there was none
    ceiling: bytes that the process may hold, None for no limit of its own
    owned: bases that are replayed and scored, None for all; a witness is told of others later
    """

    config: Config
    schedule: Schedule
    scoring: ScoringOptions | None
    sampler: SamplingParameters
    numbers: Mapping[str, int] = field(default_factory=dict)
    ceiling: int | None = None
    owned: frozenset[str] | None = None

    @property
    def models(self) -> tuple[Model, ...]:
        """Those that are loaded, or asked of their engine."""
        return self.config.replayed


def watched_bases(settings: ModelSettings, fetch: Fetch) -> list[WatchedBase]:
    """Not opened. fetch: asks the store for a golden record whose file was lost, as in ``Goldens``. Raises Refused."""
    return [_watched(settings, model, fetch) for model in settings.models]


def _watched(settings: ModelSettings, model: Model, fetch: Fetch) -> WatchedBase:
    config, folder = settings.config, settings.config.probes.golden_dir
    runner, retokenise = runner_of(config, model), Retokenise(config.scoring.retokenise)
    files = _watched_files(config, model) if config.by_engine(model) and config.in_process(model) else None
    kept, before = partial(accepted_adapter, folder), partial(kept_before, folder)
    by_files = files.runner if files else runner
    own = model.name if model.name in config.base_requests.values() else ""
    scorer = ResponseScorer(by_files, settings.scoring, settings.sampler, retokenise, kept, before, own)
    responses = scorer if settings.config.in_process(model) else None
    names = tuple(adapter.name for adapter in model.adapters)
    number = settings.numbers.get(model.name, 0)
    return WatchedBase(model.name, runner, _goldens(config, model, fetch), names, responses, number, files=files)


def _watched_files(config: Config, model: Model) -> WatchedFiles | None:
    """None where the model libraries are missing: the engine's canaries do without, and its responses say that they
    cannot be scored."""
    try:
        runner = files_runner_of(config, model)
    except ModuleNotFoundError as error:
        log.warning("files_not_replayed", base=model.name, why=str(missing_package(str(error.name))))
        return None
    at_hand = tuple(adapter.name for adapter in model.adapters if adapter.path is not None)
    return WatchedFiles(runner, at_hand, config.probes.every)


def runner_of(config: Config, model: Model, golden: bool = True) -> Runner:
    """The runner that answers the canaries of one base: of its serving engine where it has one, else of its files.

    golden: as of ``files_runner_of``. Raises Refused for settings that the runner does not take.
    """
    if model.served is None or not config.by_engine(model):
        return files_runner_of(config, model, golden)
    in_engine = {
        "base": model.served.base or model.name,
        "adapters": {own.name: "" if own.is_made else str(own.path or "") for own in model.adapters},
        "listed_as": {own.name: own.served_as for own in model.adapters if own.served_as != own.name},
        "served": model.served.settings,
        "limits": model.served.limits.settings | ({} if golden else ENROLMENT),
        "evict_every_s": model.served.evict_every if golden else None,
    }
    return _made(runner_registry.SERVED, in_engine, {})


def files_runner_of(config: Config, model: Model, golden: bool = True) -> Runner:
    """The runner of one base's files, as ``probes.runner`` names it. Imports the model libraries here and nowhere
    earlier.

    golden: load the accepted base too where its weights were kept; enrolment accepts what lies there now
    Raises Refused for settings that the runner does not take, and for a model without files.
    """
    probes = config.probes
    make_folders(config, model)
    if model.path is None:
        raise Refused(f"model {model.name}", "no path", "path: the base's folder, in a configuration that replays it")
    shelf = _goldens(config, model)
    if golden:
        shelf.look()
    accepted = [held for held in shelf.for_files().values() if isinstance(held, Golden)]
    filled_in = {
        "base": model.path,
        "adapters": {adapter.name: str(adapter.path) for adapter in model.adapters if adapter.path is not None},
        "golden_base": (model.golden_path or _kept_weights(config, accepted)) if golden else None,
        "golden_adapters": _kept_adapters(config, accepted),
        "device": probes.device,
        "device_memory": config.device_memory,
        "cache_dir": str(probes.cache_dir),
        "max_batch_tokens": probes.max_batch_tokens,
        "attention": probes.attention,
        "tolerance": min(adapter.tolerance for adapter in model.adapters) if model.adapters else 0.05,
        "threads": probes.threads,
    }
    return _made(probes.runner, filled_in, probes.runner_settings)


def _made(name: str, filled_in: Mapping[str, Any], settings: Mapping[str, Any]) -> Runner:
    try:
        return runner_registry.make(name, filled_in, settings)
    except ProbeRefused as error:
        raise Refused(f"probes.{error.what}", error.actual, error.wanted) from None


def goldens_of(config: Config, model: Model) -> dict[str, Golden | Unmonitorable]:
    """The golden records in force now, or why there is none, in the order of the configuration."""
    shelf = _goldens(config, model)
    shelf.look()
    return shelf.held


def _goldens(config: Config, model: Model, fetch: Fetch | None = None) -> Goldens:
    pins = {adapter.name: adapter.golden or "" for adapter in model.adapters}
    return Goldens(config.probes.golden_dir, model.name, pins, fetch, of_files=not config.by_engine(model))


def _kept_weights(config: Config, goldens: Sequence[Golden]) -> str | None:
    """Where enrolment kept the base of the golden records; None where they name several, or it was not kept."""
    # Resolved: under two hash schemes one base has two names.
    hashes = [golden.base_hash for golden in goldens if golden.base_hash]
    names = [folder_of(config.probes.golden_dir, accepted) for accepted in hashes]
    kept = {folder.resolve() for folder in names if holds(folder.is_dir)}
    return str(kept.pop()) if len(kept) == 1 else None


def _kept_adapters(config: Config, goldens: Sequence[Golden]) -> dict[str, str]:
    """Where enrolment kept the adapters of the golden records, of those that it kept."""
    kept = {golden.adapter: accepted_adapter(config.probes.golden_dir, golden) for golden in goldens}
    return {name: str(folder) for name, folder in kept.items() if folder is not None}
