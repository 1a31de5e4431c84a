"""One forward pass with a key-value cache, a recurrent state, or both, as the model's layers keep them.

The one place that knows the two names under which transformers takes a cache.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import nn

# What earlier passes left, by the argument name under which a model takes it.
Cache = dict[str, Any]
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
