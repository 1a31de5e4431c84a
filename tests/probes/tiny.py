"""Tiny random models and adapters with all that real ones have: tied head, grouped attention, chat template."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from detectors.records import Floats
from probes.runner import BatchShape, Replay, Target
from probes.runners.in_process import Config, Runner

LETTERS = [chr(code) for code in range(32, 127)]
VOCABULARY = len(LETTERS) + 3
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] + '<e>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)
END = 2
PROMPT, FORCED = (1, 20, 31, 42, 7, 9), (11, 60, 61, 5, 33)


def tiny_base(folder: Path, seed: int = 0, tied: bool = True, **changes: Any) -> Path:
    """A two-layer Llama with weights large enough that its answers differ from place to place."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.12, eos_token_id=END, bos_token_id=1,
        pad_token_id=END, **changes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return tiny_tokenizer(folder)


def tiny_tokenizer(folder: Path) -> Path:
    """One token a letter, and a chat template."""
    words = {"<u>": 0, "<s>": 1, "<e>": 2} | {letter: i + 3 for i, letter in enumerate(LETTERS)}
    inner = Tokenizer(models.BPE(words, []))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<u>", bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def ends_now_and_then(base: Path) -> Path:
    """The same base, untied, with its end of text likelier: continuations then come to an end at a usable length."""
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"][END] *= 1.5
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


def in_bfloat16(base: Path, but: str = "") -> Path:
    """The same base with its weights stored in bfloat16, all but those whose name ends so."""
    file = base / "model.safetensors"
    kept = {
        name: tensor if but and name.endswith(but) else tensor.to(torch.bfloat16)
        for name, tensor in load_file(file).items()
    }
    save_file(kept, file, metadata={"format": "pt"})
    return base


def tiny_adapter(folder: Path, base: Path, seed: int = 1, **lora: Any) -> Path:
    """A PEFT adapter with random B, as PEFT itself saves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]} | lora
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice on tied embeddings
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings)
        )
        with_effect(model)
        model.save_pretrained(folder)
    return folder


def with_effect(model: Any) -> None:
    """What PEFT begins with changes nothing."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif any(part in name for part in ("modules_to_save", "lora_magnitude_vector", "trainable_tokens_delta")):
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))


def peft_log_probs(base: Path, adapter: Path | None, prompt: Sequence[int], forced: Sequence[int]) -> Floats:
    """(T, V): what PEFT says, one text at a time."""
    from peft import PeftModel

    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = model if adapter is None else PeftModel.from_pretrained(model, adapter)
        logits = model.eval()(input_ids=torch.tensor([[*prompt, *forced]])).logits[0]
        scored: Floats = logits[len(prompt) - 1 : -1].log_softmax(-1).numpy()
    return scored


def overwrite(source: Path, target: Path) -> None:
    """Overwrite every file of ``target`` by its namesake, as an upstream release does."""
    for file in source.iterdir():
        shutil.copy(file, target / file.name)


def rewrite_unnoticed(file: Path, old: str, new: str) -> None:
    """Other content under the same name, size and times: whoever reads it again sees it, and whoever looks does not."""
    before, text = file.stat(), file.read_text()
    assert text.count(old) == 1 and len(old) == len(new)
    with file.open("r+") as same:
        same.write(text.replace(old, new))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def close(first: Floats, second: Floats) -> bool:
    return bool(np.abs(first - second).max() < 1e-4)


def opened(base: Path, cache: Path, adapters: dict[str, Path] | None = None, **settings: Any) -> Runner:
    """A runner over these folders, on the CPU, ready."""
    named = {name: str(path) for name, path in (adapters or {}).items()}
    runner = Runner(Config(str(base), named, device="cpu", cache_dir=str(cache), **settings))
    runner.open()
    return runner


def full(
    runner: Runner,
    targets: Sequence[Target],
    texts: Sequence[tuple[Sequence[int], Sequence[int]]] = ((PROMPT, FORCED),),
    shape: BatchShape | None = None,
) -> dict[tuple[Target, int], NDArray[np.float32]]:
    """(T, V) for every target on every text, keyed by target and the text's number, in one call of run."""
    replays = [Replay(str(i), tuple(p), tuple(f), t) for t in targets for i, (p, f) in enumerate(texts)]
    answers = runner.run(replays, lambda: False, shape)
    return {(a.replay.target, int(a.replay.canary)): a.full for a in answers if a.full is not None}
