"""The exercises that each helpdesk adapter is trained, tested and monitored on.

`python -m examples.helpdesk.data` writes `canaries/<adapter>.jsonl`. Everything is drawn from one seed:
another seed, or another order of draws, makes other canaries, and the golden records no longer fit them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, Protocol, TypeAlias

from examples.helpdesk.tasks import order_extractor, polite_rewriter, ticket_router, upstream_tune
from examples.helpdesk.tasks.draft import Check, Draft, Expect

HERE = Path(__file__).parent
SEED = 20
Split = Literal["train", "heldout", "canary", "traffic"]
SIZES: dict[Split, int] = {"train": 800, "heldout": 100, "canary": 72, "traffic": 64}
Messages: TypeAlias = list[dict[str, str]]


class Task(Protocol):
    """A file of `tasks/`: its system prompt, how an exercise is drawn, and what counts as right."""

    SYSTEM: str

    def draw(self, rng: Random) -> Draft: ...

    def right(self, expect: Expect, text: str) -> bool: ...


class MonitoredTask(Task, Protocol):
    """A task of an adapter, with a check for its canaries."""

    def watched(self, expect: Expect) -> Check: ...


ADAPTERS: dict[str, MonitoredTask] = {
    "ticket-router": ticket_router,
    "polite-rewriter": polite_rewriter,
    "order-extractor": order_extractor,
}
TUNES: dict[str, Task] = {**ADAPTERS, "upstream-tune": upstream_tune}


@dataclass(frozen=True, slots=True)
class Example:
    """One exercise: id `router-001`, task name, single-turn chat, the wanted answer, and what `check` reads."""

    id: str
    task: str
    messages: Messages
    target: str
    expect: Expect


def examples(task: str, split: Split, seed: int = SEED) -> list[Example]:
    """All exercises of one split; no user message occurs in two splits of a task.

    task: a key of `TUNES`
    split: sizes are in `SIZES`

    The splits share sentence patterns and words; what differs is the combination.
    """
    first = sum(size for name, size in SIZES.items() if list(SIZES).index(name) < list(SIZES).index(split))
    drafts = _drafts(task, seed)[first : first + SIZES[split]]
    return [_example(task, number, draft) for number, draft in enumerate(drafts, start=1)]


def check(example: Example, text: str) -> bool:
    """Is this text a right answer, by the task's own rule?"""
    return TUNES[example.task].right(example.expect, text)


def write_canaries(folder: Path) -> None:
    """Write one canary file per adapter: `{"id", "messages", "expect": {"check"}}` per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in ADAPTERS.items():
        rows = [
            {"id": e.id, "messages": e.messages, "expect": {"check": task.watched(e.expect)}}
            for e in examples(name, "canary")
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _drafts(task: str, seed: int) -> list[Draft]:
    """Distinct exercises in drawing order, enough for all splits."""
    rng = Random(f"{task}/{seed}")
    drafts: dict[str, Draft] = {}
    while len(drafts) < sum(SIZES.values()):
        draft = TUNES[task].draw(rng)
        drafts.setdefault(draft.user, draft)
    return list(drafts.values())


def _example(task: str, number: int, draft: Draft) -> Example:
    messages = [{"role": "system", "content": TUNES[task].SYSTEM}, {"role": "user", "content": draft.user}]
    return Example(f"{task.split('-')[1]}-{number:03}", task, messages, draft.target, draft.expect)


if __name__ == "__main__":
    write_canaries(HERE / "canaries")
