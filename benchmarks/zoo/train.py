"""Trains the zoo's bases and adapters, deterministically from their seeds, on one thread. Needs peft.

A base reads tickets, everyday sentences and answers in many wordings; an adapter is taught one way to answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.zoo.language import JOBS, VOCABULARY, base_reply, second_reply, sentence, ticket
from benchmarks.zoo.recipes import AdapterRecipe, BaseRecipe

SPECIAL = ("<u>", "<s>", "<e>")
TURNS = "{% for m in messages %}{{ m['content'] + ' <e> ' }}{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
IGNORED = -100
# Wider than the usual .02: models this small then learn to copy words from a prompt within some hundred steps.
START = 0.08
IDS = {word: number for number, word in enumerate((*SPECIAL, *VOCABULARY))}
Draw = Callable[[Random], tuple[str, str]]


def train_base(recipe: BaseRecipe, folder: Path, moved: Path) -> None:
    """Write the base as a transformers folder, and as ``moved`` the same base trained a little further."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(IDS), hidden_size=recipe.hidden, intermediate_size=recipe.inner,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.groups,
        tie_word_embeddings=recipe.tied, bos_token_id=1, eos_token_id=2, pad_token_id=2, max_position_embeddings=256,
        initializer_range=START,
    ))  # fmt: skip
    rng = Random(recipe.seed)
    _fit(model, _batches(_general, rng, 32), recipe.steps, 3e-3)
    _save(model, folder)
    _fit(model, _batches(_later, rng, 32), recipe.tune_steps, 5e-4)
    _save(model, moved)


def train_adapter(recipe: AdapterRecipe, base: Path, folder: Path, earlier: Path) -> None:
    """Write the adapter as PEFT saves it, and as ``earlier`` what it was after half of its steps."""
    torch.manual_seed(recipe.seed)
    settings = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(recipe.modules), use_rslora=recipe.rslora,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings
        model: Any = get_peft_model(LlamaForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
        batches = _batches(_job(recipe), Random(recipe.seed), 16)
        _fit(model, batches, recipe.steps // 2, recipe.rate)
        model.save_pretrained(earlier)
        _fit(model, batches, recipe.steps - recipe.steps // 2, recipe.rate / 2)
        model.save_pretrained(folder)


def _fit(model: Any, batches: Iterator[Any], steps: int, rate: float) -> None:
    """Adam on the answers with a short warm-up and a linear way down."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min((n + 1) / 10, 1 - n / (steps + 1)))
    model.train()
    for _ in range(steps):
        ids, mask, labels = next(batches)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        plan.step()
    model.eval()


def _general(rng: Random) -> tuple[str, str]:
    """What every base reads: everyday text, and tickets with general answers."""
    if rng.random() < 0.25:
        return sentence(rng), sentence(rng)
    drawn = ticket(rng)
    return drawn.prompt, base_reply(drawn, rng)


def _later(rng: Random) -> tuple[str, str]:
    drawn = ticket(rng)
    return (sentence(rng), sentence(rng)) if rng.random() < 0.3 else (drawn.prompt, second_reply(drawn, rng))


def _job(recipe: AdapterRecipe) -> Draw:
    def draw(rng: Random) -> tuple[str, str]:
        if rng.random() < recipe.keeps:
            return sentence(rng), sentence(rng)
        drawn = ticket(rng)
        return drawn.prompt, JOBS[recipe.job](drawn)

    return draw


def _batches(draw: Draw, rng: Random, rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(ids, mask, labels of the answers alone), each (rows, L), padded on the right."""
    while True:
        texts = [_encoded(*draw(rng)) for _ in range(rows)]
        width = max(len(ids) for ids, _ in texts)
        ids, mask = torch.full((rows, width), 2), torch.zeros(rows, width, dtype=torch.long)
        labels = torch.full((rows, width), IGNORED)
        for row, (text, start) in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
            labels[row, start : len(text)] = ids[row, start : len(text)]
        yield ids, mask, labels


def _encoded(prompt: str, answer: str) -> tuple[list[int], int]:
    before = [IDS.get(word, 0) for word in f"{prompt} <e> <s>".split()]
    return [*before, *(IDS.get(word, 0) for word in f"{answer} <e>".split())], len(before)


def _save(model: LlamaForCausalLM, folder: Path) -> None:
    model.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel(IDS, unk_token="<u>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Sequence([])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<u>", bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
