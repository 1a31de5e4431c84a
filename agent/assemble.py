"""Config to parts: the one file that names every class."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from agent import sink_registry
from agent.alerting.checkpoint import StateFile
from agent.alerting.judge import Judge
from agent.app import Parts, Sink
from agent.clock import Clock
from agent.config import Config, Model, sink_configs
from agent.errors import Refused
from agent.health import Health, Routes
from agent.kafka.consumer import Consumer
from agent.store.reader import StoreReader
from agent.surroundings import Surroundings
from agent.telemetry import Telemetry
from agent.traffic.feed import TrafficFeed
from agent.traffic.redaction import Redactor
from agent.traffic.traffic_sampler import TrafficSampler
from agent.worker.canary_feed import CanaryFeed, Schedule, WatchedBase
from agent.worker.goldens import Goldens, kept_before
from agent.worker.response_scorer import ResponseScorer
from detectors.canaries.tolerance import Tolerances
from detectors.errors import DetectorError
from detectors.evidence.alarm_budget import expected_false_pages_per_year, rounds_per_year
from detectors.evidence.alarm_budget import log_threshold as threshold_of
from detectors.monitor import Monitor, default_configs, paging
from detectors.records import BaseRound, SubjectKind
from detectors.registry import reads
from detectors.traffic_records import TrafficRound
from detectors.verdicts.decision import Rules
from probes import runner_registry
from probes.errors import Refused as ProbeRefused
from probes.golden.record import Golden, Refusal
from probes.golden.weights import accepted_adapter, folder_of
from probes.runner import Runner
from probes.scoring.likelihood_ratio import Settings
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import Retokenise


def assemble(config: Config, extra_sinks: Sequence[Sink] = ()) -> Parts:
    """Everything the loop turns, not yet opened. Raises Refused."""
    clock, telemetry = Clock(), _telemetry(config)
    keeper = StoreReader(config)
    sinks = [*_sinks(config, telemetry, clock), *extra_sinks]
    canaries = _canaries(config, clock, keeper)
    consumer = Consumer(config.kafka) if config.kafka else None
    judge = Judge(monitor_of(config), config.cluster, StateFile(config.state_dir), keeper.elsewhere)
    traffic = _traffic(config, consumer, keeper, judge)
    parts = _statuses(config, sinks, canaries, traffic)
    routes = Routes(metrics=lambda: _page(telemetry, parts()), parts=parts, query=keeper.query)
    health = Health(routes, clock, config.telemetry.prometheus_port, config.telemetry.control_port)
    return Parts(
        judge=judge,
        sinks=sinks,
        canaries=canaries,
        traffic=traffic,
        health=health,
        clock=clock,
        pod=config.pod,
        cluster=config.cluster,
        closing=keeper.close,
        outward=Redactor(config.sampling.redact),
        beat=partial(_gauges, telemetry, consumer, canaries, traffic),
        shutdown_budget_s=config.shutdown_budget,
    )


def log_threshold(config: Config) -> float:
    """ln A, in nats: from every process that may page by itself, the rounds of a year, and the pages allowed."""
    per_year = rounds_per_year(config.probes.every)
    return threshold_of(streams(config), per_year, config.alerts.false_pages_per_year)


def streams(config: Config) -> int:
    """Processes that may page: one a detector that pages for each adapter, or for each base with two adapters or more;
    or as configured."""
    if config.alerts.fleet_streams:
        return config.alerts.fleet_streams
    watched = [model for model in config.models if model.replay]
    subjects = {
        SubjectKind.ADAPTER: sum(len(model.adapters) for model in watched),
        SubjectKind.BASE: sum(len(model.adapters) > 1 for model in watched),
    }
    return max(1, sum(subjects[about] for about in paging(_detectors(config))))


def monitor_of(config: Config) -> Monitor:
    """The detectors with the rules of this configuration, each adapter by its own tolerance."""
    needed = log_threshold(config)
    detectors = {name: _with_threshold(own, needed) for name, own in _detectors(config).items()}
    return Monitor(Rules(_tolerances(config), needed), detectors)


def _with_threshold(own: Any, needed: float) -> Any:
    """A detector that bounds what one observation may add is told what the fleet's threshold is."""
    return replace(own, log_threshold=needed) if hasattr(own, "log_threshold") else own


def _tolerances(config: Config) -> Tolerances:
    own = {adapter.name: adapter.tolerance for model in config.models for adapter in model.adapters}
    return Tolerances(after_release=config.alerts.tolerance_after_release, per_adapter=own)


def _detectors(config: Config) -> dict[str, Any]:
    """The detectors that will have something to read, with their defaults and what the file says over them. Those
    without cost nothing and take no part in the fleet's budget. Raises Refused."""
    read = {BaseRound: config.probes.canaries, TrafficRound: asking_of(config) is not None}
    return {name: own for name, own in _every_detector(config).items() if read.get(reads(name), True)}


def _every_detector(config: Config) -> dict[str, Any]:
    defaults = default_configs(_tolerances(config))
    for name, settings in config.detectors.items():
        if name not in defaults:
            raise Refused(f"detectors.{name}", "this key", f"one of: {', '.join(defaults)}")
        known = [field.name for field in fields(defaults[name])]
        if strange := [key for key in settings if key not in known]:
            raise Refused(f"detectors.{name}", ", ".join(strange), f"one of: {', '.join(known)}")
        try:
            defaults[name] = replace(defaults[name], **settings)
        except (TypeError, DetectorError) as error:
            raise Refused(f"detectors.{name}", settings, str(error)) from None
    return defaults


def runner_of(config: Config, model: Model, golden: bool = True) -> Runner:
    """The runner of one base, as ``probes.runner`` names it; imports the model libraries here and nowhere earlier.

    golden: load the accepted base too where its weights were kept; enrolment accepts what lies there now
    Raises Refused for settings that the runner does not take.
    """
    probes = config.probes
    filled_in = {
        "base": model.path,
        "adapters": {adapter.name: str(adapter.path) for adapter in model.adapters},
        "golden_base": (model.golden_path or _kept_weights(config, model)) if golden else None,
        "golden_adapters": _kept_adapters(config, model) if golden else {},
        "device": probes.device,
        "cache_dir": str(probes.cache_dir),
        "max_batch_tokens": probes.max_batch_tokens,
        "attention": probes.attention,
        "threads": probes.threads,
    }
    try:
        return runner_registry.make(probes.runner, filled_in, probes.runner_settings)
    except ProbeRefused as error:
        raise Refused(f"probes.{error.what}", error.seen, error.wanted) from None


def goldens_of(config: Config, model: Model) -> dict[str, Golden | Refusal]:
    """The golden records in force now, or why there is none, in the order of the configuration."""
    shelf = _goldens(config, model)
    shelf.look()
    return shelf.held


def _goldens(config: Config, model: Model, keeper: StoreReader | None = None) -> Goldens:
    pins = {adapter.name: adapter.golden or "" for adapter in model.adapters}
    return Goldens(config.probes.golden_dir, model.name, pins, keeper.golden if keeper else None)


def _kept_weights(config: Config, model: Model) -> str | None:
    """Where enrolment kept the base of the golden records; None where they name several, or it was not kept."""
    accepted = {golden.base_hash for golden in goldens_of(config, model).values() if isinstance(golden, Golden)}
    # Resolved: under two hash schemes one base has two names.
    names = [folder_of(config.probes.golden_dir, base) for base in accepted]
    kept = {folder.resolve() for folder in names if folder.is_dir()}
    return str(kept.pop()) if len(kept) == 1 else None


def _kept_adapters(config: Config, model: Model) -> dict[str, str]:
    """Where enrolment kept the adapters of the golden records, of those that it kept."""
    goldens = {name: golden for name, golden in goldens_of(config, model).items() if isinstance(golden, Golden)}
    kept = {name: accepted_adapter(config.probes.golden_dir, golden) for name, golden in goldens.items()}
    return {name: str(folder) for name, folder in kept.items() if folder is not None}


def _canaries(config: Config, clock: Clock, keeper: StoreReader) -> CanaryFeed | None:
    watched = [model for model in config.models if model.replay]
    if not watched:
        return None
    bases = [_watched(config, model, keeper) for model in watched]
    seed = secrets.randbits(32) if config.probes.seed is None else config.probes.seed
    schedule = Schedule(
        every_s=config.probes.every,
        budget=config.probes.token_budget_per_round,
        seed=seed,
        flips=config.probes.flips,
        canaries=config.probes.canaries,
    )
    return CanaryFeed(bases, schedule, clock)


def _watched(config: Config, model: Model, keeper: StoreReader) -> WatchedBase:
    runner, folder = runner_of(config, model), config.probes.golden_dir
    kept, before = partial(accepted_adapter, folder), partial(kept_before, folder)
    retokenise = Retokenise(config.scoring.retokenise)
    responses = ResponseScorer(runner, asking_of(config), sampler_of(config), retokenise, kept, before)
    names = tuple(adapter.name for adapter in model.adapters)
    return WatchedBase(model.name, runner, _goldens(config, model, keeper), names, responses)


def asking_of(config: Config) -> ScoringOptions | None:
    """How responses are scored; None where there are none, or none are wanted."""
    wanted = config.scoring
    if config.kafka is None or not wanted.enabled:
        return None
    own = {adapter.name: adapter.tolerance for model in config.models for adapter in model.adapters}
    asked = Settings(numeric=wanted.numeric)
    return ScoringOptions(asked, copies=wanted.copies, others=wanted.others, passes=wanted.passes, tolerances=own)


def sampler_of(config: Config) -> SamplingParameters:
    """nan as temperature where none is told: then a record's own is needed, and the rest holds all the same."""
    wanted = config.scoring
    temperature = math.nan if wanted.temperature is None else wanted.temperature
    return SamplingParameters(temperature, top_p=wanted.top_p, top_k=wanted.top_k)


def _traffic(config: Config, consumer: Consumer | None, keeper: StoreReader, judge: Judge) -> TrafficFeed | None:
    if config.kafka is None or consumer is None:
        return None
    names = [adapter.name for model in config.models for adapter in model.adapters]
    sampler = TrafficSampler(config.sampling, names, config.kafka.format, config.kafka.max_record_bytes)
    return TrafficFeed(consumer, sampler, keeper.counted_upto, judge.judged)


def _sinks(config: Config, telemetry: Telemetry, clock: Clock) -> list[Sink]:
    """Every sink that the configuration switches on, in the order of ``sink_registry.in_order``."""
    surroundings = Surroundings(config.cluster, config.pod, config.state_dir, telemetry, clock)
    return [sink_registry.load(name).Sink(own, surroundings) for name, own in sink_configs(config).items()]


def _telemetry(config: Config) -> Telemetry:
    telemetry = Telemetry({"k8s.cluster.name": config.cluster, "k8s.pod.name": config.pod})
    per_year = rounds_per_year(config.probes.every)
    promised = expected_false_pages_per_year(streams(config), per_year, log_threshold(config))
    telemetry.set("gapwatch.expected_false_pages_per_year", promised)
    return telemetry


def _statuses(
    config: Config, sinks: Sequence[Sink], canaries: CanaryFeed | None, traffic: TrafficFeed | None
) -> Callable[[], Mapping[str, tuple[bool, str]]]:
    """How each part does, in words, asked at the time."""
    named = {f"sink {type(sink).__module__.rsplit('.', 1)[-1]}": sink for sink in sinks}

    def now() -> dict[str, tuple[bool, str]]:
        seen = {name: sink.status for name, sink in named.items()}
        if canaries is not None:
            seen["canaries"] = canaries.status
        if traffic is not None and config.kafka is not None:
            link = traffic.status
            seen["kafka"] = (link.up, link.why or "reading")
        return seen

    return now


def _gauges(
    telemetry: Telemetry, consumer: Consumer | None, canaries: CanaryFeed | None, traffic: TrafficFeed | None
) -> None:
    """From the loop's own thread: the client is not safe to ask from another."""
    for stage, feed in (("sampling", traffic), ("scoring", canaries)):
        for adapter, n in feed.shed.items() if feed is not None else ():
            telemetry.set("gapwatch.shed", n, adapter=adapter, stage=stage)
    if consumer is None:
        return
    for (topic, partition), behind in consumer.lag().items():
        telemetry.set("gapwatch.kafka.lag", behind, topic=topic, partition=str(partition))
    telemetry.set("gapwatch.kafka.rebuilds", consumer.rebuilds)


def _page(telemetry: Telemetry, parts: Mapping[str, tuple[bool, str]]) -> bytes:
    for name, (ok, _) in parts.items():
        if name == "kafka":
            telemetry.set("gapwatch.kafka.ok", float(ok))
        elif name.startswith("sink "):
            telemetry.set("gapwatch.sink.ok", float(ok), sink=name.removeprefix("sink "))
    return telemetry.page()
