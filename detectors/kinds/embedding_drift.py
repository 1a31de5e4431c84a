"""Embedding drift: do the prompts, or the outputs, of an adapter still come from where they came from at first?

It informs and never pages: inputs drift for good reasons, and no run length is promised under dependence between
interactions (tenants that come and go alarm at 100-290 blocks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.array_json import pack, unpack
from detectors.evidence.e_process_bank import OnsetEstimate, Streams
from detectors.records import Evidence, Floats, SubjectKind
from detectors.traffic_records import Embedding

Doubles = NDArray[np.float64]

# Scores are (1 + pay-off) / 2, so "no better than a coin" is this mean.
FAIR = 0.5


@dataclass(frozen=True, slots=True)
class Config:
    """reference_size: embeddings that make up the frozen bank of a stream; block: pairs to one "+1", of which no two
    come from one session or tenant where those are known

    directions, features: widths of the random projection and of the random Fourier features; bets: see e_detector.py
    rate: step of the online logistic regression; seed: fixes projection, features and the bank's order
    """

    reference_size: int = 256
    block: int = 8
    directions: int = 32
    features: int = 64
    bets: int = 8
    rate: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.block, self.directions, self.features, self.bets)
        if min(whole) < 1 or self.reference_size < max(2, self.block) or not self.rate > 0:
            raise Refused("embedding_drift config", self, "sizes of at least 1, a bank of at least a block, rate > 0")


@dataclass(slots=True)
class Bank:
    """What one stream remembers beside its M.

    references: (m, directions) projected, m grows to reference_size and is then frozen
    used: references already paired; paid: (k,) scores of the block that is not full yet
    slope: (features,) of the witness before this block; ahead: with what this block has taught; width: of embeddings
    groups: (k,) sessions or tenants of those scores
    """

    width: int
    references: Doubles
    slope: Doubles
    ahead: Doubles
    used: int = 0
    paid: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()


@dataclass(slots=True)
class State:
    """streams: M of each adapter and side; banks: the rest of what they remember, by the same key."""

    layout: ClassVar[int] = 1

    streams: Streams = field(default_factory=Streams)
    banks: dict[str, Bank] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        banks = {
            key: {
                "width": bank.width,
                "references": pack(bank.references),
                "slope": pack(bank.slope),
                "ahead": pack(bank.ahead),
                "used": bank.used,
                "paid": list(bank.paid),
                "groups": list(bank.groups),
            }
            for key, bank in self.banks.items()
        }
        return {"streams": self.streams.to_json(), "banks": banks}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        banks = {
            key: Bank(
                row["width"],
                unpack(row["references"]),
                unpack(row["slope"]),
                unpack(row.get("ahead", row["slope"])),
                row["used"],
                tuple(row["paid"]),
                tuple(row.get("groups", [""] * len(row["paid"]))),
            )
            for key, row in stored["banks"].items()
        }
        return cls(Streams.from_json(stored["streams"]), banks)


class Detector:
    """Sequential two-sample test by betting, against a bank frozen from the first ``reference_size`` embeddings.

    Each later embedding x is paired with a reference r that was never used; the pay-off ``tanh(f(x) - f(r))`` of a
    witness f learnt from past pairs alone is antisymmetric, so its mean is 0 under H0: x and the references are
    independent draws of one law. ``mean M`` is then an e-detector with one "+1" a block. What breaks it: dependence
    between interactions. Turns of one session, and requests of one tenant, are the plainest such: where ``group``
    tells them, those of one block count as one observation, their mean. Groups that go on over many blocks still
    depend, and the bank is taken as it comes: tenants that come and go alarm, which is why this informs. ``n`` counts
    observations. When the bank is used up, level and ``n`` stay where they are until a new stream starts:
    a reference used twice would be one observation counted twice.

    An embedding of another width comes from another embedder and cannot be compared: bank and M of its key are dropped
    and start anew with it. The law it starts from is then the present one, and what drifted before is forgotten.

    Source: Shekhar & Ramdas (2023), "Nonparametric two-sample testing by betting"; Rahimi & Recht (2007) for the
    features. Departs: pairs against a frozen bank, a "+1" a block, random projection before the features.
    """

    reads = Embedding
    about = SubjectKind.ADAPTER
    pages = False

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: Embedding) -> tuple[Evidence, ...]:
        """One embedded prompt or output. One that holds NaN or infinity is passed over."""
        key = f"{record.adapter}/{record.side.value}"
        if bool(np.all(np.isfinite(record.vector))):
            self._learn(key, record)
        n = self.state.streams.n(key)
        found = Evidence(
            subject_kind=self.about,
            subject=record.adapter,
            detector="embedding_drift",
            stream=record.side.value,
            round=self._blocks(key),
            log_e=self.state.streams.level(key),
            n=n,
            at=record.at,
            pages=self.pages,
        )
        return (found,)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the side whose evidence is further; None where there is none."""
        streams = self.state.streams
        mine = [key for key in streams.index if key.rpartition("/")[0] == subject]
        return streams.onset(max(mine, key=streams.level)) if mine else None

    def restart(self, subject: str) -> None:
        """M of all sides of one adapter back to 0; its banks stay as they are, used references stay used."""
        for key in [key for key in self.state.streams.index if key.rpartition("/")[0] == subject]:
            self.state.streams.restart(key)

    def forget(self, subject: str) -> None:
        """M and banks of all sides of one adapter: another golden base embeds from now on, and what it gives cannot be
        told from drift beside what the former one gave."""
        self.restart(subject)
        for key in [key for key in self.state.banks if key.rpartition("/")[0] == subject]:
            del self.state.banks[key]

    def _blocks(self, key: str) -> int:
        """Full blocks of the present bank."""
        bank = self.state.banks.get(key)
        return 0 if bank is None else bank.used // self.config.block

    def _learn(self, key: str, record: Embedding) -> None:
        config, bank = self.config, self._bank(key, record.vector)
        point = project(record.vector, config.directions, config.seed)
        if len(bank.references) < config.reference_size:
            bank.references = np.vstack([bank.references, point])
        elif bank.used < config.reference_size:
            self._bet(key, bank, point, record)

    def _bet(self, key: str, bank: Bank, point: Doubles, record: Embedding) -> None:
        """Pay first, learn afterwards: the witness that is bet on has never seen this pair, nor any of this block where
        the group is known: one turn of a session tells what the next one will be like."""
        config = self.config
        order = _order(config.reference_size, config.seed)
        apart = _features(np.stack([point, bank.references[order[bank.used]]]), bank.references, config)
        difference = apart[0] - apart[1]
        lead = float(bank.ahead @ difference)
        bet = float(bank.slope @ difference) if record.group else lead
        bank.paid, bank.groups = (*bank.paid, FAIR * (1.0 + math.tanh(bet))), (*bank.groups, record.group)
        bank.ahead = bank.ahead + config.rate * difference / (1.0 + math.exp(min(lead, 700.0)))
        bank.used += 1
        if len(bank.paid) == config.block:
            scores = by_group(bank.paid, bank.groups)
            self.state.streams.advance({key: scores}, FAIR, config.bets, record.at)
            bank.paid, bank.groups, bank.slope = (), (), bank.ahead

    def _bank(self, key: str, vector: Floats) -> Bank:
        bank = self.state.banks.get(key)
        if bank is None or bank.width != len(vector):
            self.state.streams.restart(key)
            bank = Bank(len(vector), np.zeros((0, self.config.directions)), *np.zeros((2, self.config.features)))
            self.state.banks[key] = bank
        return bank


def by_group(scores: Sequence[float], groups: Sequence[str]) -> Doubles:
    """(n,) one score a group, the mean of its own; those of no known group stand for themselves."""
    together: dict[object, list[float]] = {}
    for number, (score, group) in enumerate(zip(scores, groups, strict=True)):
        together.setdefault(group or number, []).append(score)
    return np.array([sum(mine) / len(mine) for mine in together.values()])


def project(vector: Floats, directions: int, seed: int) -> Doubles:
    """(directions,) random projection of the vector scaled to root mean square 1.

    Rounded to four places: the bank lies in the saved state, where full precision would be most of its size.
    """
    wide = vector.astype(np.float64)
    size = math.sqrt(float(wide @ wide) / len(wide)) or 1.0
    projected: Doubles = np.round(_projection(len(wide), directions, seed) @ (wide / size), 4)
    return projected


def _features(points: Doubles, references: Doubles, config: Config) -> Doubles:
    """(n, features) random Fourier features of an RBF kernel centred and scaled by the frozen bank."""
    centre = references.mean(axis=0)
    spread = math.sqrt(2.0 * float(np.mean(np.sum((references - centre) ** 2, axis=1)))) or 1.0
    frequencies, phases = _waves(config.directions, config.features, config.seed)
    waves: Doubles = math.sqrt(2.0 / config.features) * np.cos((points - centre) / spread @ frequencies + phases)
    return waves


@lru_cache(maxsize=8)
def _projection(width: int, directions: int, seed: int) -> Doubles:
    return np.random.default_rng([seed, 1]).standard_normal((directions, width)) / math.sqrt(width)


@lru_cache(maxsize=8)
def _waves(directions: int, features: int, seed: int) -> tuple[Doubles, Doubles]:
    generator = np.random.default_rng([seed, 2])
    return generator.standard_normal((directions, features)), generator.uniform(0.0, 2.0 * math.pi, features)


@lru_cache(maxsize=8)
def _order(size: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 3]).permutation(size)
