"""Which module a key of an adapter file speaks of, by PEFT's rules, and what is odd about a key that hits nothing."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import NamedTuple

PREFIX = "base_model.model."
# The name under which ``PeftModel.from_pretrained`` loads. Keys of a running model's state dict carry a name; PEFT 0.21
# passes them on as they are, so that this one hits the loaded adapter and any other one hits nothing.
LOADED_AS = "default"
HALF = re.compile(r"(?P<module>.+)\.(?P<half>lora_[AB])(?:\.(?P<name>[^.]+))?\.weight")
# What stands in names because of what was around the model when it was saved.
WRAPPERS = {
    PREFIX: "PEFT's prefix stands in them twice",
    "module.": "DataParallel put module. into them",
    "_orig_mod.": "torch.compile put _orig_mod. into them",
    "_fsdp_wrapped_module.": "FSDP put _fsdp_wrapped_module. into them",
    "_checkpoint_wrapped_module.": "activation checkpointing put _checkpoint_wrapped_module. into them",
    "language_model.": "language_model. is of a multimodal model around such a base",
}
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "query_key_value": ("q_proj", "k_proj", "v_proj"),
    "c_attn": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}


class LoraMatrixKey(NamedTuple):
    """One of the two matrices of a module. name: of the adapter, "" in keys as ``save_pretrained`` writes them."""

    module: str
    half: str
    name: str


def half_of(key: str) -> LoraMatrixKey | None:
    """What a key without PEFT's prefix speaks of; None for one of another form."""
    found = HALF.fullmatch(key)
    return LoraMatrixKey(found["module"], found["half"], found["name"] or "") if found else None


def without_prefix(keys: list[str]) -> str:
    """What is said of keys that PEFT applies to nothing because its prefix is not in front of them."""
    first = min(keys)
    # Not the prefix itself: it is what lies behind the wrapper that was seen.
    found = next((words for wrapper, words in WRAPPERS.items() if wrapper != PREFIX and first.startswith(wrapper)), "")
    why = f" ({found})" if found else ""
    return f"keys lack the prefix {PREFIX}{why}, and PEFT applies none of them"


def oddness(path: str, modules: Container[str]) -> str:
    """How the name of a module that the base does not have differs from one that it has; "" where nobody can tell."""
    for wrapper, words in WRAPPERS.items():
        if wrapper in path and path.replace(wrapper, "") in modules:
            return words
    if f"model.{path}" in modules:
        return "they lack model. in front"
    if path.replace("model.", "model.language_model.", 1) in modules:
        return "this base is multimodal, and has them behind model.language_model."
    return _fusion(path, modules)


def _fusion(path: str, modules: Container[str]) -> str:
    owner, _, last = path.rpartition(".")
    for one, parts in FUSED.items():
        if last == one and all(f"{owner}.{part}" in modules for part in parts):
            return f"they are of a base with {one} in one, and this one has {', '.join(parts)}"
        if last in parts and f"{owner}.{one}" in modules:
            return f"this base has {', '.join(parts)} in one, as {one}"
    return ""


def oddities(missing: list[str], modules: Mapping[str, object]) -> str:
    """What is odd about these names, each once and in brackets; "" for nothing that is known."""
    found = dict.fromkeys(words for path in missing if (words := oddness(path, modules)))
    return f" ({'; '.join(found)})" if found else ""
