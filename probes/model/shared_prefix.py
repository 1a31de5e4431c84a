"""Responses as one golden copy reads them: packed, and what prompts have in common read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from probes.model.cache import Cache, body_of, new_cache, read_on, taken
from probes.model.forward import Model
from probes.model.lora import grouped
from probes.model.packing import Voice, padded

# Shorter beginnings are not worth a pass of their own.
WORTH_SHARING = 16
ROWS = 32
# With so many rows, a batch ends where the next text begins otherwise: what they share is read once.
ENOUGH_ROWS = 4

Texts = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class HiddenStates:
    """scored: (T, H) states that predict the output

    prompt, output: (H,) means of the last hidden states; nan where there are no tokens
    """

    scored: torch.Tensor
    prompt: torch.Tensor
    output: torch.Tensor


def read_all(model: Model, texts: Texts, voice: Voice, max_tokens: int) -> list[HiddenStates]:
    """In batches that begin alike and are of like length, back in the order given."""
    found: dict[int, HiddenStates] = {}
    for batch in batches(texts, max_tokens):
        found |= zip(batch, read(model, [texts[i] for i in batch], voice), strict=True)
    return [found[i] for i in range(len(texts))]


def batches(texts: Texts, max_tokens: int) -> Iterator[list[int]]:
    """Which texts are read together, by their numbers."""
    begins = [(*prompt, *output)[:WORTH_SHARING] for prompt, output in texts]
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: (begins[i], -_length(texts[i]))):
        longest = max(_length(texts[j]) for j in (*batch, i))
        full = len(batch) == ROWS or longest * (len(batch) + 1) > max_tokens
        strange = len(batch) >= ENOUGH_ROWS and begins[i] != begins[batch[0]]
        if batch and (full or strange):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def read(model: Model, texts: Texts, voice: Voice) -> list[HiddenStates]:
    """One packed pass; where all prompts begin alike, that beginning is read once and its cache shared, by a model that
    goes on from a cache with several tokens at once.

    texts: prompts of at least one token, and outputs, which may be empty
    """
    cut = shared(texts) if model.continues else 0
    cache = new_cache(model.network) if cut else None
    head = _pass(model, [list(texts[0][0][:cut])], [voice], cache, 0)[0] if cut else None
    if cache is not None:
        taken(cache, torch.zeros(len(texts), dtype=torch.long, device=model.device))
    rest = [[*prompt, *output][cut:] for prompt, output in texts]
    states = _pass(model, rest, [voice] * len(texts), cache, cut)
    return [_reading(states[row], head, len(prompt) - cut, len(output)) for row, (prompt, output) in enumerate(texts)]


def shared(texts: Texts) -> int:
    """How many tokens all prompts begin with; 0 where that is not worth it. The last token of a prompt is never shared:
    it predicts the first one of the output."""
    if len(texts) < 2:
        return 0
    first, last = min(texts)[0], max(texts)[0]
    limit = min(len(prompt) for prompt, _ in texts) - 1
    same = next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))
    return same if same >= WORTH_SHARING else 0


def _reading(states: torch.Tensor, head: torch.Tensor | None, prompt: int, output: int) -> HiddenStates:
    """Of one row. head: (cut, H) states of the beginning; prompt: how many of the prompt's tokens are in this row"""
    before = states[:prompt] if head is None else torch.cat([head, states[:prompt]])
    scored = states[prompt - 1 : prompt - 1 + output].clone()
    return HiddenStates(scored, before.float().mean(0), states[prompt : prompt + output].float().mean(0))


def _pass(
    model: Model,
    rows: Sequence[Sequence[int]],
    voices: Sequence[Voice],
    cache: Cache | None,
    cut: int,
) -> torch.Tensor:
    """(B, L, H) last hidden states."""
    laid = padded(rows, left=False)
    ids, mask, places = (torch.from_numpy(it).to(model.device) for it in (laid.ids, laid.mask, laid.positions))
    seen = torch.cat([mask.new_ones(len(rows), cut), mask], dim=1)
    body = getattr(model.network, body_of(model.network))
    with model.adapters.rows.answering(grouped(voices, model.device), len(voices), ids.shape[1]):
        return read_on(body, ids, seen, places + cut, cache).last_hidden_state  # type: ignore[no-any-return]


def _length(text: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    return len(text[0]) + len(text[1])
