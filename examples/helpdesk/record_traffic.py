"""Record traffic of the helpdesk: `python -m examples.helpdesk.record_traffic --base DIR`.

Writes `traffic/<adapter>.jsonl`, a line per prompt of the traffic split: `{"id", "messages", "output", "output_base"}`,
where the outputs are greedy answers of the adapter and of the bare base. Needs peft, a development dependency.
"""

import argparse
import json
from pathlib import Path

from examples.helpdesk.data import ADAPTERS, HERE, examples
from examples.helpdesk.generate import generate


def record(task: str, base: Path, adapter: Path) -> list[dict[str, object]]:
    """One row per exercise of the task's traffic split."""
    exercises = examples(task, "traffic")
    chats = [exercise.messages for exercise in exercises]
    pairs = zip(exercises, generate(base, adapter, chats), generate(base, None, chats), strict=True)
    return [{"id": e.id, "messages": e.messages, "output": own, "output_base": bare} for e, own, bare in pairs]


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
