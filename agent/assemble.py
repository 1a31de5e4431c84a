"""From the configuration to the parts of the agent: what is constructed, and what each part is given.

The only file that constructs the parts; one that needs something new gets it here. Detectors, formats, sinks and
runners are not named here: each is taken from its folder, by the key that the configuration has for it.
"""

from __future__ import annotations

import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import chain
from typing import Any

from agent import sink_registry
from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import fresh_s
from agent.alerting.fleet_size import FleetSize
from agent.alerting.judge import Judge
from agent.alerting.judged_bases import JudgedBases
from agent.alerting.left_bases import LeftBases
from agent.alerting.notice import state_key
from agent.alerting.rounds_due import RoundsDue
from agent.app import Feed, Parts
from agent.clock import Clock
from agent.config import Config, Model, Skill, sink_configs
from agent.delivery.disk import Disk
from agent.desired_state.watch import PART as DESIRED
from agent.desired_state.watch import DesiredState, desired_state
from agent.errors import Refused
from agent.health import Routes, Statuses
from agent.kafka.consumer import Consumer
from agent.kafka.owned_bases import RULE, OwnedBases
from agent.lifecycle.passport_feed import PassportFeed
from agent.open_telemetry.exporters import metric_readers
from agent.records import ScoredResponses
from agent.sink import Sink, Sinks
from agent.status_page.board import Board
from agent.status_page.incident_plot import IncidentPlots
from agent.status_page.lookback import Lookback
from agent.status_page.page import StatusPage
from agent.status_page.portfolio_page import PortfolioPage
from agent.store.reader import StoreReader
from agent.surroundings import Surroundings
from agent.telemetry import Telemetry
from agent.traffic.feed import TrafficFeed
from agent.traffic.owned_responses import OwnedResponses
from agent.traffic.redaction import Redactor
from agent.traffic.traffic_sampler import TrafficSampler
from agent.worker import memory_ceiling
from agent.worker.canary_feed import CanaryFeed
from agent.worker.model_process import ModelProcess
from agent.worker.response_feed import ResponseFeed
from agent.worker.watched_bases import ModelSettings
from agent.worker.worker import Schedule
from detectors.canaries.tolerance import Tolerances
from detectors.errors import DetectorError
from detectors.evidence.alarm_budget import expected_false_pages_per_year, stream_rounds_per_year
from detectors.evidence.alarm_budget import log_threshold as threshold_of
from detectors.evidence.alternative import Alternative
from detectors.monitor import Monitor, default_configs, paging
from detectors.records import BaseRound, SubjectKind
from detectors.registry import OfEnginesAlone, ThresholdAware, WeighsAlternatives, reads
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import Rules
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.token_scores import Settings

# In /readyz, of an agent that does not do everything.
READS_TRAFFIC = "samples and counts the traffic"
ASKS_ENGINES = "asks engines of `served` for canaries"
# Of the budget to shut down, for what is still to be written.
DISK_SHARE = 0.05
# So long the disk has for what waits when partitions go to another agent.
REVOKED_S = 0.5
WITNESSES = "witness: replays canaries and scores responses of its bases; counts no traffic"


def assemble(config: Config, extra_sinks: Sequence[Sink] = ()) -> Parts:
    """Every part of the agent, not yet opened. Raises Refused."""
    clock, telemetry = Clock(), _telemetry(config)
    keeper = StoreReader(config, clock)
    named = _named_adapters(config)
    board, lookback = (
        Board(config.cluster, config.pod, named, config.alerts.policy.roll_back),
        Lookback(keeper.history, clock),
    )
    plots = IncidentPlots(keeper.query, config.cluster, [*named, *chain.from_iterable(named.values())], clock)
    disk = Disk()
    own_sinks = _sinks(config, telemetry, clock, board, disk)
    sinks = Sinks([*own_sinks, *extra_sinks], Redactor(config.sampling.redact), clock)
    worker, models = _models(config, clock, keeper)
    consumer, ownership, left = _consumer(config, clock), _ownership(config, clock), _left(config, keeper, clock)
    state = StateFile(config.state_dir, clock, disk)
    judge = Judge(
        monitor_of(config),
        config.cluster,
        state,
        keeper.fleet,
        _judged_bases(config, keeper),
        fresh_s(config.probes.every),
        config.alerts.golden_max_age or math.inf,
        config.alerts.policy,
    )
    if config.role != "witness":  # whose bases are shared out by Kafka
        judge.gained(_judged_adapters(config), clock.now(), at_start=True)
    fleet = FleetSize(judge.pods, keeper.most_pods) if config.alerts.pods_are_counted else None
    _share_budget(config, judge, judge.pods if fleet else 1)
    traffic = _traffic(config, consumer, keeper, judge, sinks, disk)
    if traffic:
        _tell_what_is_not_read(models, traffic)
    sources: list[Feed] = [traffic] if traffic else []
    rounds_due = _rounds_due(config)
    own = [rounds_due.own, *(feed.own for feed in models), *([worker.own] if worker else [])]
    if traffic and consumer and ownership:
        responses = OwnedResponses(traffic, _base_of(config), consumer.ends)
        sources, own = [responses], [*own, responses.own]
        _own_nothing_yet(own)
    gauges = [partial(_gauges, telemetry, consumer, worker, traffic)]
    statuses = partial(
        _statuses, config, sinks, worker, traffic, state, ownership or left, desired_state(config, clock)
    )
    return Parts(
        judge=judge,
        sinks=sinks,
        worker=worker,
        feeds=(*models, *sources, *([PassportFeed(config)] if config.replayed else [])),
        traffic=traffic,
        ownership=ownership,
        own=own,
        stores_traffic=ownership is None,
        rounds_due=rounds_due,
        models_cpu_s=(lambda: worker.cpu_s) if worker else (lambda: 0.0),
        unwatched=partial(_unwatched, config, left) if left else dict,
        clock=clock,
        pod=config.pod,
        cluster=config.cluster,
        routes=Routes(
            telemetry,
            statuses,
            keeper.query,
            StatusPage(board, lookback, clock).html,
            plots.svg,
            PortfolioPage(config, keeper.query, clock).html,
        ),
        opening=disk.open,
        closing=partial(_close, lookback, keeper, telemetry, disk, DISK_SHARE * config.shutdown_budget),
        beat=partial(_beat, config, judge, fleet, clock, [*gauges, *([left.look] if left else [])]),
        shutdown_budget_s=config.shutdown_budget,
    )


def log_threshold(config: Config, pods: int = 1) -> float:
    """ln A, in nats: from every process that may page by itself, its rounds of a year, and the pages allowed."""
    return threshold_of(stream_rounds_per_year(stream_counts(config, pods)), config.alerts.false_pages_per_year)


def stream_counts(config: Config, pods: int = 1) -> dict[float, int]:
    """Seconds between rounds -> the processes of the fleet that may page and are judged that often: one a detector that
    pages for each adapter, for each base with two adapters or more, or for the requests that name a base itself, in
    each pod that judges it.

    pods: of the fleet, where the configuration does not say how many there are. With the role ``all`` each replays
    canaries by itself. Each also judges the responses of its own partitions with evidence of its own, so these streams
    are as many, and fewer than that only where there are fewer partitions than pods. With the other roles a base that
    is judged from its files is judged by the witness that owns it, and its evidence goes with it: however many pods
    there are, it counts once. The canaries that a sidecar asks of its engine are its own again, and count in each pod.
    Of a configured number of streams nobody knows which line they read: all count as judged at the shortest interval.
    """
    detectors = _detectors(config)
    counts: Counter[float] = Counter()
    for name, own in detectors.items():
        of_canaries, about = reads(name) is BaseRound, paging({name: own})
        for model in config.models:
            subjects = {
                SubjectKind.ADAPTER: len(model.adapters),
                SubjectKind.BASE: int(sum(not isinstance(adapter, Skill) for adapter in model.adapters) > 1),
                SubjectKind.BASE_REQUESTS: int(model.name in config.base_requests.values()),
            }
            judged = _judging_pods(config, model, of_canaries, config.alerts.sidecars or pods)
            if isinstance(own, OfEnginesAlone):
                judged = judged[:1] if model.served else []
            for cadence, judging in judged:
                counts[cadence] += judging * sum(subjects[kind] for kind in about)
    present = {cadence: count for cadence, count in counts.items() if count} or {config.probes.every: 1}
    fleet = config.alerts.fleet_streams
    return {min(present): fleet} if fleet else present


def _judging_pods(config: Config, model: Model, of_canaries: bool, pods: int) -> list[tuple[float, int]]:
    """Seconds between the rounds of one base, and how many pods judge it at a time, each with evidence of its own; that
    of those which ask its engine comes first.

    Where an agent does not do everything, one file may serve sidecars and witnesses: each sidecar asks its own engine,
    and from its files a base is judged by one witness.
    """
    in_process = config.probes.every if of_canaries else config.responses_every
    if config.role == "all":
        if of_canaries:
            return [(config.canaries_every(model), pods)] if model.replay else []
        return [(in_process, pods)] if config.in_process(model) else []
    by_engine = [(model.served.every, pods)] if model.served and of_canaries else []
    return [*by_engine, *([(in_process, 1)] if model.replay and model.path is not None else [])]


def monitor_of(config: Config, pods: int = 1) -> Monitor:
    """The detectors with the rules of this configuration, each adapter by its own tolerance. pods: see stream_counts"""
    needed = log_threshold(config, pods)
    detectors = {name: _with_threshold(own, needed) for name, own in _detectors(config).items()}
    return Monitor(Rules(_tolerances(config), needed), detectors)


def _judged_adapters(config: Config) -> dict[str, list[str]]:
    """Base -> its adapters, of those that this agent judges; of a witness those that it may own."""
    return {model.name: [adapter.name for adapter in model.adapters] for model in config.replayed}


def _unwatched(config: Config, left: LeftBases) -> dict[str, list[str]]:
    """Base -> its adapters, of those that nobody judges."""
    return {base: names for base, names in _named_adapters(config).items() if base in left.unwatched}


def _rounds_due(config: Config) -> RoundsDue:
    """Canaries where they are on, else sampled responses."""
    if config.probes.canaries:
        return RoundsDue({model.name: config.canaries_every(model) for model in config.replayed})
    return RoundsDue({model.name: config.responses_every for model in config.replayed}, ScoredResponses)


def _judged_bases(config: Config, keeper: StoreReader) -> JudgedBases:
    return JudgedBases(_judged_adapters(config), config.role == "witness", keeper.gone_states)


def _beat(
    config: Config, judge: Judge, fleet: FleetSize | None, clock: Clock, looks: Sequence[Callable[[], None]]
) -> None:
    """With each heartbeat: these looks, and whether another number of pods shares the budget."""
    for look in looks:
        look()
    if fleet is not None:
        _share_budget(config, judge, fleet.now_known(clock.now()))


def _share_budget(config: Config, judge: Judge, pods: int) -> None:
    """Judge by the threshold of a fleet of so many pods."""
    if pods != judge.pods or log_threshold(config, pods) != judge.log_threshold:
        judge.share_budget(pods, monitor_of(config, pods))


def _with_threshold(settings: Any, needed: float) -> Any:
    return settings.with_threshold(needed) if isinstance(settings, ThresholdAware) else settings


def _tolerances(config: Config) -> Tolerances:
    own = _tolerance_of_each(config)
    return Tolerances(after_release=config.alerts.tolerance_after_release, per_adapter=own)


def _tolerance_of_each(config: Config) -> dict[str, float]:
    return {adapter.name: adapter.tolerance for model in config.models for adapter in model.adapters}


def _detectors(config: Config) -> dict[str, Any]:
    """The detectors that will have something to read, with their defaults and what the file says over them. Those
    without cost nothing and take no part in the fleet's budget. Raises Refused."""
    read = {BaseRound: config.probes.canaries, TrafficRound: scoring_options(config) is not None}
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


def _consumer(config: Config, clock: Clock) -> Consumer | None:
    """Of the traffic. A witness reads all of it, whatever other agents read."""
    if config.kafka is None:
        return None
    return Consumer(config.kafka.of_witness(config.pod) if config.role == "witness" else config.kafka, clock)


def _ownership(config: Config, clock: Clock) -> OwnedBases | None:
    """Of a witness, which bases are its own; None where all are."""
    if config.kafka is None or config.role != "witness":
        return None
    consumer = Consumer(config.kafka.of_ownership(), clock, RULE)
    return OwnedBases(consumer, config.kafka.replays_topic, [model.name for model in config.replayed], clock)


def _left(config: Config, keeper: StoreReader, clock: Clock) -> LeftBases | None:
    """Of an agent that leaves bases to others; None where it leaves none, or nobody else writes into its store."""
    left = {
        model.name: [(SubjectKind.ADAPTER, adapter.name) for adapter in model.adapters]
        for model in config.models
        if model.name in config.left_to_others
    }
    if not left or config.role == "witness" or config.clickhouse.dsn.startswith("chdb:"):
        return None
    keys = {base: [state_key(*subject) for subject in subjects] for base, subjects in left.items()}
    return LeftBases(keys, partial(keeper.watchers, list(chain.from_iterable(left.values()))), clock)


def _own_nothing_yet(own: Sequence[Callable[[frozenset[str]], None]]) -> None:
    for tell in own:
        tell(frozenset())


def _base_of(config: Config) -> dict[str, str]:
    adapters = {adapter.name: model.name for model in config.replayed for adapter in model.adapters}
    replayed = {model.name for model in config.replayed}
    return adapters | {base: base for base in config.base_requests.values() if base in replayed}


def _models(
    config: Config, clock: Clock, keeper: StoreReader
) -> tuple[ModelProcess | None, list[CanaryFeed | ResponseFeed]]:
    """The process that owns the models, and the feeds of what it finishes: canaries, and responses where there are."""
    adapters = _judged_adapters(config)
    if not adapters:
        return None, []
    schedule = _schedule(config)
    canaries = CanaryFeed(adapters, schedule.every_s if schedule.canaries else None, schedule.own_every_s)
    scorable = {model.name: adapters[model.name] for model in config.replayed if config.in_process(model)}
    responses = ResponseFeed(scorable, config.responses_every, config.scoring.enabled) if config.kafka else None
    feeds: list[CanaryFeed | ResponseFeed] = [canaries, responses] if responses else [canaries]
    settings = ModelSettings(
        config,
        schedule=schedule,
        scoring=scoring_options(config),
        sampler=sampler_of(config),
        ceiling=memory_ceiling.ceiling(memory_ceiling.container_limit(), sum(map(len, adapters.values()))),
    )
    return ModelProcess(settings, keeper.golden, [feed.receive for feed in feeds], clock), feeds


def _schedule(config: Config) -> Schedule:
    return Schedule(
        every_s=config.probes.every,
        responses_every_s=config.responses_every if config.kafka else None,
        budget=config.probes.token_budget_per_round,
        seed=secrets.randbits(32) if config.probes.seed is None else config.probes.seed,
        flips=config.probes.flips,
        canaries=config.probes.canaries,
        own_every_s={own.name: config.canaries_every(own) for own in config.replayed if config.by_engine(own)},
    )


def scoring_options(config: Config) -> ScoringOptions | None:
    """How responses are scored; None where there are none, or none are wanted."""
    wanted = config.scoring
    if config.kafka is None or not wanted.enabled:
        return None
    options = ScoringOptions(
        Settings(numeric=wanted.numeric),
        copies=tuple(map(Alternative.from_text, wanted.copies)),
        others=wanted.others,
        passes=wanted.passes,
        tolerances=_tolerance_of_each(config),
    )
    mixed = (
        settings.weights for settings in _every_detector(config).values() if isinstance(settings, WeighsAlternatives)
    )
    return replace(options, weights=next(mixed, options.weights))


def sampler_of(config: Config) -> SamplingParameters:
    """The deployment's sampler. Its temperature is nan where none is configured: a record is then scored only with a
    temperature of its own, and top-p and top-k hold all the same."""
    wanted = config.scoring
    temperature = math.nan if wanted.temperature is None else wanted.temperature
    return SamplingParameters(temperature, top_p=wanted.top_p, top_k=wanted.top_k)


def _traffic(
    config: Config, consumer: Consumer | None, keeper: StoreReader, judge: Judge, sinks: Sinks, disk: Disk
) -> TrafficFeed | None:
    if config.kafka is None or consumer is None:
        return None
    names = [adapter.name for model in config.models for adapter in model.adapters]
    sampler = TrafficSampler(
        config.sampling, names, config.kafka.format, config.kafka.max_record_bytes, config.base_requests
    )

    def counted_upto() -> dict[tuple[str, int], int]:
        """In the store, or on its way there from this pod: both may name a partition, and the higher end holds."""
        stored, underway = keeper.counted_upto(), sinks.counted_upto()
        return {key: max(stored.get(key, 0), underway.get(key, 0)) for key in {*stored, *underway}}

    def flush() -> bool:
        """Partitions go to another member: the loop waits for the disk here, for once, rather than read them again."""
        disk.await_written(REVOKED_S)
        return sinks.flush() and judge.is_saved

    counted = dict if config.role == "witness" else counted_upto  # a witness counts nothing
    return TrafficFeed(consumer, sampler, counted, judge.judged, flush=flush)


def _tell_what_is_not_read(models: Sequence[CanaryFeed | ResponseFeed], traffic: TrafficFeed) -> None:
    for feed in models:
        if isinstance(feed, ResponseFeed):
            feed.not_read = lambda: traffic.not_read


def _named_adapters(config: Config) -> dict[str, list[str]]:
    """Base -> its adapters, of all that the configuration names, whoever judges them."""
    return {model.name: [adapter.name for adapter in model.adapters] for model in config.models}


def _sinks(config: Config, telemetry: Telemetry, clock: Clock, board: Board, disk: Disk) -> list[Sink]:
    """Every sink that the configuration switches on, in the order of ``sink_registry.in_order``."""
    group = config.consumer_group
    surroundings = Surroundings(
        config.cluster, config.pod, config.state_dir, telemetry, clock, group, board, config.alerts.policy, disk
    )
    return [sink_registry.load(name).Sink(own, surroundings) for name, own in sink_configs(config).items()]


def _telemetry(config: Config) -> Telemetry:
    about = {"k8s.cluster.name": config.cluster, "k8s.pod.name": config.pod}
    telemetry = Telemetry(about, metric_readers(os.environ))
    promised = expected_false_pages_per_year(stream_rounds_per_year(stream_counts(config)), log_threshold(config))
    telemetry.set("gapwatch.expected_false_pages_per_year", promised)
    return telemetry


def _close(lookback: Lookback, keeper: StoreReader, telemetry: Telemetry, disk: Disk, budget_s: float) -> None:
    disk.close(budget_s)
    lookback.close()
    keeper.close()
    telemetry.close()


def _statuses(
    config: Config,
    sinks: Sinks,
    worker: ModelProcess | None,
    traffic: TrafficFeed | None,
    state: StateFile,
    bases: OwnedBases | LeftBases | None,
    desired: DesiredState | None,
) -> Statuses:
    """Whether each part works, and in words how it does."""
    statuses = {**sinks.statuses, "state": state.status}
    if config.role != "all":
        statuses["role"] = (True, "; ".join([_role_in_words(config), *config.left_to_others.values()]))
    if bases is not None:
        statuses["bases"] = bases.status
    if desired is not None:
        statuses[DESIRED] = desired.status
    if worker is not None:
        statuses["models"] = worker.status
    if traffic is not None:
        link = traffic.status
        statuses["kafka"] = (link.up, link.why or "reading")
    return statuses


def _role_in_words(config: Config) -> str:
    if config.role == "witness":
        return WITNESSES
    does = [*([READS_TRAFFIC] if config.kafka else []), *([ASKS_ENGINES] if config.replayed else [])]
    return f"{config.role}: {', '.join(does)}; loads no model"


def _gauges(
    telemetry: Telemetry, consumer: Consumer | None, worker: ModelProcess | None, traffic: TrafficFeed | None
) -> None:
    """From the loop's own thread: the client is not safe to ask from another."""
    for stage, part in (("sampling", traffic), ("scoring", worker)):
        for adapter, n in part.shed.items() if part is not None else ():
            telemetry.set("gapwatch.shed", n, adapter=adapter, stage=stage)
    if worker is not None:
        telemetry.set("gapwatch.models.restarts", worker.restarts)
    if consumer is None:
        return
    for (topic, partition), behind in consumer.lag().items():
        telemetry.set("gapwatch.kafka.lag", behind, topic=topic, partition=str(partition))
    telemetry.set("gapwatch.kafka.rebuilds", consumer.rebuilds)
