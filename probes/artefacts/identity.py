"""Which base, tokenizer, chat template and adapter this is: hashes of what changes an answer, by numbered schemes.

A golden record names the scheme of its hashes, and what lies there now is hashed by the same scheme before the two are
compared. A scheme is never changed, because accepted artefacts would become other ones by it: a better one gets the
next number, and records made from then on have that. What a scheme leaves out is written down below, field by field,
from PEFT 0.21's LoraConfig and transformers 5.23's PreTrainedConfig.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.artefacts.safetensors_header import (
    RawTensor,
    check_fetched,
    digest,
    digest_json,
    read_file,
    read_folder,
    read_json,
)
from probes.errors import Unreplayable

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
READ_BYTES = 1 << 22
NEWEST = 2
HashByScheme = Mapping[int, str]
"""Scheme -> "sha256:..." of one artefact."""
JsonConfig = dict[str, Any]

# Scheme 1. Where a config came from and what wrote it.
PROVENANCE = {"_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
FIRST_ADAPTER_PROVENANCE = {"base_model_name_or_path", "peft_version", "auto_mapping"}
FIRST_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip

# Scheme 2, of config.json and the configs inside it. A null counts: sliding_window null is not what leaving it out is.
NOT_OF_A_BASE = PROVENANCE | {
    # who made it, and with what
    "name_or_path", "_commit_hash", "architectures", "model_revision", "unsloth_version", "unsloth_fixed",
    "transformers.js_config", "auto_map",
    # what comes back beside the logits, and in which pieces they are computed
    "output_hidden_states", "output_attentions", "output_router_logits", "return_dict", "use_return_dict",
    "chunk_size_feed_forward", "pretraining_tp", "_attn_implementation", "_attn_implementation_autoset",
    "attn_implementation", "_experts_implementation",
    # of training
    "initializer_range", "initializer_factor", "gradient_checkpointing", "router_aux_loss_coef", "router_z_loss_coef",
    # of heads that a causal model does not have
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    # of generating: whoever asks says how (GenerationConfig), and a canary's tokens are forced
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class",
    "prefix", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "num_beam_groups", "diversity_penalty",
}  # fmt: skip
ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
# Dropout is off while answering.
DROPOUTS = ("dropout", "dropout_prob", "dropout_rate", "_pdrop")

# Scheme 2, of adapter_config.json. Here null, false and empty say what leaving the key out says, in every field of
# LoraConfig that is read, and so they will in those that later versions add. What is left counts, known or not.
NOT_OF_AN_ADAPTER = FIRST_ADAPTER_PROVENANCE | {
    # the base's revision when it was trained, and what for
    "revision", "task_type", "inference_mode", "runtime_config",
    # of training; how the matrices began (init_lora_weights itself counts where it changes the base)
    "lora_dropout", "loftq_config", "eva_config", "corda_config",
    # say something beside switches alone that are refused when they are on (megatron_config, use_qalora)
    "megatron_core", "qalora_group_size",
}  # fmt: skip
ADAPTER_DEFAULTS = {"bias": "none"}
# Ways to begin that leave the base as it was. The others (pissa, olora, corda, loftq ...) subtract something from the
# base's own weights first; a converted one is saved with true in their place.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
# Lists without an order; PEFT writes the first two from sets, so that it differs from run to run.
SETS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "target_parameters")
# The first pattern that matches counts, so these have an order.
PATTERNS = ("rank_pattern", "alpha_pattern")

# Scheme 2: what transformers' tokenizers name in vocab_files_names, and Mistral's and tiktoken's own.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model",
    "spm_char.model", "source.spm", "target.spm", "tekken.json", "tiktoken.model", "tokenizer.tiktoken", "bpe.codes",
    "dict.txt", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "emoji.json",
    "normalizer.json", "byte_maps.json", "prophetnet.tokenizer", "word_shape.json", "word_pronunciation.json",
)  # fmt: skip
TOKENIZER_PATTERNS = ("*.tiktoken", "*.model", "*.model.v*", "*.spm", "tekken*.json")
# Of tokenizer_config.json, beside the special tokens by their names.
TOKENIZER_SETTINGS = {"tokenizer_class", "added_tokens_decoder", "add_prefix_space", "do_lower_case", "legacy"}
# Of tokenizer.json: the state in which a tokenizer was when it was saved.
TOKENIZER_STATE = {"truncation", "padding"}


@dataclass(frozen=True, slots=True)
class HashScheme:
    """How one scheme reduces an artefact to what is hashed.

    base, adapter: what counts of config.json and of adapter_config.json; the tensors all count, in every scheme
    tokenizer: what counts of a folder, None where it holds no file that this scheme knows
    """

    base: Callable[[JsonConfig], object]
    adapter: Callable[[JsonConfig], object]
    tokenizer: Callable[[Path], object]


def base_hash(folder: Path, scheme: int = NEWEST) -> str:
    """A "sha256:..." of what a base computes: its tensors as stored and what counts of its settings.

    Raises Unreplayable on torn files.
    """
    return base_hashes(folder, digest(read_folder(folder)))[scheme]


def base_hashes(folder: Path, weights: str) -> HashByScheme:
    """``base_hash`` by every scheme. weights: digest of the tensors, which may be in memory already"""
    settings = read_json(folder / "config.json")
    return {number: digest_json([weights, scheme.base(settings)]) for number, scheme in SCHEMES.items()}


def adapter_hash(folder: Path, scheme: int = NEWEST) -> str:
    """A "sha256:..." of what an adapter does: its tensors and what counts of its settings. Raises as ``base_hash``."""
    config = read_json(folder / ADAPTER_CONFIG)
    return adapter_hashes(config, read_file(folder / ADAPTER_WEIGHTS))[scheme]


def adapter_hashes(config: JsonConfig, tensors: Iterable[RawTensor]) -> HashByScheme:
    """``adapter_hash`` by every scheme, of parts already read."""
    weights = digest(tensors)
    return {number: digest_json([scheme.adapter(config), weights]) for number, scheme in SCHEMES.items()}


def tokenizer_hashes(folder: Path) -> HashByScheme:
    """A "sha256:..." of the tokenizer's files by every scheme, "" where it knows none of them; the first one's covers
    the chat template as well.

    Raises Unreplayable when no scheme knows any.
    """
    told = {number: scheme.tokenizer(folder) for number, scheme in SCHEMES.items()}
    if not any(told.values()):
        raise Unreplayable(str(folder), "holds no tokenizer files")
    return {number: digest_json(one) if one else "" for number, one in told.items()}


def tokenizer_files(folder: Path) -> list[Path]:
    """Those that are there, by name; tokenizer_config.json is none of them."""
    named = [folder / name for name in TOKENIZER_FILES]
    found = {*named, *(file for pattern in TOKENIZER_PATTERNS for file in folder.glob(pattern))}
    return sorted(file for file in found if file.is_file())


def template_hash(folder: Path) -> str:
    """A "sha256:..." of the chat template, "" without one, wherever it is written: as transformers finds it."""
    found = _templates(folder)
    return digest_json(found) if found else ""


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits. Raises Unreplayable where it cannot be read."""
    seen = hashlib.sha256()
    try:
        with path.open("rb") as file:
            check_fetched(path, file.read(64))
            file.seek(0)
            while block := file.read(READ_BYTES):
                seen.update(block)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error
    return seen.hexdigest()


def _templates(folder: Path) -> dict[str, str]:
    """Name -> template. Files come before what tokenizer_config.json says."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in (folder / "additional_chat_templates").glob("*.jinja")}
    if told := {name: _content(file).decode(errors="replace") for name, file in files.items() if file.is_file()}:
        return told
    config = folder / "tokenizer_config.json"
    inside = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(inside, list):
        return {str(one.get("name")): str(one.get("template")) for one in inside if isinstance(one, dict)}
    return {"default": str(inside)} if inside else {}


def _first_base(config: JsonConfig) -> object:
    return {key: value for key, value in config.items() if key not in PROVENANCE}


def _second_base(config: JsonConfig) -> object:
    """Without what changes no answer, here and in the configs inside (text_config ...); one way to write rope."""
    kept = {
        key: _second_base(value) if isinstance(value, dict) and _is_inner(key) else value
        for key, value in config.items()
        if key not in NOT_OF_A_BASE and not key.endswith(DROPOUTS)
    }
    rope = _rope(kept)
    kept = {key: value for key, value in kept.items() if key not in ROPE}
    return _plain(kept | ({"rope_parameters": rope} if rope else {}))


def _rope(config: JsonConfig) -> JsonConfig:
    """As transformers 5 writes it, from ``rope_parameters`` or ``rope_theta`` and ``rope_scaling`` before it."""
    theta = {key: config[key] for key in ("rope_theta",) if config.get(key) is not None}
    told = [value for key in ("rope_scaling", "rope_parameters") if isinstance(value := config.get(key), dict)]
    rope = {"rope_type" if key == "type" else key: value for one in (theta, *told) for key, value in one.items()}
    return {key: value for key, value in rope.items() if (key, value) != ("rope_type", "default")}


def _is_inner(key: str) -> bool:
    return key.endswith("_config") and key != "quantization_config"


def _first_adapter(config: JsonConfig) -> object:
    return {key: value for key, value in config.items() if key not in FIRST_ADAPTER_PROVENANCE}


def _second_adapter(config: JsonConfig) -> object:
    kept: JsonConfig = {}
    for key, value in config.items():
        plain = key == "init_lora_weights" and value in PLAIN_INITS
        if key in NOT_OF_AN_ADAPTER or not value or plain or ADAPTER_DEFAULTS.get(key) == value:
            continue
        kept[key] = _in_one_form(key, value)
    return _plain(kept)


def _in_one_form(key: str, value: Any) -> Any:
    if key in PATTERNS and isinstance(value, dict):
        return list(value.items())
    if key == "layers_to_transform" and isinstance(value, int):
        return [value]
    if key in ("modules_to_save", "layers_pattern") and isinstance(value, str):
        return [value]
    return sorted(value, key=str) if key in SETS and isinstance(value, list) else value


def _first_tokenizer(folder: Path) -> object:
    files = [folder / name for name in FIRST_TOKENIZER_FILES if (folder / name).is_file()]
    if not files:
        return None
    rows = [[path.name, file_hash(path)] for path in files]
    config = folder / "tokenizer_config.json"
    # Some of its fields say where the tokenizer was loaded from; the template and the special tokens are what matters.
    told = read_json(config) if config.is_file() else {}
    kept = {key: value for key, value in told.items() if key.endswith(("_token", "_tokens")) or key == "chat_template"}
    return [rows, kept]


def _second_tokenizer(folder: Path) -> object:
    files = tokenizer_files(folder)
    if not files:
        return None
    config = folder / "tokenizer_config.json"
    told = read_json(config) if config.is_file() else {}
    kept = {key: value for key, value in told.items() if value is not None and _is_of_a_tokenizer(key)}
    return [[[file.name, _json_hash(file) or file_hash(file)] for file in files], kept]


def _is_of_a_tokenizer(key: str) -> bool:
    return (key.endswith(("_token", "_tokens")) and key != "pad_token") or key in TOKENIZER_SETTINGS


def _json_hash(file: Path) -> str:
    """Of a JSON object whatever its layout and the state it was saved in; "" for any other file."""
    if file.suffix != ".json":
        return ""
    try:
        value = json.loads(_content(file))
    except ValueError:
        return ""
    if not isinstance(value, dict):
        return ""
    state = TOKENIZER_STATE if file.name == "tokenizer.json" else set()
    return digest_json({key: item for key, item in value.items() if key not in state})


def _plain(value: Any) -> Any:
    """With whole numbers as such: 8.0 is written by one library and 8 by another."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise Unreplayable(str(file), error.strerror or str(error)) from error


SCHEMES: Mapping[int, HashScheme] = {
    1: HashScheme(_first_base, _first_adapter, _first_tokenizer),
    2: HashScheme(_second_base, _second_adapter, _second_tokenizer),
}
