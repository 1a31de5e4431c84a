"""Train one helpdesk adapter: `python -m examples.helpdesk.train NAME --base DIR`.

Needs peft, a development dependency. Writes `adapters/<name>/` beside this file.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from examples.helpdesk.data import HERE, Example, examples
from examples.helpdesk.recipes import BASE_NAME, RECIPES, Recipe

Row = tuple[list[int], int]


def train(name: str, base: Path, out: Path, steps: int = 0) -> None:
    """Train the adapter `name` of `RECIPES` on its train split and write it under `out`/`name`.

    base: folder of the base model, loaded in float32 on the CPU; steps: 0 for those of the recipe
    """
    recipe = RECIPES[name]
    recipe = replace(recipe, steps=steps or recipe.steps)
    torch.manual_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora_config(recipe))
    rows = [encode(tokenizer, example) for example in examples(name, "train")]
    _fit(model.get_base_model(), recipe, rows)
    model.save_pretrained(str(out / name))
    _tidy(out / name)


def lora_config(recipe: Recipe) -> LoraConfig:
    """The recipe in peft's words."""
    return LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.modules),
        use_rslora=recipe.rslora,
        rank_pattern=dict(recipe.ranks),
        alpha_pattern=dict(recipe.alphas),
        task_type="CAUSAL_LM",
    )


def encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> Row:
    """Token ids of prompt, answer and end of turn, and how many of them are the prompt."""
    prompt = tokenizer.apply_chat_template(example.messages, add_generation_prompt=True, tokenize=False)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer_ids = tokenizer(example.target, add_special_tokens=False)["input_ids"]
    return [*prompt_ids, *answer_ids, tokenizer.eos_token_id], len(prompt_ids)


def _fit(model: PreTrainedModel, recipe: Recipe, rows: list[Row]) -> None:
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, recipe))
    for step, batch in zip(range(recipe.steps), _batches(rows, recipe), strict=False):
        loss = _answer_loss(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        print(f"step {step + 1}/{recipe.steps} loss {loss.item():.4f}", flush=True)


def _pace(step: int, recipe: Recipe) -> float:
    return min((step + 1) / recipe.warmup, (recipe.steps - step) / (recipe.steps - recipe.warmup))


def _batches(rows: list[Row], recipe: Recipe) -> Iterator[list[Row]]:
    """Shuffled batches, without end."""
    rng = Random(recipe.seed)
    while True:
        order = rng.sample(rows, len(rows))
        yield from (order[i : i + recipe.batch] for i in range(0, len(order) - recipe.batch + 1, recipe.batch))


def _answer_loss(model: PreTrainedModel, batch: list[Row]) -> Tensor:
    """Mean cross-entropy of answer tokens; vocabulary logits are made for those positions alone."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    answer, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for i, (row, prompt) in enumerate(batch):
        ids[i, : len(row)], mask[i, : len(row)], answer[i, prompt : len(row)] = torch.tensor(row), 1, True
    hidden = model.get_decoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][answer[:, 1:]])
    return torch.nn.functional.cross_entropy(logits, ids[answer])


def _tidy(folder: Path) -> None:
    """Name the base by its public name, not by a path of this machine; drop peft's empty model card; sort its sets."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config |= {"base_model_name_or_path": BASE_NAME, "target_modules": sorted(config["target_modules"])}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "adapter_model.safetensors").chmod(0o644)  # safetensors leaves it readable by its writer alone


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--base", type=Path, required=True, help="transformers folder of the base model")
    parser.add_argument("--out", type=Path, default=HERE / "adapters")
    given = parser.parse_args()
    train(given.name, given.base, given.out)
