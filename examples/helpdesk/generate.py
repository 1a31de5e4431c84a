"""Greedy answers of a model to a list of chats. Shared by `evaluate` and `record_traffic`."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.helpdesk.data import Messages

MAX_NEW_TOKENS = 40


def generate(base: Path, adapter: Path | None, chats: list[Messages], batch: int = 100) -> list[str]:
    """Greedy answers, at most `MAX_NEW_TOKENS` tokens each, without the end-of-turn token.

    base: folder of the base model, float32 on the CPU
    adapter: folder of a LoRA adapter, applied by peft; None for the base alone
    chats: each rendered with the tokenizer's own template

    Raises OSError or ValueError from transformers or peft when a folder is not a model or an adapter.
    """
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    prompts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    answers: list[str] = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
