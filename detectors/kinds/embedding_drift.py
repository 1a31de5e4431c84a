"""Embedding drift: do the prompts, or the outputs, of an adapter still have the distribution that they had at first?

It informs and never pages: inputs drift for good reasons, and no run length is promised under dependence between
interactions (tenants that come and go alarm at 100-290 blocks).
Values of ``Config`` and keys of ``State`` are saved: other values start the evidence at 0, another key loses it.
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
from detectors.evidence.e_process_bank import EProcessBank, OnsetEstimate
from detectors.records import Evidence, Floats, SubjectKind
from detectors.traffic_records import Embedding, Side

Doubles = NDArray[np.float64]

# Mean of the scores (1 + pay-off) / 2 under the null, whose pay-offs have mean 0.
FAIR = 0.5
# Adapter, and which side of its interactions.
DriftStream = tuple[str, Side]


@dataclass(frozen=True, slots=True)
class Config:
    """reference_size: embeddings that make up the frozen bank of a stream
    block: pairs to one "+1"; those of one session or tenant, where that is known, count as one score
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
class ReferenceBank:
    """What one stream remembers beside its M.

    width: of the embeddings; references: (m, directions) projected, m grows to reference_size and is then frozen
    slope: (features,) weights of the witness before this block; ahead: the same, after what this block has taught
    used: references already paired; paid: (k,) scores of the block that is not full yet; groups: (k,) their sessions
    or tenants
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
    """streams: M of each adapter and side; banks: the rest of what they remember, by the same key.

    layout: since 2, most outputs are embedded as far as they are scored: references of whole ones are not their peers
    """

    layout: ClassVar[int] = 2

    streams: EProcessBank[DriftStream] = field(default_factory=EProcessBank)
    banks: dict[DriftStream, ReferenceBank] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        banks = {
            _text(stream): {
                "width": bank.width,
                "references": pack(bank.references),
                "slope": pack(bank.slope),
                "ahead": pack(bank.ahead),
                "used": bank.used,
                "paid": list(bank.paid),
                "groups": list(bank.groups),
            }
            for stream, bank in self.banks.items()
        }
        return {"streams": self.streams.to_json(_text), "banks": banks}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> State:
        banks = {
            _stream(text): ReferenceBank(
                row["width"],
                unpack(row["references"]),
                unpack(row["slope"]),
                unpack(row.get("ahead", row["slope"])),
                row["used"],
                tuple(row["paid"]),
                tuple(row.get("groups", [""] * len(row["paid"]))),
            )
            for text, row in stored["banks"].items()
        }
        return cls(EProcessBank[DriftStream].from_json(stored["streams"], _stream), banks)


class Detector:
    """Sequential two-sample test by betting, against a bank frozen from the first ``reference_size`` embeddings.

    Each later embedding x is paired with a reference r that was never used. The pay-off ``tanh(f(x) - f(r))`` of a
    witness f learnt from past pairs alone is antisymmetric, so its mean is 0 under H0: x and the references are
    independent draws from one distribution. The mean of M over bets is then an e-detector with one "+1" a block.
    Guarantee under H0: average run length at least A blocks. What breaks it: dependence between interactions. The
    commonest are turns of one session and requests of one tenant: where ``group`` names them, those of one block count
    as one observation, their mean. Groups that last for many blocks are still dependent, and the bank is filled with
    the first embeddings, whatever they are: tenants that come and go alarm, which is why this informs. ``n`` counts
    observations. When the bank is used up, level and ``n`` stay where they are until a new stream starts: a reference
    used twice would be one observation counted twice.

    An embedding of another width comes from another embedder and cannot be compared: bank and M of its stream are
    dropped and start again with it. The reference distribution is then the present one, and what drifted before is
    forgotten.

    Source: docs/mathematics.md#embedding-drift; Shekhar & Ramdas (2023), "Nonparametric two-sample testing by betting";
    Rahimi & Recht (2007) for the features. Departs: pairs against a frozen bank, a "+1" a block, random projection
    before the features.
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
            log_e=self.state.streams.level(stream),
            n=self.state.streams.n(stream),
            at=record.at,
            pages=self.pages,
        )
        return (level,)

    def onset(self, subject: str) -> OnsetEstimate | None:
        """Of the side with the higher level; None where there is none."""
        streams = self.state.streams
        sides = [stream for stream in streams.index if stream[0] == subject]
        return streams.onset(max(sides, key=streams.level)) if sides else None

    def restart(self, subject: str) -> None:
        """M of all sides of one adapter back to 0; its banks stay as they are, used references stay used."""
        for stream in [stream for stream in self.state.streams.index if stream[0] == subject]:
            self.state.streams.restart(stream)

    def forget(self, subject: str) -> None:
        """M and banks of all sides of one adapter: another golden base embeds from now on, and beside the embeddings of
        the former one its own would read as drift."""
        self.restart(subject)
        for stream in [stream for stream in self.state.banks if stream[0] == subject]:
            del self.state.banks[stream]

    def _blocks(self, stream: DriftStream) -> int:
        """Full blocks of the present bank."""
        bank = self.state.banks.get(stream)
        return 0 if bank is None else bank.used // self.config.block

    def _learn(self, stream: DriftStream, record: Embedding) -> None:
        config, bank = self.config, self._bank(stream, record.vector)
        point = project(record.vector, config.directions, config.seed)
        if len(bank.references) < config.reference_size:
            bank.references = np.vstack([bank.references, point])
        elif bank.used < config.reference_size:
            self._bet(stream, bank, point, record)

    def _bet(self, stream: DriftStream, bank: ReferenceBank, point: Doubles, record: Embedding) -> None:
        """Score the pair first and learn from it afterwards, so that the witness does not depend on the pair. Where the
        group is known it does not depend on any pair of this block: one turn of a session predicts the next one."""
        config = self.config
        order = _order(config.reference_size, config.seed)
        pair = _features(np.stack([point, bank.references[order[bank.used]]]), bank.references, config)
        difference = pair[0] - pair[1]
        newest = float(bank.ahead @ difference)
        witness = float(bank.slope @ difference) if record.group else newest
        bank.paid, bank.groups = (*bank.paid, FAIR * (1.0 + math.tanh(witness))), (*bank.groups, record.group)
        bank.ahead = bank.ahead + config.rate * difference / (1.0 + math.exp(min(newest, 700.0)))
        bank.used += 1
        if len(bank.paid) == config.block:
            scores = by_group(bank.paid, bank.groups)
            self.state.streams.advance({stream: scores}, FAIR, config.bets, record.at)
            bank.paid, bank.groups, bank.slope = (), (), bank.ahead

    def _bank(self, stream: DriftStream, vector: Floats) -> ReferenceBank:
        bank = self.state.banks.get(stream)
        if bank is None or bank.width != len(vector):
            self.state.streams.restart(stream)
            bank = ReferenceBank(
                len(vector), np.zeros((0, self.config.directions)), *np.zeros((2, self.config.features))
            )
            self.state.banks[stream] = bank
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
