"""Hashes that identify a base, a tokenizer, a chat template and an adapter by what changes an answer; numbered schemes.

A golden record names the scheme of its hashes, and the present files are hashed by the same scheme before the two are
compared. A scheme is never changed: every accepted artefact would then have another hash, and look replaced. A better
scheme gets the next number, which later records use. What a scheme leaves out is listed below, field by field, from
PEFT 0.21's LoraConfig and transformers 5.23's PreTrainedConfig.
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
"""config.json, adapter_config.json or tokenizer_config.json as parsed."""

# Scheme 1: where a config came from, and what wrote it.
PROVENANCE = {"_name_or_path", "_model_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
FIRST_ADAPTER_PROVENANCE = {"base_model_name_or_path", "peft_version", "auto_mapping"}
FIRST_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip

# Scheme 2, of config.json and the configs inside it. A null counts: sliding_window null differs from no sliding_window.
NOT_OF_A_BASE = PROVENANCE | {
    # provenance: who made it, and with what
    "name_or_path", "_commit_hash", "architectures", "model_revision", "unsloth_version", "unsloth_fixed",
    "transformers.js_config", "auto_map",
    # what is returned beside the logits, and in which pieces they are computed
    "output_hidden_states", "output_attentions", "output_router_logits", "return_dict", "use_return_dict",
    "chunk_size_feed_forward", "pretraining_tp", "_attn_implementation", "_attn_implementation_autoset",
    "attn_implementation", "_experts_implementation",
    # training alone
    "initializer_range", "initializer_factor", "gradient_checkpointing", "router_aux_loss_coef", "router_z_loss_coef",
    # heads that a causal model does not have
    "id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params",
    # generation: the caller decides (GenerationConfig), and a canary's tokens are forced
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class",
    "prefix", "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "num_beam_groups", "diversity_penalty",
}  # fmt: skip
ROPE = ("rope_theta", "rope_scaling", "rope_parameters")
# Dropout is off at inference.
DROPOUTS = ("dropout", "dropout_prob", "dropout_rate", "_pdrop")

# Scheme 2, of adapter_config.json. Here null, false and empty mean the same as a key that is absent, in every field of
# LoraConfig that is read; the same is assumed of fields that later versions add. All other fields count, known or not.
NOT_OF_AN_ADAPTER = FIRST_ADAPTER_PROVENANCE | {
    # the base's revision at training, and the task
    "revision", "task_type", "inference_mode", "runtime_config",
    # training, and how the matrices were initialised (init_lora_weights itself counts where it changes the base)
    "lora_dropout", "loftq_config", "eva_config", "corda_config",
    # mean something only beside switches that are refused when they are on (megatron_config, use_qalora)
    "megatron_core", "qalora_group_size",
}  # fmt: skip
ADAPTER_DEFAULTS = {"bias": "none"}
# Initialisations that leave the base as it was. The others (pissa, olora, corda, loftq ...) first subtract something
# from the base's own weights; an adapter that was converted back has true here.
PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
# Lists whose order means nothing; PEFT writes the first two from sets, so their order differs from run to run.
SETS = ("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "target_parameters")
# Objects whose order counts: the first pattern that matches is used.
PATTERNS = ("rank_pattern", "alpha_pattern")

# Scheme 2: the files that transformers' tokenizers list in vocab_files_names, and those of Mistral and tiktoken.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "spm.model",
    "spm_char.model", "source.spm", "target.spm", "tekken.json", "tiktoken.model", "tokenizer.tiktoken", "bpe.codes",
    "dict.txt", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "entity_vocab.json", "emoji.json",
    "normalizer.json", "byte_maps.json", "prophetnet.tokenizer", "word_shape.json", "word_pronunciation.json",
)  # fmt: skip
TOKENIZER_PATTERNS = ("*.tiktoken", "*.model", "*.model.v*", "*.spm", "tekken*.json")
# What counts of tokenizer_config.json, beside the special tokens.
TOKENIZER_SETTINGS = {"tokenizer_class", "added_tokens_decoder", "add_prefix_space", "do_lower_case", "legacy"}
# What does not count of tokenizer.json: the state that a tokenizer was in when it was saved.
TOKENIZER_STATE = {"truncation", "padding"}


@dataclass(frozen=True, slots=True)
class HashScheme:
    """How one scheme reduces an artefact to what is hashed.

    base, adapter: what counts of config.json and of adapter_config.json; every tensor counts, in every scheme
    tokenizer: what counts of a folder, None where it holds no file that this scheme knows
    """

    base: Callable[[JsonConfig], object]
    adapter: Callable[[JsonConfig], object]
    tokenizer: Callable[[Path], object]


def base_hash(folder: Path, scheme: int = NEWEST) -> str:
    """A "sha256:..." of what a base computes: its tensors as stored and the fields of config.json that count.

    Raises Unreplayable on damaged files.
    """
    return base_hashes(folder, digest(read_folder(folder)))[scheme]


def base_hashes(folder: Path, weights: str) -> HashByScheme:
    """``base_hash`` by every scheme. weights: digest of the tensors, which may be in memory already"""
    settings = read_json(folder / "config.json")
    return {number: digest_json([weights, scheme.base(settings)]) for number, scheme in SCHEMES.items()}


def adapter_hash(folder: Path, scheme: int = NEWEST) -> str:
    """A "sha256:..." of what an adapter does: its tensors and the fields of its config that count.

    Raises Unreplayable on damaged files.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    return adapter_hashes(config, read_file(folder / ADAPTER_WEIGHTS))[scheme]


def adapter_hashes(config: JsonConfig, tensors: Iterable[RawTensor]) -> HashByScheme:
    """``adapter_hash`` by every scheme, from parts that are already read."""
    weights = digest(tensors)
    return {number: digest_json([scheme.adapter(config), weights]) for number, scheme in SCHEMES.items()}


def tokenizer_hashes(folder: Path) -> HashByScheme:
    """A "sha256:..." of the tokenizer's files by every scheme, "" where a scheme knows none of them.

    The hash of scheme 1 covers the chat template as well. Raises Unreplayable when no scheme knows any of the files.
    """
    contents = {number: scheme.tokenizer(folder) for number, scheme in SCHEMES.items()}
    if not any(contents.values()):
        raise Unreplayable(str(folder), "holds no tokenizer files")
    return {number: digest_json(content) if content else "" for number, content in contents.items()}


def tokenizer_files(folder: Path) -> list[Path]:
    """Those that exist, sorted by name; without tokenizer_config.json."""
    named = [folder / name for name in TOKENIZER_FILES]
    candidates = {*named, *(file for pattern in TOKENIZER_PATTERNS for file in folder.glob(pattern))}
    return sorted(file for file in candidates if file.is_file())


def template_hash(folder: Path) -> str:
    """A "sha256:..." of the chat templates, "" without any; looked up in the places where transformers does."""
    templates = _templates(folder)
    return digest_json(templates) if templates else ""


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal digits. Raises Unreplayable where it cannot be read."""
    content_hash = hashlib.sha256()
    try:
        with path.open("rb") as file:
            check_fetched(path, file.read(64))
            file.seek(0)
            while block := file.read(READ_BYTES):
                content_hash.update(block)
    except OSError as error:
        raise Unreplayable(str(path), error.strerror or str(error)) from error
    return content_hash.hexdigest()


def _templates(folder: Path) -> dict[str, str]:
    """Name -> template. Files take precedence over tokenizer_config.json."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in (folder / "additional_chat_templates").glob("*.jinja")}
    present = {name: file for name, file in files.items() if file.is_file()}
    if present:
        return {name: _content(file).decode(errors="replace") for name, file in present.items()}
    config = folder / "tokenizer_config.json"
    inside = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(inside, list):
        return {str(entry.get("name")): str(entry.get("template")) for entry in inside if isinstance(entry, dict)}
    return {"default": str(inside)} if inside else {}


def _first_base(config: JsonConfig) -> object:
    return {key: value for key, value in config.items() if key not in PROVENANCE}


def _second_base(config: JsonConfig) -> object:
    """Without what changes no answer, here and in nested configs (text_config ...), with RoPE settings in one form."""
    fields = {
        key: _second_base(value) if isinstance(value, dict) and _is_nested_config(key) else value
        for key, value in config.items()
        if key not in NOT_OF_A_BASE and not key.endswith(DROPOUTS)
    }
    rope = _rope(fields)
    fields = {key: value for key, value in fields.items() if key not in ROPE}
    return _plain(fields | ({"rope_parameters": rope} if rope else {}))


def _rope(config: JsonConfig) -> JsonConfig:
    """As transformers 5 writes them (``rope_parameters``), also from earlier ``rope_theta`` and ``rope_scaling``."""
    theta = {key: config[key] for key in ("rope_theta",) if config.get(key) is not None}
    stored = [value for key in ("rope_scaling", "rope_parameters") if isinstance(value := config.get(key), dict)]
    rope = {"rope_type" if key == "type" else key: value for part in (theta, *stored) for key, value in part.items()}
    return {key: value for key, value in rope.items() if (key, value) != ("rope_type", "default")}


def _is_nested_config(key: str) -> bool:
    return key.endswith("_config") and key != "quantization_config"


def _first_adapter(config: JsonConfig) -> object:
    return {key: value for key, value in config.items() if key not in FIRST_ADAPTER_PROVENANCE}


def _second_adapter(config: JsonConfig) -> object:
    fields: JsonConfig = {}
    for key, value in config.items():
        plain = key == "init_lora_weights" and value in PLAIN_INITS
        if key in NOT_OF_AN_ADAPTER or not value or plain or ADAPTER_DEFAULTS.get(key) == value:
            continue
        fields[key] = _canonical(key, value)
    return _plain(fields)


def _canonical(key: str, value: Any) -> Any:
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
    # Some of its fields say where the tokenizer was loaded from; only the template and the special tokens count.
    stored = read_json(config) if config.is_file() else {}
    fields = {
        key: value for key, value in stored.items() if key.endswith(("_token", "_tokens")) or key == "chat_template"
    }
    return [rows, fields]


def _second_tokenizer(folder: Path) -> object:
    files = tokenizer_files(folder)
    if not files:
        return None
    config = folder / "tokenizer_config.json"
    stored = read_json(config) if config.is_file() else {}
    fields = {key: value for key, value in stored.items() if value is not None and _counts_for_tokenizer(key)}
    return [[[file.name, _json_hash(file) or file_hash(file)] for file in files], fields]


def _counts_for_tokenizer(key: str) -> bool:
    return (key.endswith(("_token", "_tokens")) and key != "pad_token") or key in TOKENIZER_SETTINGS


def _json_hash(file: Path) -> str:
    """Hash of a JSON object, whatever its layout and saved state; "" for any other file."""
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
    """With integral floats as integers: one library writes 8.0, another 8."""
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
