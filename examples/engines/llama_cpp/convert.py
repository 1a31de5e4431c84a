"""Llama-architecture bases and PEFT adapters as the GGUF files that llama.cpp reads.

python -m examples.engines.llama_cpp.convert base FOLDER FILE
python -m examples.engines.llama_cpp.convert adapter FOLDER FILE --base FOLDER_OR_GGUF

A GGUF base needs no conversion. llama.cpp computes an adapter's strength as ``adapter.lora.alpha / rank`` of a module,
and knows neither rank-stabilised scaling nor patterns; what differs is multiplied into B, so that every adapter that
gapwatch reads keeps its strength. Layout: gguf-py's ``LLAMA`` tensor names, llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from probes.artefacts.lora_files import LoraAdapter, read_adapter

Reals = NDArray[np.float32]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NORMAL, UNKNOWN, CONTROL = gguf.TokenType.NORMAL, gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL


@dataclass(frozen=True)
class Heads:
    """How many heads the queries, and the keys and values, have: llama.cpp orders the rows within each by pairs."""

    queries: int
    keys: int

    def ordered(self, module: str, rows: Reals) -> Reals:
        """Rows of a query or key projection from transformers' halves to llama.cpp's pairs (rotary positions)."""
        count = {"attn_q": self.queries, "attn_k": self.keys}.get(module.rpartition(".")[2])
        if count is None:
            return rows
        halves = rows.reshape(count, 2, -1, rows.shape[-1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)

    @classmethod
    def read(cls, base: Path) -> Heads:
        """From a transformers folder, or a GGUF file of the llama architecture."""
        if base.is_dir():
            config = json.loads((base / "config.json").read_text())
            return cls(config["num_attention_heads"], config["num_key_value_heads"])
        fields = gguf.GGUFReader(str(base)).fields
        counts = [int(fields[f"llama.attention.{name}"].contents()) for name in ("head_count", "head_count_kv")]
        return cls(*counts)


def gguf_name(module: str) -> str:
    """llama.cpp's name of a module of a transformers Llama. Raises ValueError for one that it has no name for."""
    if module in OUTSIDE:
        return OUTSIDE[module]
    layer, _, inner = module.removeprefix("model.layers.").partition(".")
    if not module.startswith("model.layers.") or inner not in NAMES:
        raise ValueError(f"{module}: llama.cpp has no such module")
    return f"blk.{layer}.{NAMES[inner]}"


def write_base(folder: Path, file: Path) -> None:
    """A float32 GGUF of a transformers folder with a byte-level BPE tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_name(folder.name)
    _write_shape(writer, config)
    _write_vocabulary(writer, folder, config)
    heads = Heads.read(folder)
    for key, tensor in load_file(folder / "model.safetensors").items():
        module = gguf_name(key.removesuffix(".weight"))
        writer.add_tensor(f"{module}.weight", heads.ordered(module, tensor.float().numpy()))
    _finish(writer)


def write_adapter(folder: Path, base: Path, file: Path) -> None:
    """A float32 GGUF of a PEFT adapter. Raises ValueError for what llama.cpp has no place for."""
    adapter, heads = read_adapter(folder), Heads.read(base)
    if refused := [*adapter.saved, *filter(None, [adapter.beyond_low_rank]), *adapter.problems]:
        raise ValueError(f"{folder}: llama.cpp would serve it without {', '.join(refused)}")
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.alpha)
    for module, a, b in _updates(adapter, heads):
        writer.add_tensor(f"{module}.weight.lora_a", a)
        writer.add_tensor(f"{module}.weight.lora_b", b)
    _finish(writer)


def _updates(adapter: LoraAdapter, heads: Heads) -> list[tuple[str, Reals, Reals]]:
    """llama.cpp's name, A (r, in) and B (out, r) of each module; B has the strength that alpha / rank does not say."""
    updates = []
    for module, update in adapter.low_rank.items():
        name, rank = gguf_name(module), update.a.shape[0]
        b = heads.ordered(name, update.b.float().numpy()) * np.float32(update.scaling * rank / adapter.alpha)
        updates.append((name, update.a.float().numpy(), b))
    return updates


def _write_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _write_vocabulary(writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = dict(tokenizer["model"]["vocab"])
    special = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"] if entry["special"]}
    by_id = {number: word for word, number in (words | special).items()}
    unknown = tokenizer["model"].get("unk_token")
    tokens = [by_id[i] for i in range(config["vocab_size"])]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([UNKNOWN if t == unknown else CONTROL if t in special else NORMAL for t in tokens])
    writer.add_token_merges(merges)
    for name, add in (("bos_token_id", writer.add_bos_token_id), ("eos_token_id", writer.add_eos_token_id)):
        if config.get(name) is not None:
            add(config[name])
    writer.add_add_bos_token(False)
    template = folder / "chat_template.jinja"
    if template.exists():
        writer.add_chat_template(template.read_text())


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["base", "adapter"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--base", type=Path, help="of an adapter: transformers folder, or GGUF file")
    given = parser.parse_args()
    if given.what == "base":
        write_base(given.folder, given.file)
    elif given.base is None:
        parser.error("an adapter needs --base")
    else:
        write_adapter(given.folder, given.base, given.file)


if __name__ == "__main__":
    main()
