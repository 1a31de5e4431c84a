"""Will an engine crash on this adapter, ignore it, apply a part of it, or does it fit? From headers and configs alone.

Each part of the adapter is held against the base's module of that name, by the engine's rules
(probes/compatibility/engine_rules.py). What fits by its structure may still have another effect on another base: that
is for the weights, and for a replay, to say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from probes.artefacts.adapter_keys import EXPERT, FUSED, PREFIX, name_difference
from probes.artefacts.adapter_tensors import TOKEN_ROWS, AdapterTensors
from probes.artefacts.lora_files import count_with_examples
from probes.compatibility.adapter_header import AdapterHeader
from probes.compatibility.base_network import BaseNetwork
from probes.compatibility.engine_rules import EngineRules, Outcome
from probes.model.adapter_parts.low_rank import linear_shape

LAYER = re.compile(r"\.(\d+)\.")
# transformers.conversion_mapping, "mixtral" and the types that share it.
MIXTRALS = ("mixtral", "minimax", "minimax_m2")
EXPERTS_OF_MIXTRAL = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
NAMED = "keys carry the adapter's name"
# From the worst: that of a part decides over its others.
SEVERITY = (Outcome.CRASH, Outcome.UNKNOWN, Outcome.IGNORED, Outcome.PARTLY, Outcome.FITS)


@dataclass(frozen=True, slots=True)
class ModuleOutcome:
    """What becomes of the adapter's part on one module, and why; reason: "" where it fits."""

    module: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Structure:
    """outcome: of the whole adapter; modules: of each part; whole: of what concerns all of it; notes: in words"""

    outcome: Outcome
    modules: tuple[ModuleOutcome, ...]
    whole: tuple[tuple[Outcome, str], ...]
    notes: tuple[str, ...]

    @property
    def reasons(self) -> list[tuple[Outcome, str]]:
        """Each reason once with its modules by count and name, the worst first; none where all fits."""
        grouped: dict[tuple[Outcome, str], list[str]] = defaultdict(list)
        for part in self.modules:
            if part.outcome is not Outcome.FITS:
                grouped[part.outcome, part.reason].append(part.module)
        total = len(self.modules)
        lines = [
            (outcome, count_with_examples(f"of {total} parts {reason}", names))
            for (outcome, reason), names in grouped.items()
        ]
        return sorted([*self.whole, *lines], key=lambda line: SEVERITY.index(line[0]))


def structure(
    base: BaseNetwork, adapter: AdapterHeader, rules: EngineRules, settings: Mapping[str, str] | None = None
) -> Structure:
    """What this engine does with this adapter on this base.

    settings: of the engine, by the names in ``rules.settings``. Raises Unsupported for keys that are none of LoRA's.
    """
    given = settings or {}
    parts = adapter.parts(any_prefix=rules.prefix == "any")
    whole = tuple(_of_the_whole(base, adapter, rules, given))
    names = {_renamed(name, base.kind, rules): module for name, module in base.modules.items()}
    view = _View(base, names, adapter, rules, _filter(rules, given))
    modules = [*_ignored(parts, rules), *view.low_rank(parts), *view.others(parts)]
    if rules.every_layer:
        modules = list(_without_gaps(modules, names))
    outcome = _overall([*(outcome for outcome, _ in whole), *(part.outcome for part in modules)], bool(modules))
    return Structure(outcome, tuple(modules), whole, base.facts)


@dataclass(frozen=True, slots=True)
class _View:
    """The base as the engine names its modules. only: last names that the engine wraps, empty for all"""

    base: BaseNetwork
    modules: Mapping[str, nn.Module]
    adapter: AdapterHeader
    rules: EngineRules
    only: tuple[str, ...]

    def low_rank(self, parts: AdapterTensors) -> Iterator[ModuleOutcome]:
        for name, pair in parts.pairs.items():
            findings = list(self._of_pair(name, pair, name in parts.embeddings))
            yield _worst(name, findings)

    def others(self, parts: AdapterTensors) -> Iterator[ModuleOutcome]:
        """Whole modules, rows of tokens, and parts on parameters."""
        for name, own in parts.saved.items():
            yield _worst(name, [*self._of_saved(name, own), *self._of_tied(name, parts)])
        for name, rows in parts.rows.items():
            yield _worst(name, list(self._of_rows(name, rows)))
        for name in parts.parameters:
            yield _worst(name, [self._lookup(name) or (self.rules.parts["parameters"], "are on parameters")])

    def _of_pair(
        self, name: str, pair: Mapping[str, torch.Tensor], on_embedding: bool
    ) -> Iterator[tuple[Outcome, str]]:
        rules = self.rules
        if not self.adapter.targets.takes(name):
            yield rules.untargeted, "are no target of the adapter's config"
        if not {"lora_A", "lora_B"} <= set(pair):
            yield rules.half_pair, "have lora_A or lora_B alone"
            return
        if (finding := self._lookup(name)) is not None:
            yield finding
            return
        module = self.modules[_renamed(name, self.base.kind, rules)]
        yield from self._of_shape(name, pair, module)
        if self.only and not _is_wrapped(name, self.only, rules) and rules.target_filter:
            yield rules.target_filter.outcome, f"are left out by the engine's {rules.target_filter.setting}"
        for part in ("bias", "magnitude"):
            if part in pair:
                yield rules.parts[part], f"have a {part}"
        if (on_embedding or not LAYER.search(name)) and self._needs_embedding_rule(name, on_embedding):
            yield rules.parts["embedding"], "are on the embedding or the head"

    def _needs_embedding_rule(self, name: str, on_embedding: bool) -> bool:
        """Is it on what only some model types of the engine take an update of?"""
        listed = self.rules.embeddings_of
        is_end = on_embedding or name.rpartition(".")[2] in ("lm_head", "embed_out", "output")
        return is_end and (listed is None or self.base.kind not in listed)

    def _lookup(self, name: str) -> tuple[Outcome, str] | None:
        """Why the base has no module for it, None where it has one."""
        rules, own = self.rules, _renamed(name, self.base.kind, self.rules)
        if own in self.modules:
            return None
        why = name_difference(name, self.base.modules)
        words = "match no module of this base" + (f" ({why})" if why else "")
        if EXPERT.search(name) and not any(EXPERT.search(other) for other in self.modules):
            return rules.separate_experts, words
        if self.base.is_wrapper and rules.wrappers is not Outcome.FITS and self.base.kind not in rules.renames:
            return rules.wrappers, f"{words}: how the engine names them is in no rule"
        last = own.rpartition(".")[2]
        kinds = {other.rpartition(".")[2] for other, _ in self.base.linear()}
        return (rules.missing if last in kinds else rules.unknown_kind), words

    def _of_shape(
        self, name: str, pair: Mapping[str, torch.Tensor], module: nn.Module
    ) -> Iterator[tuple[Outcome, str]]:
        rules, a, b = self.rules, pair["lora_A"], pair["lora_B"]
        wanted = linear_shape(module)
        if isinstance(module, nn.Embedding):
            wanted = (module.embedding_dim, module.num_embeddings)
        if wanted is None:
            yield rules.unknown_kind, f"are on a {type(module).__name__}, which is not linear"
            return
        shape = (b.shape[0], a.shape[1])
        if shape != wanted or a.shape[0] != b.shape[1]:
            is_larger = shape[0] > wanted[0] or shape[1] > wanted[1] or a.shape[0] != b.shape[1]
            words = f"have {shape[0]} x {shape[1]} where the base has {wanted[0]} x {wanted[1]}"
            yield (rules.larger if is_larger else rules.smaller), words
        if (rank := a.shape[0]) != (configured := self.adapter.scaling.rank(name)):
            yield rules.rank_differs, f"have rank {rank} where the adapter's config says {configured}"

    def _of_saved(self, name: str, own: Mapping[str, torch.Tensor]) -> Iterator[tuple[Outcome, str]]:
        rules = self.rules
        yield rules.parts["saved"], "are whole modules (modules_to_save)"
        if (finding := self._lookup(name)) is not None:
            yield finding
            return
        module = self.modules[_renamed(name, self.base.kind, rules)]
        present = {key: tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
        for key, tensor in own.items():
            if key in present and present[key] != tuple(tensor.shape):
                yield rules.larger, f"have {key} {tuple(tensor.shape)} where the base has {present[key]}"

    def _of_tied(self, name: str, parts: AdapterTensors) -> Iterator[tuple[Outcome, str]]:
        """Of two whole tensors for one of the base, the second overwrites the first."""
        if name in self.base.tied and set(self.base.tied) <= set(parts.saved):
            yield self.rules.tied, "are one tensor in this base, and the adapter brings two"

    def _of_rows(self, name: str, rows: torch.Tensor) -> Iterator[tuple[Outcome, str]]:
        yield self.rules.parts["rows"], "are rows of tokens"
        if (finding := self._lookup(name)) is not None:
            yield finding
            return
        weight = self.modules[_renamed(name, self.base.kind, self.rules)].weight
        if isinstance(weight, torch.Tensor) and weight.shape[1] != rows.shape[1]:
            yield self.rules.larger, f"have rows of {rows.shape[1]} where the base has {weight.shape[1]}"


def _of_the_whole(
    base: BaseNetwork, adapter: AdapterHeader, rules: EngineRules, settings: Mapping[str, str]
) -> Iterator[tuple[Outcome, str]]:
    """What concerns all of the adapter."""
    if base.kind in rules.unsupported_types:
        yield Outcome.CRASH, f"{rules.engine} takes no adapters on a {base.kind}"
    for switch, outcome in rules.switches.items():
        if adapter.is_on(switch):
            yield outcome, f"its config has {switch}"
    init = adapter.config.get("init_lora_weights", True)
    if rules.plain_inits is not None and isinstance(init, str) and init.lower() not in rules.plain_inits:
        yield rules.other_init, f"its config has init_lora_weights {init!r}, which changes the base"
    if rules.max_rank is not None:
        most = int(settings.get(rules.max_rank.setting) or rules.max_rank.default)
        rank = max([adapter.scaling.r, *adapter.scaling.rank_pattern.values()])
        if most and rank > most:
            yield rules.max_rank.outcome, f"its rank {rank} is above the engine's {rules.max_rank.setting} {most}"
    if rules.no_target is not Outcome.FITS:
        yield from _targets(base, adapter, rules)
    if rules.saved_keys is not Outcome.FITS and (lost := _keys_without_tensors(base, adapter)):
        yield (
            rules.saved_keys,
            count_with_examples("keys that its config promises for this base are not in its file", lost),
        )


def _keys_without_tensors(base: BaseNetwork, adapter: AdapterHeader) -> list[str]:
    """Of the modules of this base that the adapter's config replaces whole, or in rows of tokens."""
    saved, present = adapter.targets.modules_to_save, {entry.name for entry in adapter.entries}
    wanted = [
        f"{name}.{key}"
        for name, module in base.modules.items()
        if saved and name.endswith(saved)
        for key in module.state_dict()
    ]
    indices = adapter.config.get("trainable_token_indices")
    if isinstance(indices, list):
        wanted += [base.embedding + TOKEN_ROWS]
    elif isinstance(indices, dict):
        wanted += [name for name in indices if not any(own.endswith(name) for own in base.modules)]
        wanted += [
            name + TOKEN_ROWS for name in base.modules if name.endswith(tuple(indices)) and name not in base.tied[1:]
        ]
    return [key for key in wanted if PREFIX + key not in present]


def _targets(base: BaseNetwork, adapter: AdapterHeader, rules: EngineRules) -> Iterator[tuple[Outcome, str]]:
    targets = adapter.targets
    if targets.all_linear or targets.parameters or adapter.is_on("trainable_token_indices"):
        return
    taken = [name for name in base.modules if name and targets.takes(name)]
    if not taken:
        yield rules.no_target, "its config targets no module of this base"
    wrong = [name for name in taken if not _is_wrappable(base.modules[name])]
    if (outcome := rules.on_parameters) is not Outcome.FITS and (names := _on_parameters(base, adapter, rules)):
        yield (
            outcome,
            count_with_examples("targets are parameters of experts, and its config has use_dora or a bias", names),
        )
    if wrong and rules.other_target is not Outcome.FITS:
        yield rules.other_target, count_with_examples(f"of {len(taken)} targets cannot take an update", wrong)


def _on_parameters(base: BaseNetwork, adapter: AdapterHeader, rules: EngineRules) -> list[str]:
    """Parameters of experts that PEFT would wrap in place of the modules that its config names."""
    is_refused = adapter.is_on("use_dora") or adapter.is_on("lora_bias")
    if not is_refused or base.kind not in rules.experts_of:
        return []
    of_experts = [
        f"{name}.{own}"
        for name, module in base.modules.items()
        for own, parameter in module.named_parameters(recurse=False)
        if name.endswith(".experts") and parameter.dim() == 3
    ]
    return [name for name in of_experts if any(map(adapter.targets.takes, _former(name, base.kind)))]


def _former(parameter: str, kind: str) -> list[str]:
    """Names of the modules that were in it, as adapters were trained on them."""
    owner, _, last = parameter.rpartition(".")
    names = EXPERTS_OF_MIXTRAL if kind in MIXTRALS else FUSED
    return [f"{owner}.0.{part}" for part in names.get(last, (last,))]


def _is_wrappable(module: nn.Module) -> bool:
    return linear_shape(module) is not None or isinstance(
        module, nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention
    )


def _ignored(parts: AdapterTensors, rules: EngineRules) -> Iterator[ModuleOutcome]:
    """Keys that PEFT leaves out for what they are called."""
    for reason, keys in parts.ignored.items():
        outcome = rules.named_keys if reason.startswith(NAMED) else Outcome.IGNORED
        yield from (ModuleOutcome(key, outcome, reason) for key in keys)


def _without_gaps(modules: Iterable[ModuleOutcome], names: Mapping[str, nn.Module]) -> Iterator[ModuleOutcome]:
    """As they are, but for kinds of modules of which not every layer has a fitting part."""
    of_base: dict[str, set[str]] = defaultdict(set)
    for name, module in names.items():
        if linear_shape(module) is not None:
            of_base[LAYER.sub(".*.", name, count=1)].add(name)
    parts = list(modules)
    fits = {part.module for part in parts if part.outcome is Outcome.FITS}
    for part in parts:
        whole = of_base.get(LAYER.sub(".*.", part.module, count=1), set())
        if part.outcome is Outcome.FITS and not whole <= fits:
            part = replace(part, outcome=Outcome.IGNORED, reason="are of a kind that not every layer has an update of")
        yield part


def _renamed(name: str, kind: str, rules: EngineRules) -> str:
    """As the engine names it."""
    for old, new in rules.renames.get(kind, ()):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _filter(rules: EngineRules, settings: Mapping[str, str]) -> tuple[str, ...]:
    if rules.target_filter is None:
        return ()
    return tuple(filter(None, settings.get(rules.target_filter.setting, "").replace(",", " ").split()))


def _is_wrapped(name: str, only: tuple[str, ...], rules: EngineRules) -> bool:
    """By its last name, its whole name, or that of the engine's module that it is packed into. Of a packed one it is
    enough that the filter names one of its parts."""
    last = name.rpartition(".")[2]
    packed = [parent for parent, children in rules.packed.items() if last in children]
    together = {child for parent in packed for child in rules.packed[parent]}
    return bool({last, name, *packed, *together} & set(only))


def _worst(name: str, findings: list[tuple[Outcome, str]]) -> ModuleOutcome:
    worst = min(findings, key=lambda finding: SEVERITY.index(finding[0]), default=(Outcome.FITS, ""))
    return ModuleOutcome(name, worst[0], worst[1] if worst[0] is not Outcome.FITS else "")


def _overall(outcomes: list[Outcome], has_parts: bool) -> Outcome:
    kinds = set(outcomes)
    for worst in (Outcome.CRASH, Outcome.UNKNOWN):
        if worst in kinds:
            return worst
    if not has_parts or kinds == {Outcome.IGNORED}:
        return Outcome.IGNORED
    return Outcome.FITS if kinds == {Outcome.FITS} else Outcome.PARTLY
