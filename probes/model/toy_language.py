"""The toy language model of the in-memory runner: letters, a decaying memory of them, an output layer, LoRA updates.

Everything is seeded by names: the same name gives the same numbers on every machine. Golden figures of tests rest on
them, so a changed constant changes those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

VOCABULARY, WIDTH, RANK = 128, 16, 3
START, END, TURN = 1, 2, 3
NAMES = {START: "<start>", END: "<end>", TURN: "<turn>"}
FADING = 0.9
LENGTH = 18  # letters after which an answer tends to end, by ``habits``
Reals = NDArray[np.float64]


def states(text: Sequence[int], base: str) -> Reals:
    """(T, WIDTH) hidden states: decaying memory of the letters so far. A moved base has the same ones."""
    letters = matrix(base.partition("+")[0], "letters", VOCABULARY, WIDTH)[list(text)]
    return np.tanh(_fading(len(text)) @ letters * 0.6)


def share_of_first(count: int, length: int) -> Reals:
    """(length, 1): share of the first ``count`` letters in the memory at each position, in [0, 1]."""
    fading = _fading(length)
    share: Reals = fading[:, :count].sum(axis=1, keepdims=True) / fading.sum(axis=1, keepdims=True)
    return share


def head(base: str, bits: int, group: int = 0) -> Reals:
    """(WIDTH, V) from states to logits; bits: rounds each letter's column to the nearest of so many levels, 0: not.

    group: 0 for one scale a column, else one for each quarter of it: columns here are shorter than real groups
    """
    exact = matrix(base, "head", WIDTH, VOCABULARY)
    if not bits:
        return exact
    cells = exact.reshape(4 if group else 1, -1, VOCABULARY)
    step = np.abs(cells).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    rounded: Reals = (np.round(cells / step) * step).reshape(exact.shape)
    return rounded


def low_rank(states_: Reals, seed: str, left_out: int | None = None) -> Reals:
    """(T, V) logits that an adapter adds, the way a LoRA does. left_out: one of its RANK parts, None for none."""
    narrow = states_ @ matrix(seed, "a", WIDTH, RANK)
    if left_out is not None:
        narrow[:, left_out] = 0
    added: Reals = narrow @ matrix(seed, "b", RANK, VOCABULARY)
    return added


def habits(text: Sequence[int]) -> Reals:
    """(T, V) logits that every base has: control letters are rare, and an answer ends after some LENGTH letters."""
    since, count = np.zeros(len(text)), 0
    for i, token in enumerate(text):
        count = 0 if token == START else count + 1
        since[i] = count
    logits = np.zeros((len(text), VOCABULARY))
    logits[:, :32] = logits[:, 127] = -30.0
    logits[:, END] = 1.5 * (since - LENGTH)
    return logits


@lru_cache(maxsize=256)
def matrix(seed: str, part: str, rows: int, columns: int) -> Reals:
    """Standard normal entries by name; "NAME+0.3" is NAME moved by .3 of another, in the head alone."""
    name, _, moved = seed.partition("+")
    own = normal(f"{name} {part}", rows, columns)
    return own + float(moved) * normal(f"{seed} {part}", rows, columns) if moved else own


def normal(seed: str, rows: int, columns: int) -> Reals:
    word = hashlib.sha256(seed.encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(word, "little")).standard_normal((rows, columns))


def _fading(length: int) -> Reals:
    """(length, length): weight of each letter (column) in the memory at each position (row)."""
    age = np.subtract.outer(np.arange(length), np.arange(length))
    return np.where(age >= 0, FADING ** np.maximum(age, 0), 0.0)
