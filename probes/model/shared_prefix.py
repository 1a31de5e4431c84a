"""Hidden states of responses under one golden adapter or base, in packed batches; a shared prompt prefix is read once.

Held against reading each text alone in tests/probes/model/test_shared_prefix.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from probes.model.cache import Cache, body_of, forward_with_cache, new_cache, select_rows
from probes.model.forward import Model
from probes.model.lora import row_groups
from probes.model.packing import RowAdapter, padded

# Shorter prefixes are not worth a pass of their own.
WORTH_SHARING = 16
ROWS = 32
# With so many rows, a batch ends where the next text has another prefix, so that the shared one is read once.
ENOUGH_ROWS = 4

Texts = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, slots=True, eq=False)
class HiddenStates:
    """The last hidden states of one prompt and output.

    scored: (T, H), those that predict the T tokens of the output; prompt, output: (H,) means over either side's
    tokens, nan where it has none
    """

    scored: torch.Tensor
    prompt: torch.Tensor
    output: torch.Tensor


def read_all(model: Model, texts: Texts, reader: RowAdapter, max_tokens: int) -> list[HiddenStates]:
    """In batches of a common prefix and similar length; the results are in the order given."""
    states: dict[int, HiddenStates] = {}
    for batch in batches(texts, max_tokens):
        states |= zip(batch, read(model, [texts[i] for i in batch], reader), strict=True)
    return [states[i] for i in range(len(texts))]


def batches(texts: Texts, max_tokens: int) -> Iterator[list[int]]:
    """Which texts are read together, by their indices."""
    begins = [(*prompt, *output)[:WORTH_SHARING] for prompt, output in texts]
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: (begins[i], -_length(texts[i]))):
        longest = max(_length(texts[j]) for j in (*batch, i))
        full = len(batch) == ROWS or longest * (len(batch) + 1) > max_tokens
        other_prefix = len(batch) >= ENOUGH_ROWS and begins[i] != begins[batch[0]]
        if batch and (full or other_prefix):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def read(model: Model, texts: Texts, reader: RowAdapter) -> list[HiddenStates]:
    """One packed pass. Where all prompts have a common prefix, it is read once and its cache shared, if the model can
    read several tokens at once after a cache.

    texts: prompts of at least one token, and outputs, which may be empty
    """
    cut = shared(texts) if model.continues else 0
    cache = new_cache(model.network) if cut else None
    head = _pass(model, [list(texts[0][0][:cut])], [reader], cache, 0)[0] if cut else None
    if cache is not None:
        select_rows(cache, torch.zeros(len(texts), dtype=torch.long, device=model.device))
    rest = [[*prompt, *output][cut:] for prompt, output in texts]
    states = _pass(model, rest, [reader] * len(texts), cache, cut)
    return [
        _hidden_states(states[row], head, len(prompt) - cut, len(output)) for row, (prompt, output) in enumerate(texts)
    ]


def shared(texts: Texts) -> int:
    """Length of the common prefix of all prompts; 0 where sharing is not worth it. The last token of a
    prompt is never shared: it predicts the first one of the output."""
    if len(texts) < 2:
        return 0
    first, last = min(texts)[0], max(texts)[0]
    limit = min(len(prompt) for prompt, _ in texts) - 1
    same = next((i for i in range(limit) if first[i] != last[i]), max(limit, 0))
    return same if same >= WORTH_SHARING else 0


def _hidden_states(states: torch.Tensor, head: torch.Tensor | None, prompt: int, output: int) -> HiddenStates:
    """Of one row. head: (cut, H) states of the shared prefix; prompt, output: how many of their tokens the row holds"""
    before = states[:prompt] if head is None else torch.cat([head, states[:prompt]])
    scored = states[prompt - 1 : prompt - 1 + output].clone()
    return HiddenStates(scored, before.float().mean(0), states[prompt : prompt + output].float().mean(0))


def _pass(
    model: Model,
    rows: Sequence[Sequence[int]],
    readers: Sequence[RowAdapter],
    cache: Cache | None,
    cut: int,
) -> torch.Tensor:
    """(B, L, H) last hidden states."""
    batch = padded(rows, left=False)
    arrays = (batch.ids, batch.mask, batch.positions)
    ids, mask, positions = (torch.from_numpy(array).to(model.device) for array in arrays)
    whole_mask = torch.cat([mask.new_ones(len(rows), cut), mask], dim=1)
    body = getattr(model.network, body_of(model.network))
    with model.adapters.for_pass(body, row_groups(readers, model.device), len(readers), ids.shape[1]):
        return forward_with_cache(body, ids, whole_mask, positions + cut, cache).last_hidden_state  # type: ignore[no-any-return]


def _length(text: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
    return len(text[0]) + len(text[1])
