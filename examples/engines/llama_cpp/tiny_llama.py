"""A random two-layer Llama that llama.cpp reads, with a byte-level tokenizer, and random adapters of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] + '<e>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)
SPECIAL = ("<u>", "<s>", "<e>")
LETTERS = ("Ċ", "Ġ", *map(chr, range(33, 127)))  # the names of newline, space and printable ASCII in byte-level BPE
MERGES = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("o", "r"), ("Ġ", "w"))
WORDS = (*SPECIAL, *LETTERS, *("".join(merge) for merge in MERGES))


def byte_level_base(folder: Path, seed: int = 0) -> Path:
    """A transformers folder. Weights are large enough that its answers differ from place to place."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.12, eos_token_id=2, bos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(WORDS)}, list(MERGES)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<u>", bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def random_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A PEFT adapter with random B, as PEFT itself saves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on embeddings
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    return folder
