"""A LoRA folder in PEFT's layout, read into the low-rank update of each module.

Read here and not through PEFT, for two reasons: a key that matches nothing has to become a fact instead of a warning,
and a feature that is not implemented is refused by its name. The rules are PEFT 0.21's; tests/probes/model/test_lora.py
holds the result to PEFT's own numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from probes.artefacts.adapter_folder import check_layout, check_not_empty, check_origin
from probes.artefacts.adapter_tensors import AdapterTensors, sorted_tensors
from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NEWEST, PLAIN_INITS, HashByScheme, adapter_hashes
from probes.artefacts.safetensors_header import RawTensor, check_header, read_file, read_json
from probes.artefacts.target_modules import TargetModules
from probes.errors import Unreplayable, Unsupported

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

# Switches of adapter_config.json that change what an adapter computes and that are not implemented here.
REFUSED = (
    "layer_replication", "megatron_config", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config", "velora_config", "lora_ga_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LowRankUpdate:
    """What LoRA adds to the output of one module: scaling * ((x A^T) B^T + bias).

    a: (r, in), or (r, vocabulary) on an embedding, whose x counts as one-hot; b: (out, r)
    bias: (out,) of B, None without
    magnitude: (out,) of DoRA: the norms that the rows of W + scaling * B A are given; None without
    All as stored.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    on_embedding: bool = False

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor for tensor in (self.a, self.b, self.bias, self.magnitude) if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False)
class TokenRows:
    """Rows of an embedding that an adapter replaces (trainable_token_indices).

    ids: of the tokens; values: (len(ids), width), as stored
    """

    ids: tuple[int, ...]
    values: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ParameterUpdates:
    """What LoRA adds to parameters of one module (target_parameters), such as the experts of a mixture in one tensor.

    pairs: A and B of each targeted parameter, in the order in which the module has them; (experts * r, in) and
    (out, r * experts) of PEFT's layout. factors: the factor of each by its whole name
    """

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    factors: LoraScaling


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """One adapter as read from its files.

    low_rank: module name -> its update; saved: module name -> parameter name -> tensor that replaces the base's
    r, alpha: of the config, without its patterns; problems: what of the files cannot be used, in words
    targets: which modules of a base should have an update
    rows: module name -> rows of it that the adapter replaces; parameters: module name -> updates of its parameters
    saved_share: interpolation from the base's parameters (0) to the saved ones (1); 1 as read, less in an average of
    two adapters (probes/model/faulty_adapters.py)
    """

    path: str
    hashes: HashByScheme
    r: int
    alpha: float
    low_rank: Mapping[str, LowRankUpdate]
    saved: Mapping[str, Mapping[str, torch.Tensor]]
    problems: tuple[str, ...] = ()
    targets: TargetModules = field(default_factory=TargetModules)
    saved_share: float = 1.0
    rows: Mapping[str, TokenRows] = field(default_factory=dict)
    parameters: Mapping[str, ParameterUpdates] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """Everything that it changes, each once."""
        return tuple(dict.fromkeys((*self.low_rank, *self.saved, *self.rows, *self.parameters)))

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """All that are applied."""
        for part in self.low_rank.values():
            yield from part.tensors
        for own in self.saved.values():
            yield from own.values()
        yield from (rows.values for rows in self.rows.values())
        for updates in self.parameters.values():
            yield from (half for pair in updates.pairs for half in pair)

    @property
    def beyond_low_rank(self) -> str:
        """The first feature that A and B of linear modules do not express, "" where they say it all."""
        features = {
            "target_parameters": bool(self.parameters),
            "trainable_token_indices": bool(self.rows),
            "use_dora": any(part.magnitude is not None for part in self.low_rank.values()),
            "lora_bias": any(part.bias is not None for part in self.low_rank.values()),
            "LoRA on an embedding": any(part.on_embedding for part in self.low_rank.values()),
        }
        return next((name for name, present in features.items() if present), "")

    @property
    def hash(self) -> str:
        """By the newest scheme: two adapters with the same one answer alike."""
        return self.hashes[NEWEST]


def read_adapter(folder: Path) -> LoraAdapter:
    """The adapter in this folder.

    Raises Unreplayable for files that are damaged, missing or no PEFT adapter; Unsupported, which names the feature.
    """
    config = _config(folder)
    raw = list(read_file(folder / ADAPTER_WEIGHTS))
    check_not_empty(folder, raw)
    factors, targets = LoraScaling.read(folder, config), TargetModules.read(folder / ADAPTER_CONFIG, config)
    read = sorted_tensors(str(folder), {tensor.name: to_torch(tensor) for tensor in raw}, config, targets)
    _check_embeddings(folder, read, config)
    low_rank, untargeted, problems = _low_rank(read, config, factors, targets)
    unusable = {f"match no target of {ADAPTER_CONFIG}": untargeted, f"are not as {ADAPTER_CONFIG} says": problems}
    facts = (
        *(count_with_examples(f"of {len(raw)} {reason}", keys) for reason, keys in read.ignored.items()),
        *(
            count_with_examples(f"of {len(read.pairs)} modules {why}", names)
            for why, names in unusable.items()
            if names
        ),
    )
    hashes = adapter_hashes(config, raw)
    return LoraAdapter(
        str(folder),
        hashes,
        factors.r,
        factors.alpha,
        low_rank,
        read.saved,
        facts,
        targets,
        rows={module: _rows(folder, module, values, config) for module, values in read.rows.items()},
        parameters={module: _parameters(folder, module, pairs, factors) for module, pairs in read.parameters.items()},
    )


def _check_embeddings(folder: Path, read: AdapterTensors, config: Mapping[str, Any]) -> None:
    """Raises Unsupported for what PEFT does to an embedding beside its low-rank update."""
    for switch in ("use_dora", "ensure_weight_tying"):
        if read.embeddings and config.get(switch):
            raise Unsupported(str(folder), f"{switch} beside LoRA on {min(read.embeddings)}")
    if both := sorted(read.rows.keys() & {*read.pairs, *read.saved}):
        raise Unsupported(str(folder), f"trainable_token_indices beside another change of {both[0]}")


def _low_rank(
    read: AdapterTensors, config: Mapping[str, Any], factors: LoraScaling, targets: TargetModules
) -> tuple[dict[str, LowRankUpdate], list[str], list[str]]:
    """The updates, the modules that the config does not target, and what is not as it says, in words."""
    untargeted = [module for module in read.pairs if not targets.takes(module)]
    updates, problems = {}, list[str]()
    wanted = {"lora_A", "lora_B"} | ({"magnitude"} if config.get("use_dora") else set())
    for module, part in read.pairs.items():
        if module in untargeted:
            continue
        if not wanted <= set(part):
            problems.append(f"{module} has {' and '.join(sorted(part))} alone")
            continue
        updates[module] = LowRankUpdate(
            part["lora_A"],
            part["lora_B"],
            factors.scaling(module),
            part.get("bias"),
            part.get("magnitude"),
            module in read.embeddings,
        )
        if (rank := part["lora_A"].shape[0]) != (configured := factors.rank(module)):
            problems.append(f"{module} has rank {rank} where {ADAPTER_CONFIG} says {configured}")
    return updates, untargeted, problems


def _rows(folder: Path, module: str, values: torch.Tensor, config: Mapping[str, Any]) -> TokenRows:
    """Raises Unreplayable where the config does not say of which tokens they are."""
    ids = config["trainable_token_indices"]
    if isinstance(ids, Mapping):
        ids = next((own for name, own in ids.items() if module == name or module.endswith(f".{name}")), [])
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids) or len(ids) != len(values):
        raise Unreplayable(
            str(folder), f"{module} has {len(values)} rows of tokens where trainable_token_indices says otherwise"
        )
    return TokenRows(tuple(ids), values)


def _parameters(
    folder: Path, module: str, pairs: Sequence[Mapping[str, torch.Tensor]], factors: LoraScaling
) -> ParameterUpdates:
    """Raises Unreplayable where half of a pair is missing."""
    if any(set(pair) != {"lora_A", "lora_B"} for pair in pairs):
        raise Unreplayable(str(folder), f"{module} has lora_A or lora_B alone for a parameter of it")
    return ParameterUpdates(tuple((pair["lora_A"], pair["lora_B"]) for pair in pairs), factors)


def check_adapter(folder: Path) -> None:
    """Check an adapter without reading its tensors. Raises as ``read_adapter`` does."""
    _config(folder)
    check_header(folder / ADAPTER_WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    check_layout(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    check_origin(folder, config)
    check_supported(folder, config)
    return config


def count_with_examples(what: str, items: Sequence[str], shown: int = 3) -> str:
    """A count with the first few by name: "24 of 120 modules match nothing: a, b, c and 21 more"."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{len(items)} {what}: {', '.join(items[:shown])}{more}"


def to_torch(tensor: RawTensor) -> torch.Tensor:
    """A tensor over the bytes that were read, not a copy. Raises Unsupported for a type that torch does not have."""
    if tensor.kind not in DTYPES:
        raise Unsupported(tensor.name, f"the tensor type {tensor.kind}")
    if not tensor.data:
        return torch.empty(tensor.shape, dtype=DTYPES[tensor.kind])
    return torch.frombuffer(tensor.data, dtype=DTYPES[tensor.kind]).reshape(tensor.shape)


def check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises Unsupported for the first switch that would change the adapter and is not implemented here."""
    path = str(folder)
    if config.get("peft_type") != "LORA":
        raise Unsupported(path, f"peft_type {config.get('peft_type')!r}")
    for switch in REFUSED:
        if config.get(switch):
            raise Unsupported(path, switch)
    if config.get("bias", "none") != "none":
        raise Unsupported(path, f"bias {config['bias']!r}")
    if config.get("ensure_weight_tying") and config.get("modules_to_save"):
        raise Unsupported(path, "ensure_weight_tying beside modules_to_save")  # a tied module would be replaced as well
    if config.get("use_dora") and config.get("lora_bias"):
        raise Unsupported(path, "lora_bias beside use_dora")  # nor does PEFT have it
    init = config.get("init_lora_weights", True)
    if init not in PLAIN_INITS:
        raise Unsupported(path, f"init_lora_weights {init!r} (it changes the base; convert it to a plain LoRA)")


@dataclass(frozen=True, slots=True)
class LoraScaling:
    """The factor on each module's low-rank update, by PEFT's rules: alpha / r, or alpha / sqrt(r) for rsLoRA.

    r, alpha: of modules that no pattern matches; rank_pattern, alpha_pattern: regular expression -> value, the first
    match counts
    """

    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any]) -> LoraScaling:
        """From adapter_config.json. Raises Unreplayable when r or alpha is missing or no positive number."""
        try:
            r, alpha = int(config["r"]), float(config["lora_alpha"])
            ranks = {str(k): int(v) for k, v in (config.get("rank_pattern") or {}).items()}
            alphas = {str(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()}
            for key in (*ranks, *alphas):
                re.compile(key)
        except (KeyError, TypeError, ValueError, AttributeError, re.error) as error:
            raise Unreplayable(str(folder / ADAPTER_CONFIG), f"r, lora_alpha or their patterns: {error!r}") from error
        if min([r, *ranks.values()]) < 1:
            raise Unreplayable(str(folder / ADAPTER_CONFIG), f"a rank below 1 (r {r}, rank_pattern {ranks})")
        if not all(0 < value < math.inf for value in (alpha, *alphas.values())):
            present = f"lora_alpha {alpha}, alpha_pattern {alphas}"
            raise Unreplayable(str(folder / ADAPTER_CONFIG), f"an alpha that is no positive number ({present})")
        return cls(r, alpha, ranks, alphas, bool(config.get("use_rslora")))

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _by_pattern(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """The value of the first key that matches the whole name, or its end after a dot, as PEFT's ``get_pattern_key``."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise
