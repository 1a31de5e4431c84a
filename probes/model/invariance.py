"""Are a model's answers invariant to batching, padding and caching? Run once on a few tokens as soon as it is built.

The answer to a text must not depend on its neighbours in a batch, on padding, or on where a key-value cache was cut.
Some layers carry state through masked tokens, or reset it where they should continue, without an error. A model whose
answers depend on these is refused; a shortcut that it does not support is not used (``ModelTraits.continues``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from probes.model.adapter_parts.wrapped_call import experts_in
from probes.model.cache import Cache, body_of, forward_with_cache, lent, new_cache, select_rows
from probes.model.forward import own_head
from probes.model.free_memory import no_memory

# Tokens of the longer text, and of the shorter one, which is its beginning.
LONG, SHORT = 13, 7
# Relative to the norm of the states. Another order of summation moves them by a millionth, a lost state by hundredths.
TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}
# For 16-bit types, relative to each token's norm: a gap between the two does not refuse a model, and makes it read
# token by token after a cache.
COARSE, DOUBT = 0.1, 0.02
# Experts get the tokens that are routed to them: on so few tokens one may happen to get all.
EXPERT = re.compile(r"experts\.\d+(\.|$)")


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """plain_head: are its logits those of the output layer? Models that cap or scale them need their own code for it.

    continues: can it read several tokens at once after a cache? Some layers reset their state then, without an error.
    rowwise: names of the modules that it calls with all of the batch's rows, each time
    """

    plain_head: bool
    continues: bool
    rowwise: frozenset[str]


class NotInvariant(RuntimeError):
    """The model's answers depend on what they must not depend on: no other attempt ends otherwise."""


def check_invariance(network: Any) -> ModelTraits:
    """Raises NotInvariant, and whatever the model raises."""
    ids = (torch.arange(LONG, device=network.device) * 31 + 5) % network.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        states = _states(network, ids[None], torch.ones_like(ids[None]))[0]
        if not states.isfinite().all():
            raise NotInvariant("its hidden states are NaN or infinite")
        plain = _head_is_plain(network, ids, states)
        rowwise = _rowwise(network, ids)
        if not _same_in_batch(network, ids, states, left=False):
            raise NotInvariant("its answer to a text depends on what comes after it, or on its neighbours in the batch")
        if not _same(_from_cache(network, ids, range(SHORT, LONG)), states[SHORT:]):
            raise NotInvariant("with a cache it answers otherwise than without one")
        if not _same_in_batch(network, ids, states, left=True):
            raise NotInvariant("its answer to a text depends on padding before it")
        continues = _continues(network, ids, states)
    return ModelTraits(plain, continues, rowwise)


def _same_in_batch(network: Any, ids: torch.Tensor, states: torch.Tensor, left: bool) -> bool:
    """Do two texts in one batch, the shorter one padded, get the same states as alone?"""
    text = slice(LONG - SHORT, LONG) if left else slice(0, SHORT)
    batch = _states(network, *_two(ids, left))
    return _same(batch[0], states) and _same(batch[1, text], states[:SHORT])


def _continues(network: Any, ids: torch.Tensor, states: torch.Tensor) -> bool:
    try:
        return _same(_from_cache(network, ids, [SHORT]), states[SHORT:], DOUBT)
    except Exception as error:  # layers that cannot do it raise almost anything
        if no_memory("", error):
            raise
        return False


def _from_cache(network: Any, ids: torch.Tensor, cuts: Sequence[int]) -> torch.Tensor:
    """States of the tokens from ``SHORT`` on, read from the cache of those before, which two rows share."""
    cache, mask = new_cache(network), torch.ones_like(ids[None])
    _states(network, ids[None, :SHORT], mask[:, :SHORT], cache)
    _states(network, ids[None].flip(1), mask, new_cache(network))  # another text in between
    first = torch.zeros(2, dtype=torch.long, device=ids.device)
    if len(cuts) == 1:
        cache = lent(cache, first, SHORT)
    else:
        select_rows(cache, first)
    both, mask = ids[None].repeat(2, 1), mask.repeat(2, 1)
    stops = [*list(cuts)[1:], LONG]
    pieces = [_states(network, both[:, a:b], mask[:, :b], cache) for a, b in zip(cuts, stops, strict=True)]
    return torch.cat(pieces, dim=1)[1]


def _states(network: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
    """(B, L, H). mask: (B, tokens in the cache + L); cache: see ``forward_with_cache``"""
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    body = getattr(network, body_of(network))
    return forward_with_cache(body, ids, mask, places, cache).last_hidden_state  # type: ignore[no-any-return]


def _two(ids: torch.Tensor, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The longer text, and under it the shorter one with padding: ids and mask, (2, LONG) each."""
    rows, mask = ids[None].repeat(2, 1), torch.ones(2, LONG, dtype=torch.long, device=ids.device)
    text = slice(LONG - SHORT, LONG) if left else slice(0, SHORT)
    rows[1], mask[1] = 0, 0
    rows[1, text], mask[1, text] = ids[:SHORT], 1
    return rows, mask


def _same(states: torch.Tensor, wanted: torch.Tensor, coarse: float = COARSE) -> bool:
    """In 16-bit types up to a third of the tokens may differ: rounding routes a token here and there to another expert,
    which moved it by .29 of its norm in a correct mixture. A lost state shows in the other tokens too."""
    gap, size = (states - wanted).float().norm(dim=-1), wanted.float().norm(dim=-1)
    if wanted.dtype in TOLERANCE:
        return bool(gap.norm() <= TOLERANCE[wanted.dtype] * size.norm())
    differs = ~(gap <= coarse * size)
    return 3 * int(differs.sum()) <= differs.numel()


def _head_is_plain(network: Any, ids: torch.Tensor, states: torch.Tensor) -> bool:
    """Raises NotInvariant where neither the output layer nor the network's own code after its body gives the logits of
    the whole network: responses and canaries would be scored by another token distribution."""
    inputs = {
        "input_ids": ids[None],
        "position_ids": torch.arange(len(ids), device=ids.device)[None],
        "use_cache": False,
    }
    whole = network(**inputs).logits
    plain = _close(network.get_output_embeddings()(states[None]), whole)
    if not plain and not _close(own_head(network, states), whole[0]):
        raise NotInvariant("its output layer cannot be applied apart from its body")
    if not _close(network(**inputs, logits_to_keep=1).logits[0, -1], whole[0, -1]):
        raise NotInvariant("requested alone, the logits of its last token are others")
    return plain


def _close(logits: torch.Tensor, wanted: torch.Tensor) -> bool:
    near = 1e-3 if wanted.dtype in TOLERANCE else 3e-2
    return torch.allclose(logits, wanted, rtol=near, atol=near)


def _rowwise(network: Any, ids: torch.Tensor) -> frozenset[str]:
    """Which modules the model calls with rows as the first dimension, or with all tokens of all rows flattened, and
    that answer with one tensor. Not those whose weights it reads instead, that it leaves out, or that it calls with
    selected tokens (experts), and no routers that return a choice beside their scores."""
    rows, mask = _two(ids, left=False)
    with _recorded_calls(network) as called:
        network(input_ids=rows, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False)
    return frozenset(name for name, fits in called.items() if fits and not EXPERT.search(name))


@contextmanager
def _recorded_calls(network: nn.Module) -> Iterator[dict[str, bool]]:
    """Module name -> was it called with rows first each time, and did it answer with one tensor? Only modules that
    were called."""
    called: dict[str, bool] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> None:
            first = next((x for x in (*given, *named.values())), None)
            fits = isinstance(answer, torch.Tensor) and _rows_first(first, experts_in(module))
            called[name] = called.get(name, True) and fits

        return hook

    hooks = [m.register_forward_hook(record(name), with_kwargs=True) for name, m in network.named_modules()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _rows_first(given: Any, experts: int) -> bool:
    """(2, L) of token ids, (2, L, ...), (2 L, H), or the last once for each of the experts."""
    if not isinstance(given, torch.Tensor):
        return False
    tokens_first = given.dim() == 2 and given.shape[0] in (2 * LONG, 2 * LONG * experts)
    return tokens_first or (given.shape[0] == 2 and given.dim() >= 2 + given.is_floating_point())
