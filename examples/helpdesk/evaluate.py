"""Accuracy of each helpdesk adapter on its task, and of the base without it.

`python -m examples.helpdesk.evaluate --base DIR [--json FILE]`. Needs peft, a development dependency.
"""

import argparse
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from examples.helpdesk.data import ADAPTERS, HERE, check, examples
from examples.helpdesk.generate import generate

Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers of one adapter, or of the bare base on the same task, with a Wilson 95 % interval."""

    task: str
    model: str
    right: int
    n: int
    low: float
    high: float


def wilson(right: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Interval for a share of `right` out of `n` >= 1, both ends in [0, 1].

    Covers the true share with probability about 95 % when the n exercises are independent draws.

    Source: Wilson (1927), JASA 22(158).
    """
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def accuracy(task: str, base: Path, adapter: Path | None, n: int) -> Accuracy:
    """Greedy answers to the first `n` held-out exercises, each judged by the task's own check."""
    exercises = examples(task, "heldout")[:n]
    answers = generate(base, adapter, [exercise.messages for exercise in exercises])
    right = sum(check(exercise, answer) for exercise, answer in zip(exercises, answers, strict=True))
    low, high = wilson(right, len(exercises))
    return Accuracy(task, "base" if adapter is None else "adapter", right, len(exercises), low, high)


def main() -> None:
    """Print the table; also write it as JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapters", type=Path, default=HERE / "adapters")
    parser.add_argument("--only", choices=list(ADAPTERS), help="only this task")
    parser.add_argument("-n", type=int, default=100, help="held-out exercises per task, at most 100")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for task in [given.only] if given.only else list(ADAPTERS):
        for adapter in (given.adapters / task, None):
            row = accuracy(task, given.base, adapter, given.n)
            print(f"{row.task:16} {row.model:8} {row.right:3}/{row.n}  [{row.low:.3f}, {row.high:.3f}]", flush=True)
            rows.append(asdict(row))
    if given.json:
        given.json.write_text(json.dumps({"accuracy": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
