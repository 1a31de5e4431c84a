"""Which sampled prompts are worth being canaries? Few that stand for all requests, short and long ones among them.

Pure, and without any model: what each carries about an adapter is measured where one answers (``gapwatch enrol
--select``, probes/enrolment/d_optimal.py). No verdict rests on the choice. Evidence is drawn at random from what was
enrolled, however that was chosen; but retention and its interval then speak of prompts like the chosen ones, and not of
the traffic as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detectors.records import Floats
from probes.canaries.sampled_prompts import SampledPrompt, text_of

# Tokens of a prompt up to which it counts as short, and as medium. A stale cache needs prompts of several blocks, of up
# to 128 tokens each: short prompts alone would never show it.
SHORT, MEDIUM = 32, 128
# Of the canaries wanted, one in so many at least is of each length of which there are prompts.
LEAST_PART = 8
# Prompts that are compared with each other: 2,000 squared similarities are 16 MB.
MOST_COMPARED = 2_000
# Characters of a text that are read to compare it, and how many numbers describe it.
READ, WIDTH = 4_000, 1_024


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """chosen: in the order of ``prompts``; by: "embeddings" or "text"; covers: mean similarity of a sampled request to
    the chosen prompt that is nearest to it, in [0, 1]"""

    chosen: tuple[SampledPrompt, ...]
    by: str
    covers: float


def choose(prompts: Sequence[SampledPrompt], count: int, seed: int = 0) -> Choice:
    """So many of these prompts that stand for the requests, of each length in proportion to its requests.

    count: wanted, >= 1; fewer where there are fewer prompts. Embeddings are used where half of the prompts or more have
    one of the same width, of those alone; else the texts. seed: which prompts are compared where there are more than
    MOST_COMPARED, and which of two equally good ones is chosen. Equal arguments give equal choices.

    Within each length greedy facility location: each step takes the prompt that raises the requests' mean similarity to
    their nearest chosen prompt most. That is within 1 - 1/e of the best set of this size (Nemhauser, Wolsey & Fisher
    1978, Mathematical Programming 14, section 4). Embeddings or texts are compared by cosine, negative ones as 0.
    """
    if not prompts:
        raise ValueError("no prompts: wanted at least one")
    order = np.random.default_rng(seed).permutation(len(prompts))
    with_embedding = _with_embedding(prompts)
    by_embeddings = 2 * len(with_embedding) >= len(prompts)
    usable = set(with_embedding) if by_embeddings else set(range(len(prompts)))
    compared = [int(index) for index in order if int(index) in usable][:MOST_COMPARED]
    vectors = _embeddings(prompts, compared) if by_embeddings else text_vectors([text_of(prompts[i]) for i in compared])
    similar = np.clip(vectors @ vectors.T, 0.0, 1.0)
    np.fill_diagonal(similar, 1.0)
    requests = np.array([prompts[index].requests for index in compared], np.float64)
    chosen: list[int] = []
    lengths = np.array([_length(prompts[index].length) for index in compared])
    for length, wanted in zip(range(3), _parts(lengths, requests, count), strict=True):
        members = np.flatnonzero(lengths == length)
        chosen += [int(members[i]) for i in nearest_cover(similar[np.ix_(members, members)], requests[members], wanted)]
    covers = float(np.average(similar[:, chosen].max(axis=1), weights=requests))
    picked = sorted(compared[position] for position in chosen)
    return Choice(tuple(prompts[index] for index in picked), "embeddings" if by_embeddings else "text", covers)


def nearest_cover(similar: Floats, weights: NDArray[np.float64], count: int) -> list[int]:
    """Greedy facility location: indices in the order in which they were chosen, at most ``count``.

    similar: (n, n) in [0, 1], symmetric; weights: (n,) > 0. Each step adds the index whose column raises the weighted
    sum of each row's largest chosen entry most; the first of equal ones.
    """
    covered = np.zeros(len(similar), similar.dtype)
    weights = weights.astype(similar.dtype)
    waiting = np.ones(len(similar), bool)
    chosen: list[int] = []
    for _ in range(min(count, len(similar))):
        gains = weights @ np.maximum(similar - covered[:, None], 0.0)
        best = int(np.argmax(np.where(waiting, gains, -1.0)))
        chosen.append(best)
        waiting[best] = False
        covered = np.maximum(covered, similar[:, best])
    return chosen


def text_vectors(texts: Sequence[str]) -> Floats:
    """(n, WIDTH) float32, rows of unit length: how often each three bytes stand together, without case, digits alike.

    Counts as 1 + ln, each weighed by how few of the texts have it, in one of WIDTH places by a hash of the three bytes.
    """
    counts = np.stack([_trigrams(text) for text in texts])
    having = (counts > 0).sum(axis=0)
    rarity = np.log((1 + len(texts)) / (1 + having)) + 1.0
    weighed = np.where(counts > 0, 1.0 + np.log(np.maximum(counts, 1.0)), 0.0) * rarity
    norms = np.linalg.norm(weighed, axis=1, keepdims=True)
    return np.asarray(weighed / np.maximum(norms, 1e-12), np.float32)


def _trigrams(text: str) -> NDArray[np.float64]:
    alike = "".join("0" if character.isdigit() else character for character in f"  {text[:READ].casefold()} ")
    codes = np.frombuffer(alike.encode(errors="replace"), np.uint8).astype(np.uint32)
    # Knuth's multiplicative hash: neighbouring bytes fall into places far from each other.
    hashed = (codes[:-2] * np.uint32(65_536) + codes[1:-1] * np.uint32(256) + codes[2:]) * np.uint32(2_654_435_761)
    return np.bincount(hashed >> np.uint32(22), minlength=WIDTH).astype(np.float64)


def _with_embedding(prompts: Sequence[SampledPrompt]) -> list[int]:
    """Indices of those with an embedding of the width that most have: another embedding model may have been in use."""
    widths = [0 if prompt.embedding is None else len(prompt.embedding) for prompt in prompts]
    usual = max({width for width in widths if width}, key=lambda width: (widths.count(width), width), default=0)
    return [index for index, width in enumerate(widths) if usual and width == usual]


def _embeddings(prompts: Sequence[SampledPrompt], indices: Sequence[int]) -> Floats:
    rows = np.stack([np.asarray(prompts[index].embedding, np.float32) for index in indices])
    centred = rows - rows.mean(axis=0)  # mean hidden states have much in common, which would make all alike
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(np.where(norms > 1e-6, centred / np.maximum(norms, 1e-6), 0.0), np.float32)


def _length(tokens: int) -> int:
    return int(tokens > SHORT) + int(tokens > MEDIUM)


def _parts(lengths: NDArray[np.int64], requests: NDArray[np.float64], count: int) -> list[int]:
    """How many short, medium and long prompts: a part of each that there is, the rest in proportion to requests."""
    here = [int((lengths == length).sum()) for length in range(3)]
    wanted = [count * float(requests[lengths == length].sum()) / float(requests.sum()) for length in range(3)]
    parts = [min(room, count // LEAST_PART) for room in here]
    for _ in range(min(count, sum(here)) - sum(parts)):
        with_room = [length for length in range(3) if parts[length] < here[length]]
        parts[max(with_room, key=lambda length: wanted[length] - parts[length])] += 1
    return parts
