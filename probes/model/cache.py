"""One forward pass on from a cache, of whatever kind the model's layers keep: attention, recurrent, or both."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import nn

# What the passes before left, by the word by which a model takes it.
Cache = dict[str, Any]
ATTENTION, RECURRENT = "past_key_values", "cache_params"


def body_of(network: Any) -> str:
    """The attribute that holds all of it but the head; a few classes name one that they do not have."""
    named: str = network.base_model_prefix
    return named if isinstance(getattr(network, named, None), nn.Module) else "model"


def new_cache(network: Any) -> Cache:
    """An empty one. Models of recurrent layers alone have a word of their own, and make theirs themselves."""
    body = getattr(network, body_of(network))
    if RECURRENT in inspect.signature(body.forward).parameters:
        return {RECURRENT: None}
    return {ATTENTION: transformers.DynamicCache(config=network.config)}


def taken(cache: Cache, rows: torch.Tensor) -> None:
    """These rows go on, in this order, as often as they are named. Every layer of a cache can do this, while
    ``batch_repeat_interleave`` and ``batch_select_indices`` are attention's alone."""
    for held in cache.values():
        held.reorder_cache(rows)


def read_on(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache | None, **more: Any
) -> Any:
    """What a network, or its body, says to these columns.

    ids, positions: (B, L); mask: (B, columns in the cache + L); cache: then holds these columns too; None: no cache
    """
    recurrent = cache is not None and RECURRENT in cache  # such layers look at no column but these
    seen = mask[:, -ids.shape[1] :] if recurrent else mask
    told = {"input_ids": ids, "attention_mask": seen, "position_ids": positions, "use_cache": cache is not None}
    found = module(**told, **(cache or {}), **more)
    if cache is not None and recurrent:
        cache[RECURRENT] = found.cache_params
    return found
