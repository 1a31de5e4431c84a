"""Embedding drift: do the prompts, or the outputs, of an adapter still have the distribution that they had at first?

It informs and never pages: inputs drift for good reasons, and nothing is promised under dependence between
interactions. Tenants of forty in a row alarm after some 10 blocks, and after some 150 where the tenant is known.
Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from detectors.errors import Refused
from detectors.evidence.array_json import pack, pack_steps, unpack, unpack_steps
from detectors.evidence.e_process_bank import EProcessBank, OnsetEstimate
from detectors.records import Evidence, Floats, SubjectKind
from detectors.traffic_records import Embedding, Side

Doubles = NDArray[np.float64]
Steps = NDArray[np.int16]

# Mean of the scores (1 + pay-off) / 2 under the null, whose pay-offs have mean 0.
FAIR = 0.5
# One reference in so many says where the bank lies and how wide it is, and is never paired: features that depended on
# the reference of a pair would not be antisymmetric in it.
SCALE_EVERY = 8
# Steps to 1 of a projected number, which is about standard normal: two bytes hold it from -8 to 8.
STEPS = 4096.0
# Adapter, and which side of its interactions.
DriftStream = tuple[str, Side]


@dataclass(frozen=True, slots=True)
class Config:
    """reference_size: embeddings of the reference period of a stream, the most that are kept and that a bank has
    first_bank: of them, those of the first bank, after which the evidence begins
    block: pairs to one "+1"; those of one session or tenant, where that is known, count as one score
    directions, features: widths of the random projection and of the random Fourier features; bets: see e_detector.py
    rate: step of the online logistic regression; seed: fixes projection, features and the banks' orders
    """

    reference_size: int = 4096
    first_bank: int = 256
    block: int = 8
    directions: int = 32
    features: int = 64
    bets: int = 8
    rate: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        whole = (self.block, self.directions, self.features, self.bets)
        if min(whole) < 1 or self.smallest_bank < 2 * self.block or not self.rate > 0:
            raise Refused("embedding_drift config", self, "sizes of at least 1, banks of at least two blocks, rate > 0")

    @property
    def smallest_bank(self) -> int:
        """References of a stream's first bank."""
        return min(self.first_bank, self.reference_size)


@dataclass(slots=True)
class ReferenceBank:
    """What one stream remembers beside its M.

    width: of the embeddings; references: (m, directions) projected, in steps; m grows to reference_size
    size: how many of them, the first ones, are the present bank, 0 before the first bank; number: of the bank, from 0
    slope: (features,) weights of the witness before this block; ahead: the same, after what this block has taught
    used: pairs of this bank; paid: (k,) scores of the block that is not full yet; groups: (k,) their sessions or
    tenants; blocks: full ones, of all banks
    earlier: level at the end of the bank before, in nats; None where there was none
    """

    width: int
    references: Steps
    slope: Doubles
    ahead: Doubles
    size: int = 0
    number: int = -1
    used: int = 0
    paid: tuple[float, ...] = ()
    groups: tuple[str, ...] = ()
    blocks: int = 0
    earlier: float | None = None

    @classmethod
    def fresh(cls, width: int, config: Config) -> ReferenceBank:
        return cls(width, np.zeros((0, config.directions), np.int16), *np.zeros((2, config.features)))

    def to_json(self) -> dict[str, Any]:
        return {
            "width": self.width,
            "references": pack_steps(self.references),
            "slope": pack(self.slope),
            "ahead": pack(self.ahead),
            "size": self.size,
            "number": self.number,
            "used": self.used,
            "paid": list(self.paid),
            "groups": list(self.groups),
            "blocks": self.blocks,
            "earlier": self.earlier,
            "directions": self.references.shape[1],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ReferenceBank:
        return cls(
            stored["width"],
            unpack_steps(stored["references"], stored["directions"]),
            unpack(stored["slope"]),
            unpack(stored["ahead"]),
            stored["size"],
            stored["number"],
            stored["used"],
            tuple(stored["paid"]),
            tuple(stored["groups"]),
            stored["blocks"],
            stored["earlier"],
        )


@dataclass(slots=True)
class State:
    """streams: M by adapter and side; banks: their references

    layout: 1 held one bank, whose references were used up after 512 embeddings, and embedded every output whole; since
    2 most outputs are embedded as far as they are scored
    A full stream has reference_size x directions numbers of two bytes, 262 kB, in JSON 350 kB.
    """

    layout: ClassVar[int] = 2

    streams: EProcessBank[DriftStream] = field(default_factory=EProcessBank[DriftStream])
    banks: dict[DriftStream, ReferenceBank] = field(default_factory=dict)

    def part(self, wanted: Callable[[str], bool]) -> State:
        banks = {stream: bank for stream, bank in self.banks.items() if wanted(stream[0])}
        return State(self.streams.part(lambda stream: wanted(stream[0])), banks)

    def joined(self, more: State) -> State:
        return State(self.streams.joined(more.streams), self.banks | more.banks)

    def to_json(self) -> dict[str, Any]:
        banks = {_text(stream): bank.to_json() for stream, bank in self.banks.items()}
        return {"streams": self.streams.to_json(_text), "banks": banks}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        banks = {_stream(text): ReferenceBank.from_json(row) for text, row in stored["banks"].items()}
        return cls(EProcessBank[DriftStream].from_json(stored["streams"], _stream), banks)


class Detector:
    """Sequential two-sample test by betting, against banks of references from a stream's first ``reference_size``
    embeddings, for as long as the stream lasts.

    Each later embedding x is paired with a reference r that was not used in this bank. The pay-off
    ``tanh(f(x) - f(r))`` of a witness f learnt from this bank's earlier pairs alone is antisymmetric, so its mean is 0
    under H0: all embeddings of the stream are independent draws from one distribution. The mean of M over bets is then
    an e-detector with one "+1" a block. A bank that is used up is followed by the next one, of all references there are
    by then in another order, and with it M and the witness start at 0: what they knew of the references is what makes
    using these again unfair.

    Guarantee under H0: P(level >= ln A in one of the first T blocks) <= T / A, and the expected number of banks with
    such a level is at most that too. Of a bank of B blocks the part is B / A, whichever references it shares with
    others, because chances add up under any dependence. The average run length is at least A / 2 blocks. What breaks
    it: dependence between interactions. The commonest are turns of one session and requests of one tenant: where
    ``group`` names them, those of one block count as one observation, their mean. Groups that last for many blocks are
    still dependent, and the references are the first embeddings, whatever they are: tenants that come and go alarm,
    which is why this informs. ``n`` counts observations of the present bank; until that has as many pairs as the first
    bank has references, the level of the bank before stands where it is the higher one: it was reported before.

    What moves within the reference period is compared with the banks before it and becomes part of those after it.
    Afterwards references never change: slow drift is never absorbed, and the detector never runs out of them.

    An embedding of another width comes from another embedder and cannot be compared: bank and M of its stream are
    dropped and start again with it. The reference distribution is then the present one, and what drifted before is
    forgotten.

    Source: docs/mathematics.md#embedding-drift; Shekhar & Ramdas (2023), "Nonparametric two-sample testing by betting";
    Rahimi & Recht (2007) for the features. Departs: pairs against banks of references, a "+1" a block, random
    projection before the features.
    """

    reads = Embedding
    about = SubjectKind.ADAPTER
    pages = False

    def __init__(self, config: Config, state: State | None = None) -> None:
        self.config = config
        self.state = State() if state is None else state

    def update(self, record: Embedding) -> tuple[Evidence, ...]:
        """One embedded prompt or output. One that holds NaN or infinity is passed over."""
        stream = record.adapter, record.side
        if bool(np.all(np.isfinite(record.vector))):
            self._learn(stream, record)
        level = Evidence(
            subject_kind=self.about,
            subject=record.adapter,
            detector="embedding_drift",
            stream=record.side.value,
            round=self._blocks(stream),
            log_e=self._level(stream),
            n=self.state.streams.n(stream),
            at=record.at,
            pages=self.pages,
        )
        return (level,)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the side with the higher level, no earlier than its present bank; None where there is none."""
        streams = self.state.streams
        sides = [stream for stream in streams.index if stream[0] == subject]
        return streams.onset(max(sides, key=streams.level)) if sides else None

    def restart(self, subject: str) -> None:
        """M of all sides of one adapter back to 0; its banks stay as they are, used references stay used."""
        for stream in [stream for stream in self.state.streams.index if stream[0] == subject]:
            self.state.streams.restart(stream)
        for bank in [bank for stream, bank in self.state.banks.items() if stream[0] == subject]:
            bank.earlier = None

    def forget(self, subject: str) -> None:
        """M and banks of all sides of one adapter: another golden base embeds from now on, and beside the embeddings of
        the former one its own would read as drift."""
        self.restart(subject)
        for stream in [stream for stream in self.state.banks if stream[0] == subject]:
            del self.state.banks[stream]

    def _blocks(self, stream: DriftStream) -> int:
        """Full blocks of all banks of the stream."""
        bank = self.state.banks.get(stream)
        return 0 if bank is None else bank.blocks

    def _level(self, stream: DriftStream) -> float:
        """Of the present bank; while that is young, of the bank before where that had the higher one."""
        level, bank = self.state.streams.level(stream), self.state.banks.get(stream)
        if bank is None or bank.earlier is None or bank.used >= self.config.smallest_bank:
            return level
        return max(level, bank.earlier)

    def _learn(self, stream: DriftStream, record: Embedding) -> None:
        config, bank = self.config, self._bank(stream, record.vector)
        point = project(record.vector, config.directions, config.seed)
        if bank.size:
            self._bet(stream, bank, point, record)
        if len(bank.references) < config.reference_size:
            bank.references = np.vstack([bank.references, point])
        if bank.used == _pairs(bank.size, config.block) and len(bank.references) >= config.smallest_bank:
            self._rotate(stream, bank)

    def _rotate(self, stream: DriftStream, bank: ReferenceBank) -> None:
        """The next bank, of all references that there are. Nothing learnt from the one before goes with it."""
        bank.earlier = self.state.streams.level(stream) if bank.size else None
        self.state.streams.restart(stream)
        bank.size, bank.number, bank.used = len(bank.references), bank.number + 1, 0
        bank.slope = bank.ahead = np.zeros(self.config.features)

    def _bet(self, stream: DriftStream, bank: ReferenceBank, point: Steps, record: Embedding) -> None:
        """Score the pair first and learn from it afterwards, so that the witness does not depend on the pair. Where the
        group is known it does not depend on any pair of this block: one turn of a session predicts the next one."""
        config = self.config
        reference = bank.references[_order(bank.size, config.block, config.seed, bank.number)[bank.used]]
        pair = _features(np.stack([point, reference]) / STEPS, bank.references[: bank.size : SCALE_EVERY], config)
        difference = pair[0] - pair[1]
        newest = float(bank.ahead @ difference)
        witness = float(bank.slope @ difference) if record.group else newest
        bank.paid, bank.groups = (*bank.paid, FAIR * (1.0 + math.tanh(witness))), (*bank.groups, record.group)
        bank.ahead = bank.ahead + config.rate * difference / (1.0 + math.exp(min(newest, 700.0)))
        bank.used += 1
        if len(bank.paid) == config.block:
            scores = by_group(bank.paid, bank.groups)
            self.state.streams.advance({stream: scores}, FAIR, config.bets, record.at)
            bank.paid, bank.groups, bank.slope, bank.blocks = (), (), bank.ahead, bank.blocks + 1

    def _bank(self, stream: DriftStream, vector: Floats) -> ReferenceBank:
        bank = self.state.banks.get(stream)
        if bank is None or bank.width != len(vector):
            self.state.streams.restart(stream)
            bank = self.state.banks[stream] = ReferenceBank.fresh(len(vector), self.config)
        return bank


def _text(stream: DriftStream) -> str:
    return f"{stream[0]}/{stream[1].value}"


def _stream(text: str) -> DriftStream:
    adapter, _, side = text.rpartition("/")
    return adapter, Side(side)


def by_group(scores: Sequence[float], groups: Sequence[str]) -> Doubles:
    """(n,) one score for each group, the mean of its own; a score whose group is unknown is a group by itself."""
    by_key: dict[object, list[float]] = {}
    for number, (score, group) in enumerate(zip(scores, groups, strict=True)):
        by_key.setdefault(group or number, []).append(score)
    return np.array([sum(own) / len(own) for own in by_key.values()])


def project(vector: Floats, directions: int, seed: int) -> Steps:
    """(directions,) random projection of the vector scaled to root mean square 1, in steps of 1 / 4,096.

    Rounded, because the references lie in the saved state, where full precision would be most of its size.
    """
    wide = vector.astype(np.float64)
    size = math.sqrt(float(wide @ wide) / len(wide)) or 1.0
    steps = np.rint(STEPS * (_projection(len(wide), directions, seed) @ (wide / size)))
    limits = np.iinfo(np.int16)
    return np.clip(steps, limits.min, limits.max).astype(np.int16)


def _features(points: Doubles, never_paired: Steps, config: Config) -> Doubles:
    """(n, features) random Fourier features of an RBF kernel, centred and scaled by references that no pair has."""
    around = never_paired / STEPS
    centre = around.mean(axis=0)
    spread = math.sqrt(2.0 * float(np.mean(np.sum((around - centre) ** 2, axis=1)))) or 1.0
    frequencies, phases = _waves(config.directions, config.features, config.seed)
    waves: Doubles = math.sqrt(2.0 / config.features) * np.cos((points - centre) / spread @ frequencies + phases)
    return waves


def _pairs(size: int, block: int) -> int:
    """How many references of a bank are paired: those that do not scale it, in full blocks."""
    return (size - math.ceil(size / SCALE_EVERY)) // block * block


@lru_cache(maxsize=8)
def _projection(width: int, directions: int, seed: int) -> Doubles:
    return np.random.default_rng([seed, 1]).standard_normal((directions, width)) / math.sqrt(width)


@lru_cache(maxsize=8)
def _waves(directions: int, features: int, seed: int) -> tuple[Doubles, Doubles]:
    generator = np.random.default_rng([seed, 2])
    return generator.standard_normal((directions, features)), generator.uniform(0.0, 2.0 * math.pi, features)


@lru_cache(maxsize=64)
def _order(size: int, block: int, seed: int, number: int) -> NDArray[np.int64]:
    """(pairs,) which reference of a bank is paired when; another order in every bank."""
    paired = np.delete(np.arange(size), np.s_[::SCALE_EVERY])
    return np.random.default_rng([seed, 3, number]).permutation(paired)[: _pairs(size, block)]
