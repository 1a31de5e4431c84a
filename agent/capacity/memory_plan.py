"""How much memory would each role need with this configuration, before anything is scheduled?

Headers of weight files and config.json are read, and nothing else: no weights, no model library, no network. The sums
of a base are those that the agent itself makes before it loads one (probes/artefacts/needed_memory.py), so that a plan
that fits is one that is loaded. They are upper bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from agent.config import Config, Model, Role
from agent.worker.memory_ceiling import ADAPTER_BYTES, AGENT_BYTES
from probes.artefacts.base_files import locate
from probes.artefacts.needed_memory import LEAST_BATCH, Answering, BaseMemory, StoredBase, memory_of, stored_base
from probes.artefacts.safetensors_header import read_entries
from probes.errors import Unreplayable
from probes.scoring.scoring_job import ScoringOptions

# Containers of these hold (deploy/README.md#sizes).
TRAFFIC_ALONE_BYTES = 256 * 2**20
ASKS_ENGINE_BYTES = 400_000_000
# Of the model process before it has read a base.
MODEL_LIBRARIES_BYTES = 700_000_000
NUMBER_BYTES = {"float16": 2, "bfloat16": 2}
# Matrices alone take two bytes a number (probes/model/precision/kernels.py, which needs torch).
SPLIT = "split_bfloat16"
ADAPTER_FILES = "adapter_model*.safetensors"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the host, and of a card; 0 of a card where none is used."""

    host: int
    card: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.host + other.host, self.card + other.card)


@dataclass(frozen=True, slots=True)
class PlannedBase:
    """One base as its files say. adapters: bytes of their tensors, as they are computed with; golden: is the accepted
    base in memory beside it after a release, to score responses? wide, narrow: with the batches that are configured,
    and with the smallest; eager: with attention held at once, as enrolment's battery answers it"""

    name: str
    stored: StoredBase
    adapters: int
    golden: bool
    wide: BaseMemory
    narrow: BaseMemory
    eager: BaseMemory

    def held(self, copies: int) -> Memory:
        """Once so many of it are loaded, with two versions of each adapter."""
        need, beside = self.wide, 2 * self.adapters
        if need.on_device:
            return Memory(copies * need.tokenizer, copies * need.weights + beside)
        return Memory(copies * need.held + beside)


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A base whose files cannot be read here. why: in words"""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class RolePlan:
    """What one role needs. bases: names of those that it holds in memory, of which only those in ``Plan.bases`` are
    counted

    whole: all of it, the accepted base of each beside the one in use after a release; narrow: the same in the smallest
    batches; until_release: in the smallest batches, without the accepted bases
    """

    role: str
    bases: tuple[str, ...]
    whole: Memory
    narrow: Memory
    until_release: Memory


@dataclass(frozen=True, slots=True)
class Plan:
    """roles: of each that this configuration can have, and of enrolment; uncounted: what is missing of them"""

    bases: tuple[PlannedBase, ...]
    uncounted: tuple[Uncounted, ...]
    roles: tuple[RolePlan, ...]

    def of(self, role: str) -> RolePlan:
        """The plan of that role. Raises StopIteration for another name."""
        return next(plan for plan in self.roles if plan.role == role)


def memory_plan(config: Config, has_card: bool) -> Plan:
    """has_card: is there one, for which the device of the configuration is not the CPU?"""
    files = [planned(config, model, has_card) for model in config.models if model.replay and model.path is not None]
    bases = tuple(base for base in files if isinstance(base, PlannedBase))
    uncounted = tuple(base for base in files if isinstance(base, Uncounted))
    roles = [_of_role(config.model_copy(update={"role": role}), bases) for role in get_args(Role)]
    return Plan(bases, uncounted, (*roles, _of_enrolment(bases, [base.name for base in files])))


def planned(config: Config, model: Model, has_card: bool) -> PlannedBase | Uncounted:
    """What its files say, as far as they are here."""
    try:
        place = locate(str(model.path))
        if place.suffix == ".gguf":
            return Uncounted(model.name, f"{place} is converted when it is loaded; name a folder of safetensors files")
        stored = stored_base(place)
        folders = [adapter.path for adapter in model.adapters if adapter.path]
        adapters = sum(_adapter_bytes(folder, _number_bytes(config)) for folder in folders)
    except Unreplayable as error:
        return Uncounted(model.name, str(error))
    scored = config.model_copy(update={"role": "witness"}).scores(model)
    longest = max(config.probes.max_batch_tokens, ScoringOptions().longest_text if scored else 0)
    is_eager = config.probes.attention == "eager" or (config.probes.attention == "auto" and stored.has_plain_attention)

    def needing(batch_tokens: int, eager: bool) -> BaseMemory:
        is_split = _dtype(config) == SPLIT
        return memory_of(stored, Answering(_number_bytes(config), batch_tokens, eager, has_card, is_split))

    wide, narrow = needing(longest, is_eager), needing(min(longest, LEAST_BATCH), is_eager)
    # Enrolment scores no responses; its battery also answers with the other kernel.
    eager = needing(config.probes.max_batch_tokens, True)
    return PlannedBase(model.name, stored, adapters, scored, wide, narrow, eager)


def _number_bytes(config: Config) -> int:
    return NUMBER_BYTES.get(_dtype(config), 4)


def _dtype(config: Config) -> str:
    return str(config.probes.runner_settings.get("dtype", "auto"))


def _adapter_bytes(folder: Path, number_bytes: int) -> int:
    """Of one version of it. Raises Unreplayable."""
    files = sorted(folder.glob(ADAPTER_FILES))
    if not files:
        raise Unreplayable(str(folder), f"holds no {ADAPTER_FILES}")
    return sum(number_bytes * entry.elements for file in files for entry in read_entries(file))


def _of_role(config: Config, bases: Sequence[PlannedBase]) -> RolePlan:
    adapters = sum(len(model.adapters) for model in config.models)
    loaded = {model.name for model in config.replayed if config.in_process(model)}
    held = [base for base in bases if base.name in loaded]
    if loaded:
        agent = Memory(AGENT_BYTES + MODEL_LIBRARIES_BYTES + ADAPTER_BYTES * adapters)
    elif any(map(config.by_engine, config.replayed)):
        agent = Memory(ASKS_ENGINE_BYTES + ADAPTER_BYTES * adapters)
    else:
        agent = Memory(TRAFFIC_ALONE_BYTES)
    copies = {base.name: 1 + base.golden for base in held}
    whole = sum(_answering(held, copies, [base.wide for base in held]), agent)
    narrow = [base.narrow for base in held]
    return RolePlan(
        config.role,
        tuple(model.name for model in config.models if model.name in loaded),
        whole,
        sum(_answering(held, copies, narrow), agent),
        sum(_answering(held, dict.fromkeys(copies, 1), narrow), agent),
    )


def _answering(bases: Sequence[PlannedBase], copies: dict[str, int], needs: Sequence[BaseMemory]) -> Iterator[Memory]:
    """All of them held, and beside them the worst moment of any: one is loaded, or answers, at a time."""
    yield from (base.held(copies[base.name]) for base in bases)
    yield Memory(max(map(_moment, needs), default=0), max((need.replay for need in needs if need.on_device), default=0))


def _moment(need: BaseMemory) -> int:
    """Of the host, beside what is held: a base for a card is on the host while it is read."""
    return need.weights + need.loading if need.on_device else max(need.loading, need.replay)


def _of_enrolment(bases: Sequence[PlannedBase], names: Sequence[str]) -> RolePlan:
    """One base after the other; a second copy of it answers in the configurations of the battery."""
    agent = Memory(AGENT_BYTES + MODEL_LIBRARIES_BYTES)
    each_alone = [sum(_answering([base], {base.name: 2}, [base.eager]), agent) for base in bases]
    most = each_alone or [Memory(ASKS_ENGINE_BYTES)]
    whole = Memory(max(each.host for each in most), max(each.card for each in most))
    return RolePlan("enrolment", tuple(names), whole, whole, whole)
