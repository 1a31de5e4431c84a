"""A base of another training with the same tokenizer and shape, as far as one can be made here.

No second model with SmolLM2's tokenizer is at hand. This one is its continuation: the whole upstream tune is merged
in, and then every weight is trained on other text, the pages of docs/, by next tokens. A model that was trained from
another seed has its hidden units in an order of its own, and is further away than this one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from examples.helpdesk.releases import TUNE, make_release, merge_lora

TEXTS = Path(__file__).resolve().parents[2] / "docs"
STEPS, ROWS, TOKENS, RATE, WARM_UP, SEED = 20, 4, 128, 2e-4, 4, 11


def whole_tune(base: Path, out: Path) -> Path:
    """The base with the whole upstream tune merged in, where the release of the example has a share of it."""
    make_release("improved", base, out)
    tensors = {name: own.float() for name, own in load_file(base / "model.safetensors").items()}
    save_file(merge_lora(tensors, TUNE, 1.0), out / "model.safetensors", metadata={"format": "pt"})
    return out


def trained_on(base: Path, out: Path) -> Path:
    """That base with every weight trained further. About 2.5 GB of memory for the base of the example."""
    whole_tune(base, out)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    for step, ids in enumerate(_batches(AutoTokenizer.from_pretrained(out)), start=1):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, step / WARM_UP)
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    tied = json.loads((out / "config.json").read_text()).get("tie_word_embeddings", False)
    tensors = {name: own.contiguous() for name, own in model.state_dict().items() if not (tied and "lm_head" in name)}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def _batches(tokenizer: PreTrainedTokenizerBase) -> Iterator[torch.Tensor]:
    """STEPS times (ROWS, TOKENS) ids."""
    text = "\n\n".join(page.read_text() for page in sorted(TEXTS.glob("*.md")))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    rng = Random(SEED)
    for _ in range(STEPS):
        starts = [rng.randrange(len(ids) - TOKENS) for _ in range(ROWS)]
        yield torch.tensor([ids[start : start + TOKENS] for start in starts])
