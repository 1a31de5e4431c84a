"""One forward pass with a key-value cache, a recurrent state, or both, as the model's layers keep them.

The one place that knows the two names under which transformers takes a cache, and how a cache of a common beginning is
read by many rows.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn
from transformers.cache_utils import DynamicLayer

from probes.model.packing import common_beginning

# What earlier passes left, by the argument name under which a model takes it.
Cache = dict[str, Any]
# Prompts that were read alone, among which a beginning that comes back is looked for.
RECENT = 8
ATTENTION, RECURRENT = "past_key_values", "cache_params"


def body_of(network: Any) -> str:
    """Name of the attribute that holds the model without its head; a few classes name one that they do not have."""
    named: str = network.base_model_prefix
    return named if isinstance(getattr(network, named, None), nn.Module) else "model"


def new_cache(network: Any) -> Cache:
    """An empty cache. Models of recurrent layers alone have an argument of their own, and create theirs themselves."""
    body = getattr(network, body_of(network))
    if RECURRENT in inspect.signature(body.forward).parameters:
        return {RECURRENT: None}
    return {ATTENTION: transformers.DynamicCache(config=network.config)}


def select_rows(cache: Cache, rows: torch.Tensor) -> None:
    """Keep these rows of the batch, in this order, each as often as it is named. Every layer of a cache can do this,
    while ``batch_repeat_interleave`` and ``batch_select_indices`` are for attention alone."""
    for layers in cache.values():
        layers.reorder_cache(rows)


class LentLayer(DynamicLayer):
    """Keys and values of a beginning, for one pass of rows that go on from it: each layer copies them for its rows
    while it computes its attention, and keeps neither the copy nor the new tokens' own."""

    def __init__(self, of: DynamicLayer, rows: torch.Tensor, cut: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = of.dtype, of.device, True
        self.keys, self.values, self.rows = of.keys[:, :, :cut], of.values[:, :, :cut], rows

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self._before(self.keys, key_states), self._before(self.values, value_states)

    def _before(self, beginning: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        is_single = len(beginning) == 1
        spread = beginning.expand(len(new), -1, -1, -1) if is_single else beginning.index_select(0, self.rows)
        return torch.cat([spread, new], dim=-2)


def is_lendable(cache: Cache) -> bool:
    """Can rows go on from it and leave it as it is? Where all of its layers are those of plain attention."""
    layers = getattr(cache.get(ATTENTION), "layers", [])
    return bool(layers) and all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)


def lent(cache: Cache, rows: torch.Tensor, cut: int) -> Cache:
    """A cache from which rows of a batch go on in one pass: row i from row ``rows[i]`` of the first ``cut`` tokens.

    Where it is lendable it is left as it is, and a copy for all rows exists of one layer at a time. Where it is not,
    its own rows are selected, and ``cut`` has to be all of its tokens.
    """
    if not is_lendable(cache):
        select_rows(cache, rows)
        return cache
    spread = copy.copy(cache[ATTENTION])
    spread.layers = [LentLayer(layer, rows, cut) for layer in cache[ATTENTION].layers]
    return {ATTENTION: spread}


def forward_with_cache(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache | None, **more: Any
) -> Any:
    """The output of a network, or of its body, for these token columns.

    ids, positions: (B, L); mask: (B, columns in the cache + L); cache: gets these columns added; None: no cache
    """
    recurrent = cache is not None and RECURRENT in cache  # such layers take a mask of the new columns only
    own_mask = mask[:, -ids.shape[1] :] if recurrent else mask
    inputs = {"input_ids": ids, "attention_mask": own_mask, "position_ids": positions, "use_cache": cache is not None}
    output = module(**inputs, **(cache or {}), **more)
    if cache is not None and recurrent:
        cache[RECURRENT] = output.cache_params
    return output


@dataclass(frozen=True, slots=True, eq=False)
class Beginning:
    """A beginning that was read once. read_by: the adapter's parts in use at that time, None for the base; scale: of
    its own scaling; states: (n, H), the last hidden states of its tokens"""

    tokens: tuple[int, ...]
    read_by: object | None
    scale: float
    cache: Cache
    states: torch.Tensor


@dataclass(slots=True, eq=False)
class KeptBeginnings:
    """The beginnings that were read last, for texts to come. most_tokens: of all of them together"""

    most_tokens: int
    kept: list[Beginning] = field(default_factory=list)
    _single: deque[tuple[tuple[int, ...], object | None, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def longest(self, prompt: tuple[int, ...], read_by: object | None, scale: float) -> tuple[Beginning | None, int]:
        """The one that has most in common with a prompt, but for the prompt's last token, and how many tokens."""
        best: Beginning | None = None
        most = 0
        for beginning in self.kept:
            if beginning.read_by is read_by and beginning.scale == scale:
                common = common_beginning(beginning.tokens, prompt, len(prompt) - 1)
                best, most = (beginning, common) if common > most else (best, most)
        if best is not None:
            self.kept.remove(best)
            self.kept.append(best)  # the last to be dropped
        return best, most

    def recurring(self, prompt: tuple[int, ...], read_by: object | None, scale: float) -> int:
        """How many tokens a prompt that is read alone has in common with one of the last that were, by the same one;
        the prompt is remembered."""
        others = [tokens for tokens, reader, by_scale in self._single if reader is read_by and by_scale == scale]
        self._single.append((prompt, read_by, scale))
        return max((common_beginning(tokens, prompt, len(prompt) - 1) for tokens in others), default=0)

    def keep(self, beginning: Beginning) -> None:
        """One that cannot be lent, or is too long, is not kept."""
        if not is_lendable(beginning.cache) or len(beginning.tokens) > self.most_tokens:
            return
        self.kept.append(beginning)
        while sum(len(each.tokens) for each in self.kept) > self.most_tokens:
            self.kept.pop(0)

    def clear(self) -> None:
        self.kept.clear()
        self._single.clear()
