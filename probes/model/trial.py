"""How a model behaves when it is run: tried once on a few tokens, as soon as it is built.

What a text is answered must not depend on what lies beside it in a batch, on padding, or on where a cache was cut. Some
layers carry a state through what should be masked, or begin anew where they should go on, and say nothing. What
everything rests on is refused where it is not so; what is only quicker is left out (``Trial.continues``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from probes.model.cache import Cache, body_of, new_cache, read_on, taken
from probes.model.forward import own_head
from probes.model.memory import no_memory

# Tokens of the longer text; the shorter one is its beginning.
LONG, SHORT = 13, 7
# Of the norm of the states. Another order of the same sums comes to a millionth of it, a lost state to hundredths.
TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}
# For types of two bytes, of each token's norm; in doubt a model is run, and run the slower way.
COARSE, DOUBT = 0.1, 0.02
# One of many that tokens are sent to: on so few tokens it may have been sent them all.
EXPERT = re.compile(r"experts\.\d+(\.|$)")


@dataclass(frozen=True, slots=True)
class Trial:
    """plain_head: are its logits the output layer's and nothing more? Models that cap or scale them use their own head.

    continues: does it go on from a cache with several tokens at once? Some layers begin anew then, and say nothing.
    rowwise: names of the modules that it calls with all of the batch's rows, each time
    """

    plain_head: bool
    continues: bool
    rowwise: frozenset[str]


def tried(network: Any) -> Trial:
    """Raises RuntimeError where answers depend on what they must not depend on, and whatever the model raises."""
    ids = (torch.arange(LONG, device=network.device) * 31 + 5) % network.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        states = _states(network, ids[None], torch.ones_like(ids[None]))[0]
        if not states.isfinite().all():
            raise RuntimeError("it says NaN or infinity")
        plain = _head_is_plain(network, ids, states)
        rowwise = _rowwise(network, ids)
        if not _beside(network, ids, states, left=False):
            raise RuntimeError("what it says to a text depends on what comes after it, or lies beside it")
        if not _same(_onward(network, ids, range(SHORT, LONG)), states[SHORT:]):
            raise RuntimeError("on from its cache it says something else than without one")
        if not _beside(network, ids, states, left=True):
            raise RuntimeError("what it says to a text depends on padding before it")
        continues = _continues(network, ids, states)
    return Trial(plain, continues, rowwise)


def _beside(network: Any, ids: torch.Tensor, states: torch.Tensor, left: bool) -> bool:
    """Do two texts in one batch, the shorter one padded, read as they do alone?"""
    text = slice(LONG - SHORT, LONG) if left else slice(0, SHORT)
    seen = _states(network, *_two(ids, left))
    return _same(seen[0], states) and _same(seen[1, text], states[:SHORT])


def _continues(network: Any, ids: torch.Tensor, states: torch.Tensor) -> bool:
    try:
        return _same(_onward(network, ids, [SHORT]), states[SHORT:], DOUBT)
    except Exception as error:  # layers that cannot do it raise almost anything
        if no_memory("", error):
            raise
        return False


def _onward(network: Any, ids: torch.Tensor, cuts: Sequence[int]) -> torch.Tensor:
    """States of the tokens from ``SHORT`` on, read from the cache of those before, which two rows share."""
    cache, mask = new_cache(network), torch.ones_like(ids[None])
    _states(network, ids[None, :SHORT], mask[:, :SHORT], cache)
    _states(network, ids[None].flip(1), mask, new_cache(network))  # others are asked meanwhile
    taken(cache, torch.zeros(2, dtype=torch.long, device=ids.device))
    both, mask = ids[None].repeat(2, 1), mask.repeat(2, 1)
    stops = [*list(cuts)[1:], LONG]
    pieces = [_states(network, both[:, a:b], mask[:, :b], cache) for a, b in zip(cuts, stops, strict=True)]
    return torch.cat(pieces, dim=1)[1]


def _states(network: Any, ids: torch.Tensor, mask: torch.Tensor, cache: Cache | None = None) -> torch.Tensor:
    """(B, L, H). mask: (B, tokens in the cache + L); cache: see ``read_on``"""
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    body = getattr(network, body_of(network))
    return read_on(body, ids, mask, places, cache).last_hidden_state  # type: ignore[no-any-return]


def _two(ids: torch.Tensor, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The longer text, and under it the shorter one with padding: ids and mask, (2, LONG) each."""
    rows, mask = ids[None].repeat(2, 1), torch.ones(2, LONG, dtype=torch.long, device=ids.device)
    text = slice(LONG - SHORT, LONG) if left else slice(0, SHORT)
    rows[1], mask[1] = 0, 0
    rows[1, text], mask[1, text] = ids[:SHORT], 1
    return rows, mask


def _same(seen: torch.Tensor, wanted: torch.Tensor, coarse: float = COARSE) -> bool:
    """In types of two bytes up to a third of the tokens may be away: a rounding sends one here and there to another
    expert, which moved it by .29 of its norm in a mixture that was well. What is lost is lost to the others too."""
    gap, size = (seen - wanted).float().norm(dim=-1), wanted.float().norm(dim=-1)
    if wanted.dtype in TOLERANCE:
        return bool(gap.norm() <= TOLERANCE[wanted.dtype] * size.norm())
    away = ~(gap <= coarse * size)
    return 3 * int(away.sum()) <= away.numel()


def _head_is_plain(network: Any, ids: torch.Tensor, states: torch.Tensor) -> bool:
    """Raises RuntimeError where neither the output layer nor its own head, apart from the body, gives what the whole
    network does: its responses and canaries would be scored by another law."""
    told = {"input_ids": ids[None], "position_ids": torch.arange(len(ids), device=ids.device)[None], "use_cache": False}
    whole = network(**told).logits
    plain = _close(network.get_output_embeddings()(states[None]), whole)
    if not plain and not _close(own_head(network, states), whole[0]):
        raise RuntimeError("its head cannot be applied apart from its body")
    if not _close(network(**told, logits_to_keep=1).logits[0, -1], whole[0, -1]):
        raise RuntimeError("asked for its last logits alone, it gives others")
    return plain


def _close(seen: torch.Tensor, wanted: torch.Tensor) -> bool:
    near = 1e-3 if wanted.dtype in TOLERANCE else 3e-2
    return torch.allclose(seen, wanted, rtol=near, atol=near)


def _rowwise(network: Any, ids: torch.Tensor) -> frozenset[str]:
    """Which modules the model calls with the rows first, or with all their tokens one after the other. A module whose
    weights it reads, one that it leaves out, and one that it calls with tokens it picks (experts) is none of them."""
    rows, mask = _two(ids, left=False)
    with _watched(network) as called:
        network(input_ids=rows, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0), use_cache=False)
    return frozenset(name for name, fits in called.items() if fits and not EXPERT.search(name))


@contextmanager
def _watched(network: nn.Module) -> Iterator[dict[str, bool]]:
    """Module name -> was it called with rows first each time? Only those that were called."""
    called: dict[str, bool] = {}

    def look(name: str) -> Any:
        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            called[name] = called.get(name, True) and _rows_first(next((x for x in (*given, *named.values())), None))

        return hook

    hooks = [it.register_forward_pre_hook(look(name), with_kwargs=True) for name, it in network.named_modules()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _rows_first(given: Any) -> bool:
    """(2, L) of token ids, (2, L, ...), or (2 L, H)."""
    if not isinstance(given, torch.Tensor):
        return False
    tokens_first = given.dim() == 2 and given.shape[0] == 2 * LONG
    return tokens_first or (given.shape[0] == 2 and given.dim() >= 2 + given.is_floating_point())
