"""Hidden states of responses under one golden adapter or base, in packed batches; a shared prompt prefix is read once.

Held against reading each text alone in tests/probes/model/test_shared_prefix.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from probes.model.cache import Beginning, Cache, body_of, forward_with_cache, lent, new_cache
from probes.model.forward import Model
from probes.model.lora import row_groups
from probes.model.packing import RowAdapter, common_beginning, padded, tokens_of_pass

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
    for batch in batches(texts, max_tokens, model.continues):
        states |= zip(batch, read(model, [texts[i] for i in batch], reader), strict=True)
    return [states[i] for i in range(len(texts))]


def batches(texts: Texts, max_tokens: int, continues: bool = True) -> Iterator[list[int]]:
    """Which texts are read together, by their indices. A common beginning counts once: it is read once.

    continues: can the model read several tokens at once after a cache?
    """
    begins = [(*prompt, *output)[:WORTH_SHARING] for prompt, output in texts]
    batch: list[int] = []
    cut = longest = 0
    for i in sorted(range(len(texts)), key=lambda i: (begins[i], -_length(texts[i]))):
        prompt, length = texts[i][0], _length(texts[i])
        own = len(prompt) - 1 if continues else 0
        common = min(own, common_beginning(texts[batch[0]][0], prompt, cut)) if batch else own
        wide = max(longest, length)
        is_full = len(batch) == ROWS or tokens_of_pass(len(batch) + 1, wide, _worth(common)) > max_tokens
        is_other = len(batch) >= ENOUGH_ROWS and begins[i] != begins[batch[0]]
        if batch and (is_full or is_other):
            yield batch
            batch, common, wide = [], own, length
        batch.append(i)
        cut, longest = common, wide
    if batch:
        yield batch


def read(model: Model, texts: Texts, reader: RowAdapter) -> list[HiddenStates]:
    """One packed pass. Where all prompts have a common prefix, it is read once and its cache shared, if the model can
    read several tokens at once after a cache; one that earlier texts had too is not read again.

    texts: prompts of at least one token, and outputs, which may be empty
    """
    beginning, cut = _beginning(model, texts, reader) if model.continues else (None, 0)
    cache = head = None
    if beginning is not None:
        cache = lent(beginning.cache, torch.zeros(len(texts), dtype=torch.long, device=model.device), cut)
        head = beginning.states[:cut]
    rest = [[*prompt, *output][cut:] for prompt, output in texts]
    states = _pass(model, rest, [reader] * len(texts), cache, cut)
    return [
        _hidden_states(states[row], head, len(prompt) - cut, len(output)) for row, (prompt, output) in enumerate(texts)
    ]


def _beginning(model: Model, texts: Texts, reader: RowAdapter) -> tuple[Beginning | None, int]:
    """What these texts go on from, and how many of its tokens; None and 0 where they are read from their first one."""
    name, scale = reader
    applied, prompt = model.adapters.applied[name] if name else None, texts[0][0]
    kept, common = model.beginnings.longest(prompt, applied, scale)
    cut = shared(texts) if len(texts) > 1 else common or model.beginnings.recurring(prompt, applied, scale)
    cut, common = _worth(cut), min(common, cut)
    # A kept one that is a little shorter costs each text the rest of it, a new one costs all of it once.
    if kept is not None and _worth(common) and len(texts) * (cut - common) <= cut:
        return kept, common
    if not cut:
        return None, 0
    cache = new_cache(model.network)
    states = _pass(model, [list(prompt[:cut])], [reader], cache, 0)[0]
    beginning = Beginning(prompt[:cut], applied, scale, cache, states)
    model.beginnings.keep(beginning)
    return beginning, cut


def shared(texts: Texts) -> int:
    """Length of the common prefix of all prompts; 0 where sharing is not worth it. The last token of a
    prompt is never shared: it predicts the first one of the output."""
    if len(texts) < 2:
        return 0
    first, last = min(texts)[0], max(texts)[0]
    return _worth(common_beginning(first, last, min(len(prompt) for prompt, _ in texts) - 1))


def _worth(cut: int) -> int:
    return cut if cut >= WORTH_SHARING else 0


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
