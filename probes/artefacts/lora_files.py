"""A LoRA folder in PEFT's layout, read into the low-rank update of each module.

Read here and not through PEFT, for two reasons: a key that matches nothing has to become a fact instead of a warning,
and a feature that is not implemented is refused by its name. The rules are PEFT 0.21's; tests/probes/model/test_lora.py
holds the result to PEFT's own numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from probes.artefacts.adapter_folder import check_layout, check_not_empty, check_origin
from probes.artefacts.adapter_keys import LOADED_AS, PREFIX, explain_missing_prefix, parse_lora_key
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
    "use_dora", "lora_bias", "fan_in_fan_out", "layer_replication", "megatron_config", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "lora_ga_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LowRankUpdate:
    """What LoRA adds to the output of one module: scaling * (x A^T) B^T. a: (r, in); b: (out, r); both as stored."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """One adapter as read from its files.

    low_rank: module name -> its update; saved: module name -> parameter name -> tensor that replaces the base's
    r, alpha: of the config, without its patterns; problems: what of the files cannot be used, in words
    targets: which modules of a base should have an update
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
    pairs, saved, ignored_keys = _by_module(folder, {tensor.name: to_torch(tensor) for tensor in raw})
    scaling, targets = LoraScaling.read(folder, config), TargetModules.read(folder / ADAPTER_CONFIG, config)
    untargeted = [module for module in pairs if not targets.takes(module)]
    low_rank, problems = {}, []
    for module, pair in pairs.items():
        if module in untargeted:
            continue
        if set(pair) != {"lora_A", "lora_B"}:
            problems.append(f"{module} has {' and '.join(sorted(pair))} alone")
            continue
        low_rank[module] = LowRankUpdate(pair["lora_A"], pair["lora_B"], scaling.scaling(module))
        if (rank := pair["lora_A"].shape[0]) != (configured := scaling.rank(module)):
            problems.append(f"{module} has rank {rank} where {ADAPTER_CONFIG} says {configured}")
    unusable = {f"match no target of {ADAPTER_CONFIG}": untargeted, f"are not as {ADAPTER_CONFIG} says": problems}
    facts = (
        *(count_with_examples(f"of {len(raw)} {reason}", keys) for reason, keys in ignored_keys.items()),
        *(count_with_examples(f"of {len(pairs)} modules {why}", names) for why, names in unusable.items() if names),
    )
    hashes = adapter_hashes(config, raw)
    return LoraAdapter(str(folder), hashes, scaling.r, scaling.alpha, low_rank, saved, facts, targets)


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


TensorsByModule = dict[str, dict[str, torch.Tensor]]
"""Module name -> "lora_A", "lora_B" or a parameter's name -> tensor."""


def _by_module(
    folder: Path, tensors: Mapping[str, torch.Tensor]
) -> tuple[TensorsByModule, TensorsByModule, dict[str, list[str]]]:
    """LoRA matrices by module, whole parameters by module, and the keys that PEFT would ignore by their reason.

    Raises Unsupported for keys of another kind, Unreplayable for a matrix that is there twice.
    """
    pairs: TensorsByModule = {}
    saved: TensorsByModule = {}
    ignored_keys: dict[str, list[str]] = {}
    if bare := [key for key in tensors if not key.startswith(PREFIX)]:
        ignored_keys[explain_missing_prefix(bare)] = bare
    for full_key, tensor in tensors.items():
        if not full_key.startswith(PREFIX):
            continue
        key = full_key.removeprefix(PREFIX)
        module, _, parameter = key.rpartition(".")
        lora_key = parse_lora_key(key)
        if "lora_" not in key:
            _check_saved(folder, key)
            # "base_layer": an embedding saved because its vocabulary grew keeps the name of PEFT's wrapper.
            saved.setdefault(module.removesuffix(".base_layer"), {})[parameter] = tensor
        elif lora_key is None or tensor.dim() != 2:
            raise Unsupported(str(folder), f"the tensor {key} {tuple(tensor.shape)}")
        elif lora_key.name not in ("", LOADED_AS):
            reason = (
                f"keys carry the adapter's name {lora_key.name!r}, and PEFT loads only keys with no name or {LOADED_AS}"
            )
            ignored_keys.setdefault(reason, []).append(full_key)
        elif lora_key.matrix in pairs.setdefault(lora_key.module, {}):
            twice = f"{lora_key.module} has {lora_key.matrix} twice, with and without {LOADED_AS}"
            raise Unreplayable(str(folder), twice)
        else:
            pairs[lora_key.module][lora_key.matrix] = tensor
    return pairs, saved, ignored_keys


def _check_saved(folder: Path, key: str) -> None:
    """Raises Unreplayable for a saved module named as inside a running model, which PEFT does not load either."""
    if ".modules_to_save." in f".{key}" or ".original_module." in f".{key}":
        raise Unreplayable(
            str(folder), f"{key} is a name inside a running model: save the adapter with save_pretrained"
        )
