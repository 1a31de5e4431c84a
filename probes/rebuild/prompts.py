"""Which prompts is the accepted adapter asked, for a successor to learn from? Recorded ones, given ones, written ones.

Of the canary file what is not held out, of a file of exported requests all; and where these are few, prompts that the
base writes itself: shown some of them as a list, it goes on with the list. The held-out canaries are in none of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch

from probes.canaries.canary_file import Canary
from probes.canaries.replay_pairs import Progress
from probes.golden.record import Golden
from probes.model.forward import Model
from probes.runner import Runner, Stop

STAGE = "written prompts"
# Shown as examples in one list, and how much of it the base writes at most.
SHOWN, LONGEST_TOKENS = 6, 60
FEWEST_LETTERS = 12
AT_ONCE = 8
OPENING = "Messages that were sent, one a line, each different:\n"
# The base repeats itself or stops at once in some lists: given up after so many times the number that is wanted.
TRIES = 4

Turns = tuple[Mapping[str, str], ...]


def recorded(golden: Golden, canaries: Iterable[Canary], given: Iterable[Turns] = ()) -> list[Turns]:
    """Messages of the record's selected half, of canaries that are in neither half, and others that are given, each
    once; none held out: canaries may have been chosen from the very requests that are given."""
    held_out = {_text(canary.messages) for canary in golden.held_out}
    prompts = [*(own.messages for own in golden.pool), *(own.messages for own in canaries), *given]
    turns = [messages for messages in prompts if messages]
    distinct = {_text(own): tuple(own) for own in turns}
    return [own for text, own in distinct.items() if text not in held_out]


def written(
    model: Model, runner: Runner, examples: Sequence[Turns], count: int, seed: int, progress: Progress, stop: Stop
) -> list[Turns]:
    """Up to ``count`` prompts that the base makes up after the pattern of the examples, each with an example's other
    turns. Equal seeds give the same on the same machine.

    model: the base, whose rows are run without an adapter; runner: encodes and decodes with its tokenizer
    examples: prompts that end with a user's turn, at least one
    """
    known = {own[-1]["content"] for own in examples}
    made: dict[str, Turns] = {}
    generator = torch.Generator().manual_seed(seed)
    for attempt in range(TRIES * (count // AT_ONCE + 1)):
        progress(STAGE, len(made), count)
        if len(made) >= count or stop():
            break
        picked = torch.randperm(len(examples), generator=generator)[:SHOWN].tolist()
        shown = [examples[index] for index in picked]
        for text in _continued(model, runner, shown, seed + attempt):
            if text not in known and len(made) < count:
                made.setdefault(text, (*shown[0][:-1], {"role": "user", "content": text}))
    progress(STAGE, count, count)
    return list(made.values())


def _continued(model: Model, runner: Runner, shown: Sequence[Turns], seed: int) -> list[str]:
    """The next line of this list, written several times."""
    lines = "".join(f"- {own[-1]['content']}\n" for own in shown)
    ids = torch.tensor([list(runner.encode(f"{OPENING}{lines}-"))] * AT_ONCE, device=model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = _sampled(model, ids)
    texts = [runner.decode(row[ids.shape[1] :]).partition("\n")[0].strip() for row in output.tolist()]
    return [text for text in map(_clean, texts) if len(text) >= FEWEST_LETTERS]


def _sampled(model: Model, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        written_ids: torch.Tensor = model.network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_p=0.95,
            temperature=0.9,
            max_new_tokens=LONGEST_TOKENS,
            pad_token_id=min(model.ends, default=0),
        )
    return written_ids


def _clean(text: str) -> str:
    """Without what a tokenizer writes for special tokens, nor the marks of a list."""
    return re.sub(r"<[^<>\s]{1,24}>", "", text).lstrip("-•* ").strip()


def _text(turns: Sequence[Mapping[str, str]]) -> str:
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
