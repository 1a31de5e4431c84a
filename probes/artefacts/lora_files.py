"""A LoRA folder in PEFT's layout, read into what it does to each module.

Read here, not through PEFT, for two reasons: a key that matches nothing has to become a fact instead of a warning, and
anything that would have to be left out is refused by its name.
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
from probes.artefacts.adapter_keys import LOADED_AS, PREFIX, half_of, without_prefix
from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NEWEST, PLAIN_INITS, HashByScheme, adapter_hashes
from probes.artefacts.safetensors_header import RawTensor, check_header, read_file, read_json
from probes.artefacts.target_modules import TargetModules
from probes.errors import Unreplayable, Unsupported

KINDS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

# Switches of adapter_config.json that change what an adapter computes and that are not done here.
REFUSED = (
    "use_dora", "lora_bias", "fan_in_fan_out", "layer_replication", "megatron_config", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "kasa_config",
    "monteclora_config", "velora_config", "lora_ga_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class LowRankUpdate:
    """What is added to one module: scaling * (x A^T) B^T. a: (r, in); b: (out, r); both as stored."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True, eq=False)
class LoraAdapter:
    """One adapter as its files say.

    low_rank: module name -> its part; saved: module name -> parameter name -> tensor that replaces the base's
    r, alpha: of the config, without its patterns; problems: parts of the files that cannot be used, in words
    targets: which modules of a base should have a part
    saved_share: of the way from the base's parameters to the saved ones; 1 as read, less in an average
    (faulty_adapters.py)
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
    """The adapter in this folder. Raises Unreplayable: files torn, missing, or no PEFT adapter. Unsupported: a feature,
    by name."""
    config = _config(folder)
    raw = list(read_file(folder / ADAPTER_WEIGHTS))
    check_not_empty(folder, raw)
    pairs, saved, lost = _sorted_out(folder, {item.name: to_torch(item) for item in raw})
    strength, targets = LoraScaling.read(folder, config), TargetModules.read(folder / ADAPTER_CONFIG, config)
    ignored = [module for module in pairs if not targets.takes(module)]
    low_rank, problems = {}, []
    for module, pair in pairs.items():
        if module in ignored:
            continue
        if set(pair) != {"lora_A", "lora_B"}:
            problems.append(f"{module} has {' and '.join(sorted(pair))} alone")
            continue
        low_rank[module] = LowRankUpdate(pair["lora_A"], pair["lora_B"], strength.scaling(module))
        if (seen := pair["lora_A"].shape[0]) != (wanted := strength.rank(module)):
            problems.append(f"{module} has rank {seen} where {ADAPTER_CONFIG} says {wanted}")
    told = {f"match no target of {ADAPTER_CONFIG}": ignored, f"are not as {ADAPTER_CONFIG} says": problems}
    facts = (
        *(summed(f"of {len(raw)} {what}", keys) for what, keys in lost.items()),
        *(summed(f"of {len(pairs)} modules {what}", which) for what, which in told.items() if which),
    )
    hashes = adapter_hashes(config, raw)
    return LoraAdapter(str(folder), hashes, strength.r, strength.alpha, low_rank, saved, facts, targets)


def check_adapter(folder: Path) -> None:
    """What can be told of an adapter without its tensors. Raises as ``read_adapter`` does."""
    _config(folder)
    check_header(folder / ADAPTER_WEIGHTS)


def _config(folder: Path) -> dict[str, Any]:
    check_layout(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    check_origin(folder, config)
    check_supported(folder, config)
    return config


def summed(what: str, items: Sequence[str], shown: int = 3) -> str:
    """A count with the first few by name: "24 of 120 modules match nothing: a, b, c and 21 more"."""
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return f"{len(items)} {what}: {', '.join(items[:shown])}{more}"


def to_torch(item: RawTensor) -> torch.Tensor:
    """A tensor over the bytes that were read, no copy. Raises Unsupported for a type that torch does not have."""
    if item.kind not in KINDS:
        raise Unsupported(item.name, f"the tensor type {item.kind}")
    if not item.data:
        return torch.empty(item.shape, dtype=KINDS[item.kind])
    return torch.frombuffer(item.data, dtype=KINDS[item.kind]).reshape(item.shape)


def check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises Unsupported for the first switch that would change the adapter and is not done here."""
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
    """How strong each module's part is, by PEFT's rules: alpha / r, alpha / sqrt(r) for rsLoRA, patterns first."""

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
        if not all(0 < it < math.inf for it in (alpha, *alphas.values())):
            found = f"lora_alpha {alpha}, alpha_pattern {alphas}"
            raise Unreplayable(str(folder / ADAPTER_CONFIG), f"an alpha that is no positive number ({found})")
        return cls(r, alpha, ranks, alphas, bool(config.get("use_rslora")))

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.alpha), self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _by_pattern(pattern: Mapping[str, float], module: str, otherwise: float) -> float:
    """The first key that matches the name or its end from a dot on, as PEFT's ``get_pattern_key`` does."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


TensorsByModule = dict[str, dict[str, torch.Tensor]]


def _sorted_out(
    folder: Path, tensors: Mapping[str, torch.Tensor]
) -> tuple[TensorsByModule, TensorsByModule, dict[str, list[str]]]:
    """LoRA halves by module, whole parameters by module, and what is said of keys that PEFT would leave out -> those.

    Raises Unsupported for keys of another kind, Unreplayable for a half that is there twice.
    """
    pairs: TensorsByModule = {}
    saved: TensorsByModule = {}
    lost: dict[str, list[str]] = {}
    if bare := [key for key in tensors if not key.startswith(PREFIX)]:
        lost[without_prefix(bare)] = bare
    for whole, tensor in tensors.items():
        if not whole.startswith(PREFIX):
            continue
        key = whole.removeprefix(PREFIX)
        module, _, last = key.rpartition(".")
        found = half_of(key)
        if "lora_" not in key:
            _check_saved(folder, key)
            # "base_layer": an embedding saved because its vocabulary grew keeps the name of PEFT's wrapper.
            saved.setdefault(module.removesuffix(".base_layer"), {})[last] = tensor
        elif found is None or tensor.dim() != 2:
            raise Unsupported(str(folder), f"the tensor {key} {tuple(tensor.shape)}")
        elif found.name not in ("", LOADED_AS):
            about = (
                f"keys carry the adapter's name {found.name!r}, and PEFT loads only such as carry none or {LOADED_AS}"
            )
            lost.setdefault(about, []).append(whole)
        elif found.half in pairs.setdefault(found.module, {}):
            raise Unreplayable(str(folder), f"{found.module} has {found.half} twice, with and without {LOADED_AS}")
        else:
            pairs[found.module][found.half] = tensor
    return pairs, saved, lost


def _check_saved(folder: Path, key: str) -> None:
    """Raises Unreplayable for a saved module by its name inside a running model, which PEFT does not load either."""
    if ".modules_to_save." in f".{key}" or ".original_module." in f".{key}":
        raise Unreplayable(str(folder), f"{key} is a running model's name: save the adapter with save_pretrained")
