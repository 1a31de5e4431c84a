"""Log-probabilities over a whole vocabulary, reduced to the tokens that a canary keeps; and which tokens it keeps.

``keep`` chooses them once, at enrolment, and the golden record stores them: every later round is summarised over the
same ones. ``summarise`` and ``summarise_torch`` are one formula, so a change is made in both
(tests/probes/canaries/test_log_prob_summary.py). torch is imported when used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detectors.records import Floats, Ints, Summary
from probes.serving.engine import Listed

if TYPE_CHECKING:
    import torch

PAD = -1
# Numbers that are summed at once on a CPU.
IN_CACHE = 500_000


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


@dataclass(frozen=True, slots=True, eq=False)
class SummaryTensors:
    """Summaries of N positions on a device. log_probs: (N, K), rest, top1: (N,)"""

    log_probs: torch.Tensor
    rest: torch.Tensor
    top1: torch.Tensor

    def on_host(self) -> SummaryTensors:
        return SummaryTensors(self.log_probs.cpu(), self.rest.cpu(), self.top1.cpu())

    def part(self, positions: slice, width: int) -> Summary:
        """Of some positions, of the first ``width`` of the kept tokens."""
        picked = self.log_probs[positions, :width]
        return Summary(
            _numpy(picked, np.float32), _numpy(self.rest[positions], np.float32), _numpy(self.top1[positions], np.int32)
        )


def summarise_torch(logits: torch.Tensor, kept: Ints) -> Summary:
    """``summarise`` on the device of the logits, which it overwrites; only (T, K) numbers are copied to the host."""
    import torch

    ids = torch.as_tensor(kept, dtype=torch.long, device=logits.device)
    return summary_tensors(logits, ids).part(slice(None), kept.shape[1])


def summary_tensors(logits: torch.Tensor, ids: torch.Tensor) -> SummaryTensors:
    """``summarise`` of (N, V) float32 logits, which it overwrites: no second tensor of that size is made, and nothing
    waits for the device. ids: (N, K) kept tokens, -1 where padded"""
    import torch

    used, highest = ids != PAD, ids.amax(dim=1, keepdim=True)
    top1 = logits.argmax(dim=1)
    picked = logits.gather(1, ids.clamp(min=0)).masked_fill(~used, -torch.inf)
    # What is not kept is left: pads stand for a kept token of their row, and in a row of pads alone for no change.
    written = torch.where(highest == PAD, logits[:, :1], -torch.inf).expand(ids.shape)
    logits.scatter_(1, torch.where(used, ids, highest.clamp(min=0)), written)
    rest = torch.cat([part.logsumexp(dim=1) for part in logits.split(_rows_at_once(logits))])
    total = torch.cat([picked, rest[:, None]], dim=1).logsumexp(dim=1)  # the vocabulary is summed once
    return SummaryTensors(picked - total[:, None], rest - total, top1)


def _rows_at_once(logits: torch.Tensor) -> int:
    """On a CPU as many as its caches hold: memory that is fresh for each sum takes longer than the sum."""
    return max(1, IN_CACHE // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))


def stacked(kept: Sequence[Ints]) -> NDArray[np.int64]:
    """The kept tokens of several canaries as one table, padded to the widest."""
    width = max(ids.shape[1] for ids in kept)
    rows = [np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=PAD) for ids in kept]
    return np.concatenate(rows).astype(np.int64)


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
