"""Which module a key of an adapter file belongs to, by PEFT's rules, and why a key may match no module of a base.

The reasons become facts in a verdict's text; they explain and never decide. The rules are PEFT 0.21's:
tests/probes/artefacts/test_lora_files.py and tests/probes/model/test_lora.py hold them.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import NamedTuple

PREFIX = "base_model.model."
# The name under which ``PeftModel.from_pretrained`` loads. Keys of a running model's state dict carry a name; PEFT 0.21
# passes them on as they are, so that this name matches the loaded adapter and any other name matches nothing.
LOADED_AS = "default"
LORA_KEY = re.compile(r"(?P<module>.+)\.(?P<matrix>lora_[AB])(?:\.(?P<name>[^.]+))?\.(?P<parameter>weight|bias)")
# Parameters of PEFT's modules themselves, so that the adapter's name comes last.
BARE_KEY = re.compile(r"(?P<module>.+)\.(?P<matrix>lora_embedding_[AB]|lora_magnitude_vector)(?:\.(?P<name>[^.]+))?")
MAGNITUDE_IN_MODULE = re.compile(r"(?P<module>.+)\.(?P<matrix>lora_magnitude_vector)\.(?P<name>[^.]+)\.weight")
# Parts of names that come from a wrapper around the model when it was saved -> what to say of them.
WRAPPERS = {
    PREFIX: "they have PEFT's prefix twice",
    "module.": "DataParallel added module.",
    "_orig_mod.": "torch.compile added _orig_mod.",
    "_fsdp_wrapped_module.": "FSDP added _fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.": "activation checkpointing added _checkpoint_wrapped_module.",
    "language_model.": "language_model. comes from a multimodal model around such a base",
}
# One expert of a mixture, as transformers before version 5 had them in a list.
EXPERT = re.compile(r"experts\.\d+\.")
# Projections that some architectures fuse -> the separate modules that others have.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


class LoraMatrixKey(NamedTuple):
    """One of the tensors that LoRA adds to a module.

    matrix: "lora_A", "lora_B", the same of an embedding ("lora_embedding_A" ...), "bias" (of B) or "magnitude" (DoRA)
    name: of the adapter, "" in keys as ``save_pretrained`` writes them
    """

    module: str
    matrix: str
    name: str


def parse_lora_key(key: str) -> LoraMatrixKey | None:
    """The parts of a key, given without PEFT's prefix; None for a key of another form."""
    if match := LORA_KEY.fullmatch(key):
        if match["parameter"] == "weight":
            return LoraMatrixKey(match["module"], match["matrix"], match["name"] or "")
        return LoraMatrixKey(match["module"], "bias", match["name"] or "") if match["matrix"] == "lora_B" else None
    match = MAGNITUDE_IN_MODULE.fullmatch(key) or BARE_KEY.fullmatch(key)
    if match is None or match["name"] == "weight":
        return None
    matrix = "magnitude" if match["matrix"] == "lora_magnitude_vector" else match["matrix"]
    return LoraMatrixKey(match["module"], matrix, match["name"] or "")


def explain_missing_prefix(keys: list[str]) -> str:
    """The fact about keys that PEFT applies to nothing because they do not begin with its prefix."""
    first = min(keys)
    # PREFIX is left out: these keys do not begin with it.
    wrapped = [reason for wrapper, reason in WRAPPERS.items() if wrapper != PREFIX and first.startswith(wrapper)]
    why = f" ({wrapped[0]})" if wrapped else ""
    return f"keys lack the prefix {PREFIX}{why}, and PEFT applies none of them"


def name_difference(path: str, modules: Container[str]) -> str:
    """How a module name that the base does not have differs from one that it has; "" where no rule applies."""
    for wrapper, reason in WRAPPERS.items():
        if wrapper in path and path.replace(wrapper, "") in modules:
            return reason
    if (expert := EXPERT.search(path)) and f"{path[: expert.start()]}experts.0" not in modules:
        return (
            "they are of single experts, which this base holds in one tensor: load it with PEFT 0.21 and save it again"
        )
    if f"model.{path}" in modules:
        return "they lack the leading model."
    if path.replace("model.", "model.language_model.", 1) in modules:
        return "this base is multimodal, and has them under model.language_model."
    return _fusion(path, modules)


def _fusion(path: str, modules: Container[str]) -> str:
    owner, _, last = path.rpartition(".")
    for fused, parts in FUSED.items():
        if last == fused and all(f"{owner}.{part}" in modules for part in parts):
            return f"they belong to a base with {fused} fused, and this base has {', '.join(parts)}"
        if last in parts and f"{owner}.{fused}" in modules:
            return f"this base has {', '.join(parts)} fused as {fused}"
    return ""


def name_differences(missing: list[str], modules: Mapping[str, object]) -> str:
    """How these names differ from the base's, each reason once, in brackets; "" where no rule applies."""
    reasons = dict.fromkeys(reason for path in missing if (reason := name_difference(path, modules)))
    return f" ({'; '.join(reasons)})" if reasons else ""
