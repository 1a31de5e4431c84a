"""Log-probabilities over a whole vocabulary, reduced to the tokens that a canary keeps; and which tokens it keeps.

``keep`` chooses them once, at enrolment, and the golden record stores them: every later round is summarised over the
same ones. ``summarise`` and ``summarise_torch`` are one formula, so a change is made in both
(tests/probes/canaries/test_log_prob_summary.py). torch is imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from detectors.records import Floats, Ints, Summary
from probes.serving.engine import Listed

if TYPE_CHECKING:
    import torch

PAD = -1


def summarise(full: Floats, kept: Ints) -> Summary:
    """Log-probabilities of the kept tokens and of the rest, and the most probable token, at each position.

    full: (T, V) log-probabilities, nats
    kept: (T, K) token ids, no id twice in a row, -1 where padded

    ``rest`` is the logsumexp over all other tokens, not log(1 - sum): that difference loses its digits where the kept
    tokens hold nearly everything. It is -inf where they hold the whole vocabulary. Pads have -inf.
    """
    used = kept != PAD
    rows = np.nonzero(used)[0]
    picked = np.where(used, np.take_along_axis(full, np.where(used, kept, 0), axis=1), -np.inf)
    others = full.copy()
    others[rows, kept[used]] = -np.inf
    top1 = full.argmax(axis=1) if full.size else np.zeros(len(full))
    return Summary(picked.astype(np.float32), _log_sum_exp(others), top1.astype(np.int32))


def summarise_torch(full: torch.Tensor, kept: Ints) -> Summary:
    """``summarise`` on the device of the log-probabilities; only (T, K) numbers are copied to the host."""
    import torch

    ids = torch.as_tensor(kept, dtype=torch.long, device=full.device)
    used = ids != PAD
    picked = full.gather(1, ids.clamp(min=0)).masked_fill(~used, -torch.inf)
    others = full.index_put((used.nonzero()[:, 0], ids[used]), full.new_tensor(-torch.inf))
    rest, top1 = others.logsumexp(dim=1), full.argmax(dim=1)
    return Summary(_numpy(picked, np.float32), _numpy(rest, np.float32), _numpy(top1, np.int32))


def keep(golden_adapter_full: Floats, golden_base_full: Floats, forced: Ints, k: int = 20) -> Ints:
    """The tokens that a canary keeps: the k most probable of golden adapter and golden base, and the reference token.

    golden_adapter_full, golden_base_full: (T, V) log-probabilities
    forced: (T,) the reference continuation

    (T, 2k + 1) int32, ascending ids in each row, then -1 as padding.
    """
    width = min(k, golden_adapter_full.shape[1])
    kept = np.full((len(forced), 2 * k + 1), PAD, dtype=np.int32)
    for row, reference in enumerate(forced):
        tops = [_top(full[row], width) for full in (golden_adapter_full, golden_base_full)]
        ids = np.union1d(np.concatenate(tops), [reference])
        kept[row, : len(ids)] = ids
    return kept


def keep_listed(golden_adapter: Listed, golden_base: Listed) -> Ints:
    """The same of what an engine lists: the tokens that it lists for either side, and the reference token.

    (T, 2k + 1) int32 as from ``keep``, k tokens being listed at each position.
    """
    kept = np.full((len(golden_adapter.tokens), 2 * golden_adapter.ids.shape[1] + 1), PAD, dtype=np.int32)
    for row, reference in enumerate(golden_adapter.tokens):
        ids = np.union1d(np.concatenate([golden_adapter.ids[row], golden_base.ids[row]]), [reference])
        ids = ids[ids != PAD]
        kept[row, : len(ids)] = ids
    return kept


def _top(log_probs: Floats, k: int) -> Ints:
    return np.argpartition(-log_probs, k - 1)[:k].astype(np.int32)


def _log_sum_exp(values: Floats) -> Floats:
    """Along the last axis; -inf for a row of nothing but -inf."""
    highest = values.max(axis=1, initial=-np.inf, keepdims=True)
    shift = np.where(np.isneginf(highest), 0.0, highest)
    with np.errstate(divide="ignore"):
        total: Floats = (np.log(np.exp(values - shift).sum(axis=1)) + shift[:, 0]).astype(np.float32)
    return total


def _numpy(values: torch.Tensor, kind: type[np.float32] | type[np.int32]) -> np.ndarray:
    return values.cpu().numpy().astype(kind)
