"""Which transformers class runs the model in a folder, or why none does: read from its JSON files, before its weights.

Code in a model folder is never run: every loader is called with ``trust_remote_code=False``, and a model that cannot be
loaded without its own code is refused for that reason. A class that transformers has itself is run although the folder
names code beside it (``auto_map``): that entry is only data, as long as ``architectures`` names the same class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from probes.artefacts.gguf_header import check_model
from probes.artefacts.identity import tokenizer_hashes
from probes.artefacts.missing_dependency import read_failure
from probes.artefacts.safetensors_header import check_header, read_json, weight_files
from probes.errors import Unreplayable

CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
MULTIMODAL = {
    **modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
}
# Wrappers that answer to text alone as their text model does, so that they run as they are, images apart: each is held
# by tests/probes/model/test_architectures.py.
WRAPPERS = {
    kind: modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind]
    for kind in (
        "gemma3", "gemma4", "idefics3", "internvl", "llava", "llava_next", "llava_onevision", "mistral3", "qwen2_vl",
        "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "smolvlm",
    )
}  # fmt: skip
MULTIMODAL_KEYS = ("vision_config", "audio_config", "vision_tower", "mm_vision_tower")
ENCODER_DECODERS = {
    **modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    **modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
}
ENCODERS = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
HEADS = ("Classification", "QuestionAnswering", "MultipleChoice", "Reward", "RewardModel", "ValueHead", "Scoring")
UNQUANTISED = "name a copy of the base in bfloat16 or float16, as it was before it was quantised"
# torch's fully_shard prepends this to a class's name, and trainers saved that name.
FSDP_PREFIX = "FSDP"
CODE = "code of a model folder is never run"
# Stored quantised, and dequantised into plain weights while loading, on every device.
DEQUANTISED = ("fp8", "mxfp4", "compressed-tensors")


def check_architecture(folder: Path) -> None:
    """Raises Unreplayable unless its config.json names a causal language model that transformers has a class for."""
    config = read_json(folder / "config.json")
    if why := _refusal(config):
        raise Unreplayable(str(folder), why)


def check_base(place: Path) -> None:
    """Check a base without reading its weights. place: a folder, or a .gguf file. Raises Unreplayable."""
    if place.suffix == ".gguf":
        check_model(place)
        return
    check_architecture(place)
    for file in weight_files(place):
        check_header(file)


def architecture(folder: Path) -> tuple[Any, Any]:
    """Its config, and the class that runs it. Raises Unreplayable as ``check_architecture`` does."""
    check_architecture(folder)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    stored = getattr(config, "quantization_config", None)
    if isinstance(stored, dict) and stored.get("quant_method") in DEQUANTISED:
        config.quantization_config = {**stored, "dequantize": True}
    if config.model_type in WRAPPERS:
        return config, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    return config, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def read_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, its own code never run. Raises Unreplayable."""
    tokenizer_hashes(folder)  # reads each of its files, and names the one that cannot be read
    settings = read_json(path) if (path := folder / "tokenizer_config.json").is_file() else {}
    if code := _code(settings, "AutoTokenizer"):
        named = str(settings.get("tokenizer_class") or "")
        is_known_class = hasattr(transformers, named) or hasattr(transformers, f"{named}Fast")
        if not (named and is_known_class) and not (folder / "tokenizer.json").is_file():
            raise Unreplayable(str(folder), f"its tokenizer is custom code ({code}): {CODE}")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a foreign or truncated file makes the library raise almost anything
        raise Unreplayable(str(folder), read_failure(error, "its tokenizer cannot be read")) from error


def quantisation(folder: Path) -> str:
    """How its weights are stored quantised, as its files say; "" where they say nothing."""
    stored = read_json(folder / "config.json").get("quantization_config")
    if isinstance(stored, dict) and stored:
        parts = (stored.get("quant_method"), stored.get("quant_algo") or stored.get("format"))
        return " ".join(str(part) for part in parts if part) or "a method without a name"
    return "ModelOpt" if (folder / "hf_quant_config.json").is_file() else ""


def _refusal(config: Mapping[str, Any]) -> str:
    """Why no class may run this config, "" where one may."""
    kind, name = str(config.get("model_type") or ""), _class_name(config)
    model = name or f"model_type {kind!r}"
    if not kind:
        return "its config.json names no model_type"
    if kind in WRAPPERS and name in ("", WRAPPERS[kind]):
        return _foreign_weights(config)
    if kind in MULTIMODAL or any(config.get(key) for key in MULTIMODAL_KEYS):
        return (
            f"{model} is a multimodal model of a kind that is not replayed: save its text model as a folder, or let "
            "its engine answer instead (models[].served)"
        )
    if name.endswith(HEADS) or "SequenceClassification" in name:
        return f"{model} is a classification or reward head: only a model that writes text can be replayed"
    if config.get("is_encoder_decoder") or kind in ENCODER_DECODERS:
        return f"{model} is an encoder-decoder model: only a decoder alone can be replayed"
    if kind in ENCODERS and not config.get("is_decoder"):
        return f"{model} is an encoder: only a model that writes text can be replayed"
    return _unknown(config, kind, name) or _foreign_weights(config)


def _unknown(config: Mapping[str, Any], kind: str, name: str) -> str:
    """Why transformers has no causal language model of this type and class, "" where it has one."""
    code = _code(config, "AutoModelForCausalLM") or _code(config, "AutoConfig") or _code(config, "AutoModel")
    if kind not in transformers.CONFIG_MAPPING:
        if code:
            return f"its model_type {kind!r} is custom code ({code}): {CODE}"
        return f"its model_type {kind!r} is none that transformers {transformers.__version__} has"
    if kind not in CAUSAL:
        return f"{name or kind} is no causal language model that transformers {transformers.__version__} has"
    if name and name.removeprefix(FSDP_PREFIX).lower() != str(CAUSAL[kind]).lower():
        if code:
            return f"its architecture {name} is custom code ({code}), not transformers' {CAUSAL[kind]}: {CODE}"
        return f"its architecture is {name}, which is not {CAUSAL[kind]}, the language model of its type {kind!r}"
    return ""


def _foreign_weights(config: Mapping[str, Any]) -> str:
    """Why its quantised weights cannot be read: transformers would silently ignore that method. "" where they can."""
    stored = config.get("quantization_config")
    if not isinstance(stored, dict) or not stored or stored.get("load_in_4bit") or stored.get("load_in_8bit"):
        return ""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    method = stored.get("quant_method")
    if method in AUTO_QUANTIZATION_CONFIG_MAPPING:
        return ""
    return f"its weights are quantised by {method or 'a method without a name'}, which is not read: {UNQUANTISED}"


def _class_name(config: Mapping[str, Any]) -> str:
    """The class that wrote it, "" where none is named."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _code(settings: Mapping[str, Any], loader: str) -> str:
    """The code of the folder that this loader would run, "" for none."""
    auto_map = settings.get("auto_map")
    if isinstance(auto_map, dict):
        auto_map = auto_map.get(loader)
    elif loader != "AutoTokenizer":  # only tokenizers once named their code in a bare list
        return ""
    names = [auto_map] if isinstance(auto_map, str) else auto_map if isinstance(auto_map, list) else []
    return next((str(name) for name in names if name), "")
