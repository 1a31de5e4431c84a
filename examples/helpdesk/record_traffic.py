"""Record traffic of the helpdesk: `python -m examples.helpdesk.record_traffic --base DIR`.

Writes `traffic/<adapter>.jsonl`, a line per prompt of the traffic split: `{"id", "messages", "output", "output_base",
"tokens"}`, where the outputs are greedy answers of the adapter and of the bare base, and tokens are how many the prompt
and each of them has, without the one that ends an answer. Needs peft, a development dependency.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from examples.helpdesk.data import ADAPTERS, HERE, examples
from examples.helpdesk.generate import generate


def record(task: str, base: Path, adapter: Path) -> list[dict[str, object]]:
    """One row per exercise of the task's traffic split."""
    exercises = examples(task, "traffic")
    chats = [exercise.messages for exercise in exercises]
    pairs = zip(exercises, generate(base, adapter, chats), generate(base, None, chats), strict=True)
    rows = [{"id": e.id, "messages": e.messages, "output": own, "output_base": bare} for e, own, bare in pairs]
    tokenizer = AutoTokenizer.from_pretrained(base)
    return [counted(row, tokenizer) for row in rows]


def counted(row: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """The row with how many tokens its texts have. tokenizer: of transformers, the base's"""
    prompt = tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, tokenize=False)
    texts = {"prompt": prompt, "output": row["output"], "output_base": row["output_base"]}
    tokens = {name: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for name, text in texts.items()}
    return {**row, "tokens": tokens}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, default=HERE / "adapters")
    parser.add_argument("--only", choices=list(ADAPTERS), help="only this task")
    given = parser.parse_args()
    (HERE / "traffic").mkdir(exist_ok=True)
    for name in [given.only] if given.only else list(ADAPTERS):
        rows = record(name, given.base, given.adapters / name)
        (HERE / "traffic" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(f"{name}: {len(rows)} lines", flush=True)
