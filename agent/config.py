"""The configuration file: its sections and their defaults, read and checked as a whole.

Unknown keys and duplicate keys are refused. Relative paths are relative to the file, ``~`` is the home folder. Secrets
are never in it: it names the files that hold them. Components declare their own frozen ``Config`` beside their code; it
is composed here. A new key also needs a line in deploy/gapwatch.yaml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from agent import config_errors, sink_registry, yaml_document
from agent.alerting.policy import Policy
from agent.composition.settings import Composition, folder_of
from agent.delivery.pagerduty_address import address as pagerduty_address
from agent.delivery.pagerduty_incidents import API_URL
from agent.economics.prices import Costs
from agent.errors import Refused, Unfit
from agent.kafka.config import Config as KafkaConfig
from agent.store.dsn import checked as store_address
from agent.store.migrations import DAY_S, SHORTEST_KEEP_D, TIMES
from agent.store.migrations import Account as MigrationAccount
from agent.traffic.reservoir import Config as SamplingConfig
from agent.yaml_document import shown_key
from detectors.canaries.composed_skills import skill_name
from detectors.records import THE_BASE
from probes import runner_registry
from probes.artefacts.access import holds
from probes.canaries.canary_file import read_canaries
from probes.errors import Refused as ProbeRefused
from probes.serving.load_limits import LoadLimits

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30}


def seconds(value: object) -> float:
    """``60``, ``"60s"``, ``"5m"``, ``"250ms"`` in seconds. Raises ValueError with what was wanted."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    duration = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", str(value))
    if not duration:
        raise ValueError('a duration such as "60s", "5m" or "250ms"')
    return float(duration[1]) * _UNITS[duration[2]]


def device_memory(value: object) -> float:
    """A share of a GPU's memory, up to 1, or bytes: ``0.05``, ``"6GB"``, ``"500 MiB"``. Raises ValueError likewise."""
    if isinstance(value, int | float) and not isinstance(value, bool) and (0 < value <= 1 or value >= _SIZES["MB"]):
        return float(value)
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MG]i?B)\s*", str(value))
    if not size or not float(size[1]):
        raise ValueError('a share of the card up to 1, such as 0.05, or bytes such as "6GB"')
    return float(size[1]) * _SIZES[size[2]]


def moment(option: str, text: str, now: float) -> float:
    """``6h`` before now, or a time as ISO 8601 has it, UTC where it names no zone; in seconds. Raises Refused."""
    if re.fullmatch(r"\d+(\.\d+)?(ms|s|m|h|d)", text):
        return now - seconds(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise Refused(option, repr(text), 'a time such as "2026-03-01T12:00" (UTC), or how long ago: "6h"') from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def printable(text: str) -> str:
    """A name as engines allow them: ``org/model@v2``, ``base:adapter``, ``größer #3``. Raises Unfit.

    Unprintable characters are reserved as separators of composed keys; a space at an end is a typing error.
    """
    if not text.isprintable() or text != text.strip():
        raise Unfit("one with a character that cannot be printed, or space at an end", "a name of printable characters")
    return text


def of_an_adapter(name: str) -> str:
    """Pages call the base "the base", so no adapter may have that name. Raises Unfit."""
    if name == THE_BASE:
        raise Unfit(f"{name!r}, which is what pages call the base", "another name")
    return name


def engine_address(url: str) -> str:
    """``http[s]://host[:port]`` of a serving engine, without the /v1 that clients of its interface want behind it.

    Raises Unfit; the message does not repeat the address, because a login may have been written into it.
    """
    wanted = "http://localhost:8000, or https://: scheme, host and port of the engine, with or without its /v1"
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise Unfit("one that cannot be read", wanted) from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", parts.hostname or ""):
        raise Unfit("one without http:// or https:// and a host", wanted)
    if parts.username is not None or parts.password is not None:
        raise Unfit("a login in it: a token is read from token_file", wanted)
    if parts.path.rstrip("/") not in ("", "/v1") or parts.query or parts.fragment:
        raise Unfit("another path or a query behind the host", wanted)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def dialect(name: str) -> str:
    """auto, or a file of probes/serving/dialects. Raises Unfit."""
    if name not in (known := ("auto", *runner_registry.dialects())):
        raise Unfit(shown_key(name), f"one of: {', '.join(known)}")
    return name


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0, allow_inf_nan=False)]
DeviceMemory = Annotated[float, BeforeValidator(device_memory)]
Name = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(printable)]
Link = Annotated[str, Field(pattern=r"^(https?://\S+)?$")]
Role = Literal["all", "sidecar", "witness", "apart"]
# What a role reads the topics of Kafka for, where it would have nothing to do without that section.
WHY_KAFKA: dict[Role, str] = {
    "apart": "it samples and counts the traffic of its topic",
    "witness": "it shares the bases with the other witnesses by a topic, and scores the responses of another",
}
# The share of a GPU's memory that the models may have where nothing is configured. Beside an engine: by default vLLM
# starts only where .92 of the card is free, with some .5 GB of its own context used by then; of the smallest usual
# card, 16 GB, that leaves .05. A witness has a device of its own.
BESIDE_AN_ENGINE, OF_A_WITNESS = 0.05, 0.9


def _days(seconds: float) -> float:
    """Raises Unfit unless these are days, and enough of them for what is asked of the store."""
    if seconds % DAY_S or seconds < SHORTEST_KEEP_D * DAY_S:
        raise Unfit(f"{seconds / DAY_S:g} days", f"whole days, {SHORTEST_KEEP_D}d or more: incidents look back a week")
    return seconds


def _loads_no_model(info: ValidationInfo) -> bool:
    """Is this the file of an agent apart, which reads traffic and no file of a model? As ``parse`` passes it on: the
    role stands beside the models, and each model is checked without it."""
    return isinstance(info.context, dict) and info.context.get("role") == "apart"


def _twice(names: list[str]) -> list[str]:
    return sorted(name for name in set(names) if names.count(name) > 1)


class Section(BaseModel):
    """A block of the file: frozen; unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Adapter(Section):
    """One adapter to watch.

    path: PEFT folder as the engine reads it; None where it is asked over HTTP alone (``Model.served``)
    canaries: JSONL of prompts
    golden: hash of the golden record to compare with; None: the newest accepted one
    tolerance: share of the adapter's strength that may be lost or gained before a canary counts, in (0, 1)
    """

    name: Annotated[Name, AfterValidator(of_an_adapter)]
    path: Path | None = None
    canaries: Path | None = None
    golden: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    tolerance: float = Field(default=0.05, gt=0, lt=1)

    @property
    def served_as(self) -> str:
        """Its name in an engine's list."""
        return self.name

    @property
    def is_made(self) -> bool:
        """Are its files made here, and known to no engine?"""
        return False


class Skill(Adapter):
    """What a composition does on the canaries of one of its members: watched like an adapter. Never written in a file.

    composition, member: their names; path: of the composition; made: by whoever loads the models, from its members
    """

    composition: str
    member: str
    made: bool = False

    @property
    def served_as(self) -> str:
        return self.composition

    @property
    def is_made(self) -> bool:
        return self.made


class ServedLimits(Section):
    """How much a serving engine is asked for canaries (probes/serving/load_limits.py); in rounds, not in enrolments.

    logit_bytes: that one request may make it hold; tokens_per_minute: that it reads and writes
    """

    logit_bytes: int = Field(default=LoadLimits().most_logit_bytes, ge=1)
    tokens_per_minute: int = Field(default=LoadLimits().tokens_a_minute, ge=1)
    requests_per_minute: int = Field(default=LoadLimits().requests_a_minute, ge=1)

    @property
    def settings(self) -> dict[str, Any]:
        """What the runner is told."""
        return {
            "most_logit_bytes": self.logit_bytes,
            "tokens_a_minute": self.tokens_per_minute,
            "requests_a_minute": self.requests_per_minute,
        }


class Served(Section):
    """The serving engine that answers this base's canaries, over HTTP.

    url: of the engine of this pod, never of a balancer; engine: file in probes/serving/dialects, or auto
    base: its name in the engine's list, by default the model's; token_file: holds the bearer token that is wanted
    ca_file: that its certificate is checked against, in place of the system's
    every: between two rounds of canaries: they take the engine's time, where those in process do not
    pause_file: while it exists the engine is asked nothing
    desired_file: that a LoRA sidecar keeps the engine to (``vLLMLoRAConfig``); differences are told, and judge nothing
    evict_every: between two times at which one adapter, by turns, is pushed out of the engine's memory by requests to
    others; done where the engine says how many it holds and lists more. None: never
    """

    url: Annotated[str, AfterValidator(engine_address)]
    engine: Annotated[str, AfterValidator(dialect)] = "auto"
    base: Name | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    every: Duration = 600.0
    pause_file: Path | None = None
    desired_file: Path | None = None
    evict_every: Duration | None = 21_600.0
    limits: ServedLimits = ServedLimits()

    @property
    def settings(self) -> dict[str, str]:
        """What the runner is told of the engine; "" for a file that is not named."""
        names = ("token_file", "ca_file", "pause_file", "desired_file")
        files = {name: getattr(self, name) for name in names}
        return {"url": self.url, "engine": self.engine} | {key: str(file or "") for key, file in files.items()}


class Desired(Section):
    """What a controller should have the engine serve (agent/desired_state): context, never evidence.

    llm_inference_service: ``namespace/name`` of KServe's object; every: between two looks at it
    api_url: of the Kubernetes API; api_dir: holds token and ca.crt of an account that may get that object
    """

    llm_inference_service: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    every: Duration = 300.0
    api_url: str = Field(default="https://kubernetes.default.svc", pattern=r"^https?://[^\s@/]+$")
    api_dir: Path = Path("/var/run/secrets/gapwatch-api")


class Model(Section):
    """One base and its adapters.

    path: folder, hub id, or .gguf file of the base in use; None where its engine alone is asked, or where nothing is
    replayed: with replay: false, and by an agent apart
    served: the engine that is asked, None where canaries are replayed from the files
    golden_path: where the weights of enrolment are kept
    replay: false samples and stores traffic of these adapters without loading any model
    desired: where it is written which adapters should be served
    compositions: of these adapters; each is watched by the canaries of its members. ``parse`` appends their skills to
    the adapters
    """

    name: Name
    path: str | None = Field(default=None, min_length=1)
    served: Served | None = None
    golden_path: str | None = None
    replay: bool = True
    desired: Desired | None = None
    adapters: tuple[Adapter, ...] = Field(min_length=1)
    compositions: tuple[Composition, ...] = ()

    @property
    def watched(self) -> tuple[str, ...]:
        """Names of its adapters, and of the skills of its compositions."""
        skills = [skill_name(own.name, member.adapter) for own in self.compositions for member in own.members]
        return (*(adapter.name for adapter in self.adapters if not isinstance(adapter, Skill)), *skills)

    @property
    def requested_as(self) -> str:
        """The name by which requests ask for the base itself."""
        return self.served.base if self.served and self.served.base else self.name

    @model_validator(mode="after")
    def _can_be_replayed(self, info: ValidationInfo) -> Model:
        if self.served and not self.replay:
            raise Unfit("served with replay: false", "one of the two: replay: false asks no model anything")
        if not self.replay or _loads_no_model(info):
            return self
        if self.served is None and self.path is None:
            raise Unfit("neither path nor served", "path: the base's folder, or served: {url: its engine's address}")
        if self.served is None and (without := [own.name for own in self.adapters if own.path is None]):
            wanted = "path: the adapter's folder, or served: {url: its engine's address} beside the model's name"
            raise Unfit(f"no path of {', '.join(without)}", wanted)
        return self

    def skills(self, cache_dir: Path) -> tuple[Skill, ...]:
        """Of all its compositions. cache_dir: where those are made that have no path of their own"""
        own = {adapter.name: adapter for adapter in self.adapters}
        return tuple(
            Skill(
                name=skill_name(composition.name, member.adapter),
                path=composition.path or folder_of(cache_dir, self.name, composition.name),
                canaries=own[member.adapter].canaries,
                golden=member.golden,
                tolerance=member.tolerance or own[member.adapter].tolerance,
                composition=composition.name,
                member=member.adapter,
                made=composition.path is None,
            )
            for composition in self.compositions
            for member in composition.members
        )

    @model_validator(mode="after")
    def _compositions_are_of_its_adapters(self) -> Model:
        names = [adapter.name for adapter in self.adapters]
        taken = [*names, *(composition.name for composition in self.compositions)]
        if self.compositions and len(set(taken)) < len(taken):
            raise Unfit(f"{_twice(taken)} twice", "names of adapters and compositions that differ")
        for composition in self.compositions:
            printable(composition.name)
            if strange := [member.adapter for member in composition.members if member.adapter not in names]:
                wanted = f"adapters of the same model: {', '.join(names)}"
                raise Unfit(f"{', '.join(map(shown_key, strange))} in the composition {composition.name}", wanted)
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Model:
        names = [adapter.name for adapter in self.adapters]
        if len(set(names)) != len(names):
            raise Unfit(f"{_twice(names)} twice", "adapter names that differ")
        return self


class Probes(Section):
    """How canaries are replayed.

    runner: name of the file in probes/runners that answers replays from files; runner_settings: its own, over its
    defaults. Models with ``served`` are answered by their engine whatever this says
    every: one scheduled round of these; token_budget_per_round: scored positions per adapter
    device: auto, cpu, cuda, cuda:0 ...; threads: on CPU, 0 takes the share of this container
    device_memory: the most that the models take of a GPU, their context included: a share of it up to 1, or bytes.
    None: by role (``Config.device_memory``)
    attention: sdpa, eager, or auto: sdpa where the base's class computes all of its attention with it
    keep_golden_weights: keep the accepted base, content-addressed, at enrolment; by default where responses are scored
    and there is no golden_path. Hard links on one file system, elsewhere a copy as large as the base for each base that
    is accepted
    flips: worst canaries regenerated once when an adapter becomes degraded
    canaries: false replays none; adapters are judged by their sampled responses alone
    """

    runner: str = "in_process"
    runner_settings: dict[str, Any] = Field(default_factory=dict, validate_default=True)
    every: Duration = 60.0
    token_budget_per_round: int = Field(default=512, ge=64)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$")
    device_memory: DeviceMemory | None = None
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    golden_dir: Path = Path("/var/lib/gapwatch/golden")
    cache_dir: Path = Path("/var/cache/gapwatch")
    keep_golden_weights: bool | None = None
    max_batch_tokens: int = Field(default=2048, ge=128)
    threads: int = Field(default=0, ge=0)
    flips: int = Field(default=2, ge=0, le=16)
    canaries: bool = True
    seed: int | None = Field(default=None, ge=0)

    @field_validator("runner")
    @classmethod
    def _is_a_runner(cls, name: str) -> str:
        from_files = [known for known in runner_registry.names() if known != runner_registry.SERVED]
        if name == runner_registry.SERVED:
            raise Unfit(name, "models[].served: {url: the engine's address}, which chooses it for that model")
        if name not in from_files:
            raise Unfit(shown_key(name), f"one of: {', '.join(from_files)}")
        return name

    @field_validator("runner_settings")
    @classmethod
    def _are_of_that_runner(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        try:
            if "runner" in info.data:  # else it was refused already
                runner_registry.check(info.data["runner"], settings)
        except ProbeRefused as error:
            raise Unfit(str(error.actual), error.wanted) from None
        return settings


class Scoring(Section):
    """How sampled responses are scored by the golden copies (probes/scoring/scoring_job.py).

    every: between two rounds of responses, each judged as a whole; by default as long as probes.every
    enabled: false embeds them and no more; copies: alternatives with a pass of their own: half, double, 4 bits
    others: the other adapters are alternatives too; passes: how many of these each response gets, drawn by weight, null
    for all
    temperature, top_p, top_k: of the deployment, for records that do not tell; without a temperature those that tell
    none stay unscored. An engine that takes its defaults from generation_config.json has those
    numeric: nats per token taken off every e-value for the numerics of the serving engine, where they lean the
    adapter's way: bf16 kernels were seen to need .005, float32 nothing
    retokenise: outputs whose records hold no token ids are scored from their text never, where the engine counted as
    many tokens as the text has (counted), or always, with no bound on what other ids than the text's may do to a bet
    """

    every: Duration | None = None
    enabled: bool = True
    copies: tuple[Literal["half", "double", "4 bits"], ...] = ("half", "double")
    others: bool = True
    passes: int | None = Field(default=2, ge=0)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    numeric: float = Field(default=0.0, ge=0, le=1)
    retokenise: Literal["never", "counted", "always"] = "counted"


class PagerDuty(Section):
    """Where incidents go. routing_key_file: a mounted file with the 32-character integration key.

    owners: an owner that the policy names -> such a file of the service of their own
    url: of the region, with or without the path that Alertmanager appends to it
    api_token_file, api_url, image_url, clock_tickets: see agent/sinks/pagerduty.py
    """

    routing_key_file: Path
    owners: dict[str, Path] = Field(default_factory=dict)
    url: Annotated[str, AfterValidator(pagerduty_address)] = "https://events.pagerduty.com"
    dashboard_url: Link = ""
    runbook_url: Link = ""
    status_url: Link = ""
    image_url: Annotated[str, Field(pattern="^(https://.+)?$")] = ""
    api_token_file: Path | None = None
    api_url: Annotated[str, AfterValidator(pagerduty_address)] = API_URL
    clock_tickets: bool = False


class Clocks(Section):
    """What of the passports runs out (agent/lifecycle/clocks.py).

    people_file: the people who are still there, one a line; None: no owner is taken for gone
    golden_after, rebuild_after: after how long a golden record is stale, and a rebuild is due
    """

    people_file: Path | None = None
    golden_after: Duration = 365 * 86400.0
    rebuild_after: Duration = 365 * 86400.0


class Alerts(Section):
    """When to page. false_pages_per_year: for the whole fleet that shares this setting; thresholds follow from it.

    sidecars: agents of the fleet that run this configuration: with the role ``all`` each judges streams of its own, so
    all of them count; with the others a base is judged by one witness, however many there are.
    None: the most pods of the cluster that were alive at once within the last day, by their heartbeats
    fleet_streams: streams of all agents together where their configurations differ (0: counted from this file)
    tolerance_after_release: the most of its strength that an adapter may lose or gain, however far its base moved
    golden_max_age: a golden record that is older is reported once, as a change event. None: none is too old
    clocks: what of the passports runs out
    policy: how urgent an incident is, whose, and how they roll back, by its cause and by its adapter
    """

    false_pages_per_year: float = Field(default=1.0, gt=0)
    sidecars: int | None = Field(default=None, ge=1)
    fleet_streams: int = Field(default=0, ge=0)
    tolerance_after_release: float = Field(default=0.25, gt=0, lt=1)
    golden_max_age: Duration | None = None
    clocks: Clocks = Clocks()
    policy: Policy = Policy()
    pagerduty: PagerDuty | None = None

    @property
    def pods_are_counted(self) -> bool:
        """Does the threshold follow the number of pods that are alive?"""
        return self.sidecars is None and not self.fleet_streams

    @model_validator(mode="after")
    def _fleet_is_counted_once(self) -> Alerts:
        if self.fleet_streams and (self.sidecars or 1) > 1:
            raise Unfit(f"fleet_streams {self.fleet_streams} and sidecars {self.sidecars}", "one of the two")
        return self

    @model_validator(mode="after")
    def _every_owner_has_a_service(self) -> Alerts:
        """What went to a name nobody has a key for would go to whoever gets what has no owner."""
        if self.pagerduty and (without := sorted(self.policy.owners - set(self.pagerduty.owners))):
            wanted = "a file with a routing key for each under pagerduty.owners"
            raise Unfit(f"no service of {', '.join(without)}, whom the policy names", wanted)
        return self


class ClickHouse(Section):
    """Where rows go. dsn: clickhouse://user@host:8443/db, or chdb:///folder for the embedded engine.

    replicated: Replicated engines; on_cluster: name of the cluster that tables are created on, "" for this server alone
    migrations: the account of ``gapwatch migrate``; agents then create and alter nothing. None: they do it themselves
    where their account may
    keep: table -> how long its rows are kept, over what the migrations say; set by whoever migrates
    verdicts: rows on change and once an hour, or every_round; what was measured is stored of every round in either case
    store_text: keep prompts and outputs of production; off unless configured
    """

    dsn: Annotated[str, AfterValidator(store_address)] = "chdb:///var/lib/gapwatch/store"
    password_file: Path | None = None
    replicated: bool = False
    on_cluster: str = Field(default="", pattern=r"^[\w.{}-]*$")
    migrations: MigrationAccount | None = None
    keep: dict[str, Annotated[Duration, AfterValidator(_days)]] = Field(default_factory=dict)
    verdicts: Literal["changes", "every_round"] = "changes"
    store_text: bool = False

    @model_validator(mode="after")
    def _makes_sense(self) -> ClickHouse:
        if strange := sorted(set(self.keep) - set(TIMES)):
            raise Unfit(f"keep of {', '.join(map(shown_key, strange))}", f"tables among: {', '.join(sorted(TIMES))}")
        if self.migrations and self.dsn.startswith("chdb:"):
            raise Unfit(
                "migrations with an embedded engine", "none: it has no accounts, and the agent creates its tables"
            )
        return self


class Telemetry(Section):
    """prometheus_port: metrics and /livez for the cluster; control_port: loopback only, for commands in this pod."""

    prometheus_port: int = Field(default=9464, ge=0, le=65535)
    control_port: int = Field(default=9465, ge=0, le=65535)

    @model_validator(mode="after")
    def _ports_differ(self) -> Telemetry:
        if self.prometheus_port == self.control_port != 0:
            raise Unfit(f"prometheus_port and control_port both {self.control_port}", "two ports that differ")
        return self


def _role_by_models(given: dict[str, Any]) -> Role:
    """Where no role is written: ``sidecar``, unless a model can be watched from its files alone, and would not be."""
    models: tuple[Model, ...] = given.get("models", ())
    return "all" if any(model.replay and model.served is None for model in models) else "sidecar"


class Config(Section):
    """The whole file.

    role: what this agent does of all that a fleet does (docs/architecture.md#roles); by default ``sidecar`` where every
    model that is to be replayed has ``served``, else ``all``, so that none goes unwatched for a line that is missing
    detectors: name of a file in detectors/kinds -> settings of its own, over its defaults
    sinks: name of a file in agent/sinks, which switches it on -> settings of its Config; for those that have a
    section of their own (``clickhouse``, ``alerts.pagerduty``) what that section does not hold
    """

    models: tuple[Model, ...] = Field(min_length=1)
    kafka: KafkaConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    probes: Probes = Probes()
    scoring: Scoring = Scoring()
    alerts: Alerts = Alerts()
    clickhouse: ClickHouse = ClickHouse()
    telemetry: Telemetry = Telemetry()
    costs: Costs = Costs()
    detectors: dict[str, dict[str, float | int]] = Field(default_factory=dict)
    sinks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    role: Role = Field(default_factory=_role_by_models)
    cluster: Name = "default"
    pod: str = ""
    state_dir: Path = Path("/var/lib/gapwatch/state")
    shutdown_budget: Duration = 4.0

    @model_validator(mode="after")
    def _names_are_unique(self) -> Config:
        bases = [model.name for model in self.models]
        if len(set(bases)) != len(bases):
            raise Unfit(f"{_twice(bases)} twice", "names of models that differ")
        names = [name for model in self.models for name in model.watched]
        if len(set(names)) != len(names):
            raise Unfit(f"{_twice(names)} twice", "adapter names unique over all models: traffic is assigned by them")
        return self

    @model_validator(mode="after")
    def _policy_is_about_these_adapters(self) -> Config:
        watched = {name for model in self.models for name in model.watched}
        if strange := sorted(set(self.alerts.policy.adapters) - watched):
            names = ", ".join(map(shown_key, strange))
            raise Unfit(f"a policy of {names}", f"names of adapters that are watched: {', '.join(sorted(watched))}")
        return self

    @model_validator(mode="after")
    def _something_is_judged(self) -> Config:
        responses_scored = self.kafka is not None and self.scoring.enabled
        if not self.probes.canaries and any(map(self.by_engine, self.replayed)):
            raise Unfit("probes.canaries false with served", "canaries on: a serving engine is asked nothing else")
        if not self.probes.canaries and not responses_scored and self.replayed:
            wanted = "probes.canaries on, or kafka with scoring.enabled: otherwise nothing is judged"
            raise Unfit("neither canaries nor scored responses", wanted)
        return self

    @model_validator(mode="after")
    def _has_what_its_role_needs(self) -> Config:
        kafka, role = self.kafka, self.role
        if role == "sidecar" and kafka is None and not self.replayed:
            wanted = "one of them: it would have nothing to do"
            raise Unfit("role sidecar with neither the section kafka nor a model with served", wanted)
        if role in WHY_KAFKA and kafka is None:
            raise Unfit(f"role {role} without the section kafka", f"that section: {WHY_KAFKA[role]}")
        if role == "witness" and kafka is not None:
            if not kafka.group_id:
                raise Unfit("role witness without kafka.group_id", "one name for all witnesses, which they share by")
            if kafka.replays_topic == kafka.topic:
                wanted = "a topic of its own, which `gapwatch migrate` creates"
                raise Unfit(f"kafka.replays_topic {kafka.replays_topic}, the topic of the traffic", wanted)
            if not self.replayed:
                raise Unfit("role witness with replay: false for every model", "a model to replay, or another role")
        return self

    @property
    def replayed(self) -> tuple[Model, ...]:
        """The bases whose canaries this agent replays: a sidecar through their engines, a witness from the files of
        those that it may own. An agent apart replays none."""
        match self.role:
            case "all":
                return tuple(model for model in self.models if model.replay)
            case "sidecar":
                return tuple(model for model in self.models if model.served)
            case "witness":
                return tuple(filter(self.in_process, self.models))
        return ()

    def by_engine(self, model: Model) -> bool:
        """Does its serving engine answer its canaries? Not those of a witness."""
        return model.served is not None and self.role != "witness"

    @property
    def left_to_others(self) -> dict[str, str]:
        """Bases that are to be replayed, and not by this agent -> by whom, in words."""
        left = [model for model in self.models if model.replay and model not in self.replayed]
        return {
            model.name: f"base {model.name} is watched by {_who_replays(model)}; this pod replays nothing of it"
            for model in left
        }

    def in_process(self, model: Model) -> bool:
        """Are its files loaded here? Those of a base with ``served`` by a witness, and beside the engine where one
        agent does everything: they score the responses, and say whether a fault is one of the files."""
        has_files = model.path is not None and any(adapter.path is not None for adapter in model.adapters)
        return model.replay and has_files and (model.served is None or self.role in ("witness", "all"))

    def scores(self, model: Model) -> bool:
        """Are sampled responses of this base's adapters scored?"""
        return self.kafka is not None and self.scoring.enabled and self.in_process(model)

    @property
    def base_requests(self) -> dict[str, str]:
        """Name by which requests ask for a base itself -> that base; none of a name that an adapter has, or two bases:
        whose requests these are is not known."""
        adapters = {adapter.name for model in self.models for adapter in model.adapters}
        names = [model.requested_as for model in self.models]
        return {
            model.requested_as: model.name
            for model in self.models
            if names.count(model.requested_as) == 1 and not adapters & {model.requested_as, model.name}
        }

    @property
    def consumer_group(self) -> str:
        """The consumer group by which what this agent has counted and judged is kept apart in the store; "" without
        Kafka. Witnesses have one together, because a base goes from one to another, and not that of the sidecars."""
        if self.kafka is None:
            return ""
        return self.kafka.of_ownership().group_id or "" if self.role == "witness" else self.kafka.group_id or ""

    def canaries_every(self, model: Model) -> float:
        """Seconds between two rounds of this base's canaries."""
        return model.served.every if model.served and self.by_engine(model) else self.probes.every

    @property
    def device_memory(self) -> float:
        """The most that the models take of a GPU: a share of it up to 1, or bytes. As configured, else what an engine
        beside them leaves; the whole of it, nearly, for a witness."""
        by_role = OF_A_WITNESS if self.role == "witness" else BESIDE_AN_ENGINE
        return by_role if self.probes.device_memory is None else self.probes.device_memory

    @property
    def responses_every(self) -> float:
        """Seconds between two rounds of responses."""
        return self.probes.every if self.scoring.every is None else self.scoring.every

    def keeps_weights(self, model: Model) -> bool:
        """Does enrolment keep the accepted base? As configured, else where responses could not be scored without it."""
        if model.path is None:
            return False
        wanted = self.probes.keep_golden_weights
        return self.scores(model) and model.golden_path is None if wanted is None else wanted

    @property
    def sink_sections(self) -> dict[str, tuple[str, Section | None]]:
        """Sinks that need no key under ``sinks``: name -> the section that holds their settings, and what it says."""
        return {
            "clickhouse": ("clickhouse", self.clickhouse),
            "pagerduty": ("alerts.pagerduty", self.alerts.pagerduty),
            "prometheus": ("telemetry", None),
            "status_page": ("telemetry", None),
        }

    def names_of(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """These adapters, a composition by its skills; all that are watched where none is named."""
        names: list[str] = []
        for name in wanted or [adapter.name for model in self.models for adapter in model.adapters]:
            skills = [own.name for model in self.models for own in model.adapters if _is_skill_of(own, name)]
            names += skills or [name]
        return tuple(dict.fromkeys(names))

    def adapter(self, name: str) -> tuple[Model, Adapter]:
        """The adapter of that name with its base. Raises Refused naming those that exist."""
        for model in self.models:
            for adapter in model.adapters:
                if adapter.name == name:
                    return model, adapter
        names = ", ".join(a.name for m in self.models for a in m.adapters)
        raise Refused("adapter", repr(name), f"one of: {names}")


def _is_skill_of(adapter: Adapter, composition: str) -> bool:
    return isinstance(adapter, Skill) and adapter.composition == composition


def _who_replays(model: Model) -> str:
    by_engine = ["a sidecar beside its engine"] if model.served else []
    return " and ".join([*by_engine, *(["a witness"] if model.path is not None else [])]) or "another agent"


def load(path: Path) -> Config:
    """Read the file. Raises Refused, on one line: the place, what stands there and what was wanted."""
    return parse(yaml_document.read(path), path)


def parse(data: dict[str, Any], path: Path) -> Config:
    """A parsed file as a Config; ``path`` names it in errors and anchors relative paths."""
    config_errors.check_expanded(path, data)
    try:
        config = Config.model_validate(data, context={"role": data.get("role")})
    except ValidationError as error:
        raise config_errors.refused(path, error.errors()[0]) from None
    config = config.model_copy(update={"sinks": {name: _of_sink(config, name, path) for name in config.sinks}})
    config_errors.check_truths(path, data, config)
    return _with_skills(_anchored(config, path.resolve().parent))


def sink_configs(config: Config) -> dict[str, BaseModel]:
    """Name of each sink that is switched on -> its Config, in the order in which they are given findings."""
    always = {"prometheus", "status_page", "clickhouse"} | ({"pagerduty"} if config.alerts.pagerduty else set())
    return {
        name: sink_registry.load(name).Config(**_from_section(config, name), **config.sinks.get(name, {}))
        for name in sink_registry.in_order(always | set(config.sinks))
    }


def _from_section(config: Config, name: str) -> dict[str, Any]:
    _, section = config.sink_sections.get(name, ("", None))
    return dict(section) if section else {}


def _of_sink(config: Config, name: str, path: Path) -> dict[str, Any]:
    """The settings under ``sinks.NAME`` as its Config reads them. Raises Refused with the place of what is wrong."""
    place, section = config.sink_sections.get(name, ("", None))
    if name == "pagerduty" and section is None:
        raise Refused(f"{path}: sinks.{name}", "no alerts.pagerduty", "that section, which switches it on")
    if name not in sink_registry.names():
        raise Refused(f"{path}: sinks.{shown_key(name)}", "this key", f"one of: {', '.join(sink_registry.names())}")
    given, elsewhere = config.sinks[name], _from_section(config, name)
    if twice := [key for key in given if key in elsewhere]:
        raise Refused(f"{path}: sinks.{name}.{twice[0]}", "this key", f"{place}.{twice[0]}, where it is read from")
    try:
        read = sink_registry.load(name).Config.model_validate(elsewhere | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise config_errors.refused(path, {**first, "loc": ("sinks", name, *first["loc"])}) from None
    return {key: getattr(read, key) for key in given}


def missing_files(config: Config) -> list[Refused]:
    """Files named in the configuration that must exist before a start and do not, each with its place. Bases and
    adapters may come later."""
    needed: list[tuple[str, Path | None]] = [("clickhouse.password_file", config.clickhouse.password_file)]
    needed.append(("alerts.clocks.people_file", config.alerts.clocks.people_file))
    if config.alerts.pagerduty:
        pagerduty = config.alerts.pagerduty
        needed.append(("alerts.pagerduty.routing_key_file", pagerduty.routing_key_file))
        needed.append(("alerts.pagerduty.api_token_file", pagerduty.api_token_file))
        needed += [(f"alerts.pagerduty.owners.{owner}", file) for owner, file in pagerduty.owners.items()]
    if config.kafka:
        files = ("sasl_password_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile")
        needed += [(f"kafka.{name}", getattr(config.kafka, name)) for name in files]
    for i, model in enumerate(config.models):
        if model.served:
            needed += [(f"models.{i}.served.{name}", getattr(model.served, name)) for name in ("token_file", "ca_file")]
        own = ((j, adapter) for j, adapter in enumerate(model.adapters) if not isinstance(adapter, Skill))
        needed += [(f"models.{i}.adapters.{j}.canaries", adapter.canaries) for j, adapter in own]
    return [config_errors.missing(place, file) for place, file in needed if file and not holds(file.is_file)]


def faulty_canaries(config: Config) -> list[Refused]:
    """Canary files that exist and cannot be used, each once with its place and every wrong line."""
    faults: dict[Path, Refused] = {}
    for i, model in enumerate(config.models):
        for j, adapter in enumerate(model.adapters):
            file = adapter.canaries
            if file is None or file in faults or not holds(file.is_file):
                continue
            try:
                read_canaries(file)
            except ProbeRefused as error:
                place = f"models.{i}.adapters.{j}.canaries: {error.what}"
                faults[file] = Refused(place, error.actual, error.wanted)
    return list(faults.values())


def _anchored(config: Config, folder: Path) -> Config:
    """Make every relative path absolute, from the folder of the file."""

    def anchor(value: Any) -> Any:
        if isinstance(value, Path):
            return folder / value.expanduser()
        if isinstance(value, tuple):
            return tuple(anchor(item) for item in value)
        if isinstance(value, dict):
            return {key: anchor(item) for key, item in value.items()}
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: anchor(getattr(value, name)) for name in type(value).model_fields})
        return value

    anchored: Config = anchor(config)
    models = tuple(
        model.model_copy(update={"path": _base(model.path, folder), "golden_path": _base(model.golden_path, folder)})
        for model in anchored.models
    )
    pod = anchored.pod or os.uname().nodename
    return anchored.model_copy(update={"models": models, "pod": pod, "kafka": _named(anchored.kafka, pod)})


def _with_skills(config: Config) -> Config:
    """Every model with the skills of its compositions behind its adapters: whatever watches an adapter watches them."""
    if not any(model.compositions for model in config.models):
        return config
    models = tuple(
        model.model_copy(update={"adapters": (*model.adapters, *model.skills(config.probes.cache_dir))})
        for model in config.models
    )
    return config.model_copy(update={"models": models})


def _named(kafka: KafkaConfig | None, pod: str) -> KafkaConfig | None:
    """The agent's name in its consumer group, by default the pod's, as far as Kafka allows its characters."""
    if kafka is None or kafka.group_instance_id is not None:
        return kafka
    name = re.sub(r"[^A-Za-z0-9._-]", "-", pod)[:249]
    return kafka.model_copy(update={"group_instance_id": name})


def _base(source: str | None, folder: Path) -> str | None:
    """A hub id is left alone unless a file of that name lies beside the configuration; all else is a path."""
    if source is None:
        return source
    local = folder / Path(source).expanduser()
    hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith(".") and not source.endswith(".gguf")
    return source if hub_id and not holds(local.exists) else str(local)
