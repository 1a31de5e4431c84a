"""A record of the whole vocabulary beside an answer of which an engine listed the k most probable tokens. Pure.

A kept token that the engine did not list has the k-th listed value t there (docs/mathematics.md#served-canaries). At
strengths other than 0 and 1, of other adapters and of faults the record does not know which k tokens would have been
listed: it kept those of its two ends. But the answer itself shows t. So whatever is fitted to it is censored at that
same t, and what is equal over the whole vocabulary is equal here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detectors.records import Bools, Floats, Recorded, Reference, Summary


def censored_alike(reference: Reference, served: Summary, live_base: Summary) -> Reference:
    """The reference with its curve, other adapters and faults censored where the present answers are.

    served, live_base: the answers that are compared with it. The two ends of the record, their weights and kept tokens
    stay as they are, and so does a reference of the whole vocabulary.
    """
    if not reference.listed:
        return reference
    kept = reference.kept >= 0
    at_least, at_least_of_base = floor_of(served.log_probs, kept), floor_of(live_base.log_probs, kept)
    return replace(
        reference,
        curve=np.maximum(reference.curve, at_least),
        others={name: np.maximum(other, at_least) for name, other in reference.others.items()},
        faults={
            fault: Recorded(
                np.maximum(made.served, at_least),
                None if made.live_base is None else np.maximum(made.live_base, at_least_of_base),
            )
            for fault, made in reference.faults.items()
        },
    )


def floor_of(log_probs: Floats, kept: Bools) -> Floats:
    """(T, K) what no token can be below in this listing: the k-th listed value, and -inf for the continuation's own
    token, which is always known, and where pads are."""
    edge = k_th_listed(log_probs, kept)
    floor: Floats = np.where(kept & (log_probs >= edge), edge, -np.inf).astype(np.float32)
    return floor


def k_th_listed(log_probs: Floats, kept: Bools) -> NDArray[np.float32]:
    """(T, K) log-probabilities through a listing -> (T, 1) the k-th listed one, -inf where the answer does not show it.

    It is the value that two kept tokens or more have alike, with at most one below them: the continuation's own token,
    which is always known. A single token that is not listed cannot be told from a listed one: nothing is censored
    there.
    """
    if log_probs.shape[1] < 3:
        return np.full((len(log_probs), 1), -np.inf, np.float32)
    lowest = np.sort(np.where(kept, log_probs, np.inf), axis=1)[:, :3]
    alike = np.isfinite(lowest[:, 1:]) & (lowest[:, :-1] == lowest[:, 1:])
    edge = np.where(alike[:, 0], lowest[:, 0], np.where(alike[:, 1], lowest[:, 1], -np.inf))
    return edge[:, None].astype(np.float32)
