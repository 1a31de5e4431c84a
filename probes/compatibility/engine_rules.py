"""What does a serving engine do with an adapter that does not quite fit? Rules as data, one file an engine, each rule
with its source in a comment of ``rules/*.yaml``.

A rule that no source states says ``unknown``, and the check then cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from probes.errors import Refused

FOLDER = Path(__file__).parent / "rules"


class Outcome(StrEnum):
    """What becomes of an adapter, or of its part on one module. PARTLY: of a part, applied with another effect than
    trained; UNKNOWN: no rule says."""

    FITS = "fits"
    PARTLY = "partly_applied"
    IGNORED = "ignored"
    CRASH = "crash"
    UNKNOWN = "unknown"


NAMES = {"fits": Outcome.FITS, "partly": Outcome.PARTLY, "ignored": Outcome.IGNORED, "crash": Outcome.CRASH}


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of the engine that leaves adapters out. setting: its name; default: 0 for none"""

    setting: str
    outcome: Outcome
    default: int = 0


@dataclass(frozen=True, slots=True)
class EngineRules:
    """Of one engine.

    read_from, since: what the rules were read from, and the engine's version; is_run: were they held against it?
    prefix: must keys begin with PEFT's ("required"), or not ("any")?
    no_target: of the whole adapter, where its config targets no module of the base; untargeted: of a key
    missing, unknown_kind: of a key whose module the base lacks, where a module of that last name is there, and not
    half_pair: A or B alone; other_target: of the whole adapter, where its config targets what is no linear layer
    tied: of whole tensors for embedding and head, where they are one in the base; on_parameters: of an adapter whose
    targets are parameters of experts here, and whose config has what PEFT does not do to parameters
    saved_keys: of the whole adapter, where its config replaces modules of the base that its file has nothing for
    larger, smaller: of factors of another shape; rank_differs: from the config's; named_keys: with an adapter's name
    parts: kind of part -> outcome; separate_experts: keys of single experts, on a base that has them in one tensor
    every_layer: is a kind of module left out that not every layer has an update of?
    switches: field of adapter_config.json that is on -> outcome; other_init: of an initialisation not in plain_inits
    packed: module of the engine -> modules of the base in it; renames: model_type -> beginnings of names, the first
    that fits is replaced, in keys and base alike; wrappers: of a multimodal base without renames
    experts_of: model types of which ``on_parameters`` is said
    embeddings_of: model types whose embedding and head take an update; unsupported_types: that take none at all
    """

    engine: str
    read_from: str
    since: str
    is_run: bool
    prefix: str
    no_target: Outcome
    untargeted: Outcome
    missing: Outcome
    unknown_kind: Outcome
    larger: Outcome
    smaller: Outcome
    rank_differs: Outcome
    half_pair: Outcome
    named_keys: Outcome
    separate_experts: Outcome
    parts: Mapping[str, Outcome]
    other_target: Outcome = Outcome.FITS
    tied: Outcome = Outcome.FITS
    on_parameters: Outcome = Outcome.FITS
    saved_keys: Outcome = Outcome.FITS
    wrappers: Outcome = Outcome.FITS
    every_layer: bool = False
    switches: Mapping[str, Outcome] = field(default_factory=dict)
    plain_inits: tuple[str, ...] | None = None
    other_init: Outcome = Outcome.FITS
    max_rank: Limit | None = None
    target_filter: Limit | None = None
    packed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renames: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    embeddings_of: tuple[str, ...] | None = None
    experts_of: tuple[str, ...] = ()
    unsupported_types: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the engine's own settings that these rules read."""
        return tuple(limit.setting for limit in (self.max_rank, self.target_filter) if limit)


def engines() -> tuple[str, ...]:
    """Names of all engines with rules."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


def rules_of(engine: str) -> EngineRules:
    """Raises Refused for an engine without rules, and for a file of rules that cannot be right."""
    if engine not in engines():
        raise Refused("--engine", repr(engine), f"one of: {', '.join(engines())}")
    written = yaml.safe_load((FOLDER / f"{engine}.yaml").read_text())
    if unknown := set(written) - {entry.name for entry in fields(EngineRules)}:
        raise Refused(f"rules/{engine}.yaml", min(unknown), "a field of EngineRules")
    return EngineRules(**{name: _parsed(name, value) for name, value in written.items()})


def note_of_version(rules: EngineRules, version: str) -> str:
    """What has to be said of this version, "" for nothing."""
    if not version:
        return f"rules read from {rules.read_from}; the engine's version is not given"
    if _numbers(version) < _numbers(rules.since):
        return f"version {version} is older than what the rules were read from ({rules.read_from})"
    return ""


def _parsed(name: str, value: Any) -> Any:
    if name in ("max_rank", "target_filter"):
        return Limit(value["setting"], _outcome(value["outcome"]), int(value.get("default") or 0))
    if name in ("parts", "switches"):
        return {key: _outcome(outcome) for key, outcome in value.items()}
    if name == "renames":
        return {kind: tuple((old, new) for old, new in pairs) for kind, pairs in value.items()}
    if name == "packed":
        return {key: tuple(parts) for key, parts in value.items()}
    if name in ("plain_inits", "embeddings_of", "experts_of", "unsupported_types"):
        return tuple(value)
    if name in ("engine", "read_from", "since", "prefix"):
        return str(value)
    return value if isinstance(value, bool) else _outcome(value)


def _outcome(name: str) -> Outcome:
    return NAMES.get(name, Outcome.UNKNOWN)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in "".join(c if c.isdigit() else " " for c in version.partition("+")[0]).split())
